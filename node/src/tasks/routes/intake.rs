//! News of owners on their way into the registry, and the owners whose news would take the table down.
//!
//! Whoever announces something with which compiling panics, or does not end, hurts only itself: its news are found among
//! the burst that they came with (by halving, or one by one, as with documents), and left out; its last good ones stay in
//! use until it says something else. All agents get the same record and decide alike.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use starling_model::NodeName;
use starling_routing::{Documents, Registry, RouteTable};
use tracing::error;

use super::OwnerNews;
use super::trial::Steps;
use super::worker::{Failure, Worker};

/// The registry with what its owners said, and the documents in use.
#[derive(Debug)]
pub(super) struct Intake {
    registry: Arc<Registry>,
    documents: Documents,
    steps: Steps,
    worker: Worker,
    /// The newest good news of each owner.
    good: BTreeMap<NodeName, OwnerNews>,
    /// Owners whose newest records are left out, with these.
    quarantined: BTreeMap<NodeName, OwnerNews>,
    /// News that wait until a table can be made again.
    waiting: BTreeMap<NodeName, OwnerNews>,
}

impl Intake {
    pub(super) fn new(steps: Steps) -> Self {
        Self {
            registry: Arc::default(),
            // Grants come with documents: without them nobody is accepted for anything.
            documents: Documents::default().partial(),
            worker: steps.worker(),
            steps,
            good: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Owners whose newest records are left out.
    pub(super) fn quarantined(&self) -> usize {
        self.quarantined.len()
    }

    /// True while news wait for a thread.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Members of this moment.
    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The documents in use.
    pub(super) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// These came out of a trial with a registry as it still is.
    pub(super) fn adopt(&mut self, documents: Documents) {
        self.documents = documents;
    }

    /// Takes documents that came out of a trial, when members have changed since; `None`: they do not go together.
    pub(super) async fn adopt_anew(
        &mut self,
        documents: Documents,
        previous: &Arc<RouteTable>,
    ) -> Option<Arc<RouteTable>> {
        let make = self.steps.making(&documents, &self.registry, previous);
        let table = self.worker.run(make).await.ok()?;
        self.documents = documents;
        Some(table)
    }

    /// Folds news in and makes the table that follows `previous`; `None` when nothing came of it.
    pub(super) async fn table(
        &mut self,
        news: BTreeMap<NodeName, OwnerNews>,
        previous: &Arc<RouteTable>,
    ) -> Option<Arc<RouteTable>> {
        let known = |owner: &NodeName, said: &OwnerNews| self.quarantined.get(owner) == Some(said);
        let mut news: BTreeMap<_, _> = news.into_iter().filter(|(owner, said)| !known(owner, said)).collect();
        for (owner, said) in news.iter_mut().filter(|(_, said)| said.services.is_some() || said.health.is_some()) {
            // Of what was left out only one half may have been at fault.
            if let Some(held) = self.quarantined.get(owner).filter(|_| !said.forgotten) {
                said.services = said.services.take().or_else(|| held.services.clone());
                said.health = said.health.take().or_else(|| held.health.clone());
            }
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        for (owner, said) in news {
            add(&mut waiting, owner, said);
        }
        self.admit(waiting, previous).await
    }

    async fn admit(
        &mut self,
        news: BTreeMap<NodeName, OwnerNews>,
        previous: &Arc<RouteTable>,
    ) -> Option<Arc<RouteTable>> {
        let mut made: Option<Arc<RouteTable>> = None;
        let mut parts = vec![news];
        while let Some(mut part) = parts.pop() {
            let before = Arc::clone(made.as_ref().unwrap_or(previous));
            let failure = match self.attempt(part.clone(), &before).await {
                Ok(table) => {
                    self.keep(part);
                    made = Some(table);
                    continue;
                }
                Err(failure) => failure,
            };
            self.restore(part.keys());
            match (failure, part.len()) {
                (Failure::NoThread, _) => {
                    for (owner, said) in part {
                        add(&mut self.waiting, owner, said);
                    }
                }
                (_, 0) => {}
                (_, 1) => {
                    let Some((owner, said)) = part.pop_first() else { continue };
                    made = self.quarantine(owner, said, &before).await.or(made);
                }
                (Failure::TimedOut, _) => parts.extend(part.into_iter().rev().map(|one| BTreeMap::from([one]))),
                (Failure::Panicked, len) => {
                    let Some(middle) = part.keys().nth(len / 2).cloned() else { continue };
                    let right = part.split_off(&middle);
                    parts.extend([right, part]);
                }
            }
        }
        made
    }

    /// Folds news in and makes the table.
    async fn attempt(
        &mut self,
        news: BTreeMap<NodeName, OwnerNews>,
        previous: &Arc<RouteTable>,
    ) -> Result<Arc<RouteTable>, Failure> {
        // Shared only with a step that was given up, which then keeps what it has.
        let registry = Arc::make_mut(&mut self.registry);
        catch_unwind(AssertUnwindSafe(|| fold(registry, news))).map_err(|_| Failure::Panicked)?;
        let make = self.steps.making(&self.documents, &self.registry, previous);
        self.worker.run(make).await
    }

    /// No table comes about with what this owner says.
    async fn quarantine(
        &mut self,
        owner: NodeName,
        said: OwnerNews,
        previous: &Arc<RouteTable>,
    ) -> Option<Arc<RouteTable>> {
        error!(member = %owner, "what this member announces breaks the route table; its last good records stay in use");
        let member = said.member.clone();
        self.quarantined.insert(owner.clone(), said);
        // Whether it lives is told by membership, and counts.
        let rest = OwnerNews { member, ..OwnerNews::default() };
        let table = self.attempt(BTreeMap::from([(owner.clone(), rest.clone())]), previous).await;
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
            fold(Arc::make_mut(&mut self.registry), BTreeMap::from([(owner.clone(), back)]));
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

/// Puts news to those that wait, which they follow.
fn add(waiting: &mut BTreeMap<NodeName, OwnerNews>, owner: NodeName, said: OwnerNews) {
    if said.forgotten {
        waiting.insert(owner, said);
    } else {
        waiting.entry(owner).or_default().merge(said);
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
    use std::time::Duration;

    use starling_model::{MemberState, Readiness};
    use starling_routing::{TableSettings, compile};

    use super::super::tests::{health, member, node, services};
    use super::super::worker::LeftBehind;
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
    #[tokio::test]
    async fn a_poison_record_hurts_only_its_owner_and_its_last_good_one_stays() {
        let mut intake = Intake::new(steps(picky));
        let empty = Arc::default();
        let good = [news("vm-1", &["web"]), news("vm-2", &["web"])];
        let table = intake.table(BTreeMap::from(good), &empty).await.unwrap();
        assert_eq!(offers(&table, "web.mesh.internal"), 2);

        // A burst of many, one of which is poison.
        let burst = (3..20).map(|at| news(&format!("vm-{at}"), &["web"])).chain([news("vm-2", &["poison"])]);
        let table = intake.table(burst.collect(), &table).await.unwrap();
        assert_eq!(offers(&table, "web.mesh.internal"), 19, "vm-2 with what it said before");
        assert_eq!(intake.quarantined(), 1);

        // The same again changes nothing; what it says next does, and so does its death.
        let again = intake.table(BTreeMap::from([news("vm-2", &["poison"])]), &table).await.unwrap();
        assert_eq!((offers(&again, "web.mesh.internal"), intake.quarantined()), (19, 1));
        let dead = OwnerNews { member: Some(member("vm-2", MemberState::Dead)), ..OwnerNews::default() };
        let table = intake.table(BTreeMap::from([(node("vm-2"), dead)]), &again).await.unwrap();
        let endpoints = &table.resolve_host("web.mesh.internal").unwrap().endpoints;
        assert!(endpoints.iter().any(|one| one.member == MemberState::Dead));
        let table = intake.table(BTreeMap::from([news("vm-2", &["shop"])]), &table).await.unwrap();
        assert_eq!((offers(&table, "web.mesh.internal"), offers(&table, "shop.mesh.internal")), (18, 1));
        assert_eq!(intake.quarantined(), 0);
    }

    /// A compiler that never ends with services of one name.
    fn endless(
        documents: &Documents,
        registry: &Registry,
        settings: &TableSettings,
        previous: Option<&RouteTable>,
    ) -> RouteTable {
        let table = compile(documents, registry, settings, previous);
        while table.resolve_host("poison.mesh.internal").is_some() {
            std::thread::sleep(Duration::from_millis(10));
        }
        table
    }

    /// F40, of records: an owner whose news hang the compiler costs two deadlines, and nobody else's news are lost.
    #[tokio::test]
    async fn a_record_that_hangs_hurts_only_its_owner() {
        let steps = steps(endless);
        let left_behind = steps.left_behind.clone();
        let mut intake = Intake::new(steps);
        let burst = (1..6).map(|at| news(&format!("vm-{at}"), &["web"])).chain([news("vm-6", &["poison"])]);
        let table = intake.table(burst.collect(), &Arc::default()).await.unwrap();
        assert_eq!((offers(&table, "web.mesh.internal"), offers(&table, "poison.mesh.internal")), (5, 0));
        assert_eq!((intake.quarantined(), left_behind.count()), (1, 2), "with the burst, and alone");
        let table = intake.table(BTreeMap::from([news("vm-6", &["web"])]), &table).await.unwrap();
        assert_eq!((offers(&table, "web.mesh.internal"), intake.quarantined()), (6, 0));
    }

    /// At the bound of threads left behind nothing is made, and nothing is lost: what comes then waits.
    #[tokio::test]
    async fn news_wait_while_no_thread_is_to_be_had() {
        let steps = steps(compile);
        let left_behind = steps.left_behind.clone();
        let mut intake = Intake::new(steps);
        let empty = Arc::default();
        let hold = left_behind.hold(super::super::trial::LEFT_BEHIND_MAX);
        assert!(intake.table(BTreeMap::from([news("vm-1", &["web"])]), &empty).await.is_none());
        let gone = OwnerNews { forgotten: true, ..OwnerNews::default() };
        let both = BTreeMap::from([(node("vm-1"), gone), news("vm-2", &["web"])]);
        assert!(intake.table(both, &empty).await.is_none());
        drop(hold);
        let table = intake.table(BTreeMap::new(), &empty).await.unwrap();
        assert_eq!(offers(&table, "web.mesh.internal"), 1, "vm-1 was forgotten meanwhile");
    }

    fn steps(compile: super::super::trial::Compile) -> Steps {
        let settings = TableSettings { domain: "mesh.internal".to_owned() };
        let deadline = Duration::from_millis(200);
        Steps { compile, deadline, ..Steps::new(settings, LeftBehind::default()) }
    }
}
