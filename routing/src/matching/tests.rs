//! Propositions about single conditions. What many matches do together is in the group's tests.

use super::*;

fn facts<'a>(method: &'a Method, target: &'a str, headers: &'a HeaderMap) -> HttpFacts<'a> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    HttpFacts { method, scheme: "http", authority: "orders.mesh.internal", path, query, headers }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
    pairs.iter().map(pair).collect()
}

#[test]
fn a_prefix_holds_by_whole_elements() {
    let check = |prefix: &str, path: &str, rest: Option<&str>| {
        assert_eq!(PathPrefix::new(prefix).rest(path), rest, "{prefix} on {path}");
    };
    check("/v2", "/v2", Some(""));
    check("/v2", "/v2/", Some("/"));
    check("/v2", "/v2/x", Some("/x"));
    check("/v2", "/v2example", None);
    check("/v2/", "/v2", Some(""));
    check("/", "/v2", Some("/v2"));
    check("/v2", "/", None);
}

#[test]
fn a_repeated_header_counts_as_its_values_joined() {
    let want = |value| HeaderMatch { name: HeaderName::from_static("x-a"), value };
    let two = headers(&[("x-a", "1"), ("x-a", "2")]);
    assert!(header_holds(&want(TextMatch::Exact("1, 2".to_owned())), &two));
    assert!(!header_holds(&want(TextMatch::Exact("1".to_owned())), &two));
    assert!(header_holds(&want(TextMatch::Pattern(Pattern::anywhere("^1").unwrap())), &two));
    let empty = want(TextMatch::Exact(String::new()));
    assert!(!header_holds(&empty, &HeaderMap::new()), "an absent header is not an empty one");
}

#[test]
fn of_a_repeated_parameter_the_first_counts_and_both_sides_are_decoded() {
    let check = |query: &str, want: bool| {
        let condition = QueryMatch { name: "a b".to_owned(), value: TextMatch::Exact("1/2".to_owned()) };
        assert_eq!(query_holds(&condition, Some(query)), want, "{query}");
    };
    check("a+b=1%2f2", true);
    check("a%20b=1/2&a+b=3", true);
    check("a+b=3&a+b=1/2", false);
    check("A+b=1/2", false);
    check("a+b=1%2", false);
    check("", false);
}

#[test]
fn a_grpc_call_has_two_parts() {
    assert_eq!(grpc_call("/shop.Orders/Get"), Some(("shop.Orders", "Get")));
    for bad in ["", "/", "/x", "/x/", "//x", "/a/b/c", "a/b"] {
        assert_eq!(grpc_call(bad), None, "{bad}");
    }
}

#[test]
fn the_first_failing_condition_is_named() {
    let wanted = Conditions {
        path: PathCondition::Exact("/a".to_owned()),
        method: Some(Method::GET),
        headers: vec![HeaderMatch { name: HeaderName::from_static("x"), value: TextMatch::Exact("1".to_owned()) }],
        query: vec![QueryMatch { name: "q".to_owned(), value: TextMatch::Exact("1".to_owned()) }],
    };
    let check = |method: &Method, target: &str, pairs: &[(&'static str, &str)], want: Result<(), Miss>| {
        assert_eq!(wanted.holds(&facts(method, target, &headers(pairs))), want);
    };
    check(&Method::GET, "/b", &[], Err(Miss::Path));
    check(&Method::PUT, "/a", &[], Err(Miss::Method));
    check(&Method::GET, "/a", &[], Err(Miss::Header(0)));
    check(&Method::GET, "/a", &[("x", "1")], Err(Miss::Query(0)));
    check(&Method::GET, "/a?q=1", &[("x", "1")], Ok(()));
}
