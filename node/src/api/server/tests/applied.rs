//! What a node says that it uses is what its table is made of, also where a document cannot be used.

use std::time::Duration;

use serde_json::json;
use starling_gossip::{DocumentView, OwnRecord};
use starling_model::{Digest, DocumentVersion, Generation, StatusRecord};
use starling_routing::TableSettings;
use tokio::sync::watch;

use super::*;
use crate::mesh_view::tests::document;
use crate::tasks::routes::{self, Applied, AppliedCell, Meant, Routes};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_held_back_is_in_no_digest_and_its_last_good_version_is() {
    let fixture = Fixture::start().await;
    let (own, applied) = (OwnRecords::default(), AppliedCell::default());
    own.change_status(|status| status.release = "0.1.0".to_owned());
    let documents: routes::DocumentsInUse = Arc::new(watch::Sender::new(Meant::default()));
    let routes = Routes {
        inbox: RoutesInbox::default(),
        documents: Arc::clone(&documents),
        applied: Arc::clone(&applied),
        own: own.clone(),
        shared: Arc::clone(&fixture.state.shared),
        settings: TableSettings { domain: "mesh.internal".to_owned() },
        ages: Arc::default(),
        figures: Arc::default(),
    };
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
                    now.held_back.iter().map(|(key, used)| (key.name.as_str(), generation(used))).collect();
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
                ..StatusRecord::default()
            };
            assert_eq!(status, want, "{what}");
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
