//! Propositions about filters, told in tables.

use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use starling_model::{Labels, Namespace, ServiceKey, ServiceName};

use super::*;

fn request<'a>(method: &'a Method, target: &'a str, headers: &'a HeaderMap) -> HttpFacts<'a> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    HttpFacts { method, scheme: "http", authority: "orders.mesh.internal:80", path, query, headers }
}

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

#[test]
fn headers_are_set_then_added_then_removed() {
    let mut headers: HeaderMap = [pair("a", "1"), pair("b", "1"), pair("c", "1")].into_iter().collect();
    let edits = HeaderEdits {
        set: vec![pair("a", "2"), pair("d", "1")],
        add: vec![pair("a", "3"), pair("b", "2"), pair("e", "1")],
        remove: vec![HeaderName::from_static("c"), HeaderName::from_static("d")],
    };
    edits.apply(&mut headers);
    let want: HeaderMap = [pair("a", "2, 3"), pair("b", "1, 2"), pair("e", "1")].into_iter().collect();
    assert_eq!(headers, want);
}

#[test]
fn a_replaced_prefix_keeps_the_rest_with_its_slash() {
    let check = |prefix: &str, replacement: &str, path: &str, want: &str| {
        assert_eq!(PathEdit::prefix(PathPrefix::new(prefix), replacement).apply(path), want);
    };
    check("/foo", "/xyz", "/foo/bar", "/xyz/bar");
    check("/foo", "/xyz/", "/foo/bar", "/xyz/bar");
    check("/foo/", "/xyz", "/foo/bar", "/xyz/bar");
    check("/foo", "/xyz", "/foo", "/xyz");
    check("/foo", "/xyz", "/foo/", "/xyz/");
    check("/foo", "", "/foo/bar", "/bar");
    check("/foo", "/", "/foo", "/");
    check("/foo", "/", "/foo/", "/");
    assert_eq!(PathEdit::Full(String::new()).apply("/x"), "/");
}

#[test]
fn a_rewrite_keeps_the_query_and_says_when_it_is_no_uri() {
    let headers = HeaderMap::new();
    let rewrite = |path| Rewrite { hostname: None, path: Some(PathEdit::Full(path)) };
    let asked = request(&Method::GET, "/a?x=1", &headers);
    assert_eq!(rewrite("/b".to_owned()).target(&asked).unwrap().unwrap().to_string(), "/b?x=1");
    assert_eq!(rewrite("/b c".to_owned()).target(&asked), Err(NotAUri));
    assert_eq!(Rewrite::default().target(&asked), Ok(None));
}

#[test]
fn a_location_leaves_out_what_the_scheme_implies() {
    let check = |scheme: Option<&str>, hostname: Option<&str>, port: Option<u16>, frontend: Option<u16>, want: &str| {
        let redirect = Redirect {
            scheme: scheme.map(str::to_owned),
            hostname: hostname.map(str::to_owned),
            path: None,
            port,
            status: StatusCode::FOUND,
        };
        let headers = HeaderMap::new();
        assert_eq!(redirect.location(&request(&Method::GET, "/a?b=c", &headers), frontend).unwrap(), want);
    };
    check(None, None, None, Some(80), "http://orders.mesh.internal/a?b=c");
    check(None, None, None, Some(8080), "http://orders.mesh.internal:8080/a?b=c");
    check(Some("https"), None, None, Some(8080), "https://orders.mesh.internal/a?b=c");
    check(Some("https"), Some("shop.example"), Some(8443), None, "https://shop.example:8443/a?b=c");
    check(Some("https"), None, Some(443), None, "https://orders.mesh.internal/a?b=c");
    check(Some("http"), None, Some(443), None, "http://orders.mesh.internal:443/a?b=c");
}

#[test]
fn a_mirror_takes_its_share_and_never_moves_the_winner() {
    let service = ServiceKey::new(Namespace::default(), ServiceName::new("orders").unwrap());
    let target = Target { service, port: None, subset: Labels::default() };
    for (numerator, denominator) in [(1, 100), (25, 100), (1, 3), (0, 1), (1, 1)] {
        let mirror = Mirror { target: target.clone(), numerator, denominator };
        let drawn = (0..10_000).filter(|seed| mirror.drawn(Draws::from_seed(*seed), 0)).count();
        let (drawn, share) = (drawn as f64 / 10_000.0, f64::from(numerator) / f64::from(denominator));
        assert!((drawn - share).abs() < 0.02, "{numerator}/{denominator}: {drawn}");
    }
    // Of the requests that are mirrored, half still go to either of two equal backends.
    let half = |seed: &u64| Draws::below(Draws::from_seed(*seed).split(), 2) == 0;
    let mirror = Mirror { target, numerator: 1, denominator: 4 };
    let mirrored: Vec<u64> = (0..40_000).filter(|seed| mirror.drawn(Draws::from_seed(*seed), 0)).collect();
    let share = mirrored.iter().filter(|seed| half(seed)).count() as f64 / mirrored.len() as f64;
    assert!((share - 0.5).abs() < 0.02, "{share}");
}

fn cors(origins: &[&str], credentials: bool) -> Cors {
    Cors {
        origins: origins.iter().map(|origin| Origin::new(origin)).collect(),
        credentials,
        methods: vec!["*".to_owned()],
        headers: vec!["*".to_owned()],
        expose: vec!["x-a".to_owned()],
        max_age: Duration::from_secs(5),
    }
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    let check = |allowed: &str, origin: &'static str, want: bool| {
        let headers: HeaderMap = [pair("origin", origin)].into_iter().collect();
        assert_eq!(!cors(&[allowed], true).response(&headers).is_empty(), want, "{allowed} and {origin}");
    };
    check("*", "https://a.example", true);
    check("https://a.example", "https://a.example", true);
    check("https://a.example", "http://a.example", false);
    check("https://a.example", "https://a.example:8443", false);
    check("https://*.example", "https://a.b.example", true);
    check("https://*.example", "https://example", false);
    check("https://*.example", "https://evil.net/.example", false);
    check("https://*.example:8443", "https://a.example:8443", true);
}

#[test]
fn with_credentials_no_star_is_sent() {
    let headers: HeaderMap = [
        pair("origin", "https://a.example"),
        pair("access-control-request-method", "PUT"),
        pair("access-control-request-headers", "x-b"),
    ]
    .into_iter()
    .collect();
    let asked = request(&Method::OPTIONS, "/", &headers);
    assert!(Cors::is_preflight(&asked));
    let answer = cors(&["*"], true).preflight(&asked);
    assert!(answer.values().all(|value| value != "*"), "{answer:?}");
    assert_eq!(answer["access-control-allow-origin"], "https://a.example");
    assert_eq!(answer["access-control-allow-methods"], "PUT");
    assert_eq!(answer["access-control-max-age"], "5");
    let open = cors(&["*"], false).preflight(&asked);
    assert_eq!(
        (&open["access-control-allow-origin"], &open["access-control-allow-methods"]),
        (&HeaderValue::from_static("*"), &HeaderValue::from_static("*"))
    );
    assert!(cors(&["https://b.example"], false).preflight(&asked).is_empty(), "a foreign origin learns nothing");
}
