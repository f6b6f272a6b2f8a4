//! Laws of tables that are made of documents: a slow reader of the standard agrees with them, order does not exist in
//! them, and what is said of one service says nothing of another.

use std::cmp::Ordering;

use http::Method;
use http::header::HeaderMap;
use proptest::prelude::*;
use proptest::sample::select;
use starling_config::documents::Spec;
use starling_config::documents::http_route::{HttpMatch, PathMatch, TextMatch};
use starling_model::{Digest, Generation, Namespace};

use super::world::{Ask, World, findings, http_route, in_use, key, told};
use crate::documents::{Documents, InUse};
use crate::*;

const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "/A"];
const NAMES: [&str; 6] = ["x", "y", "a/x", "a-b/x", "shop/x", "shop/y"];
const CALLERS: [Option<&str>; 4] = [None, Some("web"), Some("shop/web"), Some("a/web")];

/// One match as YAML.
fn one_match() -> impl Strategy<Value = String> {
    let form = select(&["Exact", "PathPrefix"][..]);
    let path = prop_oneof![
        (form, select(&PATHS[..])).prop_map(|(form, path)| format!("path: {{type: {form}, value: {path}}}")),
        select(&["/a.*", ".*b", "/a/.*c"][..])
            .prop_map(|path| format!("path: {{type: RegularExpression, value: \"{path}\"}}")),
        Just(String::new()),
    ];
    let method = select(&["", "method: GET", "method: POST"][..]);
    (path, method, 0..3usize, 0..3usize).prop_map(|(path, method, headers, query)| {
        let list = |what: &str, names: [&str; 2], len: usize| match len {
            0 => String::new(),
            _ => format!(
                "{what}: [{}]",
                names[..len]
                    .iter()
                    .map(|name| format!("{{name: {name}, value: \"1\"}}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let parts =
            [path, method.to_owned(), list("headers", ["x-a", "x-b"], headers), list("queryParams", ["q", "r"], query)];
        format!("{{{}}}", parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "))
    })
}

/// Routes for `service`, each of its own name.
fn routes(service: &'static str) -> impl Strategy<Value = Vec<String>> {
    let rule = proptest::collection::vec(one_match(), 0..3);
    let rules = proptest::collection::vec(rule, 1..4).boxed();
    proptest::sample::subsequence(&NAMES[..], 0..5)
        .prop_flat_map(move |names| {
            let len = names.len();
            (Just(names), proptest::collection::vec(rules.clone(), len))
        })
        .prop_map(move |(names, all)| {
            let rule = |matches: &Vec<String>| {
                let matches =
                    if matches.is_empty() { String::new() } else { format!("matches: [{}], ", matches.join(", ")) };
                format!("{{{matches}backendRefs: [{{name: back, namespace: default}}]}}")
            };
            let route = |(name, rules): (&&str, Vec<Vec<String>>)| {
                http_route(name, service, &format!("[{}]", rules.iter().map(rule).collect::<Vec<_>>().join(", ")))
            };
            names.iter().zip(all).map(route).collect()
        })
}

fn ask() -> impl Strategy<Value = Ask> {
    let query = select(&["", "?q=1", "?q=1&r=1", "?q=2&q=1"][..]);
    let method = select(&["GET", "POST", "PUT"][..]);
    (method, select(&PATHS[..]), query, 0..3usize, select(&CALLERS[..])).prop_map(
        |(method, path, query, headers, caller)| {
            let ask = Ask::new("orders", &format!("{method} {path}{query}"));
            let ask = ["x-a", "x-b"].into_iter().take(headers).fold(ask, |ask, name| ask.header(name, "1"));
            caller.map_or(ask.clone(), |caller| ask.from(caller))
        },
    )
}

fn world(yaml: &str) -> World {
    World::new(yaml).node("vm-1", &["b back", "o orders", "p other"])
}

/// The standard's sentences, one after the other, on the documents as they were read.
fn slow(documents: &[InUse], caller: Option<&Namespace>, request: &HttpFacts<'_>) -> Option<Option<(String, usize)>> {
    let routes = || {
        documents.iter().filter_map(|one| {
            let Spec::HttpRoute(route) = &one.document.spec else { return None };
            let attached = route.parents.iter().any(|parent| parent.name.as_str() == "orders");
            attached.then_some((&one.document.key, route))
        })
    };
    let consumer =
        caller.filter(|caller| caller.as_str() != "default" && routes().any(|(key, _)| key.namespace == **caller));
    let side = consumer.cloned().unwrap_or_default();
    let of_side: Vec<_> = routes().filter(|(key, _)| key.namespace == side).collect();
    if of_side.is_empty() {
        return None;
    }
    let mut best: Option<(&HttpMatch, (String, usize))> = None;
    for (key, route) in of_side {
        for (place, rule) in route.rules.iter().enumerate() {
            for one in if rule.matches.is_empty() { std::slice::from_ref(&EVERYTHING) } else { &rule.matches } {
                let id = (format!("{}/{}", key.namespace, key.name), place);
                // Of equal matches the first by name, then by place; within a rule they lead to the same.
                let wins = best
                    .as_ref()
                    .is_none_or(|(held, held_id)| better(one, held).then(id.cmp(held_id)) == Ordering::Less);
                if holds(one, request) && wins {
                    best = Some((one, id));
                }
            }
        }
    }
    Some(best.map(|(_, id)| id))
}

/// What a rule without matches asks for.
static EVERYTHING: HttpMatch =
    HttpMatch { path: PathMatch::Prefix(String::new()), headers: Vec::new(), query: Vec::new(), method: None };

fn holds(one: &HttpMatch, request: &HttpFacts<'_>) -> bool {
    let elements = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<String>>();
    let path = match &one.path {
        PathMatch::Exact(path) => path == request.path,
        PathMatch::Prefix(prefix) => elements(request.path).starts_with(&elements(prefix.trim_end_matches('/'))),
        PathMatch::Pattern(pattern) => pattern.holds(request.path.as_bytes()),
    };
    let is_one = |want: &TextMatch| *want == TextMatch::Exact("1".to_owned());
    let header = |name: &http::HeaderName| request.headers.get(name).is_some_and(|value| value == "1");
    let first = |name: &str| {
        let pairs = request.query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.clone().find(|(key, _)| *key == name).is_some_and(|(_, value)| value == "1")
    };
    path && one.method.as_ref().is_none_or(|method| method == request.method)
        && one.headers.iter().all(|want| is_one(&want.value) && header(&want.name))
        && one.query.iter().all(|want| is_one(&want.value) && first(&want.name))
}

/// `Less` is the better one.
fn better(a: &HttpMatch, b: &HttpMatch) -> Ordering {
    let class = |path: &PathMatch| match path {
        PathMatch::Exact(_) => (0, 0),
        PathMatch::Pattern(pattern) => (1, pattern.as_str().len()),
        PathMatch::Prefix(prefix) => (2, prefix.trim_end_matches('/').len()),
    };
    let ((a_class, a_len), (b_class, b_len)) = (class(&a.path), class(&b.path));
    let more = |a: usize, b: usize| b.cmp(&a);
    a_class
        .cmp(&b_class)
        .then(more(a_len, b_len))
        .then(more(a.method.iter().len(), b.method.iter().len()))
        .then(more(a.headers.len(), b.headers.len()))
        .then(more(a.query.len(), b.query.len()))
}

proptest! {
    /// 256 sets of routes and 40 requests each: 10,240 requests.
    #[test]
    fn a_table_agrees_with_a_slow_reader_of_its_documents(
        routes in routes("orders"), asks in proptest::collection::vec(ask(), 40), seed in any::<u64>(),
    ) {
        let world = world(&routes.concat());
        let table = world.table();
        for ask in &asks {
            let want = ask.with(|request| {
                let caller = request.source.map(|source| &source.namespace);
                slow(&world.documents, caller, request.http.unwrap())
            });
            let want = match want {
                None => "-> vm-1/default/o".to_owned(),
                Some(None) => "NoRule 404".to_owned(),
                Some(Some((route, rule))) => format!("{route} #{rule} -> vm-1/default/b"),
            };
            let (decision, explanation) = ask.explain(&table, seed);
            prop_assert_eq!(told(&decision), want);
            prop_assert_eq!(told(&ask.decide(&table, seed)), told(&decision), "an explanation is the decision itself");
            let winner = explanation.route.and_then(|route| route.winner).map(|won| won.rule);
            let rule = match decision {
                Decision::Forward(choice) => choice.rule.map(|rule| rule.id.clone()),
                Decision::Answer(_) | Decision::Refuse { .. } => None,
            };
            prop_assert_eq!(winner, rule);
        }
    }

    #[test]
    fn documents_have_no_order(
        routes in routes("orders"), asks in proptest::collection::vec(ask(), 10), turn in any::<prop::sample::Index>(),
    ) {
        let one = world(&routes.concat());
        let mut other = world(&routes.concat());
        other.documents.reverse();
        if !other.documents.is_empty() {
            let by = turn.index(other.documents.len());
            other.documents.rotate_left(by);
        }
        let (a, b) = (one.table(), other.table());
        prop_assert_eq!(a.digest(), b.digest());
        prop_assert_eq!(findings(&a), findings(&b));
        for (seed, ask) in (0..).zip(&asks) {
            prop_assert_eq!(told(&ask.decide(&a, seed)), told(&ask.decide(&b, seed)));
        }
    }

    #[test]
    fn a_route_of_another_service_changes_nothing_here(
        here in routes("orders"), there in routes("other"), asks in proptest::collection::vec(ask(), 20),
    ) {
        let here = here.concat();
        // A name stands for one document.
        let there = there.concat().replace("name: x,", "name: z,").replace("name: y,", "name: w,");
        let before = world(&here).table();
        let both = world(&format!("{here}{there}"));
        for after in [both.table(), both.table_after(&before)] {
            for (seed, ask) in (0..).zip(&asks) {
                prop_assert_eq!(told(&ask.decide(&before, seed)), told(&ask.decide(&after, seed)));
            }
        }
    }

    #[test]
    fn a_prefix_holds_with_a_slash_or_an_element_more_and_with_nothing_else(path in "(/[a-z]{1,5}){1,4}", tail in "[a-z]{1,4}") {
        let yaml = http_route("x", "orders", &format!("[{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: back}}]}}]"));
        let table = world(&yaml).table();
        let hit = |path: &str| Ask::new("orders", &format!("GET {path}")).told(&table) == "default/x #0 -> vm-1/default/b";
        let longer = format!("{path}/{tail}");
        let with_slash = format!("{path}/");
        let other = format!("{path}{tail}");
        prop_assert!(hit(&path) && hit(&with_slash) && hit(&longer));
        prop_assert!(!hit(&other));
    }
}

#[test]
fn the_digest_covers_every_document_in_use_and_nothing_else() {
    let route = |name: &str| http_route(name, "orders", "[{backendRefs: [{name: back}]}]");
    let set = |yaml: &str| Documents::new(in_use(yaml));
    assert_eq!(set("").digest(), Digest::default(), "none: zero");
    let (one, two) = (set(&route("x")), set(&format!("{}{}", route("x"), route("y"))));
    assert_ne!(one.digest(), two.digest());
    assert_eq!(two.digest(), set(&format!("{}{}", route("y"), route("x"))).digest());
    assert_eq!((two.len(), two.is_empty()), (2, false));
    let table = world(&route("x")).node("vm-2", &["q back"]).table();
    assert_eq!(table.digest(), one.digest(), "endpoints are not in it");

    // The later generation counts, whichever comes first.
    let mut later = in_use(&route("x").replace("name: back", "name: orders"));
    later[0].version.generation = Generation::new(2).unwrap();
    let both: Vec<InUse> = later.iter().cloned().chain(in_use(&route("x"))).collect();
    let turned: Vec<InUse> = both.iter().rev().cloned().collect();
    for documents in [Documents::new(both), Documents::new(turned)] {
        assert_eq!(documents.digest(), Documents::new(later.clone()).digest());
        assert_eq!(documents.get(&later[0].document.key).unwrap().version.generation.get(), 2);
    }
    // SHA-256 over the hashes in the order of keys, as every node computes it.
    let Digest(known) = documents::digest_of(&[Digest([1; 32]), Digest([2; 32])]);
    let known: String = known.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(known, "f818afd37a6dc3bc92fb44731011277006db4efa6e9023cd7468c02335d22a4d");
}

#[test]
fn an_explanation_names_losers_shares_and_endpoints() {
    let yaml = http_route(
        "x",
        "orders",
        "[{name: exact, matches: [{path: {type: Exact, value: /a}, method: POST}]}, {name: tester, matches: [{headers: [{name: x-a, value: \"1\"}]}]}, {name: rest, backendRefs: [{name: back, weight: 3}, {name: gone}]}]",
    );
    let table = world(&yaml).table();
    let ask = Ask::new("orders", "GET /a");
    let seed = (0..).find(|seed| told(&ask.decide(&table, *seed)).contains("->")).unwrap();
    let (_, explanation) = ask.explain(&table, seed);
    let route = explanation.route.unwrap();
    assert_eq!((route.side, route.kind.as_str()), (Side::Producer, "HTTPRoute"));
    let won = route.winner.unwrap();
    assert_eq!((won.name.as_deref(), won.at, route.nearest), (Some("rest"), 0, None));
    let losers: Vec<_> =
        route.losers.iter().map(|one| (one.matched.name.as_deref().unwrap(), one.missed.to_string())).collect();
    let want = [("exact", "method is GET (needs POST)"), ("tester", "header x-a is absent (needs \"1\")")];
    assert_eq!(losers, want.map(|(rule, why)| (rule, why.to_owned())));
    assert_eq!(
        (won.asks.as_str(), route.losers[0].matched.asks.as_str()),
        ("path prefix /", "path exactly /a and method POST")
    );
    let split = explanation.split.unwrap();
    assert_eq!(split.shares, [("default/back".to_owned(), 0.75), ("default/gone".to_owned(), 0.25)]);
    assert_eq!(split.drawn, Some(0));
    let endpoints = explanation.endpoints.unwrap();
    assert_eq!(endpoints.picked.unwrap().to_string(), "vm-1/default/b");
    let candidates: Vec<_> =
        endpoints.candidates.iter().map(|one| (one.id.to_string(), one.share, one.condition)).collect();
    assert_eq!(candidates, [("vm-1/default/b".to_owned(), 1.0, Condition::Usable)]);

    let strict = http_route(
        "x",
        "orders",
        "[{name: tester, matches: [{path: {value: /a}, headers: [{name: x-a, value: \"1\"}]}, {path: {value: /z}}]}]",
    );
    let (decision, explanation) = ask.explain(&world(&strict).table(), 1);
    assert_eq!(told(&decision), "NoRule 404");
    let nearest = explanation.route.unwrap().nearest.unwrap();
    assert_eq!((nearest.matched.at, nearest.missed.to_string().as_str()), (0, "header x-a is absent (needs \"1\")"));
    let (_, nothing) = Ask::new("nobody", "GET /").explain(&world("").table(), 1);
    assert!(nothing.service.is_none() && nothing.route.is_none() && nothing.endpoints.is_none());
    assert_eq!(told(&nothing.outcomes[0].decision), "NoService 404");
}

#[test]
fn an_explanation_lists_so_many_and_counts_the_rest() {
    let rule = |rule: usize| {
        let matches: Vec<String> = (0..16).map(|at| format!("{{path: {{value: /none-{rule}-{at}}}}}")).collect();
        format!("{{matches: [{}], backendRefs: [{{name: back}}]}}", matches.join(", "))
    };
    let rules: Vec<String> = (0..5).map(rule).collect();
    let instances: Vec<String> = (0..=limits::EXPLAINED_MAX).map(|at| format!("i-{at} many")).collect();
    let instances: Vec<&str> = instances.iter().map(String::as_str).collect();
    let table = world(&http_route("x", "orders", &format!("[{}]", rules.join(", ")))).node("vm-2", &instances).table();
    let (_, explanation) = Ask::new("orders", "GET /a").explain(&table, 1);
    let route = explanation.route.unwrap();
    assert_eq!((route.losers.len(), route.losers_unlisted), (limits::EXPLAINED_MAX, 80 - limits::EXPLAINED_MAX));
    let (_, explanation) = Ask::new("many", "GET /a").explain(&table, 1);
    let endpoints = explanation.endpoints.unwrap();
    assert_eq!((endpoints.candidates.len(), endpoints.unlisted), (limits::EXPLAINED_MAX, 1));
}

/// The contract's own documents come out as written; what they name and nobody runs is told.
#[test]
fn the_samples_of_the_contract_are_compiled() {
    let samples = [
        include_str!("../../../config/src/documents/samples/service.yaml"),
        include_str!("../../../config/src/documents/samples/header-routing.yaml"),
        include_str!("../../../config/src/documents/samples/resilience.yaml"),
    ];
    let world = World::new(&samples.join("\n---\n"))
        .node("vm-1", &["a orders version=v1", "p payments", "x backoffice/orders-admin"])
        .node("vm-2", &["b orders version=v2"]);
    let table = world.table();
    assert_eq!(findings(&table), Vec::<String>::new());
    let orders = |words: &str| Ask::new("orders", words);
    assert_eq!(orders("GET /admin/x").told(&table), "default/orders-canary #1 -> vm-1/backoffice/x");
    assert_eq!(
        orders("GET /").header("cookie", "a=b; canary=1").told(&table),
        "default/orders-canary #0 -> vm-2/default/b"
    );
    let Decision::Forward(choice) = Ask::new("payments", "GET /").decide(&table, 1) else {
        panic!("there is an endpoint")
    };
    assert_eq!(choice.policy().retry_codes, [502, 503, 504]);
    assert_eq!(table.service_policy(&key("payments")).unwrap().circuit_breaker.max_connections, Some(512));
    let headers = HeaderMap::new();
    let request = HttpFacts {
        method: &Method::GET,
        scheme: "http",
        authority: "o",
        path: "/admin/x",
        query: None,
        headers: &headers,
    };
    let Decision::Forward(choice) = orders("GET /admin/x").decide(&table, 1) else { panic!("there is an endpoint") };
    let chain = choice.filters().next().unwrap();
    assert_eq!(chain.rewritten(&request).unwrap().unwrap().to_string(), "/x");
    let mut edited = HeaderMap::new();
    chain.edit_request(&mut edited);
    assert_eq!(edited["x-from"], "mesh");
}
