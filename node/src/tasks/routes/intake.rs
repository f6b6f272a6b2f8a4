//! News of owners on their way into the registry, and the owners whose news would take the table down.
//!
//! Whoever announces something with which compiling panics hurts only itself: its news are found by halving the burst that
//! they came with, and left out; its last good ones stay in use until it says something else. All agents get the same
//! record and decide alike.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use starling_gossip::DocumentView;
use starling_model::{NodeName, codes};
use starling_routing::{Denial, Documents, InUse, Registry, RouteTable, TableSettings, compile};
use tracing::error;

use super::OwnerNews;
use super::documents::{Shelf, is_grant};

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
        let denials = self.shelf.denials(in_use);
        if let Some(table) = self.with((&wanted, &denials), previous) {
            self.adopt(&wanted, denials);
            return Some(table);
        }
        let as_before =
            |one: &InUse| self.documents.get(&one.document.key).is_some_and(|held| held.version == one.version);
        let (same, changed): (Vec<InUse>, Vec<InUse>) = wanted.into_iter().partition(as_before);
        let used = self.admit(same, (&changed, &denials), previous);
        // What was left out may deny, too.
        let denials = self.shelf.denials(in_use);
        let table = self.with((&used, &denials), previous)?;
        self.adopt(&used, denials);
        Some(table)
    }

    /// Adds what changed to what is in use, without those with which no table comes about: found by halving, as with news.
    fn admit(
        &mut self,
        mut used: Vec<InUse>,
        (changed, denials): (&[InUse], &[Denial]),
        previous: &RouteTable,
    ) -> Vec<InUse> {
        let together: Vec<InUse> = used.iter().chain(changed).cloned().collect();
        if self.with((&together, denials), previous).is_some() {
            return together;
        }
        match changed {
            [] => used,
            [one] => {
                let (document, version, code) = (&one.document.key, one.version, codes::DOCUMENT_HELD_BACK);
                error!(%document, %version, %code, "this document breaks the route table; its last good version stays in use");
                self.shelf.leave_out(version.hash);
                used.extend(self.documents.get(document).filter(|_| !is_grant(document)).cloned());
                used
            }
            several => {
                let (left, right) = several.split_at(several.len() / 2);
                let used = self.admit(used, (left, denials), previous);
                self.admit(used, (right, denials), previous)
            }
        }
    }

    /// The table of these documents, if one comes about.
    fn with(&self, (used, denials): (&[InUse], &[Denial]), previous: &RouteTable) -> Option<RouteTable> {
        let documents = Documents::new(used.iter().cloned()).denying(denials.to_vec());
        let table = catch_unwind(AssertUnwindSafe(|| {
            (self.compile)(&documents, &self.registry, &self.settings, Some(previous))
        }));
        table.ok()
    }

    /// They are in use from now on.
    fn adopt(&mut self, used: &[InUse], denials: Vec<Denial>) {
        self.shelf.keep(used);
        self.documents = Documents::new(used.iter().cloned()).denying(denials);
    }

    /// Folds news in and makes the table that follows `previous`; `None` when nothing came of it.
    pub(super) fn table(&mut self, news: BTreeMap<NodeName, OwnerNews>, previous: &RouteTable) -> Option<RouteTable> {
        let known = |owner: &NodeName, said: &OwnerNews| self.quarantined.get(owner) == Some(said);
        let mut news: BTreeMap<_, _> = news.into_iter().filter(|(owner, said)| !known(owner, said)).collect();
        for (owner, said) in news.iter_mut().filter(|(_, said)| said.services.is_some() || said.health.is_some()) {
            // Of what was left out only one half may have been at fault.
            if let Some(held) = self.quarantined.get(owner).filter(|_| !said.forgotten) {
                said.services = said.services.take().or_else(|| held.services.clone());
                said.health = said.health.take().or_else(|| held.health.clone());
            }
        }
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
    use starling_routing::ServicePort;

    use starling_model::{Digest, DocumentKey, DocumentVersion, Generation, KeyId, MemberState, Readiness};

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

    fn document(name: &str, generation: u64) -> DocumentView {
        let mut hash = [u8::try_from(generation).unwrap(); 32];
        hash[0] = name.as_bytes()[0];
        let generation = Generation::new(generation).unwrap();
        let version = DocumentVersion { generation, signer: KeyId(1), hash: Digest(hash) };
        let text = format!(
            "apiVersion: starling/v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{ports: [{{name: http, port: {generation}, protocol: http}}]}}\n"
        );
        DocumentView {
            key: DocumentKey::parse("Service", "default", name).unwrap(),
            version,
            schema: 1,
            signed_at: 0,
            deleted: false,
            batch: None,
            text: text.into(),
            envelope: bytes::Bytes::new(),
        }
    }

    /// A compiler that cannot stand port 66.
    fn picky_of_ports(
        documents: &Documents,
        registry: &Registry,
        settings: &TableSettings,
        previous: Option<&RouteTable>,
    ) -> RouteTable {
        let table = compile(documents, registry, settings, previous);
        let is_good = |port: &ServicePort| port.number.is_none_or(|number| number.get() != 66);
        assert!(table.services().flat_map(|service| &service.ports).all(is_good), "on purpose");
        table
    }

    /// F40: a document with which no table comes about leaves its last good version in use, whatever stands beside it.
    #[test]
    fn a_poison_document_is_left_out_and_its_last_good_version_stays() {
        let settings = TableSettings { domain: "mesh.internal".to_owned() };
        let mut intake = Intake { compile: picky_of_ports, ..Intake::new(settings) };
        let port = |table: &RouteTable, host: &str| {
            let service = table.resolve_host(&format!("{host}.mesh.internal"));
            service.and_then(|service| service.ports.first()?.number).map(std::num::NonZeroU16::get)
        };
        let first = [document("a", 1), document("b", 2), document("c", 3)];
        let table = intake.table_of(&first, &RouteTable::default()).unwrap();
        assert_eq!(["a", "b", "c"].map(|host| port(&table, host)), [Some(1), Some(2), Some(3)]);
        let poisoned = [document("a", 4), document("b", 66), document("c", 5)];
        let table = intake.table_of(&poisoned, &table).unwrap();
        assert_eq!(["a", "b", "c"].map(|host| port(&table, host)), [Some(4), Some(2), Some(5)]);
        // The same again is not tried again; the next version is.
        let table = intake.table_of(&poisoned, &table).unwrap();
        assert_eq!(port(&table, "b"), Some(2));
        let table = intake.table_of(&[document("a", 4), document("b", 7)], &table).unwrap();
        assert_eq!(["a", "b", "c"].map(|host| port(&table, host)), [Some(4), Some(7), None]);
    }

    fn signed(kind: &str, name: &str, generation: u64, spec: &str) -> DocumentView {
        let text = format!("apiVersion: starling/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        let key = DocumentKey::parse(kind, "default", name).unwrap();
        DocumentView { key, text: text.into(), ..document(name, generation) }
    }

    /// How vm-1 stands to `web`, `orders` and `x/cart`.
    fn standings(table: &RouteTable) -> [&'static str; 3] {
        let namespace = starling_model::Namespace::default();
        ["web", "orders", "x/cart"].map(|service| {
            let service = starling_model::ServiceKey::parse(service, &namespace).unwrap();
            table.grants().standing(&service, &node("vm-1")).as_str()
        })
    }

    /// F41: a grant that cannot be read denies what it names, and what it named, until one comes that can.
    #[test]
    fn a_grant_that_cannot_be_read_is_never_absent_and_never_the_last_good_one() {
        let mut intake = Intake::new(TableSettings { domain: "mesh.internal".to_owned() });
        let grant = |generation, spec: &str| signed("ServiceGrant", "g", generation, spec);
        let mut table = RouteTable::default();
        let mut use_these = |in_use: &[DocumentView]| {
            table = intake.table_of(in_use, &table).unwrap();
            (standings(&table), table.documents().len())
        };
        let good = grant(1, "{nodes: [{node: vm-1}], services: [{service: web}, {namespace: x, service: cart}]}");
        assert_eq!(use_these(&[good]), (["granted", "unnamed", "granted"], 1));
        let newer = grant(2, "{nodes: [{node: vm-1}], services: [{service: orders}], except: [x]}");
        assert_eq!(use_these(std::slice::from_ref(&newer)), (["held_back"; 3], 0));
        // News of members come meanwhile; nothing of it is forgotten.
        let beside = signed("ServiceGrant", "h", 3, "{nodes: [{node: vm-1}], services: [{service: web}]}");
        assert_eq!(use_these(&[newer, beside]), (["held_back"; 3], 1));
        let good = grant(4, "{nodes: [{node: vm-2}], services: [{service: orders}]}");
        assert_eq!(use_these(&[good]), (["unnamed", "not_granted", "unnamed"], 1));
        let garbage = DocumentView { text: "\u{1}".into(), ..grant(5, "") };
        assert_eq!(
            use_these(std::slice::from_ref(&garbage)),
            (["held_back", "held_back", "unnamed"], 0),
            "its whole namespace"
        );
        assert_eq!(use_these(&[]), (["unnamed"; 3], 0));
        assert_eq!(use_these(&[garbage]), (["held_back", "held_back", "unnamed"], 0));
    }

    #[test]
    fn a_mesh_config_that_cannot_be_read_is_the_last_good_one_or_might_be_strict() {
        let mut intake = Intake::new(TableSettings { domain: "mesh.internal".to_owned() });
        let config = |generation, spec: &str| signed("MeshConfig", "mesh", generation, spec);
        let mut table = RouteTable::default();
        let mut use_these = |in_use: &[DocumentView]| {
            table = intake.table_of(in_use, &table).unwrap();
            standings(&table)[0]
        };
        assert_eq!(use_these(&[config(1, "{serviceGrants: Later}")]), "held_back");
        assert_eq!(use_these(&[config(2, "{serviceGrants: Open}")]), "unnamed");
        assert_eq!(use_these(&[config(3, "{serviceGrants: Later}")]), "unnamed", "the last good one");
        assert_eq!(use_these(&[config(4, "{serviceGrants: Strict}")]), "no_grant");
        assert_eq!(use_these(&[config(5, "{later: 1}")]), "no_grant");
    }

    /// A compiler that cannot stand a grant to vm-66.
    fn picky_of_grants(
        documents: &Documents,
        registry: &Registry,
        settings: &TableSettings,
        previous: Option<&RouteTable>,
    ) -> RouteTable {
        let table = compile(documents, registry, settings, previous);
        let service = starling_model::ServiceKey::parse("web", &starling_model::Namespace::default()).unwrap();
        assert!(table.grants().by(&service, &node("vm-66")).is_none(), "on purpose");
        table
    }

    #[test]
    fn a_poison_grant_denies_too() {
        let settings = TableSettings { domain: "mesh.internal".to_owned() };
        let mut intake = Intake { compile: picky_of_grants, ..Intake::new(settings) };
        let grant = |generation, node: &str| {
            signed(
                "ServiceGrant",
                "g",
                generation,
                &format!("{{nodes: [{{node: {node}}}], services: [{{service: web}}]}}"),
            )
        };
        let table = intake.table_of(&[grant(1, "vm-1"), document("a", 2)], &RouteTable::default()).unwrap();
        assert_eq!(standings(&table), ["granted", "unnamed", "unnamed"]);
        let table = intake.table_of(&[grant(3, "vm-66"), document("a", 4)], &table).unwrap();
        assert_eq!((standings(&table), table.documents().len()), (["held_back", "unnamed", "unnamed"], 1));
        let table = intake.table_of(&[grant(5, "vm-2"), document("a", 4)], &table).unwrap();
        assert_eq!(standings(&table), ["not_granted", "unnamed", "unnamed"]);
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
