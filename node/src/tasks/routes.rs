//! From news about members to the route table.
//!
//! News wait in a mailbox, the newest per owner, so a burst of thousands costs one rebuild. The first change is served
//! after [`SETTLE`], then at most one rebuild per [`REBUILD_PAUSE`]. Texts are read and tables are made on threads of
//! their own ([`worker`]), with a deadline. News with which that fails are left out, and their owner's last good ones
//! stay ([`intake`]); documents are tried first ([`trial`]), while members' news go on into the table in use. What a
//! table costs is counted up to its publication; a trial is not in it.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use serde_json::json;
use starling_gossip::DocumentView;
use starling_model::{DocumentKey, EndpointId, HealthRecord, MemberState, NodeName, Readiness, ServicesRecord, codes};
use starling_proxy::ProxyShared;
use starling_routing::{MemberFact, RouteTable, TableSettings};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tracing::{debug, error, info};

pub use self::applied::{Applied, AppliedCell, HeldBack, Why};
use self::crumbs::Crumbs;
pub(crate) use self::crumbs::ends_in_order;
use self::intake::Intake;
pub(crate) use self::intake::LEFT_BEHIND_BY_MEMBERS_MAX;
#[cfg(test)]
pub(crate) use self::trial::Compile;
pub(crate) use self::trial::LEFT_BEHIND_BY_DOCUMENTS_MAX;
use self::trial::{Ground, Judged, Steps, Trial};
pub(crate) use self::worker::Worker;
pub use self::worker::{Cause, Delayed, LeftBehind};
use super::gossip::subject;
use super::own::OwnRecords;
use crate::channel::Mailbox;
use crate::events::{Events, Kind, News};
use crate::store::StoreHandle;

mod applied;
mod crumbs;
mod documents;
mod intake;
mod penalties;
mod trial;
mod worker;

/// How long the first change waits for those that come with it: a services record is followed by its health record.
const SETTLE: Duration = Duration::from_millis(5);
/// Least time between two rebuilds.
pub const REBUILD_PAUSE: Duration = Duration::from_millis(50);
/// After this long it is looked whether documents or members' news that wait may be tried: those that would empty a service
/// with traffic, found no thread, or whose signer or owner is held off.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// An endpoint has traffic if it answered this node so lately, or is just asked.
const TRAFFIC_AGE_MAX: Duration = Duration::from_secs(60);

/// What is new about one owner; later news replace earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerNews {
    /// It was forgotten; what else stands here came after that.
    pub forgotten: bool,
    /// Its state and address.
    pub member: Option<MemberFact>,
    /// What it offers.
    pub services: Option<Arc<ServicesRecord>>,
    /// Readiness of it.
    pub health: Option<Arc<HealthRecord>>,
}

/// Where news wait.
pub type RoutesInbox = Mailbox<NodeName, OwnerNews>;

/// The documents in use; a new list replaces the one before.
pub type DocumentsInUse = Arc<watch::Sender<Meant>>;

/// What the mesh means by its documents, as far as it is known here.
#[derive(Clone, Debug)]
pub struct Meant {
    /// Those in use.
    pub documents: Arc<[DocumentView]>,
    /// False until all that the store held was judged and, where it held nothing of the mesh, a peer has told: a grant may be
    /// missing.
    pub settled: bool,
}

impl Default for Meant {
    fn default() -> Self {
        Self { documents: Arc::from([]), settled: false }
    }
}

/// Since when each endpoint is as it is, for people; written with the table.
pub type EndpointAges = Arc<ArcSwap<BTreeMap<EndpointId, EndpointAge>>>;

/// One endpoint's condition and its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointAge {
    condition: (Readiness, MemberState),
    /// When the condition began, as seen here.
    pub since: Instant,
}

/// Figures of the task.
#[derive(Debug, Default)]
pub struct RoutesFigures {
    /// Tables published.
    pub rebuilds: AtomicU64,
    /// Attempts that brought no table: they panicked, did not end, or were refused by the guard.
    pub failures: AtomicU64,
    /// How long the last rebuild took, microseconds.
    pub last_us: AtomicU64,
}

/// Everything the task needs.
#[derive(Clone)]
pub struct Routes {
    /// Where news wait.
    pub inbox: RoutesInbox,
    /// Which documents are in use.
    pub documents: DocumentsInUse,
    /// Where it is told which of them the table is made of.
    pub applied: AppliedCell,
    /// Our own status says it to the mesh.
    pub own: OwnRecords,
    /// Where the table goes.
    pub shared: Arc<ProxyShared>,
    /// DNS domain of the mesh.
    pub settings: TableSettings,
    /// Ages of endpoints.
    pub ages: EndpointAges,
    /// Figures.
    pub figures: Arc<RoutesFigures>,
    /// Threads that hang in a compile step.
    pub left_behind: LeftBehind,
    /// Where it is told what is held back.
    pub events: Events,
    /// Remembers what was tried when the agent ended; without one nobody does.
    pub store: Option<StoreHandle>,
    /// This node.
    pub node: NodeName,
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Publishes tables until the agent ends.
pub async fn run(routes: Routes) {
    let steps = Steps::new(routes.settings.clone(), routes.left_behind.clone());
    publish_by(steps, routes).await;
}

/// A trial under way, with what it is of.
type UnderWay = Pin<Box<dyn Future<Output = (Trial, Meant, Judged)> + Send>>;

/// The task with another compiler and deadline.
#[cfg(test)]
pub(crate) async fn run_with(compile: Compile, deadline: Duration, routes: Routes) {
    let steps = Steps::new(routes.settings.clone(), routes.left_behind.clone());
    publish_by(Steps { compile, deadline, delay_first: Duration::ZERO, ..steps }, routes).await;
}

async fn publish_by(steps: Steps, routes: Routes) {
    let mut intake = Intake::new(steps.clone());
    let mut documents = routes.documents.subscribe();
    // What is in use already counts, also after a restart of this task.
    documents.mark_changed();
    let mut idle = Some(Trial::new(steps, Crumbs::open(routes.store.clone(), routes.node.clone())));
    let mut under_way: Option<UnderWay> = None;
    // When documents that may do later are tried again.
    let mut again: Option<Instant> = None;
    // When news that came are folded in.
    let mut next_fold: Option<Instant> = None;
    let mut next_table = Instant::now();
    let mut next_trial = next_table;
    loop {
        tokio::select! {
            (trial, meant, judged) = outcome(&mut under_way) => {
                under_way = None;
                idle = Some(trial);
                next_trial = Instant::now() + REBUILD_PAUSE.saturating_sub(SETTLE);
                again = match routes.adopt(&mut intake, &meant, judged).await {
                    Adopted::Whole => None,
                    Adopted::InPart => Some(Instant::now() + TRY_AGAIN),
                    // Members changed, and it does not go together with those: the next trial finds out why.
                    Adopted::Stale => Some(next_trial),
                };
                if idle.as_ref().is_some_and(Trial::has_slow) {
                    again = Some(next_trial);
                }
            }
            // What hung was only slow: both sides look whether it was theirs.
            () = routes.left_behind.ended() => {
                let now = Instant::now();
                again = Some(again.map_or(now, |due| due.min(now)));
                next_fold = Some(next_fold.map_or(next_table.max(now), |due| due.min(next_table.max(now))));
            }
            // What comes is remembered here, since another branch may come first.
            () = routes.inbox.wait() => {
                let soon = next_table.max(Instant::now() + SETTLE);
                next_fold = Some(next_fold.map_or(soon, |due| due.min(soon)));
            }
            () = at(next_fold) => {
                routes.fold(&mut intake).await;
                let now = Instant::now();
                next_table = now + REBUILD_PAUSE;
                next_fold = intake.is_waiting().then_some(now + TRY_AGAIN);
            }
            () = wanted(&mut documents, (next_trial, again)), if under_way.is_none() => {
                // A trial is made with the members of this moment.
                routes.fold(&mut intake).await;
                let meant = documents.borrow_and_update().clone();
                let ground = routes.ground(&intake);
                under_way = idle.take().map(|trial| tried(trial, meant, ground));
            }
        }
    }
}

/// Waits for this moment, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => pending().await,
    }
}

/// Waits until the mesh uses other documents, or some are to be tried again.
async fn wanted(documents: &mut watch::Receiver<Meant>, (not_before, again): (Instant, Option<Instant>)) {
    tokio::select! {
        // The sender is held by the task, so this ends with a change only; it is remembered until they are taken.
        _ = documents.changed() => documents.mark_changed(),
        () = at(again) => documents.mark_changed(),
    }
    sleep_until(not_before.into()).await;
    sleep(SETTLE).await;
}

/// Waits for the trial, if one is under way.
async fn outcome(under_way: &mut Option<UnderWay>) -> (Trial, Meant, Judged) {
    match under_way {
        Some(trial) => trial.await,
        None => pending().await,
    }
}

fn tried(mut trial: Trial, meant: Meant, ground: Ground) -> UnderWay {
    Box::pin(async move {
        let judged = trial.judge(&meant, ground).await;
        (trial, meant, judged)
    })
}

/// What became of documents that were judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adopted {
    /// In use, but for those that never will be.
    Whole,
    /// In use, but for those that may do later.
    InPart,
    /// Not in use: members changed since.
    Stale,
}

impl Routes {
    /// Takes what is in the mailbox into the table.
    async fn fold(&self, intake: &mut Intake) {
        let news = self.inbox.take();
        if news.is_empty() && !intake.is_waiting() {
            return;
        }
        let (began, previous, quarantined) = (Instant::now(), self.shared.table.load_full(), intake.quarantined());
        let table = intake.table(news, &previous).await;
        if table.is_none() || intake.quarantined() > quarantined {
            self.figures.failures.fetch_add(1, Ordering::Relaxed);
        }
        match table {
            Some(table) => self.publish(table, &previous, began),
            None => error!("the route table could not be built; the last good one stays in use"),
        }
    }

    fn ground(&self, intake: &Intake) -> Ground {
        let shared = Arc::clone(&self.shared);
        let has_traffic = move |index| {
            let now = Instant::now();
            let load = shared.loads.load(index, now);
            load.in_flight > 0
                || load.last_success.is_some_and(|at| now.saturating_duration_since(at) < TRAFFIC_AGE_MAX)
        };
        Ground {
            documents: intake.documents().clone(),
            registry: Arc::clone(intake.registry()),
            table: self.shared.table.load_full(),
            has_traffic: Arc::new(has_traffic),
        }
    }

    /// Puts what was judged to use, and tells it.
    async fn adopt(&self, intake: &mut Intake, meant: &Meant, judged: Judged) -> Adopted {
        let Judged { documents, table, why, failures } = judged;
        self.figures.failures.fetch_add(failures, Ordering::Relaxed);
        let (began, previous) = (Instant::now(), self.shared.table.load_full());
        let is_new = !documents.is_like(intake.documents());
        let table = match table {
            Some(table) if table.revision() == intake.registry().revision() => {
                intake.adopt(documents);
                Some(table)
            }
            Some(_) => match intake.adopt_anew(documents, &previous).await {
                Some(table) => Some(table),
                None => return Adopted::Stale,
            },
            None if is_new => intake.adopt_anew(documents, &previous).await,
            None => None,
        };
        let failed = is_new && table.is_none();
        if let Some(table) = table {
            self.publish(table, &previous, began);
        }
        if !intake.documents().is_partial() {
            self.shared.know_grants();
        }
        // Told once the table is in use, not before.
        let applied = Applied::new(&meant.documents, intake.documents(), &why);
        self.tell(&applied);
        let (digest, told) = (applied.digest, applied.told());
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (count, held) = (number(applied.documents), number(applied.held_back.len()));
        let may_do = |held: &HeldBack| matches!(held.why, Why::Empties(_) | Why::Waiting | Why::Delayed | Why::Crashed);
        let adopted = if failed || applied.held_back.values().any(may_do) { Adopted::InPart } else { Adopted::Whole };
        self.applied.store(Arc::new(applied));
        self.own.change_status(|status| {
            (status.digest, status.documents) = (digest, count);
            (status.held_back_count, status.held_back) = (held, told);
        });
        adopted
    }

    /// Says what is held back that was not before, once.
    fn tell(&self, applied: &Applied) {
        let before = self.applied.load();
        for (document, held) in applied.held_back.iter().filter(|(key, held)| before.held_back.get(*key) != Some(*held))
        {
            let (code, why) = (codes::DOCUMENT_HELD_BACK, &held.why);
            let used = held.used.map(|used| used.generation.get());
            error!(%document, %code, %why, used, "a document is held back");
            self.events.tell(held_back(&self.node, document, held), SystemTime::now());
        }
        for document in before.held_back.keys().filter(|key| !applied.held_back.contains_key(*key)) {
            info!(%document, "a document is no longer held back");
        }
    }

    fn publish(&self, table: Arc<RouteTable>, previous: &RouteTable, began: Instant) {
        if previous.revision() == table.revision() && previous.documents().is_like(table.documents()) {
            return;
        }
        self.ages.store(Arc::new(ages(&self.ages.load(), &table, began)));
        debug!(services = table.services().len(), revision = table.revision(), "route table published");
        self.shared.publish(table);
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.figures.last_us.store(took, Ordering::Relaxed);
        self.figures.rebuilds.fetch_add(1, Ordering::Relaxed);
    }
}

/// The event of a document that is held back.
fn held_back(me: &NodeName, document: &DocumentKey, held: &HeldBack) -> News {
    let instead = match held.used {
        Some(used) => format!("generation {} stays in use here", used.generation),
        None => "it has no effect here".to_owned(),
    };
    News {
        kind: Kind::Config,
        node: me.to_string(),
        subject: subject(document),
        step: if held.why.is_quarantine() { "quarantined" } else { "held_back" },
        what: format!("held back: {}; {instead}", held.why),
        evidence: json!({"used": held.used.map(|used| used.generation.get())}),
    }
}

/// Carries over the ages of endpoints whose condition did not change.
fn ages(
    before: &BTreeMap<EndpointId, EndpointAge>,
    table: &RouteTable,
    now: Instant,
) -> BTreeMap<EndpointId, EndpointAge> {
    let endpoints = table.services().flat_map(|service| &service.endpoints);
    endpoints
        .map(|endpoint| {
            let condition = (endpoint.readiness, endpoint.member);
            let held = before.get(&endpoint.id).filter(|held| held.condition == condition);
            (endpoint.id.clone(), held.copied().unwrap_or(EndpointAge { condition, since: now }))
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use starling_model::{Announcement, HealthEntry, InstanceName, Labels, PortName, Protocol, ServiceKey, Weight};

    use starling_routing::{Documents, Registry, compile};

    use super::intake::fold;
    use super::*;

    pub(super) fn node(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    pub(crate) fn services(names: &[&str]) -> ServicesRecord {
        let instances = names.iter().map(|name| Announcement {
            instance: InstanceName::new(name).unwrap(),
            service: ServiceKey::parse(name, &starling_model::Namespace::default()).unwrap(),
            port: PortName::new("http").unwrap(),
            protocol: Protocol::Http,
            labels: Labels::default(),
            weight: Weight::default(),
        });
        ServicesRecord { instances: instances.collect() }
    }

    pub(super) fn health(names: &[&str], readiness: Readiness) -> HealthRecord {
        let entry = |name: &&str| HealthEntry { instance: InstanceName::new(name).unwrap(), readiness };
        HealthRecord { entries: names.iter().map(entry).collect() }
    }

    pub(super) fn member(name: &str, state: MemberState) -> MemberFact {
        MemberFact { node: node(name), state, address: Some("127.0.0.1:7740".parse().unwrap()) }
    }

    #[test]
    fn news_fold_in_the_order_that_they_mean() {
        let inbox = RoutesInbox::default();
        inbox.merge(node("vm-1"), |news| news.health = Some(health(&["web"], Readiness::Ready).into()));
        inbox.merge(node("vm-1"), |news| news.services = Some(services(&["web"]).into()));
        inbox.merge(node("vm-1"), |news| news.member = Some(member("vm-1", MemberState::Alive)));
        let mut registry = Registry::new();
        fold(&mut registry, inbox.take());
        let settings = TableSettings { domain: "mesh.internal".to_owned() };
        let table = compile(&Documents::default(), &registry, &settings, None);
        assert!(table.resolve_host("web.mesh.internal").unwrap().endpoints[0].admissible());

        // Forgotten and back at once: only what came after counts.
        inbox.merge(node("vm-1"), |news| *news = OwnerNews { forgotten: true, ..OwnerNews::default() });
        inbox.merge(node("vm-1"), |news| news.member = Some(member("vm-1", MemberState::Alive)));
        fold(&mut registry, inbox.take());
        assert!(compile(&Documents::default(), &registry, &settings, None).resolve_host("web.mesh.internal").is_none());
    }

    #[test]
    fn an_age_lasts_as_long_as_the_condition() {
        let mut registry = Registry::new();
        let settings = TableSettings { domain: "mesh.internal".to_owned() };
        registry.member(&member("vm-1", MemberState::Alive));
        registry.services(&node("vm-1"), &services(&["web"]));
        registry.health(&node("vm-1"), &health(&["web"], Readiness::Ready));
        let (first, later) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        let table = compile(&Documents::default(), &registry, &settings, None);
        let before = ages(&BTreeMap::new(), &table, first);
        let same = ages(&before, &table, later);
        assert_eq!(same.values().next().unwrap().since, first);
        registry.health(&node("vm-1"), &health(&["web"], Readiness::Draining));
        let changed = ages(&before, &compile(&Documents::default(), &registry, &settings, None), later);
        assert_eq!(changed.values().next().unwrap().since, later);
    }
}
