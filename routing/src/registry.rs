//! What this node knows of all members and their instances, folded from gossip; the one input of the table.
//!
//! The registry is mutable and owned by one task. It keeps a revision per service, so that compiling shares the pools
//! of all services that did not change, and hands out an [`EndpointIndex`] per endpoint that is stable as long as the
//! endpoint exists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use starling_model::{
    Announcement, EndpointId, HealthRecord, InstanceName, MemberState, Namespace, NodeName, Readiness, ServiceKey,
    ServiceName, ServicesRecord,
};

use crate::table::EndpointIndex;

/// What membership says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFact {
    /// Which node.
    pub node: NodeName,
    /// Alive, suspect, dead or left.
    pub state: MemberState,
    /// Where its agent takes traffic; `None` until its signed address is known.
    pub address: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default)]
struct NodeEntry {
    state: Option<MemberState>,
    address: Option<SocketAddr>,
    instances: BTreeMap<InstanceName, Announcement>,
    readiness: BTreeMap<InstanceName, Readiness>,
}

/// One endpoint of a service as the registry holds it, borrowed for compiling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndpointFacts<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) announcement: &'a Announcement,
    pub(crate) readiness: Readiness,
    pub(crate) member: MemberState,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) index: EndpointIndex,
    pub(crate) birth: u64,
}

#[derive(Clone, Debug, Default)]
struct ServiceEntry {
    revision: u64,
    endpoints: BTreeSet<(NodeName, InstanceName)>,
}

/// Members, what they announce, and how ready it is.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    nodes: BTreeMap<NodeName, NodeEntry>,
    services: BTreeMap<ServiceKey, ServiceEntry>,
    indexes: Indexes,
    revision: u64,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts every change of content; equal numbers mean equal content.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes what membership says of a node. A node that left keeps its entry (and no traffic) until [`Self::forget`].
    pub fn member(&mut self, fact: &MemberFact) {
        let entry = self.nodes.entry(fact.node.clone()).or_default();
        let address = fact.address.or(entry.address);
        if entry.state == Some(fact.state) && entry.address == address {
            return;
        }
        entry.state = Some(fact.state);
        entry.address = address;
        let services: BTreeSet<ServiceKey> = entry.instances.values().map(|a| a.service.clone()).collect();
        self.touch(services);
    }

    /// Takes an owner's whole `services` record.
    pub fn services(&mut self, owner: &NodeName, record: &ServicesRecord) {
        let entry = self.nodes.entry(owner.clone()).or_default();
        let new: BTreeMap<InstanceName, Announcement> =
            record.instances.iter().map(|a| (a.instance.clone(), a.clone())).collect();
        if entry.instances == new {
            return;
        }
        let old = std::mem::replace(&mut entry.instances, new.clone());
        let mut touched = BTreeSet::new();
        for (instance, announcement) in &old {
            if new.get(instance) != Some(announcement) {
                touched.insert(announcement.service.clone());
            }
            if new.get(instance).map(|a| &a.service) != Some(&announcement.service) {
                self.detach(owner, announcement);
            }
        }
        for (instance, announcement) in &new {
            if old.get(instance) != Some(announcement) {
                touched.insert(announcement.service.clone());
            }
            if old.get(instance).map(|a| &a.service) != Some(&announcement.service) {
                self.attach(owner, announcement);
            }
        }
        self.touch(touched);
    }

    /// Takes an owner's whole `health` record. What it does not list is unready.
    pub fn health(&mut self, owner: &NodeName, record: &HealthRecord) {
        let entry = self.nodes.entry(owner.clone()).or_default();
        let new: BTreeMap<InstanceName, Readiness> =
            record.entries.iter().map(|e| (e.instance.clone(), e.readiness)).collect();
        if entry.readiness == new {
            return;
        }
        let old = std::mem::replace(&mut entry.readiness, new.clone());
        let touched = entry
            .instances
            .iter()
            .filter(|(instance, _)| old.get(*instance) != new.get(*instance))
            .map(|(_, announcement)| announcement.service.clone())
            .collect();
        self.touch(touched);
    }

    /// Drops a node with everything it announced.
    pub fn forget(&mut self, owner: &NodeName) {
        let Some(entry) = self.nodes.remove(owner) else { return };
        for announcement in entry.instances.values() {
            self.detach(owner, announcement);
        }
        let services = entry.instances.into_values().map(|a| a.service).collect();
        self.touch(services);
    }

    /// Every service that some node announces, in order.
    pub fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// Nodes that announce `service`, in order.
    pub fn nodes_of<'a>(&'a self, service: &ServiceKey) -> impl Iterator<Item = &'a NodeName> {
        self.services.get(service).into_iter().flat_map(|entry| entry.endpoints.iter().map(|(node, _)| node))
    }

    /// Every announced service with its revision, in order.
    pub(crate) fn revisions(&self) -> impl Iterator<Item = (&ServiceKey, u64)> {
        self.services.iter().map(|(key, entry)| (key, entry.revision))
    }

    /// Announced services of one namespace with their revisions, in order.
    pub(crate) fn services_of<'a>(&'a self, namespace: &'a Namespace) -> impl Iterator<Item = (&'a ServiceKey, u64)> {
        // Of all keys of a namespace the one with the least name comes first.
        let from = ServiceName::new("0").ok().map(|least| ServiceKey::new(namespace.clone(), least));
        let all = from.into_iter().flat_map(|from| self.services.range(from..));
        all.take_while(|(key, _)| key.namespace == *namespace).map(|(key, entry)| (key, entry.revision))
    }

    pub(crate) fn endpoints<'a>(&'a self, service: &ServiceKey) -> impl Iterator<Item = EndpointFacts<'a>> {
        let pairs = self.services.get(service).into_iter().flat_map(|entry| entry.endpoints.iter());
        pairs.filter_map(|(node, instance)| {
            let entry = self.nodes.get(node)?;
            let announcement = entry.instances.get(instance)?;
            let (index, birth) = self.indexes.get(&endpoint_id(node, announcement))?;
            Some(EndpointFacts {
                node,
                announcement,
                readiness: entry.readiness.get(instance).copied().unwrap_or(Readiness::Unready),
                member: entry.state.unwrap_or(MemberState::Joining),
                address: entry.address,
                index,
                birth,
            })
        })
    }

    fn attach(&mut self, owner: &NodeName, announcement: &Announcement) {
        let entry = self.services.entry(announcement.service.clone()).or_default();
        entry.endpoints.insert((owner.clone(), announcement.instance.clone()));
        self.indexes.take(endpoint_id(owner, announcement));
    }

    fn detach(&mut self, owner: &NodeName, announcement: &Announcement) {
        if let Some(entry) = self.services.get_mut(&announcement.service) {
            entry.endpoints.remove(&(owner.clone(), announcement.instance.clone()));
            if entry.endpoints.is_empty() {
                self.services.remove(&announcement.service);
            }
        }
        self.indexes.free(&endpoint_id(owner, announcement));
    }

    fn touch(&mut self, services: BTreeSet<ServiceKey>) {
        self.revision += 1;
        for service in services {
            if let Some(entry) = self.services.get_mut(&service) {
                entry.revision = self.revision;
            }
        }
    }
}

fn endpoint_id(node: &NodeName, announcement: &Announcement) -> EndpointId {
    EndpointId {
        node: node.clone(),
        namespace: announcement.service.namespace.clone(),
        instance: announcement.instance.clone(),
    }
}

/// Hands out small stable numbers; a freed number is used again under a new birth, so that load state kept by number
/// never passes to another endpoint.
#[derive(Clone, Debug, Default)]
struct Indexes {
    taken: BTreeMap<EndpointId, (EndpointIndex, u64)>,
    free: BTreeSet<EndpointIndex>,
    births: u64,
}

impl Indexes {
    fn take(&mut self, id: EndpointId) {
        if self.taken.contains_key(&id) {
            return;
        }
        let next = u32::try_from(self.taken.len() + self.free.len()).unwrap_or(u32::MAX);
        let index = self.free.pop_first().unwrap_or(EndpointIndex(next));
        self.births += 1;
        self.taken.insert(id, (index, self.births));
    }

    fn free(&mut self, id: &EndpointId) {
        if let Some((index, _)) = self.taken.remove(id) {
            self.free.insert(index);
        }
    }

    fn get(&self, id: &EndpointId) -> Option<(EndpointIndex, u64)> {
        self.taken.get(id).copied()
    }
}
