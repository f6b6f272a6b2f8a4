//! What stands inside the records that this release knows: services, health and status, each as schema 1.
//!
//! A payload is read only for a known (kind, schema); every other record is verified, kept and forwarded unread.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use starling_model::limits::{INSTANCES_PER_NODE_MAX, LABEL_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX};
use starling_model::{
    Announcement, Digest, HealthEntry, HealthRecord, InstanceName, Labels, Namespace, PortName, Protocol, Readiness,
    RecordKind, ServiceKey, ServiceName, ServicesRecord, StatusRecord, Weight,
};

use crate::codec::{BoundedVec, Decode, Encode, Text, WireError, decode, encode};
use crate::limits::{RECORD_PAYLOAD_BYTES_MAX, TEXT_BYTES_MAX};

/// The schema that this release writes for each kind.
pub(crate) const SCHEMA: u16 = 1;

/// A payload that this release understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Services(ServicesRecord),
    Health(HealthRecord),
    Status(Box<StatusRecord>),
}

type Label = Text<NAME_BYTES_MAX>;

#[derive(Encode, Decode)]
struct LabelV1 {
    key: Text<LABEL_BYTES_MAX>,
    value: Text<LABEL_BYTES_MAX>,
}

type LabelsV1 = BoundedVec<LabelV1, LABELS_MAX>;

#[derive(Encode, Decode)]
struct AnnouncementV1 {
    instance: Label,
    namespace: Label,
    service: Label,
    port: Label,
    protocol: u8,
    weight: u32,
    labels: LabelsV1,
}

#[derive(Encode, Decode)]
struct ServicesV1 {
    instances: BoundedVec<AnnouncementV1, INSTANCES_PER_NODE_MAX>,
}

#[derive(Encode, Decode)]
struct HealthEntryV1 {
    instance: Label,
    readiness: u8,
}

#[derive(Encode, Decode)]
struct HealthV1 {
    entries: BoundedVec<HealthEntryV1, INSTANCES_PER_NODE_MAX>,
}

#[derive(Encode, Decode)]
struct StatusV1 {
    release: Text<TEXT_BYTES_MAX>,
    labels: LabelsV1,
    documents: u32,
    digest: [u8; 32],
    bundle_sequence: u64,
    shared_issuer: u8,
    certificate_not_after: u64,
    leaf_not_after: u64,
    root: [u8; 4],
}

/// Reads a payload; `None` for a kind or schema of a newer release.
pub(crate) fn read(kind: RecordKind, schema: u16, bytes: &[u8]) -> Result<Option<Payload>, WireError> {
    if schema != SCHEMA {
        return Ok(None);
    }
    Ok(match kind {
        RecordKind::Services => {
            let raw: ServicesV1 = decode::<RECORD_PAYLOAD_BYTES_MAX, _>(bytes)?;
            let instances = raw.instances.into_inner().iter().map(announcement).collect::<Result<_, _>>()?;
            Some(Payload::Services(ServicesRecord { instances }))
        }
        RecordKind::Health => {
            let raw: HealthV1 = decode::<RECORD_PAYLOAD_BYTES_MAX, _>(bytes)?;
            let entries = raw.entries.into_inner().iter().map(health_entry).collect::<Result<_, _>>()?;
            Some(Payload::Health(HealthRecord { entries }))
        }
        RecordKind::Status => Some(Payload::Status(Box::new(status(&decode::<RECORD_PAYLOAD_BYTES_MAX, _>(bytes)?)?))),
        RecordKind::Unknown(_) => None,
    })
}

/// Writes one shard of a `services` record.
pub(crate) fn write_services<'a>(instances: impl Iterator<Item = &'a Announcement>) -> Result<Vec<u8>, WireError> {
    let raw = instances
        .map(|one| {
            Ok(AnnouncementV1 {
                instance: Text::new(one.instance.as_str())?,
                namespace: Text::new(one.service.namespace.as_str())?,
                service: Text::new(one.service.name.as_str())?,
                port: Text::new(one.port.as_str())?,
                protocol: match one.protocol {
                    Protocol::Http => 1,
                    Protocol::Grpc => 2,
                    Protocol::Tcp => 3,
                    Protocol::Detect => 4,
                },
                weight: one.weight.get(),
                labels: raw_labels(&one.labels)?,
            })
        })
        .collect::<Result<_, WireError>>()?;
    encode::<RECORD_PAYLOAD_BYTES_MAX, _>(&ServicesV1 { instances: BoundedVec::new(raw)? })
}

/// Writes one shard of a `health` record.
pub(crate) fn write_health<'a>(entries: impl Iterator<Item = &'a HealthEntry>) -> Result<Vec<u8>, WireError> {
    let raw = entries
        .map(|one| {
            let readiness = match one.readiness {
                Readiness::Ready => 1,
                Readiness::Unready => 2,
                Readiness::Draining => 3,
            };
            Ok(HealthEntryV1 { instance: Text::new(one.instance.as_str())?, readiness })
        })
        .collect::<Result<_, WireError>>()?;
    encode::<RECORD_PAYLOAD_BYTES_MAX, _>(&HealthV1 { entries: BoundedVec::new(raw)? })
}

/// Writes a `status` record.
pub(crate) fn write_status(status: &StatusRecord) -> Result<Vec<u8>, WireError> {
    encode::<RECORD_PAYLOAD_BYTES_MAX, _>(&StatusV1 {
        release: Text::new(&status.release)?,
        labels: raw_labels(&status.labels)?,
        documents: status.documents,
        digest: status.digest.0,
        bundle_sequence: status.bundle_sequence,
        shared_issuer: u8::from(status.shared_issuer),
        certificate_not_after: status.certificate_not_after,
        leaf_not_after: status.leaf_not_after,
        root: status.root,
    })
}

fn raw_labels(labels: &Labels) -> Result<LabelsV1, WireError> {
    let raw = labels
        .iter()
        .map(|(key, value)| Ok(LabelV1 { key: Text::new(key)?, value: Text::new(value)? }))
        .collect::<Result<_, WireError>>()?;
    BoundedVec::new(raw)
}

fn labels(raw: &[LabelV1]) -> Result<Labels, WireError> {
    let map: BTreeMap<String, String> =
        raw.iter().map(|label| (label.key.as_str().to_owned(), label.value.as_str().to_owned())).collect();
    Labels::new(map).map_err(|_| WireError::BadField("labels"))
}

fn announcement(raw: &AnnouncementV1) -> Result<Announcement, WireError> {
    let namespace = Namespace::new(raw.namespace.as_str()).map_err(|_| WireError::BadField("namespace"))?;
    let name = ServiceName::new(raw.service.as_str()).map_err(|_| WireError::BadField("service"))?;
    Ok(Announcement {
        instance: InstanceName::new(raw.instance.as_str()).map_err(|_| WireError::BadField("instance"))?,
        service: ServiceKey::new(namespace, name),
        port: PortName::new(raw.port.as_str()).map_err(|_| WireError::BadField("port"))?,
        protocol: match raw.protocol {
            1 => Protocol::Http,
            2 => Protocol::Grpc,
            3 => Protocol::Tcp,
            4 => Protocol::Detect,
            _ => return Err(WireError::BadField("protocol")),
        },
        weight: Weight::new(raw.weight).map_err(|_| WireError::BadField("weight"))?,
        labels: labels(raw.labels.as_slice())?,
    })
}

fn health_entry(raw: &HealthEntryV1) -> Result<HealthEntry, WireError> {
    let instance = InstanceName::new(raw.instance.as_str()).map_err(|_| WireError::BadField("instance"))?;
    let readiness = match raw.readiness {
        1 => Readiness::Ready,
        2 => Readiness::Unready,
        3 => Readiness::Draining,
        _ => return Err(WireError::BadField("readiness")),
    };
    Ok(HealthEntry { instance, readiness })
}

fn status(raw: &StatusV1) -> Result<StatusRecord, WireError> {
    let release = raw.release.as_str();
    if release.chars().any(char::is_control) || raw.shared_issuer > 1 {
        return Err(WireError::BadField("status"));
    }
    Ok(StatusRecord {
        release: release.to_owned(),
        labels: labels(raw.labels.as_slice())?,
        documents: raw.documents,
        digest: Digest(raw.digest),
        bundle_sequence: raw.bundle_sequence,
        shared_issuer: raw.shared_issuer == 1,
        certificate_not_after: raw.certificate_not_after,
        leaf_not_after: raw.leaf_not_after,
        root: raw.root,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample_instance(name: &str) -> Announcement {
        Announcement {
            instance: InstanceName::new(name).unwrap(),
            service: ServiceKey::parse("web", &Namespace::default()).unwrap(),
            port: PortName::new("http").unwrap(),
            protocol: Protocol::Http,
            labels: Labels::new(BTreeMap::from([("zone".to_owned(), "a".to_owned())])).unwrap(),
            weight: Weight::default(),
        }
    }

    #[test]
    fn records_survive_their_payloads() {
        let speaks = |name: &str, protocol| Announcement { protocol, ..sample_instance(name) };
        let instances = vec![
            speaks("web-1", Protocol::Http),
            speaks("web-2", Protocol::Grpc),
            speaks("web-3", Protocol::Tcp),
            speaks("web-4", Protocol::Detect),
        ];
        let services = ServicesRecord { instances };
        let bytes = write_services(services.instances.iter()).unwrap();
        assert_eq!(read(RecordKind::Services, 1, &bytes).unwrap(), Some(Payload::Services(services)));

        let entry = |name: &str, readiness| HealthEntry { instance: InstanceName::new(name).unwrap(), readiness };
        let health = HealthRecord { entries: vec![entry("a", Readiness::Ready), entry("b", Readiness::Draining)] };
        let bytes = write_health(health.entries.iter()).unwrap();
        assert_eq!(read(RecordKind::Health, 1, &bytes).unwrap(), Some(Payload::Health(health)));

        let status = StatusRecord { release: "0.1.0".to_owned(), root: [1, 2, 3, 4], ..StatusRecord::default() };
        let bytes = write_status(&status).unwrap();
        assert_eq!(read(RecordKind::Status, 1, &bytes).unwrap(), Some(Payload::Status(Box::new(status))));
    }

    #[test]
    fn newer_kinds_and_schemas_stay_unread() {
        assert_eq!(read(RecordKind::Services, 2, &[1, 2, 3]), Ok(None));
        assert_eq!(read(RecordKind::Unknown(77), 1, &[1, 2, 3]), Ok(None));
        assert!(read(RecordKind::Services, 1, &[1, 2, 3]).is_err());
    }

    #[test]
    fn control_bytes_in_a_release_are_refused() {
        let status = StatusRecord { release: "0.1\n".to_owned(), ..StatusRecord::default() };
        assert!(read(RecordKind::Status, 1, &write_status(&status).unwrap()).is_err());
    }
}
