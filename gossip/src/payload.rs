//! What stands inside the records that this release knows: services, health and status, each as schema 1, and status
//! also as schema 2, which says what its node holds back. Schema 2 is written only where there is something to say, so a
//! release that knows the first one alone reads every status but those, and keeps and forwards these unread.
//!
//! A payload is read only for a known (kind, schema); every other record is verified, kept and forwarded unread.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use starling_model::limits::{HELD_BACK_TOLD_MAX, INSTANCES_PER_NODE_MAX, LABEL_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX};
use starling_model::{
    Announcement, Digest, DocumentVersion, Generation, HealthEntry, HealthRecord, HeldDocument, HeldWhy, InstanceName,
    KeyId, Labels, Namespace, PortName, Protocol, Readiness, RecordKind, ServiceKey, ServiceName, ServicesRecord,
    StatusRecord, Weight,
};

use crate::codec::{BoundedVec, Decode, Encode, Text, WireError, decode, encode};
use crate::limits::{RECORD_PAYLOAD_BYTES_MAX, TEXT_BYTES_MAX};

/// The schema that this release writes for each kind.
pub(crate) const SCHEMA: u16 = 1;
/// The one of a status that holds something back.
pub(crate) const STATUS_HELD_SCHEMA: u16 = 2;

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

#[derive(Encode, Decode)]
struct HeldV2 {
    hash: [u8; 32],
    why: u8,
    /// Zero: nothing is used in its place, and the next two are zero, too.
    used_generation: u64,
    used_signer: u32,
    used_hash: [u8; 32],
}

#[derive(Encode, Decode)]
struct StatusV2 {
    first: StatusV1,
    held_back_count: u32,
    held_back: BoundedVec<HeldV2, HELD_BACK_TOLD_MAX>,
}

/// Reads a payload; `None` for a kind or schema of a newer release.
pub(crate) fn read(kind: RecordKind, schema: u16, bytes: &[u8]) -> Result<Option<Payload>, WireError> {
    if kind == RecordKind::Status && schema == STATUS_HELD_SCHEMA {
        let raw: StatusV2 = decode::<RECORD_PAYLOAD_BYTES_MAX, _>(bytes)?;
        let held_back = raw.held_back.as_slice().iter().map(held).collect::<Result<_, _>>()?;
        let status = StatusRecord { held_back_count: raw.held_back_count, held_back, ..status(&raw.first)? };
        return Ok(Some(Payload::Status(Box::new(status))));
    }
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

/// Writes a `status` record, with its schema.
pub(crate) fn write_status(status: &StatusRecord) -> Result<(u16, Vec<u8>), WireError> {
    let first = raw_status(status)?;
    if status.held_back_count == 0 && status.held_back.is_empty() {
        return Ok((SCHEMA, encode::<RECORD_PAYLOAD_BYTES_MAX, _>(&first)?));
    }
    let held = status.held_back.iter().map(|held| HeldV2 {
        hash: held.hash.0,
        why: held.why.to_wire(),
        used_generation: held.used.map_or(0, |used| used.generation.get()),
        used_signer: held.used.map_or(0, |used| used.signer.0),
        used_hash: held.used.map_or([0; 32], |used| used.hash.0),
    });
    let (held_back_count, held_back) = (status.held_back_count, BoundedVec::new(held.collect())?);
    let raw = StatusV2 { first, held_back_count, held_back };
    Ok((STATUS_HELD_SCHEMA, encode::<RECORD_PAYLOAD_BYTES_MAX, _>(&raw)?))
}

fn raw_status(status: &StatusRecord) -> Result<StatusV1, WireError> {
    Ok(StatusV1 {
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
        held_back_count: 0,
        held_back: Vec::new(),
    })
}

fn held(raw: &HeldV2) -> Result<HeldDocument, WireError> {
    let used = match Generation::new(raw.used_generation) {
        Some(generation) => {
            Some(DocumentVersion { generation, signer: KeyId(raw.used_signer), hash: Digest(raw.used_hash) })
        }
        None if raw.used_generation == 0 && raw.used_signer == 0 && raw.used_hash == [0; 32] => None,
        None => return Err(WireError::BadField("held_back")),
    };
    Ok(HeldDocument { hash: Digest(raw.hash), used, why: HeldWhy::from_wire(raw.why) })
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
        let (schema, bytes) = write_status(&status).unwrap();
        assert_eq!(schema, 1);
        assert_eq!(read(RecordKind::Status, 1, &bytes).unwrap(), Some(Payload::Status(Box::new(status))));
    }

    fn holding(count: usize) -> StatusRecord {
        let used = |at: u8| {
            let generation = Generation::new(u64::from(at))?;
            Some(DocumentVersion { generation, signer: KeyId(2), hash: Digest([9; 32]) })
        };
        let held = |at: u8| HeldDocument { hash: Digest([at; 32]), used: used(at), why: HeldWhy::from_wire(at) };
        let held_back = (0..u8::try_from(count).unwrap()).map(held).collect();
        StatusRecord { held_back_count: 77, held_back, ..StatusRecord::default() }
    }

    #[test]
    fn a_status_says_what_is_held_back_in_a_schema_of_its_own_and_one_more_is_refused() {
        let status = holding(HELD_BACK_TOLD_MAX);
        let (schema, bytes) = write_status(&status).unwrap();
        assert_eq!(schema, 2);
        assert_eq!(read(RecordKind::Status, 2, &bytes).unwrap(), Some(Payload::Status(Box::new(status))));
        assert_eq!(read(RecordKind::Status, 3, &bytes), Ok(None));
        assert!(write_status(&holding(HELD_BACK_TOLD_MAX + 1)).is_err());
        // The bytes of the wire are fixed: count, number, and each with what is used in its place.
        let (_, plain) = write_status(&StatusRecord::default()).unwrap();
        let (_, two) = write_status(&holding(2)).unwrap();
        let nothing = [&[0; 32][..], &[0], &[0; 44]].concat();
        let one = [&[1; 32][..], &[1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0], &[9; 32]].concat();
        assert_eq!(two, [&plain[..], &[77, 0, 0, 0, 2, 0, 0, 0], &nothing, &one].concat());
        // Nothing in its place, and a signer of that: no record says so.
        let mut bad = two;
        let signer = plain.len() + 8 + 32 + 1 + 8;
        bad[signer] = 1;
        assert_eq!(read(RecordKind::Status, 2, &bad), Err(WireError::BadField("held_back")));
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
        assert!(read(RecordKind::Status, 1, &write_status(&status).unwrap().1).is_err());
    }
}
