//! A table as text: the documents in use, the instances that its endpoints come from, and what was read of each. From it
//! the same table is made elsewhere, which decides alike.
//!
//! Written as JSON by an agent, read back by whoever wants to know why later. A file is input like any other: it is
//! bounded, and each value is checked when it is read. Nothing in it is signed, and nothing in it is secret.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use starling_config::documents::Document;
use starling_model::mesh::hex;
use starling_model::{
    Announcement, Digest, DocumentKey, DocumentVersion, Generation, HealthEntry, HealthRecord, InstanceName, KeyId,
    Labels, MemberState, Namespace, NodeName, PortName, Protocol, Readiness, ServiceKey, ServiceName, ServicesRecord,
    Weight,
};

use crate::compile::{TableSettings, compile};
use crate::documents::{Denial, Denied, Documents, InUse};
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::pick::Load;
use crate::registry::{MemberFact, Registry};
use crate::table::{Endpoint, EndpointIndex, RouteTable};

/// What this release writes, and the only thing that it reads.
pub const FORMAT: &str = "starling-snapshot/1";

/// Moments in a snapshot are at most so far from the moment that it was taken.
const APART_MAX: Duration = Duration::from_secs(24 * 3_600);

/// A table's inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// [`FORMAT`].
    pub format: String,
    /// DNS domain of the mesh.
    pub domain: String,
    /// In use, by key.
    pub documents: Vec<SnapshotDocument>,
    /// What the agent could not read and that therefore denies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denials: Vec<SnapshotDenial>,
    /// True when the agent had just started and did not know all documents: nobody is accepted for anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Nodes that announce something, by name.
    pub nodes: Vec<SnapshotNode>,
}

/// One document in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotDocument {
    /// What it is: `HTTPRoute`.
    pub document_kind: String,
    /// Where its name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which write of it.
    pub generation: u64,
    /// Who signed it.
    pub key_id: String,
    /// SHA-256 of the signed bytes, 64 hex digits.
    pub hash: String,
    /// The YAML as written.
    pub source: String,
}

/// A document that the agent could not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotDenial {
    /// What it is: `ServiceGrant`.
    pub document_kind: String,
    /// Where its name holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which write of it.
    pub generation: u64,
    /// Who signed it.
    pub key_id: String,
    /// SHA-256 of the signed bytes, 64 hex digits.
    pub hash: String,
    /// Services that it denies, as `namespace/name`; `null`: whatever no grant names.
    pub services: Option<Vec<String>>,
    /// A namespace of which it denies all.
    pub all_of: Option<Namespace>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotNode {
    /// Its name.
    pub name: NodeName,
    /// What membership says of it.
    pub state: String,
    /// Where its agent takes traffic.
    pub address: Option<SocketAddr>,
    /// What it announces, by name.
    pub instances: Vec<SnapshotInstance>,
}

/// One instance, and what the traffic of the snapshot's node knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInstance {
    /// Its name on its node.
    pub name: InstanceName,
    /// Where the service's name holds.
    pub namespace: Namespace,
    /// The service that it announced itself as.
    pub service: ServiceName,
    /// Which port of it.
    pub port: PortName,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its labels.
    pub labels: Labels,
    /// As announced.
    pub weight: Weight,
    /// What its owner says: `healthy`, `unhealthy` or `draining`.
    pub health: String,
    /// Peak EWMA, nanoseconds; `null` before the first answer.
    pub latency_ns: Option<u64>,
    /// Requests or connections under way.
    pub in_flight: u32,
    /// For how long our failed connections still keep it out; `null`: they do not.
    pub failing_ms: Option<u64>,
    /// How long ago it answered; `null`: it has not since a failure.
    pub answered_ms_ago: Option<u64>,
    /// How long ago it became ready, or its node came back; `null`: long ago.
    #[serde(default)]
    pub ready_ms_ago: Option<u64>,
    /// Turns taken, where endpoints take turns and this one counts them.
    #[serde(default)]
    pub turn: u32,
}

/// Why a text is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotInvalid {
    /// Over the bound.
    #[error("it has {0} bytes, at most {SNAPSHOT_BYTES_MAX} are read")]
    TooLarge(usize),
    /// Not what this release writes.
    #[error("it is no JSON of a snapshot")]
    Json(#[source] serde_json::Error),
    /// Of another release.
    #[error("its format is {0:?}, this release reads {FORMAT:?}")]
    Format(String),
    /// A value that no agent writes.
    #[error("{place}: {why}")]
    Value {
        /// `document HTTPRoute default/a`, `instance orders-1 of vm-2`.
        place: String,
        /// What is wrong.
        why: String,
    },
}

fn value(place: impl Into<String>, why: impl Into<String>) -> SnapshotInvalid {
    // Both may repeat what the file says.
    let bounded = |text: String| text.chars().take(1_000).collect();
    SnapshotInvalid::Value { place: bounded(place.into()), why: bounded(why.into()) }
}

/// A table made of a snapshot, with the readings of then.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// It decides as the one that the snapshot is of.
    pub table: RouteTable,
    /// The moment of the snapshot, on the clock of its readings.
    pub now: Instant,
    loads: HashMap<EndpointIndex, Load>,
}

impl Frozen {
    /// What was read of an endpoint.
    #[must_use]
    pub fn load(&self, index: EndpointIndex) -> Load {
        self.loads.get(&index).copied().unwrap_or_default()
    }
}

impl Snapshot {
    /// What `table` was made of, as far as it depends on it, with the readings of `now`.
    #[must_use]
    pub fn of(table: &RouteTable, now: Instant, loads: &dyn Fn(EndpointIndex) -> Load) -> Self {
        Self {
            format: FORMAT.to_owned(),
            domain: table.domain().to_owned(),
            documents: table.documents().iter().map(SnapshotDocument::of).collect(),
            denials: table.documents().denials().iter().map(SnapshotDenial::of).collect(),
            partial: table.documents().is_partial(),
            nodes: nodes(table, now, loads),
        }
    }

    /// Reads the JSON of one; other fields beside its own do not matter.
    ///
    /// # Errors
    /// [`SnapshotInvalid`]; values are checked by [`Self::freeze`].
    pub fn read(bytes: &[u8]) -> Result<Self, SnapshotInvalid> {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotInvalid::TooLarge(bytes.len()));
        }
        let read: Self = serde_json::from_slice(bytes).map_err(SnapshotInvalid::Json)?;
        if read.format == FORMAT {
            Ok(read)
        } else {
            Err(SnapshotInvalid::Format(read.format.chars().take(80).collect()))
        }
    }

    /// Makes the table. `clock` is any moment: readings are laid around one that is after it.
    ///
    /// # Errors
    /// [`SnapshotInvalid`] with the first value that no agent writes.
    pub fn freeze(&self, clock: Instant) -> Result<Frozen, SnapshotInvalid> {
        // Far enough for moments before it.
        let now = clock + APART_MAX;
        let documents = self.documents.iter().map(SnapshotDocument::in_use).collect::<Result<Vec<_>, _>>()?;
        let denials = self.denials.iter().map(SnapshotDenial::denial).collect::<Result<Vec<_>, _>>()?;
        let registry = registry(&self.nodes)?;
        let mut readings = BTreeMap::new();
        for node in &self.nodes {
            for instance in &node.instances {
                readings.insert((&node.name, &instance.name), instance.load(now));
            }
        }
        let settings = TableSettings { domain: self.domain.to_ascii_lowercase() };
        let documents = Documents::new(documents).denying(denials);
        let documents = if self.partial { documents.partial() } else { documents };
        let table = compile(&documents, &registry, &settings, None);
        let endpoints = table.services().flat_map(|service| &service.endpoints);
        let load = |one: &Endpoint| Some((one.index, *readings.get(&(one.node(), one.instance()))?));
        let loads = endpoints.filter_map(load).collect();
        Ok(Frozen { table, now, loads })
    }
}

/// The nodes whose instances a table has.
fn nodes(table: &RouteTable, now: Instant, loads: &dyn Fn(EndpointIndex) -> Load) -> Vec<SnapshotNode> {
    let mut nodes: BTreeMap<&NodeName, (&Endpoint, BTreeMap<&InstanceName, &Endpoint>)> = BTreeMap::new();
    // An instance that several Services select stands in each of them.
    for endpoint in table.services().flat_map(|service| &service.endpoints) {
        let (_, instances) = nodes.entry(endpoint.node()).or_insert_with(|| (endpoint, BTreeMap::new()));
        instances.insert(endpoint.instance(), endpoint);
    }
    let node = |(name, (first, instances)): (&NodeName, (&Endpoint, BTreeMap<&InstanceName, &Endpoint>))| {
        let instance = |endpoint: &Endpoint| SnapshotInstance::of(endpoint, now, &loads(endpoint.index));
        SnapshotNode {
            name: name.clone(),
            state: first.member.as_str().to_owned(),
            address: first.address,
            instances: instances.into_values().map(instance).collect(),
        }
    };
    nodes.into_iter().map(node).collect()
}

/// What these nodes announce.
fn registry(nodes: &[SnapshotNode]) -> Result<Registry, SnapshotInvalid> {
    let mut registry = Registry::new();
    nodes.iter().try_for_each(|node| node.tell(&mut registry))?;
    Ok(registry)
}

impl RouteTable {
    /// The table that would be in use if these documents were, too; each replaces the one of its name.
    ///
    /// # Errors
    /// [`SnapshotInvalid`] where this table holds what no agent announces, which is a bug.
    pub fn with(&self, documents: Vec<Document>, now: Instant) -> Result<Self, SnapshotInvalid> {
        self.changed(documents, BTreeSet::new(), now)
    }

    /// The same, with other documents deleted.
    ///
    /// # Errors
    /// As [`Self::with`].
    pub fn changed(
        &self,
        documents: Vec<Document>,
        deleted: BTreeSet<DocumentKey>,
        now: Instant,
    ) -> Result<Self, SnapshotInvalid> {
        let registry = registry(&nodes(self, now, &|_| Load::default()))?;
        let mut keys = deleted;
        keys.extend(documents.iter().map(|document| document.key.clone()));
        let held = self.documents().iter().filter(|one| !keys.contains(&one.document.key)).cloned();
        let denials = self.documents().denials().iter().filter(|one| !keys.contains(&one.document)).cloned().collect();
        let new = documents.into_iter().map(|document| InUse {
            version: DocumentVersion {
                generation: Generation::FIRST,
                signer: KeyId(0),
                hash: Digest(Sha256::digest(document.text.as_bytes()).into()),
            },
            document: Arc::new(document),
            signer: Arc::from("nobody yet"),
        });
        let settings = TableSettings { domain: self.domain.clone() };
        let documents = Documents::new(held.chain(new)).denying(denials);
        let documents = if self.documents().is_partial() { documents.partial() } else { documents };
        let table = compile(&documents, &registry, &settings, None);
        Ok(Self { session_key: self.session_key.clone(), ..table })
    }
}

impl SnapshotDocument {
    fn of(one: &InUse) -> Self {
        let key = &one.document.key;
        Self {
            document_kind: key.kind.to_string(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            generation: one.version.generation.get(),
            key_id: one.version.signer.to_string(),
            hash: hex(&one.version.hash.0),
            source: one.document.text.clone(),
        }
    }

    fn in_use(&self) -> Result<InUse, SnapshotInvalid> {
        let place = format!("document {} {}/{}", self.document_kind, self.namespace, self.name);
        let refuse = |why: String| value(place.clone(), why);
        let names = (self.document_kind.as_str(), self.namespace.as_str(), self.name.as_str());
        let (key, version) = version(names, (self.generation, &self.key_id, &self.hash)).map_err(&refuse)?;
        let mut read = InUse::read(&key.to_string(), &self.source, version, &self.key_id).map_err(&refuse)?;
        match read.pop() {
            Some(one) if read.is_empty() && one.document.key == key => Ok(one),
            Some(_) | None => Err(refuse("its source is not one document of this name".to_owned())),
        }
    }
}

/// Key and version of a document, as a snapshot spells them; else why there is none.
fn version(
    (kind, namespace, name): (&str, &str, &str),
    (generation, key_id, hash): (u64, &str, &str),
) -> Result<(DocumentKey, DocumentVersion), String> {
    let key = DocumentKey::parse(kind, namespace, name).map_err(|invalid| invalid.to_string())?;
    let generation = Generation::new(generation).ok_or("generations begin at 1")?;
    let signer = key_id.parse().map_err(|_| "its keyId is no key's")?;
    let hash = unhex(hash).ok_or("its hash is not of 64 hex digits")?;
    Ok((key, DocumentVersion { generation, signer, hash: Digest(hash) }))
}

impl SnapshotDenial {
    fn of(one: &Denial) -> Self {
        let (key, version) = (&one.document, one.version);
        let (services, all_of) = match &one.what {
            Denied::Services { services, all_of } => {
                (Some(services.iter().map(ToString::to_string).collect()), all_of.clone())
            }
            Denied::Unnamed => (None, None),
        };
        Self {
            document_kind: key.kind.to_string(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            generation: version.generation.get(),
            key_id: version.signer.to_string(),
            hash: hex(&version.hash.0),
            services,
            all_of,
        }
    }

    fn denial(&self) -> Result<Denial, SnapshotInvalid> {
        let refuse =
            |why: String| value(format!("denial {} {}/{}", self.document_kind, self.namespace, self.name), why);
        let names = (self.document_kind.as_str(), self.namespace.as_str(), self.name.as_str());
        let (document, version) = version(names, (self.generation, &self.key_id, &self.hash)).map_err(refuse)?;
        let service = |text: &String| ServiceKey::parse(text, &Namespace::default());
        let what = match &self.services {
            None => Denied::Unnamed,
            Some(services) => Denied::Services {
                services: services
                    .iter()
                    .map(service)
                    .collect::<Result<_, _>>()
                    .map_err(|bad| refuse(bad.to_string()))?,
                all_of: self.all_of.clone(),
            },
        };
        Ok(Denial { document, version, what })
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |sum, digit| sum * 16 + digit)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

impl SnapshotNode {
    /// Says all of it.
    fn tell(&self, registry: &mut Registry) -> Result<(), SnapshotInvalid> {
        let state = MemberState::ALL.into_iter().find(|state| state.as_str() == self.state);
        let state = state.ok_or_else(|| value(format!("node {}", self.name), "its state is none"))?;
        registry.member(&MemberFact { node: self.name.clone(), state, address: self.address });
        let mut entries = Vec::with_capacity(self.instances.len());
        let mut instances = Vec::with_capacity(self.instances.len());
        for one in &self.instances {
            let known = [Readiness::Ready, Readiness::Unready, Readiness::Draining];
            let readiness = known.into_iter().find(|readiness| readiness.as_str() == one.health);
            let place = || format!("instance {} of {}", one.name, self.name);
            let readiness = readiness.ok_or_else(|| value(place(), "its health is none"))?;
            entries.push(HealthEntry { instance: one.name.clone(), readiness });
            instances.push(Announcement {
                instance: one.name.clone(),
                service: ServiceKey::new(one.namespace.clone(), one.service.clone()),
                port: one.port.clone(),
                protocol: one.protocol,
                labels: one.labels.clone(),
                weight: one.weight,
            });
        }
        registry.services(&self.name, &ServicesRecord { instances });
        registry.health(&self.name, &HealthRecord { entries });
        Ok(())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Rounded up, so that what is still to come stays to come.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

impl SnapshotInstance {
    fn of(endpoint: &Endpoint, now: Instant, load: &Load) -> Self {
        let failing = load.failing_until.map(|until| until.saturating_duration_since(now));
        Self {
            name: endpoint.instance().clone(),
            namespace: endpoint.service.namespace.clone(),
            service: endpoint.service.name.clone(),
            port: endpoint.port.clone(),
            protocol: endpoint.protocol,
            labels: endpoint.labels.clone(),
            weight: endpoint.weight,
            health: endpoint.readiness.as_str().to_owned(),
            latency_ns: load.latency.map(nanos),
            in_flight: load.in_flight,
            failing_ms: failing.filter(|left| !left.is_zero()).map(millis),
            answered_ms_ago: load.last_success.map(|at| millis(now.saturating_duration_since(at))),
            ready_ms_ago: load.ready_since.map(|at| millis(now.saturating_duration_since(at))),
            turn: load.turn,
        }
    }

    fn load(&self, now: Instant) -> Load {
        let span = |ms: u64| Duration::from_millis(ms).min(APART_MAX);
        Load {
            latency: self.latency_ns.map(|ns| Duration::from_nanos(ns).min(APART_MAX)),
            in_flight: self.in_flight,
            failing_until: self.failing_ms.map(|ms| now + span(ms)),
            last_success: self.answered_ms_ago.and_then(|ms| now.checked_sub(span(ms))),
            ready_since: self.ready_ms_ago.and_then(|ms| now.checked_sub(span(ms))),
            turn: self.turn,
        }
    }
}
