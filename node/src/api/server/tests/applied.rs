//! What a node says that it uses is what its table is made of, also where a document cannot be used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use starling_gossip::{DocumentView, OwnRecord};
use starling_model::{Digest, DocumentVersion, Generation, NodeName, StatusRecord};
use starling_routing::{Documents, MemberFact, Registry, RouteTable, TableSettings, compile};
use tokio::sync::watch;

use super::*;
use crate::mesh_view::tests::document;
use crate::tasks::routes::{self, Applied, AppliedCell, HeldBack, LeftBehind, Meant, Routes, Why};

/// `HTTPRoute default/NAME` that can be read.
fn readable(name: &str, generation: u64) -> DocumentView {
    let text = format!(
        "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  \
         parentRefs: [{{kind: Service, name: orders}}]\n  rules: [{{backendRefs: [{{name: orders}}]}}]\n"
    );
    DocumentView { text: text.into(), ..document(name, generation) }
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(found) = look() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// The task of the route table, which publishes to the fixture's data plane.
fn task_of(fixture: &Fixture, own: &OwnRecords, applied: &AppliedCell) -> Routes {
    Routes {
        inbox: RoutesInbox::default(),
        documents: Arc::new(watch::Sender::new(Meant::default())),
        applied: Arc::clone(applied),
        own: own.clone(),
        shared: Arc::clone(&fixture.state.shared),
        settings: TableSettings { domain: "mesh.internal".to_owned() },
        ages: Arc::default(),
        figures: Arc::default(),
        left_behind: LeftBehind::default(),
        events: fixture.state.events.clone(),
        store: None,
        node: "vm-1".parse().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_held_back_is_in_no_digest_and_its_last_good_version_is() {
    let fixture = Fixture::start().await;
    let (own, applied) = (OwnRecords::default(), AppliedCell::default());
    own.change_status(|status| status.release = "0.1.0".to_owned());
    let routes = task_of(&fixture, &own, &applied);
    let documents = Arc::clone(&routes.documents);
    let task = tokio::spawn(routes::run(routes));
    let use_these = |meant: Vec<DocumentView>| {
        drop(documents.send_replace(Meant { documents: meant.into(), settled: true }));
    };
    let told = |what: &'static str, count: usize, held: Vec<(&'static str, Option<u64>)>| {
        let (applied, own, shared) = (Arc::clone(&applied), own.clone(), Arc::clone(&fixture.state.shared));
        async move {
            let now = until(what, || {
                let now = applied.load_full();
                let generation = |used: &Option<DocumentVersion>| used.map(|used| used.generation.get());
                let found: Vec<_> =
                    now.held_back.iter().map(|(key, held)| (key.name.as_str(), generation(&held.used))).collect();
                (now.documents == count && found == held).then_some(Applied::clone(&now))
            })
            .await;
            assert_eq!(now.digest, shared.table.load().digest(), "{what}");
            let status = until(what, || {
                own.take_changed().into_iter().find_map(|record| match record {
                    OwnRecord::Status(status) => Some(status),
                    OwnRecord::Services(_) | OwnRecord::Health(_) => None,
                })
            })
            .await;
            let want = StatusRecord {
                release: "0.1.0".to_owned(),
                digest: now.digest,
                documents: u32::try_from(count).unwrap(),
                held_back_count: u32::try_from(held.len()).unwrap(),
                held_back: now.told(),
                ..StatusRecord::default()
            };
            assert_eq!(status, want, "{what}");
            let named = status.held_back.iter().map(|held| held.used.map(|used| used.generation.get()));
            assert!(named.eq(held.iter().map(|(_, used)| *used)), "{what}: {:?}", status.held_back);
            now.digest
        }
    };
    drop(own.take_changed());
    use_these(vec![readable("a", 1), readable("b", 1)]);
    let both = told("both are in use", 2, Vec::new()).await;
    // The newest text of b cannot be read here, and c never could.
    use_these(vec![readable("a", 2), document("b", 2), document("c", 1)]);
    let mixed = told("b stays and c has no effect", 2, vec![("b", Some(1)), ("c", None)]).await;
    assert_ne!(mixed, both);
    let used = [readable("a", 2), readable("b", 1)].map(|one| one.version.hash);
    assert_eq!(mixed, starling_routing::documents::digest_of(&used));
    // What answers and answers' headers carry is the same digest.
    let table = fixture.state.shared.table.load_full();
    let generations: Vec<u64> =
        table.documents().iter().map(|one| one.version.generation).map(Generation::get).collect();
    assert_eq!(generations, [2, 1]);
    use_these(Vec::new());
    assert_eq!(told("none is in use", 0, Vec::new()).await, Digest::default());
    task.abort();
    let (_, status) = fixture.ask("GET", "/v1/status", "").await;
    assert_eq!(status["config"]["heldBack"], json!(0), "the fixture's own view knows nothing of these");
}

static HANGS: AtomicBool = AtomicBool::new(false);

/// Cannot stand a route `panics`, and never ends with one called `hangs`.
fn picky(
    documents: &Documents,
    registry: &Registry,
    settings: &TableSettings,
    previous: Option<&RouteTable>,
) -> RouteTable {
    let has = |name: &str| documents.iter().any(|one| one.document.key.name.as_str() == name);
    while has("hangs") {
        HANGS.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!has("panics"), "on purpose");
    compile(documents, registry, settings, previous)
}

/// F40 with the task itself: traffic goes on by the last good table, members go on to be known while a document hangs,
/// all others come into use, and everybody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_hangs_or_panics_is_quarantined_and_the_mesh_goes_on() {
    let fixture = Fixture::start().await;
    let (own, applied) = (OwnRecords::default(), AppliedCell::default());
    let routes = task_of(&fixture, &own, &applied);
    let (documents, inbox) = (Arc::clone(&routes.documents), routes.inbox.clone());
    let left_behind = routes.left_behind.clone();
    let task = tokio::spawn(routes::run_with(picky, Duration::from_secs(2), routes));
    let used = || applied.load().documents;
    let mean = |meant: Vec<DocumentView>| {
        drop(documents.send_replace(Meant { documents: meant.into(), settled: true }));
    };
    mean(vec![readable("a", 1)]);
    until("a is in use", || (used() == 1).then_some(())).await;

    mean(vec![readable("a", 2), readable("b", 1), readable("hangs", 1), readable("panics", 1)]);
    until("it hangs", || HANGS.load(Ordering::SeqCst).then_some(())).await;
    // Members that change meanwhile come into the table in use.
    let began = Instant::now();
    let (node, address) = ("vm-9".parse::<NodeName>().unwrap(), "127.0.0.1:7740".parse().ok());
    let record = routes::tests::services(&["orders"]);
    inbox.merge(node.clone(), |news| {
        news.member = Some(MemberFact { node, state: MemberState::Alive, address });
        news.services = Some(record.into());
    });
    let shared = Arc::clone(&fixture.state.shared);
    until("the member is known", || shared.table.load().resolve_host("orders.mesh.internal").cloned()).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((used(), left_behind.count()), (1, 0), "the documents are still on trial");

    let now = until("the others are in use", || Some(applied.load_full()).filter(|now| now.documents == 2)).await;
    let held: Vec<(&str, &HeldBack)> = now.held_back.iter().map(|(key, held)| (key.name.as_str(), held)).collect();
    let [("hangs", hangs), ("panics", panics)] = held[..] else { panic!("{held:?}") };
    assert_eq!((&hangs.why, &panics.why, hangs.used), (&Why::TimedOut, &Why::Panicked, None));
    let table = shared.table.load_full();
    assert_eq!((table.digest(), table.documents().len()), (now.digest, 2));
    assert!(table.resolve_host("orders.mesh.internal").is_some(), "the table that was tried did not know the member");
    assert_eq!((left_behind.count(), now.quarantined()), (2, 2));
    let told = fixture.state.events.after(0, 10, |_| true).entries;
    let steps: Vec<_> = told.iter().map(|one| (one.event.subject.as_str(), one.event.step.as_str())).collect();
    assert_eq!(steps, [("HTTPRoute/hangs", "quarantined"), ("HTTPRoute/panics", "quarantined")]);
    assert!(told[0].event.what.contains("within 5 s"), "{}", told[0].event.what);
    // The next set is tried, and what was found out is not forgotten.
    let began = Instant::now();
    mean(vec![readable("a", 3), readable("hangs", 1)]);
    until("a comes in again", || (applied.load().documents == 1).then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(1) && left_behind.count() == 2, "{:?}", began.elapsed());
    task.abort();
}
