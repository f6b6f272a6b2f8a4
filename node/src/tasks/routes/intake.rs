//! News of owners on their way into the registry, and the owners whose news would take the table down.
//!
//! Whoever announces something with which compiling panics, or does not end, hurts only itself: its news are found among
//! the burst that they came with (by halving, or one by one, as with documents), and left out; its last good ones stay in
//! use until it says something else. All agents get the same record and decide alike.
//!
//! Who hung a step may say something else each second, so its records wait for a growing time ([`Penalties`]); whether it
//! lives counts at once. A step that ends after all was only slow: what it was for is tried again. At the bound of
//! threads records wait, and what members' lives change goes on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use starling_model::NodeName;
use starling_routing::{Documents, Registry, RouteTable};
use tracing::{error, info};

use super::OwnerNews;
use super::penalties::Penalties;
use super::trial::Steps;
use super::worker::{Cause, Failure, Late, Worker};

/// Threads left behind by members' news at which no more records are tried.
pub(crate) const LEFT_BEHIND_BY_MEMBERS_MAX: usize = 4;
/// Further ones that what members' lives change may leave: tables must follow these even then.
const LEFT_BEHIND_BY_LIVES_MAX: usize = 2;
/// Threads that may hang with what one member announced: with others' news, and alone.
const HANGING_PER_MEMBER_MAX: usize = 2;
const _: () = assert!(HANGING_PER_MEMBER_MAX < LEFT_BEHIND_BY_MEMBERS_MAX);

/// The registry with what its owners said, and the documents in use.
#[derive(Debug)]
pub(super) struct Intake {
    registry: Arc<Registry>,
    documents: Documents,
    steps: Steps,
    worker: Worker,
    /// The newest good news of each owner.
    good: BTreeMap<NodeName, OwnerNews>,
    /// Owners whose newest records are left out.
    quarantined: BTreeMap<NodeName, LeftOut>,
    /// News that wait until a table can be made again, or for their owner's time.
    waiting: BTreeMap<NodeName, OwnerNews>,
    /// Owners whose records hung a step.
    penalties: Penalties<NodeName>,
    /// The attempt that was given up last, and those with several owners' news in this turn.
    late: Late,
    loose: Vec<Late>,
}

/// What an owner said that is left out.
#[derive(Debug)]
struct LeftOut {
    said: OwnerNews,
    /// Steps with it that were given up; none for what panicked.
    late: Vec<Late>,
}

impl LeftOut {
    /// True once the steps that it was left out for have ended.
    fn is_over(&self) -> bool {
        !self.late.is_empty() && self.late.iter().all(Late::is_over)
    }
}

impl OwnerNews {
    /// True for news that say what an owner offers.
    fn has_records(&self) -> bool {
        self.services.is_some() || self.health.is_some()
    }
}

impl Intake {
    pub(super) fn new(steps: Steps) -> Self {
        Self {
            registry: Arc::default(),
            // Grants come with documents: without them nobody is accepted for anything.
            documents: Documents::default().partial(),
            worker: steps.worker(Cause::Members, LEFT_BEHIND_BY_MEMBERS_MAX),
            good: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            waiting: BTreeMap::new(),
            penalties: Penalties::new(HANGING_PER_MEMBER_MAX, steps.delay_first),
            late: Late::default(),
            loose: Vec::new(),
            steps,
        }
    }

    /// Owners whose newest records are left out.
    pub(super) fn quarantined(&self) -> usize {
        self.quarantined.len()
    }

    /// True while news wait for a thread or for their time.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.quarantined.values().any(LeftOut::is_over)
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
        self.worker.allow(LEFT_BEHIND_BY_MEMBERS_MAX + LEFT_BEHIND_BY_LIVES_MAX);
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
        let now = Instant::now();
        let known =
            |owner: &NodeName, said: &OwnerNews| self.quarantined.get(owner).is_some_and(|held| held.said == *said);
        let mut news: BTreeMap<_, _> = news.into_iter().filter(|(owner, said)| !known(owner, said)).collect();
        for (owner, said) in news.iter_mut().filter(|(_, said)| said.has_records()) {
            // Of what was left out only one half may have been at fault.
            if let Some(LeftOut { said: held, .. }) = self.quarantined.get(owner).filter(|_| !said.forgotten) {
                said.services = said.services.take().or_else(|| held.services.clone());
                said.health = said.health.take().or_else(|| held.health.clone());
            }
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        self.take_slow(&mut waiting);
        for (owner, said) in news {
            add(&mut waiting, owner, said);
        }
        let parts = self.parts(waiting, now);
        let table = if parts.is_empty() { Some(Arc::clone(previous)) } else { self.admit(parts, previous).await };
        self.loose.clear();
        let now = Instant::now();
        self.penalties.end_turn(now);
        let delayed: Vec<String> = self.penalties.delayed(now).map(ToString::to_string).collect();
        self.steps.left_behind.note_delayed(|all| all.members = delayed);
        table
    }

    /// What was left out for steps that have ended since waits to be tried again; later news stand over it.
    fn take_slow(&mut self, waiting: &mut BTreeMap<NodeName, OwnerNews>) {
        let over = |(owner, held): (&NodeName, &LeftOut)| held.is_over().then(|| owner.clone());
        let slow: Vec<NodeName> = self.quarantined.iter().filter_map(over).collect();
        for owner in slow {
            let Some(LeftOut { said, .. }) = self.quarantined.remove(&owner) else { continue };
            info!(member = %owner, "the step that this member's records were left out for has ended: they are tried again");
            let later = waiting.remove(&owner);
            // Whether it lives was told apart, and may have changed since.
            waiting.insert(owner.clone(), OwnerNews { member: None, ..said });
            if let Some(later) = later {
                add(waiting, owner, later);
            }
        }
    }

    /// What is tried now, the last part first: all together, and apart whatever comes from owners of whom something
    /// hangs; while anything hangs, all records apart. Records of owners whose time has not come go on waiting.
    fn parts(&mut self, news: BTreeMap<NodeName, OwnerNews>, now: Instant) -> Vec<BTreeMap<NodeName, OwnerNews>> {
        let is_tight = self.steps.left_behind.of(Cause::Members) > 0;
        let (mut together, mut apart) = (BTreeMap::new(), Vec::new());
        for (owner, mut said) in news {
            if said.has_records() && !self.penalties.admits(&owner, now) {
                let records =
                    OwnerNews { services: said.services.take(), health: said.health.take(), ..OwnerNews::default() };
                self.waiting.insert(owner.clone(), records);
                if !said.forgotten && said.member.is_none() {
                    continue;
                }
            }
            if said.has_records() && (is_tight || self.penalties.is_suspect(&owner)) {
                apart.push((self.penalties.is_suspect(&owner), BTreeMap::from([(owner, said)])));
            } else {
                together.insert(owner, said);
            }
        }
        // Suspects last.
        apart.sort_by_key(|(is_suspect, _)| !is_suspect);
        let mut parts: Vec<_> = apart.into_iter().map(|(_, part)| part).collect();
        if !together.is_empty() {
            parts.push(together);
        }
        parts
    }

    async fn admit(
        &mut self,
        mut parts: Vec<BTreeMap<NodeName, OwnerNews>>,
        previous: &Arc<RouteTable>,
    ) -> Option<Arc<RouteTable>> {
        let mut made: Option<Arc<RouteTable>> = None;
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
                (Failure::NoThread, _) => made = self.lives(part, &before).await.or(made),
                (_, 0) => {}
                (failure, 1) => {
                    let Some((owner, said)) = part.pop_first() else { continue };
                    let mut late = Vec::new();
                    if failure == Failure::TimedOut {
                        late.push(self.late.clone());
                        late.append(&mut self.loose);
                        self.penalties.blame(&owner, late.iter().cloned(), Instant::now());
                    }
                    made = self.quarantine(owner, LeftOut { said, late }, &before).await.or(made);
                }
                (Failure::TimedOut, _) => {
                    self.loose.push(self.late.clone());
                    parts.extend(part.into_iter().rev().map(|one| BTreeMap::from([one])));
                }
                (Failure::Panicked, len) => {
                    let Some(middle) = part.keys().nth(len / 2).cloned() else { continue };
                    let right = part.split_off(&middle);
                    parts.extend([right, part]);
                }
            }
        }
        made
    }

    /// Takes what of these news says who lives, where no thread is to be had for their records.
    async fn lives(
        &mut self,
        part: BTreeMap<NodeName, OwnerNews>,
        previous: &Arc<RouteTable>,
    ) -> Option<Arc<RouteTable>> {
        let (mut lives, mut records) = (BTreeMap::new(), BTreeMap::new());
        for (owner, OwnerNews { forgotten, member, services, health }) in part {
            if services.is_some() || health.is_some() {
                records.insert(owner.clone(), OwnerNews { services, health, ..OwnerNews::default() });
            }
            if forgotten || member.is_some() {
                lives.insert(owner, OwnerNews { forgotten, member, ..OwnerNews::default() });
            }
        }
        let table = if records.is_empty() || lives.is_empty() {
            None
        } else {
            self.attempt(lives.clone(), previous).await.ok()
        };
        if table.is_some() {
            self.keep(lives);
        } else {
            self.restore(lives.keys());
            for (owner, said) in lives {
                let later = self.waiting.remove(&owner);
                self.waiting.insert(owner.clone(), said);
                if let Some(later) = later {
                    add(&mut self.waiting, owner, later);
                }
            }
        }
        for (owner, said) in records {
            add(&mut self.waiting, owner, said);
        }
        table
    }

    /// Folds news in and makes the table.
    async fn attempt(
        &mut self,
        news: BTreeMap<NodeName, OwnerNews>,
        previous: &Arc<RouteTable>,
    ) -> Result<Arc<RouteTable>, Failure> {
        let lives = if news.values().any(OwnerNews::has_records) { 0 } else { LEFT_BEHIND_BY_LIVES_MAX };
        self.worker.allow(LEFT_BEHIND_BY_MEMBERS_MAX + lives);
        // Shared only with a step that was given up, which then keeps what it has.
        let registry = Arc::make_mut(&mut self.registry);
        catch_unwind(AssertUnwindSafe(|| fold(registry, news))).map_err(|_| Failure::Panicked)?;
        let make = self.steps.making(&self.documents, &self.registry, previous);
        let made = self.worker.run(make).await;
        if made.as_ref().is_err_and(|failure| *failure == Failure::TimedOut) {
            self.late = self.worker.late();
        }
        made
    }

    /// No table comes about with what this owner says.
    async fn quarantine(
        &mut self,
        owner: NodeName,
        left_out: LeftOut,
        previous: &Arc<RouteTable>,
    ) -> Option<Arc<RouteTable>> {
        error!(member = %owner, "what this member announces breaks the route table; its last good records stay in use");
        let member = left_out.said.member.clone();
        self.quarantined.insert(owner.clone(), left_out);
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
            if said.has_records() || said.forgotten {
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
        // Two threads are all that it may have: it waits for one of them, and its death does not.
        let dead = OwnerNews { member: Some(member("vm-6", MemberState::Dead)), ..news("vm-6", &["web"]).1 };
        let table = intake.table(BTreeMap::from([(node("vm-6"), dead)]), &table).await.unwrap();
        assert_eq!((offers(&table, "web.mesh.internal"), intake.quarantined()), (5, 1));
        assert!(intake.is_waiting());
    }

    /// At the bound of threads left behind no records are tried, nothing is lost, and who lives goes on to be told.
    #[tokio::test]
    async fn records_wait_while_no_thread_is_to_be_had_and_lives_do_not() {
        let steps = steps(compile);
        let left_behind = steps.left_behind.clone();
        let mut intake = Intake::new(steps);
        let table = intake.table(BTreeMap::from([news("vm-0", &["web"])]), &Arc::default()).await.unwrap();
        let hold = left_behind.hold(Cause::Members, LEFT_BEHIND_BY_MEMBERS_MAX);
        let dead = OwnerNews { member: Some(member("vm-0", MemberState::Dead)), ..OwnerNews::default() };
        let both = BTreeMap::from([(node("vm-0"), dead), news("vm-1", &["web"])]);
        let table = intake.table(both, &table).await.unwrap();
        let web = table.resolve_host("web.mesh.internal").unwrap();
        assert_eq!((web.endpoints.len(), web.endpoints[0].member), (1, MemberState::Dead));
        let more = left_behind.hold(Cause::Members, LEFT_BEHIND_BY_LIVES_MAX);
        let gone = || OwnerNews { forgotten: true, ..OwnerNews::default() };
        let all = BTreeMap::from([(node("vm-0"), gone()), (node("vm-1"), gone()), news("vm-2", &["web"])]);
        assert!(intake.table(all, &table).await.is_none(), "one more than may hang");
        drop((hold, more));
        let table = intake.table(BTreeMap::new(), &table).await.unwrap();
        assert_eq!(offers(&table, "web.mesh.internal"), 1, "vm-0 and vm-1 were forgotten meanwhile");
    }

    /// One owner that announces another poison each time costs as many threads as one may, and nobody else's records
    /// wait for it; its own are tried again once what hung has ended.
    #[tokio::test]
    async fn an_owner_that_hangs_again_and_again_uses_up_its_own_budget_only() {
        static OPEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        fn endless(
            documents: &Documents,
            registry: &Registry,
            settings: &TableSettings,
            previous: Option<&RouteTable>,
        ) -> RouteTable {
            let table = compile(documents, registry, settings, previous);
            let poison = |service: &Arc<starling_routing::Service>| service.key.name.as_str().starts_with("poison");
            while table.services().any(poison) && !OPEN.load(std::sync::atomic::Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            table
        }
        let steps = steps(endless);
        let left_behind = steps.left_behind.clone();
        let mut intake = Intake::new(steps);
        let mut table = Arc::default();
        for at in 0..12 {
            let poison = format!("poison-{at}");
            let burst = [news("vm-1", &["web", &poison]), news(&format!("vm-{}", at + 2), &["web"])];
            table = intake.table(BTreeMap::from(burst), &table).await.unwrap();
            assert_eq!(offers(&table, "web.mesh.internal"), at + 1, "all others");
        }
        assert_eq!(left_behind.of(Cause::Members), HANGING_PER_MEMBER_MAX, "with the first burst, and alone");
        assert_eq!(left_behind.delayed().members, ["vm-1"]);
        // Whether it lives counts all the same.
        assert!(intake.is_waiting());
        // What hung was slow: what it says by now is tried.
        OPEN.store(true, std::sync::atomic::Ordering::SeqCst);
        while left_behind.count() > 0 {
            tokio::time::timeout(Duration::from_secs(5), left_behind.ended()).await.unwrap();
        }
        let table = intake.table(BTreeMap::new(), &table).await.unwrap();
        assert_eq!((offers(&table, "web.mesh.internal"), offers(&table, "poison-11.mesh.internal")), (13, 1));
        assert!(!intake.is_waiting() && left_behind.delayed().members.is_empty());
    }

    fn steps(compile: super::super::trial::Compile) -> Steps {
        let settings = TableSettings { domain: "mesh.internal".to_owned() };
        let (deadline, delay_first) = (Duration::from_millis(200), Duration::ZERO);
        Steps { compile, deadline, delay_first, ..Steps::new(settings, LeftBehind::default()) }
    }
}
