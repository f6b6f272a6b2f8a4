//! What commands make of an agent's answers; the agent is a thread that answers by path.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::plan::tests::{CANARY, held};
use super::*;
use crate::cli::Address;
use crate::cli::look::Look;

/// Answers everything that is asked until the test ends; keeps what was asked.
struct Agent {
    _folder: tempfile::TempDir,
    client: Client,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    fn new(answer: impl Fn(&str) -> (u16, Value) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let text = whole(&mut stream);
                let line = text.split(" HTTP/1.1").next().unwrap_or_default().to_owned();
                let (status, body) = answer(&line);
                log.lock().unwrap().push(line);
                let body = body.to_string();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
            }
        });
        let client = Client::new(Address::Unix(path)).unwrap();
        Self { _folder: folder, client, asked }
    }
}

/// One request with its body.
fn whole(stream: &mut UnixStream) -> String {
    let (mut request, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let len = stream.read(&mut part).unwrap_or(0);
        request.extend_from_slice(&part[..len]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let expected = text.split_once("\r\n\r\n").map(|(head, _)| {
            let length = head.to_lowercase().split_once("content-length: ").map(|(_, rest)| rest.to_owned());
            let length = length.and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
            head.len() + 4 + length.unwrap_or(0)
        });
        if len == 0 || expected.is_some_and(|expected| request.len() >= expected) {
            return text;
        }
    }
}

fn view() -> Value {
    json!({"node": "vm-1", "bootEpoch": "1", "revision": 1, "asOf": "2026-11-22T15:31:59Z", "digest": "0",
        "agreement": {"alive": 3, "same": 3, "behind": [], "behindCount": 0}})
}

fn answer(kind: &str, fields: &Value) -> Value {
    let mut all = json!({"apiVersion": "starling/v1", "kind": kind, "view": view()});
    for (key, value) in fields.as_object().unwrap().clone() {
        all[key.as_str()] = value;
    }
    all
}

fn named(namespace: &str, name: &str) -> Value {
    let one = Document { namespace: namespace.to_owned(), name: name.to_owned(), ..held(1, CANARY) };
    serde_json::to_value(one).unwrap()
}

fn problem(status: u16, code: &str, detail: &str) -> (u16, Value) {
    let body = json!({"type": "t", "title": "t", "status": status, "code": code, "detail": detail, "instance": "/",
        "help": "h"});
    (status, body)
}

fn key(name: &str) -> DocumentKey {
    DocumentKey::parse("HTTPRoute", "default", name).unwrap()
}

#[test]
fn pages_follow_each_other_until_the_last() {
    let agent = Agent::new(|asked| {
        let (items, next) = match asked.split_once("cursor=") {
            None => (vec![named("default", "a")], json!("HTTPRoute/default/a")),
            Some((_, "HTTPRoute/default/a")) => (vec![named("default", "b")], Value::Null),
            Some(other) => panic!("{other:?}"),
        };
        (200, answer("DocumentList", &json!({"items": items, "next": next})))
    });
    let all = list(&agent.client).unwrap();
    let names: Vec<&str> = all.body.items.iter().map(|one| one.name.as_str()).collect();
    assert_eq!((names, all.body.next), (vec!["a", "b"], None));
    assert_eq!(agent.asked.lock().unwrap().len(), 2);
}

#[test]
fn a_document_that_is_not_in_use_finds_its_nearest_name() {
    let agent = Agent::new(|_| {
        let items = [named("default", "orders-canary"), named("shop", "cart")];
        (200, answer("DocumentList", &json!({"items": items, "next": null})))
    });
    let told = |name: &str| not_in_use(&agent.client, &key(name)).render(&Look::plain());
    assert!(told("orders-canry").contains("did you mean default/orders-canary?"), "{}", told("orders-canry"));
    assert!(told("cart").contains("did you mean shop/cart?"));
    assert!(!told("banana").contains("did you mean") && told("banana").contains("starling get"));
    assert_eq!(not_in_use(&agent.client, &key("x")).exit(), Exit::NotFound);
}

#[test]
fn who_came_too_late_is_told_who_was_faster_and_what_to_do() {
    let check = |status: u16, code: &'static str, wants: &[&str]| {
        let agent = Agent::new(move |asked| match asked.split(' ').next() {
            Some("PUT") => {
                problem(status, code, "HTTPRoute default/orders-canary: a later one is known: 9 by k1 (c3e8)")
            }
            _ => (200, answer("Document", &serde_json::to_value(held(9, CANARY)).unwrap())),
        });
        let error = hand_over::send(&agent.client, Vec::new(), &[key("orders-canary")]).err().unwrap();
        let text = error.render(&Look::plain());
        assert_eq!(error.exit(), Exit::Refused, "{text}");
        for want in wants {
            assert!(text.contains(want), "{want} is not in {text}");
        }
    };
    let help = "help:  starling get httproute orders-canary -o yaml > r.yaml; edit; starling apply -f r.yaml\n";
    let by = "cause: last signed by operator key k1 \"alice\" 2026-11-22T15:31:57.301Z\n";
    check(
        409,
        "ST0412",
        &["error[ST0412]: HTTPRoute default/orders-canary: a later generation, 9, is in use", by, help],
    );
    check(409, "ST0413", &["error[ST0413]: ", "generation 9 is signed with another content already", by, help]);
    check(422, "ST0401", &["error[ST0401]: ", "help:  h\n"]);
}

#[test]
fn one_byte_past_what_an_agent_reads_is_not_sent() {
    let agent = Agent::new(|_| (200, answer("DocumentList", &json!({"items": [], "next": null}))));
    let form = |len: usize| crate::api::views::SignedForm {
        format: "starling-document/1".to_owned(),
        payload: "x".repeat(len),
        key_id: "k1".to_owned(),
        signature: String::new(),
    };
    let around = crate::cli::to_json(&crate::api::views::ApplyRequest { documents: vec![form(0)] }).unwrap().len();
    let send =
        |len: usize| hand_over::send(&agent.client, vec![form(len)], &[]).map(|_| ()).map_err(|error| error.exit());
    assert_eq!(send(crate::api::server::BODY_BYTES_MAX - around + 1), Err(Exit::Refused));
    assert!(agent.asked.lock().unwrap().is_empty());
    let longest = send(crate::api::server::BODY_BYTES_MAX - around);
    assert!(longest.is_ok(), "{longest:?}");
}

#[test]
fn labels_leave_out_the_default_namespace() {
    assert_eq!(label_of(&key("orders")), "HTTPRoute/orders");
    assert_eq!(label("Service", "shop", "cart"), "Service/shop/cart");
    assert_eq!(path_of(&key("orders")), "/v1/config/HTTPRoute/default/orders");
    let unknown = crate::api::views::Signer { key_id: "k7".to_owned(), name: None };
    assert_eq!(signer_of(&unknown), "k7");
}

#[test]
fn what_another_namespace_is_asked_for_is_not_signed() {
    let key = |namespace: &str| DocumentKey::parse("HTTPRoute", namespace, "orders").unwrap();
    let shop = Namespace::new("shop").unwrap();
    assert!(in_namespace(&[key("default"), key("shop")], None).is_ok());
    assert!(in_namespace(&[key("shop")], Some(&shop)).is_ok());
    let error = in_namespace(&[key("shop"), key("default")], Some(&shop)).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
}
