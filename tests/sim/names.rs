//! The names of a run, numbered, so that what every agent holds about every other fits into flat tables.

use std::collections::HashMap;

use starling_model::{Life, MeshId, NodeName};

use crate::cluster::HostId;

/// The number of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameId(pub(crate) usize);

/// All names, and the hosts that bear each: clones and other meshes share them.
#[derive(Debug, Default)]
pub struct Names {
    ids: HashMap<NodeName, NameId>,
    hosts: Vec<Vec<HostId>>,
}

impl Names {
    /// Notes that a host bears a name.
    pub(crate) fn add(&mut self, name: &NodeName, host: HostId) -> NameId {
        let next = NameId(self.hosts.len());
        let id = *self.ids.entry(name.clone()).or_insert(next);
        if id == next {
            self.hosts.push(Vec::new());
        }
        self.hosts[id.0].push(host);
        id
    }

    /// The number of a name that some host bears.
    #[must_use]
    pub fn id(&self, name: &NodeName) -> Option<NameId> {
        self.ids.get(name).copied()
    }

    /// Whoever bears a name.
    pub(crate) fn hosts(&self, id: NameId) -> &[HostId] {
        &self.hosts[id.0]
    }

    /// All names with their numbers, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, NameId)> {
        let mut all: Vec<(&NodeName, NameId)> = self.ids.iter().map(|(name, id)| (name, *id)).collect();
        all.sort_unstable();
        all.into_iter()
    }
}

/// Names for which a table grows at a time.
const STEP: usize = 256;

/// A value for each name, in a flat table that grows to the greatest number.
#[derive(Clone, Debug)]
pub(crate) struct ByName<T>(Vec<Option<T>>);

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByName<T> {
    pub(crate) fn get(&self, id: NameId) -> Option<&T> {
        self.0.get(id.0)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: NameId) -> Option<&mut T> {
        self.0.get_mut(id.0)?.as_mut()
    }

    pub(crate) fn set(&mut self, id: NameId, value: Option<T>) {
        if self.0.len() <= id.0 {
            // Every agent has such a table of all others, so none is twice as large as it must be.
            self.0.reserve_exact((id.0 + 1).next_multiple_of(STEP) - self.0.len());
            self.0.resize_with(id.0 + 1, || None);
        }
        self.0[id.0] = value;
    }

    /// Names up to the greatest that was set.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = (NameId, &T)> {
        self.0.iter().enumerate().filter_map(|(at, value)| Some((NameId(at), value.as_ref()?)))
    }
}

/// The highest life that each name has had itself, in each mesh.
#[derive(Debug, Default)]
pub(crate) struct Lives(ByName<Vec<(MeshId, Life)>>);

impl Lives {
    pub(crate) fn highest(&self, name: NameId, mesh: &MeshId) -> Option<Life> {
        self.0.get(name)?.iter().find(|(of, _)| of == mesh).map(|(_, life)| *life)
    }

    pub(crate) fn had(&mut self, name: NameId, mesh: &MeshId, life: Life) {
        if let Some(lives) = self.0.get_mut(name) {
            match lives.iter_mut().find(|(of, _)| of == mesh) {
                Some((_, highest)) => *highest = (*highest).max(life),
                None => lives.push((*mesh, life)),
            }
        } else {
            self.0.set(name, Some(vec![(*mesh, life)]));
        }
    }
}
