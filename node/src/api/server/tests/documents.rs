//! Documents through the doors: signed forms in, pages and history out, with a mesh task made of a few lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use starling_gossip::{DocumentView, Submitted};
use starling_model::{Document, DocumentKey, Generation, NodeName, Revocation};

use super::*;
use crate::mesh_view::tests::document;
use crate::store::Durability;
use crate::tasks::gossip::{History, MeshCommand, SubmissionFate};
use crate::tasks::routes::{Applied, HeldBack, Why};

impl Fixture {
    /// Lets `answer` be the mesh task.
    pub(super) fn mesh_answers(&mut self, mut answer: impl FnMut(MeshCommand) + Send + 'static) {
        let mut asked = self.mesh.take().unwrap();
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                answer(command);
            }
        });
    }
}

fn form(format: &str, body: &[u8], key_id: &str) -> Value {
    json!({"format": format, "payload": BASE64.encode(body), "keyId": key_id, "signature": BASE64.encode([7; 64])})
}

const ROUTE: &str = "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec:\n  \
    parentRefs: [{kind: Service, name: orders}]\n  rules: [{backendRefs: [{name: orders}]}]\n";

fn signed_document(key_id: &str) -> Value {
    let document = Document {
        schema: 1,
        key: DocumentKey::parse("HTTPRoute", "default", "orders").unwrap(),
        signer: "k1".parse().unwrap(),
        generation: Generation::new(1).unwrap(),
        signed_at: 1_795_014_000_000,
        deleted: false,
        batch: None,
    };
    form("starling-document/1", &document.to_body(ROUTE).unwrap(), key_id)
}

fn signed_revocation(key_id: &str) -> Value {
    let revocation = Revocation {
        schema: 1,
        node: NodeName::new("vm-7").unwrap(),
        signer: "k1".parse().unwrap(),
        number: 1,
        signed_at: 1_795_014_000_000,
        kept: Vec::new(),
        reason: String::new(),
    };
    json!({"revocation": form("starling-revocation/1", &revocation.to_body().unwrap(), key_id)})
}

const PATH: &str = "/v1/config/httproute/default/orders";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_but_is_not_on_disk_is_answered_as_such() {
    let mut fixture = Fixture::start().await;
    let mut durabilities = [Durability::Durable, Durability::Memory, Durability::Memory].into_iter();
    fixture.mesh_answers(move |command| {
        let MeshCommand::Submit { reply, .. } = command else { panic!("{command:?}") };
        let outcome = Submitted::Accepted { versions: vec![document("orders", 1).version] };
        let durability = durabilities.next().unwrap();
        reply.send(SubmissionFate { outcome, durability }).unwrap();
    });
    let (status, answer) = fixture.ask("PUT", PATH, &signed_document("k1").to_string()).await;
    assert_eq!((status, &answer["items"][0]["generation"]), (200, &json!(1)), "{answer}");
    let refused = |(status, problem): (u16, Value)| {
        assert_eq!(
            (status, &problem["code"], &problem["durable"]),
            (507, &json!("ST0716"), &json!(false)),
            "{problem}"
        );
    };
    refused(fixture.ask("PUT", PATH, &signed_document("k1").to_string()).await);
    refused(fixture.ask("PUT", "/v1/trust", &signed_revocation("k1").to_string()).await);

    // An instance is announced all the same; only a restart would forget it.
    fixture.state.store.close();
    let web = r#"{"service": "web", "protocol": "http", "address": "127.0.0.1:8080"}"#;
    refused(fixture.ask("PUT", "/v1/instances/web-1", web).await);
    assert_eq!(fixture.ask("GET", "/v1/instances/web-1", "").await.0, 200);
    refused(fixture.ask("DELETE", "/v1/instances/web-1", "").await);
    assert_eq!(fixture.ask("GET", "/v1/instances/web-1", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_named_beside_a_signed_form_is_the_one_inside() {
    let mut fixture = Fixture::start().await;
    fixture.mesh_answers(|command| panic!("{command:?} came through"));
    let batch = json!({"documents": [signed_document("k2")]});
    for (path, body) in [(PATH, signed_document("k2")), ("/v1/config", batch), ("/v1/trust", signed_revocation("k2"))] {
        let (status, problem) = fixture.ask("PUT", path, &body.to_string()).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(status == 400 && detail.contains("\"k2\"") && detail.contains("k1"), "{path}: {problem}");
    }
    let (status, problem) = fixture.ask("PUT", "/v1/trust", r#"{"revocatoin": {}}"#).await;
    assert_eq!((status, &problem["help"]), (400, &json!("did you mean `revocation`?")), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_come_in_pages_that_follow_each_other() {
    let fixture = Fixture::start().await;
    let mut view = MeshView::clone(&fixture.state.view.load());
    view.documents = ["a", "b", "c"].map(|name| document(name, 1)).to_vec();
    fixture.state.view.store(Arc::new(view));
    let names =
        |page: &Value| page["items"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
    for path in ["/v1/config", "/v1/config/convergence"] {
        let answer = fixture.tcp(&get(&format!("{path}?limit=2"), "localhost")).await;
        let link = format!("link: <{path}?cursor=HTTPRoute/default/b&limit=2>; rel=\"next\"");
        assert!(answer.contains(&link), "{answer}");
        let (_, first) = fixture.ask("GET", &format!("{path}?limit=2"), "").await;
        assert_eq!((names(&first), &first["next"]), (vec![json!("a"), json!("b")], &json!("HTTPRoute/default/b")));
        let (_, second) = fixture.ask("GET", &format!("{path}?limit=2&cursor=HTTPRoute/default/b"), "").await;
        assert_eq!((names(&second), &second["next"]), (vec![json!("c")], &Value::Null));
        // The document of a cursor may be gone by then.
        let (_, rest) = fixture.ask("GET", &format!("{path}?cursor=HTTPRoute/default/aa"), "").await;
        assert_eq!(names(&rest), [json!("b"), json!("c")]);
        for bad in ["limit=0", "limit=1001", "cursor=b", "cursor=/a/b", "generation=1"] {
            assert_eq!(fixture.ask("GET", &format!("{path}?{bad}"), "").await.0, 400, "{path} {bad}");
        }
    }
}

/// Generation 3 was written twice, 2 is a deletion, 1 is the first; k2's is in use.
fn history() -> History {
    let version = |generation, signer, hash, text: &'static str| {
        let mut one = document("orders", generation);
        (one.version.signer, one.version.hash) = (starling_model::KeyId(signer), starling_model::Digest([hash; 32]));
        DocumentView { deleted: generation == 2, text: text.into(), ..one }
    };
    let versions = vec![version(3, 2, 9, "b"), version(3, 1, 8, "a"), version(2, 1, 7, ""), version(1, 1, 6, "first")];
    History { used: versions.first().cloned(), versions }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_comes_with_its_history_and_a_conflict_is_shown() {
    let mut fixture = Fixture::start().await;
    fixture.mesh_answers(|command| {
        let MeshCommand::History { wanted, reply } = command else { panic!("{command:?}") };
        let known = wanted.is(&document("orders", 1).key);
        reply.send(if known { history() } else { History::default() }).unwrap();
    });
    let (status, newest) = fixture.ask("GET", PATH, "").await;
    assert_eq!((status, &newest["generation"], &newest["source"]), (200, &json!(3), &json!("b")), "{newest}");
    let column =
        |list: &Value, name: &str| list.as_array().unwrap().iter().map(|one| one[name].clone()).collect::<Vec<_>>();
    assert_eq!(column(&newest["history"], "generation"), [3, 3, 2, 1].map(Value::from));
    assert_eq!(column(&newest["history"], "conflict"), [true, true, false, false].map(Value::from));
    assert_eq!(column(&newest["history"], "inUse"), [true, false, false, false].map(Value::from));
    assert_eq!(column(&newest["history"], "deleted"), [false, false, true, false].map(Value::from));
    assert_eq!(column(&newest["conflict"], "source"), ["b", "a"].map(Value::from), "the loser's words are not lost");
    let (status, first) = fixture.ask("GET", &format!("{PATH}?generation=1"), "").await;
    assert_eq!((status, &first["source"], &first["conflict"]), (200, &json!("first"), &Value::Null), "{first}");
    assert_eq!(first["envelope"]["format"], "starling-document/1");
    let why = first["heldBack"].as_str().unwrap_or_default();
    assert!(why.contains("this is not") || why.contains("a table"), "the mesh brought it, unread: {first}");
    let (status, gone) = fixture.ask("GET", &format!("{PATH}?generation=4"), "").await;
    assert_eq!((status, &gone["help"]), (404, &json!("held are 1, 2, 3")), "{gone}");
    for bad in ["generation=0", "generation=-1", "generation=x", "generation=99999999999999999999", "gen=1"] {
        assert_eq!(fixture.ask("GET", &format!("{PATH}?{bad}"), "").await.0, 400, "{bad}");
    }
    assert_eq!(fixture.ask("GET", "/v1/config/httproute/default/web", "").await.0, 404);
    assert_eq!(fixture.ask("GET", "/v1/config/httproute/default/web?generation=1", "").await.0, 404);
}

/// None of its versions is in use: who signs the next one has to know its number all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_waits_for_its_batch_is_shown_to_who_asks_for_what_is_held() {
    let mut fixture = Fixture::start().await;
    fixture.mesh_answers(|command| {
        let MeshCommand::History { reply, .. } = command else { panic!("{command:?}") };
        reply.send(History { used: None, ..history() }).unwrap();
    });
    assert_eq!(fixture.ask("GET", PATH, "").await.0, 404, "it is not in use");
    let (status, held) = fixture.ask("GET", &format!("{PATH}?held=true"), "").await;
    assert_eq!((status, &held["generation"], &held["source"]), (200, &json!(3), &json!("b")), "{held}");
    assert!(held["history"].as_array().unwrap().iter().all(|one| one["inUse"] == false), "{held}");
    assert_eq!(fixture.ask("GET", &format!("{PATH}?generation=1"), "").await.0, 200);
}

/// What another member quarantines is told here: by name where this node knows the hash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_quarantine_is_told_by_members_and_status() {
    use starling_model::{HeldDocument, HeldWhy, MemberState, StatusRecord};
    let fixture = Fixture::start().await;
    let mut view = MeshView::clone(&fixture.state.view.load());
    let (orders, now) = (document("orders", 3), Instant::now());
    view.documents = vec![orders.clone()];
    view.roots.note_own(7, &view.documents);
    let held = |hash, used, why| HeldDocument { hash, used, why };
    let mut other = member("vm-8", MemberState::Alive, now);
    other.status = Some(StatusRecord {
        held_back_count: 3,
        held_back: vec![
            held(orders.version.hash, Some(document("orders", 2).version), HeldWhy::TimedOut),
            held(starling_model::Digest([5; 32]), None, HeldWhy::Crashed),
            held(orders.version.hash, None, HeldWhy::Unreadable),
        ],
        ..StatusRecord::default()
    });
    view.members.push(other);
    fixture.state.view.store(Arc::new(view));
    let (_, member) = fixture.ask("GET", "/v1/members/vm-8", "").await;
    let config = &member["config"];
    assert_eq!(config["heldBackCount"], 3, "{member}");
    let first = json!({"document": "HTTPRoute default/orders", "generation": 3, "digest": orders.version.hash.to_string(),
        "used": 2, "why": "timed_out", "quarantined": true});
    assert_eq!((&config["heldBack"][0], &config["heldBack"][1]["document"]), (&first, &Value::Null), "{member}");
    assert_eq!(config["heldBack"][2]["quarantined"], false);
    let (_, all) = fixture.ask("GET", "/v1/members", "").await;
    let listed = all["items"].as_array().unwrap().iter().find(|one| one["name"] == "vm-8").unwrap();
    assert_eq!(&listed["config"], config);
    let (_, status) = fixture.ask("GET", "/v1/status", "").await;
    let told: Vec<&str> =
        status["problems"].as_array().unwrap().iter().filter_map(|one| one["detail"].as_str()).collect();
    assert!(told.contains(&"HTTPRoute default/orders generation 3 is quarantined by vm-8 (timed_out)"), "{told:?}");
    assert!(told.iter().any(|one| one.starts_with("the document with hash ") && one.ends_with("vm-8 (crashed)")));
    assert!(!told.iter().any(|one| one.contains("unreadable")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_marks_the_document_whose_generation_was_written_twice() {
    let fixture = Fixture::start().await;
    let held = history();
    let mut view = MeshView::clone(&fixture.state.view.load());
    view.documents = vec![held.versions[0].clone(), document("web", 1)];
    view.conflicts.insert(held.versions[0].key.clone(), held.versions[..2].to_vec());
    let of_orders =
        HeldBack { meant: Some(held.versions[0].version), used: Some(held.versions[1].version), why: Why::TimedOut };
    let held_back = [(held.versions[0].key.clone(), of_orders)].into();
    view.applied = Arc::new(Applied { documents: 2, held_back, ..Applied::default() });
    fixture.state.view.store(Arc::new(view));
    let (_, list) = fixture.ask("GET", "/v1/config", "").await;
    let [orders, web] = &list["items"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!(orders["conflict"][1]["signer"]["keyId"], "k1");
    assert_eq!((&orders["conflict"][0]["inUse"], &orders["conflict"][1]["inUse"]), (&json!(true), &json!(false)));
    assert_eq!((&web["conflict"], web.get("history"), web.get("source")), (&Value::Null, None, None));
    let (_, status) = fixture.ask("GET", "/v1/status", "").await;
    assert_eq!((&status["config"]["documents"], &status["config"]["heldBack"]), (&json!(2), &json!(1)));
    let problems = status["problems"].as_array().unwrap();
    let held_back = problems.iter().find(|problem| problem["code"] == "ST0414").unwrap();
    let detail = held_back["detail"].as_str().unwrap();
    let want = "HTTPRoute default/orders is held back: no route table comes about with it within 5 s; it is quarantined; generation ";
    assert!(detail.starts_with(want), "{detail}");
    assert!(detail.ends_with(" stays in use here"), "{detail}");
}

/// The same form with another text inside; its signature is not looked at here.
fn with_text(text: &str) -> Value {
    let body = BASE64.decode(signed_document("k1")["payload"].as_str().unwrap()).unwrap();
    let (document, _) = Document::read(&body).unwrap();
    form("starling-document/1", &document.to_body(text).unwrap(), "k1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_no_document_of_its_header_is_refused_with_all_that_is_wrong() {
    let mut fixture = Fixture::start().await;
    fixture.mesh_answers(|command| panic!("{command:?} came through"));
    let wrong = ROUTE.replace("rules:", "ruels:").replace("name: orders}]", "nmae: orders}]");
    let (status, problem) = fixture.ask("PUT", PATH, &with_text(&wrong).to_string()).await;
    assert_eq!((status, &problem["code"], &problem["instance"]), (422, &json!("ST0402"), &json!(PATH)), "{problem}");
    let parts = problem["errors"].as_array().unwrap();
    let at =
        |pointer: &str| parts.iter().find(|part| part["pointer"] == pointer).unwrap_or_else(|| panic!("{problem}"));
    let (first, second) = (at("#/spec/parentRefs/0/nmae"), at("#/spec/ruels"));
    assert_eq!((&first["line"], &second["line"], &second["column"]), (&json!(5), &json!(6), &json!(3)), "{problem}");
    assert!(second["detail"].as_str().unwrap().contains("did you mean `rules`?"), "{problem}");
    let other = with_text(&ROUTE.replace("{name: orders}\nspec", "{name: web}\nspec"));
    let (status, problem) = fixture.ask("PUT", PATH, &other.to_string()).await;
    assert_eq!((status, &problem["code"]), (422, &json!("ST0402")), "{problem}");
    assert_eq!(problem["detail"], "HTTPRoute default/orders: its text is of HTTPRoute default/web");
    let batch = json!({"documents": [with_text(&wrong)]});
    assert_eq!(fixture.ask("PUT", "/v1/config", &batch.to_string()).await.0, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_shows_its_generation_to_who_signs_the_next_one() {
    let mut fixture = Fixture::start().await;
    fixture.mesh_answers(|command| {
        let MeshCommand::History { reply, .. } = command else { panic!("{command:?}") };
        let versions = history().versions.split_off(2);
        reply.send(History { used: versions.first().cloned(), versions }).unwrap();
    });
    assert_eq!(fixture.ask("GET", PATH, "").await.0, 404);
    let (status, gone) = fixture.ask("GET", &format!("{PATH}?held=true"), "").await;
    assert_eq!((status, &gone["generation"], &gone["deleted"]), (200, &json!(2), &json!(true)), "{gone}");
    assert_eq!(fixture.ask("GET", &format!("{PATH}?held=1"), "").await.0, 400);
    let (_, trust) = fixture.ask("GET", "/v1/trust", "").await;
    let hex = |value: &Value| value.as_str().is_some_and(|text| text.len() == 64);
    assert!(hex(&trust["meshId"]) && hex(&trust["operators"][0]["publicKey"]), "{trust}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_change_and_keeps_nothing() {
    let mut fixture = Fixture::start().await;
    let in_use = |text: &'static str| {
        let used = DocumentView { text: text.into(), ..document("orders", 3) };
        History { versions: vec![used.clone()], used: Some(used) }
    };
    fixture.mesh_answers(move |command| {
        let MeshCommand::History { wanted, reply } = command else { panic!("{command:?}") };
        let known = wanted.is(&document("orders", 1).key);
        reply.send(if known { in_use(ROUTE.trim_end()) } else { History::default() }).unwrap();
    });
    let path = "/v1/config/dry-run";
    let ask = |source: String| json!({"source": source}).to_string();
    let weighted = ROUTE.replace("{name: orders}]}", "{name: orders, weight: 5}]}");
    let both = format!("{weighted}---\n{}", ROUTE.replace("{name: orders}\nspec", "{name: web}\nspec"));
    let (status, run) = fixture.ask("POST", path, &ask(both)).await;
    assert_eq!((status, &run["kind"]), (200, &json!("DryRun")), "{run}");
    let [orders, web] = &run["items"].as_array().unwrap()[..] else { panic!("{run}") };
    assert_eq!((&orders["generation"], &orders["next"], &orders["unchanged"]), (&json!(3), &json!(4), &json!(false)));
    let change = json!({"path": "spec.rules[0].backendRefs[0].weight", "before": null, "after": "5"});
    assert_eq!(orders["changes"], json!([change]), "{run}");
    assert_eq!((&web["generation"], &web["next"], &web["changes"]), (&Value::Null, &json!(1), &Value::Null));
    let (_, same) = fixture.ask("POST", path, &ask(format!("{ROUTE}\n"))).await;
    assert_eq!((&same["items"][0]["unchanged"], &same["items"][0]["next"]), (&json!(true), &json!(3)), "{same}");
    let (status, problem) = fixture.ask("POST", path, &ask(ROUTE.replace("rules", "ruels"))).await;
    assert_eq!((status, problem["errors"].as_array().map(Vec::len)), (422, Some(2)), "{problem}");
    assert_eq!(fixture.ask("POST", path, "{\"sourec\": \"\"}").await.0, 400);
}
