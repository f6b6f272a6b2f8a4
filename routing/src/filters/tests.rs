//! Propositions about filters, told in tables.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use starling_config::documents::route::{BackendTarget, ServiceTarget};
use starling_model::{Namespace, ServiceKey, ServiceName};

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
    edit(&edits, &mut headers);
    let want: HeaderMap = [pair("a", "2, 3"), pair("b", "1, 2"), pair("e", "1")].into_iter().collect();
    assert_eq!(headers, want);
}

#[test]
fn a_replaced_prefix_keeps_the_rest_with_its_slash() {
    let check = |prefix: &str, replacement: &str, path: &str, want: &str| {
        let edit = PathEdit::Prefix(replacement.to_owned());
        assert_eq!(edited_path(&edit, &PathPrefix::new(prefix), path), want);
    };
    check("/foo", "/xyz", "/foo/bar", "/xyz/bar");
    check("/foo", "/xyz/", "/foo/bar", "/xyz/bar");
    check("/foo/", "/xyz", "/foo/bar", "/xyz/bar");
    check("/foo", "/xyz", "/foo", "/xyz");
    check("/foo", "/xyz", "/foo/", "/xyz/");
    check("/foo", "", "/foo/bar", "/bar");
    check("/foo", "/", "/foo", "/");
    check("/foo", "/", "/foo/", "/");
    assert_eq!(edited_path(&PathEdit::Full(String::new()), &PathPrefix::new("/"), "/x"), "/");
}

#[test]
fn a_rewrite_keeps_the_query_and_says_when_it_is_no_uri() {
    let headers = HeaderMap::new();
    let target = |path: Option<&str>, asked: &HttpFacts<'_>| {
        let rewrite = Rewrite { hostname: None, path: path.map(|path| PathEdit::Full(path.to_owned())) };
        rewritten(&rewrite, &PathPrefix::new("/"), asked)
    };
    let asked = request(&Method::GET, "/a?x=1", &headers);
    assert_eq!(target(Some("/b"), &asked).unwrap().unwrap().to_string(), "/b?x=1");
    assert_eq!(target(Some("/b c"), &asked), Err(NotAUri));
    assert_eq!(target(None, &asked), Ok(None));
}

#[test]
fn a_location_leaves_out_what_the_scheme_implies() {
    let check =
        |scheme: Option<Scheme>, hostname: Option<&str>, port: Option<u16>, frontend: Option<u16>, want: &str| {
            let redirect = Redirect {
                scheme,
                hostname: hostname.map(str::to_owned),
                path: None,
                port: port.and_then(NonZeroU16::new),
                status: StatusCode::FOUND,
            };
            let headers = HeaderMap::new();
            let asked = request(&Method::GET, "/a?b=c", &headers);
            assert_eq!(location(&redirect, &PathPrefix::new("/"), &asked, frontend).unwrap(), want);
        };
    check(None, None, None, Some(80), "http://orders.mesh.internal/a?b=c");
    check(None, None, None, Some(8080), "http://orders.mesh.internal:8080/a?b=c");
    check(Some(Scheme::Https), None, None, Some(8080), "https://orders.mesh.internal/a?b=c");
    check(Some(Scheme::Https), Some("shop.example"), Some(8443), None, "https://shop.example:8443/a?b=c");
    check(Some(Scheme::Https), None, Some(443), None, "https://orders.mesh.internal/a?b=c");
    check(Some(Scheme::Http), None, Some(443), None, "http://orders.mesh.internal:443/a?b=c");
}

#[test]
fn a_mirror_takes_its_share_and_never_moves_the_winner() {
    let mirror = |numerator, denominator| {
        let service = ServiceKey::new(Namespace::default(), ServiceName::new("orders").unwrap());
        let target = BackendTarget::Service(ServiceTarget { service, port: None, subset: None });
        Mirror { target, numerator, denominator: NonZeroU32::new(denominator).unwrap() }
    };
    for (numerator, denominator) in [(1, 100), (25, 100), (1, 3), (0, 1), (1, 1)] {
        let mirror = mirror(numerator, denominator);
        let drawn = (0..10_000).filter(|seed| is_mirrored(&mirror, Draws::from_seed(*seed), 0)).count();
        let (drawn, share) = (drawn as f64 / 10_000.0, f64::from(numerator) / f64::from(denominator));
        assert!((drawn - share).abs() < 0.02, "{numerator}/{denominator}: {drawn}");
    }
    // Of the requests that are mirrored, half still go to either of two equal backends.
    let half = |seed: &u64| Draws::below(Draws::from_seed(*seed).split(), 2) == 0;
    let mirror = mirror(1, 4);
    let mirrored: Vec<u64> = (0..40_000).filter(|seed| is_mirrored(&mirror, Draws::from_seed(*seed), 0)).collect();
    let share = mirrored.iter().filter(|seed| half(seed)).count() as f64 / mirrored.len() as f64;
    assert!((share - 0.5).abs() < 0.02, "{share}");
}

fn cors(origins: &[&str], allow_credentials: bool) -> FilterChain {
    let cors = Cors {
        allow_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        allow_credentials,
        allow_methods: vec!["*".to_owned()],
        allow_headers: vec!["*".to_owned()],
        expose_headers: vec!["x-a".to_owned()],
        max_age: Duration::from_secs(5),
    };
    FilterChain::new(&Filters { cors: Some(cors), ..Filters::default() }, PathPrefix::new("/"), [])
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    let check = |allowed: &str, origin: &'static str, want: bool| {
        let headers: HeaderMap = [pair("origin", origin)].into_iter().collect();
        assert_eq!(!cors(&[allowed], true).cors_response(&headers).is_empty(), want, "{allowed} and {origin}");
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
    let answer = cors(&["*"], true).preflight(&asked).unwrap();
    assert!(answer.values().all(|value| value != "*"), "{answer:?}");
    assert_eq!(answer["access-control-allow-origin"], "https://a.example");
    assert_eq!(answer["access-control-allow-methods"], "PUT");
    assert_eq!(answer["access-control-max-age"], "5");
    let open = cors(&["*"], false).preflight(&asked).unwrap();
    assert_eq!(
        (&open["access-control-allow-origin"], &open["access-control-allow-methods"]),
        (&HeaderValue::from_static("*"), &HeaderValue::from_static("*"))
    );
    assert!(
        cors(&["https://b.example"], false).preflight(&asked).unwrap().is_empty(),
        "a foreign origin learns nothing"
    );
    let plain = request(&Method::GET, "/", &headers);
    assert_eq!(cors(&["*"], true).preflight(&plain), None, "only OPTIONS asks before");
}
