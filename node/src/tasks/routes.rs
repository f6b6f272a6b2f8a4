//! From news about members to the route table.
//!
//! News wait in a mailbox, the newest per owner, so a burst of thousands costs one rebuild. The first change is served
//! after [`SETTLE`], then at most one rebuild per [`REBUILD_PAUSE`]. News with which a rebuild panics are left out, and
//! their owner's last good ones stay ([`intake`]). The task may be dropped at any `.await`: what it took from the mailbox
//! is folded in before the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use starling_gossip::DocumentView;
use starling_model::{EndpointId, HealthRecord, MemberState, NodeName, Readiness, ServicesRecord};
use starling_proxy::ProxyShared;
use starling_routing::{MemberFact, RouteTable, TableSettings};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error};

pub use self::applied::{Applied, AppliedCell};
use self::intake::Intake;
use super::own::OwnRecords;
use crate::channel::Mailbox;

mod applied;
mod documents;
mod intake;

/// How long the first change waits for those that come with it: a services record is followed by its health record.
const SETTLE: Duration = Duration::from_millis(5);
/// Least time between two rebuilds.
pub const REBUILD_PAUSE: Duration = Duration::from_millis(50);

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
    /// False until all that the store held was judged: a grant may be missing.
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
    /// Rebuilds that panicked.
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
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Publishes tables until the agent ends.
pub async fn run(routes: Routes) {
    let mut intake = Intake::new(routes.settings.clone());
    let mut documents = routes.documents.subscribe();
    // What is in use already counts, also after a restart of this task.
    documents.mark_changed();
    loop {
        tokio::select! {
            () = routes.inbox.wait() => {}
            // The sender is held here, so this ends with a change only.
            _ = documents.changed() => documents.mark_changed(),
        }
        sleep(SETTLE).await;
        let news = routes.inbox.take();
        let in_use = documents.has_changed().unwrap_or(false).then(|| documents.borrow_and_update().clone());
        if news.is_empty() && in_use.is_none() {
            continue;
        }
        routes.rebuild(&mut intake, news, in_use);
        sleep(REBUILD_PAUSE.saturating_sub(SETTLE)).await;
    }
}

impl Routes {
    fn rebuild(&self, intake: &mut Intake, news: BTreeMap<NodeName, OwnerNews>, in_use: Option<Meant>) {
        let began = Instant::now();
        let previous = self.shared.table.load_full();
        let quarantined = intake.quarantined();
        let mut table = if news.is_empty() { None } else { intake.table(news, &previous) };
        let mut settled = false;
        if let Some(in_use) = &in_use {
            let made = intake.table_of(&in_use.documents, table.as_ref().unwrap_or(&previous));
            settled = in_use.settled && made.is_some();
            table = made.or(table);
        }
        if table.is_none() || intake.quarantined() > quarantined {
            self.figures.failures.fetch_add(1, Ordering::Relaxed);
        }
        // Told once the table is in use, not before.
        let applied =
            in_use.map(|in_use| Applied::new(&in_use.documents, table.as_ref().unwrap_or(&previous).documents()));
        self.publish(table, &previous, began);
        if settled {
            self.shared.know_grants();
        }
        if let Some(applied) = applied {
            let (digest, count) = (applied.digest, u32::try_from(applied.documents).unwrap_or(u32::MAX));
            self.applied.store(Arc::new(applied));
            self.own.change_status(|status| (status.digest, status.documents) = (digest, count));
        }
    }

    fn publish(&self, table: Option<RouteTable>, previous: &RouteTable, began: Instant) {
        let Some(table) = table else {
            error!("the route table could not be built; the last good one stays in use");
            return;
        };
        if previous.revision() == table.revision() && previous.documents().is_like(table.documents()) {
            return;
        }
        self.ages.store(Arc::new(ages(&self.ages.load(), &table, began)));
        debug!(services = table.services().len(), revision = table.revision(), "route table published");
        self.shared.publish(Arc::new(table));
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.figures.last_us.store(took, Ordering::Relaxed);
        self.figures.rebuilds.fetch_add(1, Ordering::Relaxed);
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
mod tests {
    use starling_model::{Announcement, HealthEntry, InstanceName, Labels, PortName, Protocol, ServiceKey, Weight};

    use starling_routing::{Documents, Registry, compile};

    use super::intake::fold;
    use super::*;

    pub(super) fn node(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    pub(super) fn services(names: &[&str]) -> ServicesRecord {
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
