//! Lines as people and programs read them, whatever a request carries.

use std::sync::mpsc::TryRecvError;

use http::Method;
use serde_json::{Value, json};
use starling_model::{NodeName, TrustDomain};

use super::format::{Format, Formatter, Times};
use super::*;

const TIMES: Times<'static> = Times { rfc3339: "2026-11-22T15:31:59.124Z", common: "22/Nov/2026:15:31:59 +0000" };

fn key(text: &str) -> ServiceKey {
    ServiceKey::parse(text, &starling_model::Namespace::default()).unwrap()
}

fn request(target: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn record(http: Option<HttpRecord>) -> Record {
    let caller = Caller { node: NodeName::new("vm-1").unwrap(), service: Some(key("web")) };
    let mut record = Record::new(Direction::Outbound, caller, Digest([0x9f; 32]), http);
    record.destination = Some(key("shop/orders"));
    record.endpoint = Some(EndpointId {
        node: "vm-2".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        instance: "orders-v2".parse().unwrap(),
    });
    (record.sent, record.received, record.tries) = (5, 812, 2);
    (record.duration, record.upstream) = (Duration::from_micros(4_020), Some(Duration::from_micros(3_600)));
    record
}

fn of(request: &Request<()>, status: u16) -> Record {
    record(Some(HttpRecord { status, ..HttpRecord::of(request, Spoken::Http1) }))
}

fn line(format: Format, record: &Record) -> String {
    let (node, trust_domain) = (NodeName::new("vm-1").unwrap(), TrustDomain::new("prod.internal").unwrap());
    let mut line = String::new();
    Formatter { format, node, trust_domain }.write(record, TIMES, &mut line);
    line
}

fn object(record: &Record) -> Value {
    serde_json::from_str(&line(Format::Json, record)).unwrap()
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn an_object_has_the_names_of_the_manual() {
    let asked =
        request("/cart?token=secret", &[("traceparent", TRACE), ("x-request-id", "r-1"), ("cookie", "s=secret")]);
    let told = object(&of(&asked, 200));
    let want = json!({
        "timestamp": "2026-11-22T15:31:59.124Z", "event.name": "starling.access", "starling.direction": "outbound",
        "starling.node": "vm-1", "service.name": "web", "service.namespace": "default", "service.peer.name": "orders",
        "starling.peer.namespace": "shop", "starling.route": null, "starling.rule": null, "starling.subset": null,
        "starling.endpoint": "vm-2/shop/orders-v2", "starling.config": "9f9f9f9f", "http.request.method": "GET",
        "url.path": "/cart", "network.protocol.name": "http", "network.protocol.version": "1.1",
        "http.response.status_code": 200, "http.request.body.size": 5, "http.response.body.size": 812,
        "http.request.resend_count": 1, "starling.duration_ms": 4.02, "starling.upstream_duration_ms": 3.6,
        "error.type": null, "starling.source_id": "spiffe://prod.internal/node/vm-1/ns/default/svc/web",
        "starling.request_id": "r-1", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7",
    });
    assert_eq!(told, want);
    for format in [Format::Json, Format::Common, Format::Envoy] {
        assert!(!line(format, &of(&asked, 200)).contains("secret"), "{format:?}");
    }
    // At the other end the peer is the caller.
    let inbound = Record { direction: Direction::Inbound, ..of(&asked, 200) };
    let told = object(&inbound);
    assert_eq!((&told["service.name"], &told["service.peer.name"]), (&json!("orders"), &json!("web")));
}

#[test]
fn the_other_formats_are_those_of_their_tools() {
    let mut answered = of(&request("/cart?q=1", &[("x-request-id", "r-1")]), 503);
    answered.error = Some(ErrorType::DestinationUnavailable);
    assert_eq!(
        line(Format::Common, &answered),
        "vm-1/default/web - - [22/Nov/2026:15:31:59 +0000] \"GET /cart HTTP/1.1\" 503 812\n"
    );
    assert_eq!(
        line(Format::Envoy, &answered),
        "[2026-11-22T15:31:59.124Z] \"GET /cart HTTP/1.1\" 503 UH 5 812 4 3 \"-\" \"-\" \"r-1\" \"shop/orders\" \
         \"vm-2/shop/orders-v2\"\n"
    );
    let tcp = record(None);
    assert_eq!(line(Format::Common, &tcp), "vm-1/default/web - - [22/Nov/2026:15:31:59 +0000] \"- - TCP\" - 812\n");
    assert!(line(Format::Envoy, &tcp).contains("\"- - TCP\" 0 - 5 812 4 3"));
    let told = object(&tcp);
    assert_eq!((&told["network.protocol.name"], &told["starling.sent_bytes"]), (&json!("tcp"), &json!(5)));
    assert!(told.get("url.path").is_none());
}

#[test]
fn nothing_that_a_request_carries_ends_a_line_or_begins_a_field() {
    let mut hostile = of(&request("/", &[]), 200);
    let path = "/a\"b\\c\r\n{\"event.name\":\"forged\"}\u{1b}[2J\u{7f}\u{85}\u{2028}\u{202e}é";
    hostile.http.as_mut().unwrap().path = path.into();
    for format in [Format::Json, Format::Common, Format::Envoy] {
        let told = line(format, &hostile);
        assert_eq!(told.matches('\n').count(), 1, "{told:?}");
        let bad = |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
        assert!(!told.trim_end_matches('\n').contains(bad), "{told:?}");
    }
    assert_eq!(object(&hostile)["url.path"], path, "a reader of JSON gets it back");
    let common = line(Format::Common, &hostile);
    let want = r#""GET /a\"b\\c\x0D\x0A{\"event.name\":\"forged\"}\x1B[2J\x7F\xC2\x85\xE2\x80\xA8\xE2\x80\xAE\xC3\xA9 HTTP/1.1""#;
    assert!(common.contains(want), "{common}");
}

#[test]
fn ids_are_taken_as_plain_words_only() {
    let read = |text: &str| Trace::read(text.as_bytes()).map(|trace| trace.trace_id().to_owned());
    assert_eq!(read(TRACE).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert!(read("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_some());
    for bad in [
        "",
        "00",
        &TRACE[..54],
        &TRACE.replace("4bf", "4BF"),
        &TRACE.replace("00-4", "ff-4"),
        &format!("{TRACE}-later"),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ] {
        assert_eq!(read(bad), None, "{bad:?}");
    }
    let id = |value: &str| HttpRecord::of(&request("/", &[("x-request-id", value)]), Spoken::Http1).request_id;
    let longest = "a".repeat(LOGGED_WORD_BYTES_MAX);
    assert_eq!(id(&longest).as_deref(), Some(&*longest));
    for bad in [&format!("{longest}a"), "", "a b", "a\"", "a,b", "é"] {
        assert_eq!(id(bad), None, "{bad:?}");
    }
    let method = |bytes: usize| {
        let mut request = request("/", &[]);
        *request.method_mut() = Method::from_bytes("A".repeat(bytes).as_bytes()).unwrap();
        HttpRecord::of(&request, Spoken::Http1).method.as_str().to_owned()
    };
    assert_eq!(method(LOGGED_METHOD_BYTES_MAX).len(), LOGGED_METHOD_BYTES_MAX);
    assert_eq!(method(LOGGED_METHOD_BYTES_MAX + 1), "_OTHER");
    let path = |bytes: usize| HttpRecord::of(&request(&format!("/{}", "a".repeat(bytes - 1)), &[]), Spoken::Http1).path;
    assert_eq!(path(LOGGED_PATH_BYTES_MAX).len(), LOGGED_PATH_BYTES_MAX);
    assert_eq!(path(LOGGED_PATH_BYTES_MAX + 1).len(), LOGGED_PATH_BYTES_MAX, "cut");
}

#[test]
fn what_is_told_is_what_was_asked_for() {
    let figures = Arc::new(AccessLogFigures::default());
    let (errors, told) = AccessLog::new(Only::Errors, figures.clone());
    let good = of(&request("/", &[]), 404);
    let mut call = of(&request("/", &[]), 200);
    call.http.as_mut().unwrap().grpc_status = Some(GrpcStatus(14));
    let bad = Record { error: Some(ErrorType::ConnectionTerminated), ..record(None) };
    for record in [good.clone(), of(&request("/", &[]), 500), call, bad, record(None)] {
        let begun = errors.begin(|| 0, || record);
        errors.end(begun.unwrap());
    }
    assert_eq!(told.try_iter().count(), 3, "what a client did wrong, and what went well, are not");
    let (sampled, _told) = AccessLog::new(Only::Sample(250_000), figures.clone());
    let drawn = (0..1_000_u64).filter(|at| sampled.begin(|| at << 54, || good.clone()).is_some()).count();
    assert_eq!(drawn, 256, "what is drawn below a quarter");
    let (all, told) = AccessLog::new(Only::All, figures.clone());
    for _ in 0..=ACCESS_LOG_LEN_MAX {
        all.end(all.begin(|| 0, || good.clone()).unwrap());
    }
    assert_eq!(figures.dropped.load(Ordering::Relaxed), 1, "one more than fits is dropped");
    assert_eq!(told.try_iter().count(), ACCESS_LOG_LEN_MAX);
    drop(all);
    assert_eq!(told.try_recv().unwrap_err(), TryRecvError::Disconnected, "the writer ends with the last data thread");
}
