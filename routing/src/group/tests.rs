//! The compiled group against a slow matcher that knows neither keys nor an index.

use std::cmp::Ordering;

use http::Method;
use http::header::{HeaderMap, HeaderName};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::matching::{PathCondition, PathPrefix};
use crate::rules::RuleId;
use starling_config::Pattern;
use starling_config::documents::http_route::{HeaderMatch, QueryMatch, TextMatch};

const PATHS: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "/p.S/M", "*"];

type Rules = Vec<(RuleId, Vec<Conditions>)>;

fn conditions() -> impl Strategy<Value = Conditions> {
    let path = prop_oneof![
        select(&PATHS[..8]).prop_map(|path| PathCondition::Exact(path.to_owned())),
        select(&PATHS[..8]).prop_map(|path| PathCondition::Prefix(PathPrefix::new(path))),
        select(&["/a.*", ".*b", "/a/.*c"][..]).prop_map(|text| PathCondition::Pattern(Pattern::whole(text).unwrap())),
    ];
    let method = proptest::option::of(select(&[Method::GET, Method::POST][..]));
    (path, method, 0..3usize, 0..3usize).prop_map(|(path, method, headers, query)| Conditions {
        path,
        method,
        headers: ["x-a", "x-b"].iter().take(headers).map(|name| header(name)).collect(),
        query: ["q", "r"].iter().take(query).map(|name| parameter(name)).collect(),
    })
}

fn header(name: &'static str) -> HeaderMatch {
    HeaderMatch { name: HeaderName::from_static(name), value: TextMatch::Exact("1".to_owned()) }
}

fn parameter(name: &str) -> QueryMatch {
    QueryMatch { name: name.to_owned(), value: TextMatch::Exact("1".to_owned()) }
}

fn grpc() -> impl Strategy<Value = Conditions> {
    let text = || {
        proptest::option::of(prop_oneof![
            select(&["p.S", "M", "p.Other"][..]).prop_map(|text| TextMatch::Exact(text.to_owned())),
            select(&["S$", "^M", "."][..]).prop_map(|text| TextMatch::Pattern(Pattern::anywhere(text).unwrap())),
        ])
    };
    (text(), text(), 0..3usize).prop_map(|(service, method, headers)| Conditions {
        path: PathCondition::Grpc { service, method },
        method: None,
        headers: ["x-a", "x-b"].iter().take(headers).map(|name| header(name)).collect(),
        query: Vec::new(),
    })
}

/// Matches that share two paths and differ in headers.
fn tenants() -> impl Strategy<Value = Conditions> {
    let value = prop_oneof![
        4 => select(&["1", "2", "1, 2", ""][..]).prop_map(|text| TextMatch::Exact(text.to_owned())),
        1 => Just(TextMatch::Pattern(Pattern::anywhere("^1").unwrap())),
    ];
    let one = (select(&["x-a", "x-b"][..]), value);
    let headers = one.prop_map(|(name, value)| HeaderMatch { name: HeaderName::from_static(name), value });
    let path = prop_oneof![
        4 => Just(PathCondition::Prefix(PathPrefix::new("/"))),
        1 => Just(PathCondition::Pattern(Pattern::whole("/a.*").unwrap())),
        1 => Just(PathCondition::Exact("/a".to_owned())),
    ];
    let method = proptest::option::of(Just(Method::GET));
    (path, method, proptest::collection::vec(headers, 0..3)).prop_map(|(path, method, mut headers)| {
        headers.dedup_by(|a, b| a.name == b.name);
        Conditions { path, method, headers, query: Vec::new() }
    })
}

fn tenant_request() -> impl Strategy<Value = Request> {
    let header = (select(&["x-a", "x-b"][..]), select(&["1", "2", ""][..]));
    let headers = proptest::collection::vec(header, 0..4);
    let method = select(&[Method::GET, Method::POST][..]);
    (method, select(&["/", "/a", "/b"][..]), headers).prop_map(|(method, path, pairs)| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        Request { method, path, query: None, headers }
    })
}

/// Up to 12 rules of 3 routes, each with its own place.
fn rules(conditions: impl Strategy<Value = Conditions>) -> impl Strategy<Value = Rules> {
    let matches = proptest::collection::vec(conditions, 0..4);
    proptest::collection::vec((select(&["a/x", "a-b/x", "a/y"][..]), matches), 0..12).prop_map(|rules| {
        let named = (0u16..).zip(rules);
        named.map(|(rule, (route, matches))| (id(route, rule), matches)).collect()
    })
}

#[derive(Clone, Debug)]
struct Request {
    method: Method,
    path: &'static str,
    query: Option<&'static str>,
    headers: HeaderMap,
}

fn request() -> impl Strategy<Value = Request> {
    let query = select(&[None, Some("q=1"), Some("q=1&r=1"), Some("q=2&q=1")][..]);
    let method = select(&[Method::GET, Method::POST, Method::PUT][..]);
    (method, select(&PATHS[..]), query, 0..3usize).prop_map(|(method, path, query, headers)| Request {
        method,
        path,
        query,
        headers: ["x-a", "x-b"]
            .iter()
            .take(headers)
            .map(|name| (HeaderName::from_static(name), "1".parse().unwrap()))
            .collect(),
    })
}

impl Request {
    fn facts(&self) -> HttpFacts<'_> {
        let Self { method, path, query, headers } = self;
        HttpFacts { method, scheme: "http", authority: "o", path, query: *query, headers }
    }
}

/// The standard's sentences one after the other; `Less` is the better one.
fn better(a: &Conditions, b: &Conditions) -> Ordering {
    let kind = |c: &Conditions| match &c.path {
        PathCondition::Exact(_) => (0, 0),
        PathCondition::Pattern(pattern) => (1, pattern.as_str().chars().count()),
        PathCondition::Prefix(prefix) => (2, prefix.as_str().chars().count()),
        PathCondition::Grpc { .. } => (3, 0),
    };
    let text = |text: &Option<TextMatch>| match text {
        None => 0,
        Some(TextMatch::Exact(text)) => text.chars().count(),
        Some(TextMatch::Pattern(pattern)) => pattern.as_str().chars().count(),
    };
    if let (PathCondition::Grpc { service: s, method: m }, PathCondition::Grpc { service: t, method: n }) =
        (&a.path, &b.path)
    {
        return text(t).cmp(&text(s)).then(text(n).cmp(&text(m))).then(b.headers.len().cmp(&a.headers.len()));
    }
    let (a_kind, b_kind) = (kind(a), kind(b));
    a_kind
        .0
        .cmp(&b_kind.0)
        .then(b_kind.1.cmp(&a_kind.1))
        .then(b.method.is_some().cmp(&a.method.is_some()))
        .then(b.headers.len().cmp(&a.headers.len()))
        .then(b.query.len().cmp(&a.query.len()))
}

/// Tries every match and keeps the best that holds.
fn slow(rules: &Rules, request: &HttpFacts<'_>) -> Option<(RuleId, u16)> {
    let mut best: Option<(Conditions, RuleId, u16)> = None;
    for (rule, matches) in rules {
        let everything = [Conditions::everything()];
        let matches = if matches.is_empty() { &everything[..] } else { matches };
        for (at, conditions) in (0u16..).zip(matches) {
            if conditions.holds(request).is_err() {
                continue;
            }
            let wins = best.as_ref().is_none_or(|(held, held_rule, held_at)| {
                let ties = (&rule.route, rule.rule, at).cmp(&(&held_rule.route, held_rule.rule, *held_at));
                better(conditions, held).then(ties) == Ordering::Less
            });
            if wins {
                best = Some((conditions.clone(), rule.clone(), at));
            }
        }
    }
    best.map(|(_, rule, at)| (rule, at))
}

fn found(group: &RouteGroup, request: &HttpFacts<'_>) -> Option<(RuleId, u16)> {
    group.find(request).map(|won| (won.rule.id.clone(), won.at))
}

fn compiled(rules: Rules) -> RouteGroup {
    RouteGroup::new(rules.into_iter().map(|(id, matches)| (Arc::new(Rule::bare(id)), matches)))
}

fn id(route: &str, rule: u16) -> RuleId {
    RuleId { route: Arc::from(route), rule }
}

/// 256 sets of rules and 40 requests each: 10,240 requests.
const REQUESTS: usize = 40;

proptest! {
    #[test]
    fn the_compiled_group_agrees_with_the_slow_matcher_in_any_order(
        rules in rules(conditions()),
        requests in proptest::collection::vec(request(), REQUESTS),
        turn in any::<prop::sample::Index>(),
    ) {
        let group = compiled(rules.clone());
        let mut other = rules.clone();
        other.reverse();
        if !other.is_empty() {
            let by = turn.index(other.len());
            other.rotate_left(by);
        }
        let other = compiled(other);
        for request in &requests {
            let facts = request.facts();
            let want = slow(&rules, &facts);
            prop_assert_eq!(&found(&group, &facts), &want);
            prop_assert_eq!(&found(&other, &facts), &want);
            // Explanations walk the whole list: the first that does not lose is the winner.
            prop_assert_eq!(group.entries.get(group.losers(&facts).count()).map(|e| (e.rule.id.clone(), e.at)), want);
        }
    }

    #[test]
    fn many_matches_of_one_path_agree_with_the_slow_matcher(
        rules in rules(tenants()),
        more in rules(tenants()),
        requests in proptest::collection::vec(tenant_request(), REQUESTS),
    ) {
        let rules: Rules = rules.into_iter().chain(more.into_iter().map(|(rule, matches)| (id("b/z", rule.rule), matches))).collect();
        let group = compiled(rules.clone());
        for request in &requests {
            prop_assert_eq!(found(&group, &request.facts()), slow(&rules, &request.facts()));
        }
    }

    #[test]
    fn grpc_matches_agree_with_the_slow_matcher(
        rules in rules(grpc()).prop_map(|rules| rules.into_iter().filter(|(_, m)| !m.is_empty()).collect::<Rules>()),
        requests in proptest::collection::vec(request(), REQUESTS),
    ) {
        let group = compiled(rules.clone());
        for request in &requests {
            prop_assert_eq!(found(&group, &request.facts()), slow(&rules, &request.facts()));
        }
    }

    #[test]
    fn a_prefix_holds_with_a_slash_or_an_element_more_and_with_nothing_else(path in "(/[a-z]{1,5}){1,4}", tail in "[a-z]{1,4}") {
        let mut one = Conditions::everything();
        one.path = PathCondition::Prefix(PathPrefix::new(&path));
        let group = compiled(vec![(id("a/x", 0), vec![one])]);
        let hit = |path: &str| {
            let headers = HeaderMap::new();
            let facts =
                HttpFacts { method: &Method::GET, scheme: "http", authority: "o", path, query: None, headers: &headers };
            group.find(&facts).is_some()
        };
        let longer = [format!("{path}/"), format!("{path}/{tail}")];
        let other = format!("{path}{tail}");
        prop_assert!(hit(&path) && longer.iter().all(|path| hit(path)));
        prop_assert!(!hit(&other));
    }
}

#[test]
fn the_nearest_miss_is_the_one_that_failed_last() {
    let mut by_header = Conditions::everything();
    by_header.headers.push(header("x-a"));
    let mut by_path = Conditions::everything();
    by_path.path = PathCondition::Exact("/other".to_owned());
    let group = compiled(vec![(id("a/x", 0), vec![by_path]), (id("a/x", 1), vec![by_header])]);
    let request = Request { method: Method::GET, path: "/a", query: None, headers: HeaderMap::new() };
    assert!(group.find(&request.facts()).is_none());
    let facts = request.facts();
    let (nearest, miss) = group.nearest_miss(&facts).unwrap();
    assert_eq!((nearest.rule.id.rule, miss), (1, Miss::Header(0)));
}

#[test]
fn a_match_that_another_route_hides_is_told() {
    let (mut one, mut two) = (Conditions::everything(), Conditions::everything());
    one.headers.push(header("x-a"));
    two.headers.push(header("x-b"));
    let group = compiled(vec![(id("a/y", 0), vec![one.clone(), two.clone()]), (id("a/x", 0), vec![one.clone(), one])]);
    let told: Vec<_> = group.overlaps().iter().map(|(won, lost, at)| (won.id.clone(), lost.id.clone(), *at)).collect();
    assert_eq!(told, [(id("a/x", 0), id("a/y", 0), 0)], "a route that repeats itself is not told");
}
