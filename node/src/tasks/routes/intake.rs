//! News of owners on their way into the registry, and the owners whose news would take the table down.
//!
//! Whoever announces something with which compiling panics hurts only itself: its news are found by halving the burst that
//! they came with, and left out; its last good ones stay in use until it says something else. All agents get the same
//! record and decide alike.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use starling_gossip::DocumentView;
use starling_model::{NodeName, codes};
use starling_routing::{Documents, InUse, Registry, RouteTable, TableSettings, compile};
use tracing::error;

use super::OwnerNews;
use super::documents::Shelf;

/// How a table is made of documents, a registry and the table before.
pub(super) type Compile = fn(&Documents, &Registry, &TableSettings, Option<&RouteTable>) -> RouteTable;

/// The registry with what its owners said, and the documents in use.
#[derive(Debug)]
pub(super) struct Intake {
    registry: Registry,
    documents: Documents,
    shelf: Shelf,
    settings: TableSettings,
    compile: Compile,
    /// The newest good news of each owner.
    good: BTreeMap<NodeName, OwnerNews>,
    /// Owners whose newest records are left out, with these.
    quarantined: BTreeMap<NodeName, OwnerNews>,
}

impl Intake {
    pub(super) fn new(settings: TableSettings) -> Self {
        Self {
            registry: Registry::new(),
            documents: Documents::default(),
            shelf: Shelf::default(),
            settings,
            compile,
            good: BTreeMap::new(),
            quarantined: BTreeMap::new(),
        }
    }

    /// Owners whose newest records are left out.
    pub(super) fn quarantined(&self) -> usize {
        self.quarantined.len()
    }

    /// Makes the table that follows `previous` with these documents in use; `None` when nothing came of it. A document with
    /// which no table comes about is left out, and its last good version stays.
    pub(super) fn table_of(&mut self, in_use: &[DocumentView], previous: &RouteTable) -> Option<RouteTable> {
        let wanted = self.shelf.take(in_use);
        if let Some(table) = self.with(&wanted, previous) {
            return Some(table);
        }
        // One by one, each beside the last good version of the others.
        let mut used: Vec<InUse> = Vec::new();
        for one in &wanted {
            let held = self.documents.get(&one.document.key).filter(|held| held.version != one.version).cloned();
            let together: Vec<InUse> = used.iter().chain([one]).cloned().collect();
            if self.with(&together, previous).is_some() {
                used = together;
                continue;
            }
            let (document, version, code) = (&one.document.key, one.version, codes::DOCUMENT_HELD_BACK);
            error!(%document, %version, %code, "this document breaks the route table; its last good version stays in use");
            self.shelf.leave_out(version.hash);
            used.extend(held);
        }
        self.with(&used, previous)
    }

    fn with(&mut self, used: &[InUse], previous: &RouteTable) -> Option<RouteTable> {
        let documents = Documents::new(used.iter().cloned());
        let table = catch_unwind(AssertUnwindSafe(|| {
            (self.compile)(&documents, &self.registry, &self.settings, Some(previous))
        }));
        let table = table.ok()?;
        self.shelf.keep(used);
        self.documents = documents;
        Some(table)
    }

    /// Folds news in and makes the table that follows `previous`; `None` when nothing came of it.
    pub(super) fn table(&mut self, news: BTreeMap<NodeName, OwnerNews>, previous: &RouteTable) -> Option<RouteTable> {
        let known = |owner: &NodeName, said: &OwnerNews| self.quarantined.get(owner) == Some(said);
        let news: BTreeMap<_, _> = news.into_iter().filter(|(owner, said)| !known(owner, said)).collect();
        self.attempt(news, previous)
    }

    fn attempt(&mut self, news: BTreeMap<NodeName, OwnerNews>, previous: &RouteTable) -> Option<RouteTable> {
        let said = news.clone();
        let folded = catch_unwind(AssertUnwindSafe(|| {
            fold(&mut self.registry, said);
            (self.compile)(&self.documents, &self.registry, &self.settings, Some(previous))
        }));
        if let Ok(table) = folded {
            self.keep(news);
            return Some(table);
        }
        self.restore(news.keys());
        if news.len() > 1 {
            let middle = news.keys().nth(news.len() / 2).cloned()?;
            let (mut left, mut right) = (news, BTreeMap::new());
            right.append(&mut left.split_off(&middle));
            let first = self.attempt(left, previous);
            return self.attempt(right, previous).or(first);
        }
        let (owner, said) = news.into_iter().next()?;
        error!(member = %owner, "what this member announces breaks the route table; its last good records stay in use");
        let member = said.member.clone();
        self.quarantined.insert(owner.clone(), said);
        // Whether it lives is told by membership, and counts.
        let rest = OwnerNews { member, ..OwnerNews::default() };
        fold(&mut self.registry, BTreeMap::from([(owner.clone(), rest.clone())]));
        let table = catch_unwind(AssertUnwindSafe(|| {
            (self.compile)(&self.documents, &self.registry, &self.settings, Some(previous))
        }));
        if table.is_ok() {
            self.good.entry(owner).or_default().merge(rest);
        }
        table.ok()
    }

    fn keep(&mut self, news: BTreeMap<NodeName, OwnerNews>) {
        for (owner, said) in news {
            if said.services.is_some() || said.health.is_some() || said.forgotten {
                self.quarantined.remove(&owner);
            }
            if said.forgotten && said.member.is_none() {
                self.good.remove(&owner);
            } else {
                self.good.entry(owner).or_default().merge(said);
            }
        }
    }

    /// Brings these owners back to their last good news.
    fn restore<'a>(&mut self, owners: impl Iterator<Item = &'a NodeName>) {
        for owner in owners {
            let good = self.good.get(owner).cloned();
            let back = OwnerNews { forgotten: true, ..good.unwrap_or_default() };
            fold(&mut self.registry, BTreeMap::from([(owner.clone(), back)]));
        }
    }
}

impl OwnerNews {
    /// Later news take the place of earlier ones.
    fn merge(&mut self, later: Self) {
        if later.forgotten {
            *self = Self::default();
        }
        self.member = later.member.or_else(|| self.member.take());
        self.services = later.services.or_else(|| self.services.take());
        self.health = later.health.or_else(|| self.health.take());
    }
}

/// Takes news into the registry, in the order that they mean.
pub(super) fn fold(registry: &mut Registry, news: BTreeMap<NodeName, OwnerNews>) {
    for (owner, OwnerNews { forgotten, member, services, health }) in news {
        if forgotten {
            registry.forget(&owner);
        }
        if let Some(fact) = member {
            registry.member(&fact);
        }
        if let Some(record) = services {
            registry.services(&owner, &record);
        }
        if let Some(record) = health {
            registry.health(&owner, &record);
        }
    }
}

#[cfg(test)]
mod tests {
    use starling_model::{MemberState, Readiness};

    use super::super::tests::{health, member, node, services};
    use super::*;

    /// A compiler that cannot stand services of one name.
    fn picky(
        documents: &Documents,
        registry: &Registry,
        settings: &TableSettings,
        previous: Option<&RouteTable>,
    ) -> RouteTable {
        let table = compile(documents, registry, settings, previous);
        assert!(table.resolve_host("poison.mesh.internal").is_none(), "on purpose");
        table
    }

    fn news(name: &str, says: &[&str]) -> (NodeName, OwnerNews) {
        let said = OwnerNews {
            forgotten: false,
            member: Some(member(name, MemberState::Alive)),
            services: Some(services(says).into()),
            health: Some(health(says, Readiness::Ready).into()),
        };
        (node(name), said)
    }

    fn offers(table: &RouteTable, host: &str) -> usize {
        table.resolve_host(host).map_or(0, |service| service.endpoints.len())
    }

    /// gossip.md, S25: whose consumer panics is left out by itself, and its last good record stays.
    #[test]
    fn a_poison_record_hurts_only_its_owner_and_its_last_good_one_stays() {
        let mut intake = Intake { compile: picky, ..Intake::new(TableSettings { domain: "mesh.internal".to_owned() }) };
        let empty = RouteTable::default();
        let good = [news("vm-1", &["web"]), news("vm-2", &["web"])];
        let table = intake.table(BTreeMap::from(good), &empty).unwrap();
        assert_eq!(offers(&table, "web.mesh.internal"), 2);

        // A burst of many, one of which is poison.
        let burst = (3..20).map(|at| news(&format!("vm-{at}"), &["web"])).chain([news("vm-2", &["poison"])]);
        let table = intake.table(burst.collect(), &table).unwrap();
        assert_eq!(offers(&table, "web.mesh.internal"), 19, "vm-2 with what it said before");
        assert_eq!(intake.quarantined(), 1);

        // The same again changes nothing; what it says next does, and so does its death.
        let again = intake.table(BTreeMap::from([news("vm-2", &["poison"])]), &table).unwrap();
        assert_eq!((offers(&again, "web.mesh.internal"), intake.quarantined()), (19, 1));
        let dead = OwnerNews { member: Some(member("vm-2", MemberState::Dead)), ..OwnerNews::default() };
        let table = intake.table(BTreeMap::from([(node("vm-2"), dead)]), &again).unwrap();
        let endpoints = &table.resolve_host("web.mesh.internal").unwrap().endpoints;
        assert!(endpoints.iter().any(|one| one.member == MemberState::Dead));
        let table = intake.table(BTreeMap::from([news("vm-2", &["shop"])]), &table).unwrap();
        assert_eq!((offers(&table, "web.mesh.internal"), offers(&table, "shop.mesh.internal")), (18, 1));
        assert_eq!(intake.quarantined(), 0);
    }
}
