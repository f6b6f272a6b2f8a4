//! An explanation says what a decision does: on random documents, records, loads and requests, live and out of a snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use starling_model::{HealthEntry, HealthRecord, InstanceName, MemberState, Readiness};

use super::base;
use super::world::{Ask, World, node, told};
use crate::explain::Explanation;
use crate::matching::Miss;
use crate::rules::Side;
use crate::snapshot::Frozen;
use crate::table::Part;
use crate::*;

/// Sets of documents and records; each is asked [`ASKS`] times.
const WORLDS: u64 = 250;
const ASKS: u64 = 40;
/// One in so many asks is drawn [`DRAWS`] times, to compare what happens with the shares that were foretold.
const DRAWN_ONE_IN: u64 = 10;
const DRAWS: u32 = 600;

/// SplitMix64 with words.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    fn list(&mut self, most: u64, mut one: impl FnMut(&mut Self) -> String) -> String {
        let len = self.below(most + 1);
        (0..len).map(|_| one(self)).collect::<Vec<_>>().join(", ")
    }
}

const PATHS: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "/A", "/\u{7f}"];

fn a_match(dice: &mut Dice) -> String {
    let path = match dice.below(5) {
        0 => format!("path: {{type: Exact, value: {}}}", dice.of(&PATHS[..8])),
        1 | 2 => format!("path: {{type: PathPrefix, value: {}}}", dice.of(&PATHS[..8])),
        3 => format!("path: {{type: RegularExpression, value: \"{}\"}}", dice.of(&["/a.*", ".*b", "/a/.*c"])),
        _ => String::new(),
    };
    let method = dice.of(&["", "", "method: GET", "method: POST"]).to_owned();
    let header = |dice: &mut Dice| {
        let form = dice.of(&["value: \"1\"", "type: RegularExpression, value: \"[12]\""]);
        format!("{{name: {}, {form}}}", dice.of(&["x-a", "x-b"]))
    };
    let (headers, query) =
        (dice.list(1, header), dice.list(1, |dice| format!("{{name: {}, value: \"1\"}}", dice.of(&["q", "r"]))));
    let listed = |what: &str, list: String| if list.is_empty() { list } else { format!("{what}: [{list}]") };
    let parts = [path, method, listed("headers", headers), listed("queryParams", query)];
    format!("{{{}}}", parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "))
}

fn a_filter(dice: &mut Dice, may_redirect: bool) -> Option<String> {
    Some(match dice.below(8) {
        0 if may_redirect => {
            let code = dice.of(&["301", "302", "303", "307", "308"]);
            format!("{{type: RequestRedirect, requestRedirect: {{scheme: https, statusCode: {code}}}}}")
        }
        1 => {
            let host = dice.of(&["", "hostname: other.example, "]);
            format!(
                "{{type: URLRewrite, urlRewrite: {{{host}path: {{type: ReplaceFullPath, replaceFullPath: /new}}}}}}"
            )
        }
        2 => {
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-from, value: mesh}], remove: [x-a]}}"
                .to_owned()
        }
        3 => "{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-to, value: you}]}}".to_owned(),
        4 => {
            let (to, percent) = (dice.of(&["admin", "gone", "orders"]), dice.of(&["10", "50", "100"]));
            format!(
                "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, namespace: default}}, percent: {percent}}}}}"
            )
        }
        5 => "{type: CORS, cors: {allowOrigins: [\"https://a.example\"]}}".to_owned(),
        _ => return None,
    })
}

fn a_backend(dice: &mut Dice) -> String {
    let name = dice.of(&[
        "back",
        "back",
        "orders",
        "orders, subset: canary",
        "orders, subset: {version: v1}",
        "gone",
        "db",
        "sick",
        "orders, subset: nix",
    ]);
    let weight = dice.of(&["", ", weight: 0", ", weight: 3", ", weight: 97"]);
    let filter = if dice.one_in(3) { a_filter(dice, true) } else { None };
    let filters = filter.map(|one| format!(", filters: [{one}]")).unwrap_or_default();
    if dice.one_in(12) {
        return format!("{{kind: Bucket, group: b, name: x{weight}}}");
    }
    format!("{{namespace: default, name: {name}{weight}{filters}}}")
}

fn a_rule(dice: &mut Dice) -> String {
    let matches = dice.list(2, a_match);
    let mut parts = Vec::new();
    if !matches.is_empty() {
        parts.push(format!("matches: [{matches}]"));
    }
    let filter = a_filter(dice, true);
    let redirects = filter.as_ref().is_some_and(|one| one.contains("RequestRedirect"));
    parts.extend(filter.map(|one| format!("filters: [{one}]")));
    if !redirects {
        parts.push(format!("backendRefs: [{}]", dice.list(3, a_backend)));
        if dice.one_in(4) {
            parts.push("timeouts: {request: 2s}, retry: {attempts: 1, codes: [503]}".to_owned());
        }
    }
    format!("{{{}}}", parts.join(", "))
}

fn a_route(dice: &mut Dice, name: &str, service: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let rules = (0..=dice.below(3)).map(|_| a_rule(dice)).collect::<Vec<_>>().join(", ");
    format!(
        "---\napiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  parentRefs: [{{kind: Service, name: {service}, namespace: default}}]\n  rules: [{rules}]\n"
    )
}

/// Documents of one world; what a reader would refuse (two filters that exclude each other, say) is left out.
fn documents(dice: &mut Dice) -> String {
    let mut all = Vec::new();
    if dice.one_in(2) {
        all.push("---\napiVersion: starling/v1\nkind: Service\nmetadata: {name: orders}\nspec: {ports: [{name: http, port: 80, protocol: http}], subsets: {stable: {version: v1}, canary: {version: v2}}}\n".to_owned());
    }
    for name in ["default/a", "default/b", "shop/c"] {
        if !dice.one_in(3) {
            all.push(a_route(dice, name, "orders"));
        }
    }
    if dice.one_in(3) {
        all.push(a_route(dice, "default/d", "admin"));
    }
    if dice.one_in(3) {
        all.push("---\napiVersion: starling/v1\nkind: GRPCRoute\nmetadata: {name: g}\nspec:\n  parentRefs: [{kind: Service, name: calls}]\n  rules: [{matches: [{method: {service: p.S}}], backendRefs: [{name: back}]}]\n".to_owned());
    }
    if dice.one_in(3) {
        all.push("---\napiVersion: starling/v1\nkind: TCPRoute\nmetadata: {name: t}\nspec:\n  parentRefs: [{kind: Service, name: db}]\n  rules: [{backendRefs: [{name: db, weight: 1}, {name: sick, weight: 1}]}]\n".to_owned());
    }
    all.retain(|one| starling_config::documents::parse("a.yaml", one).is_ok());
    all.concat()
}

fn records(dice: &mut Dice, yaml: &str) -> World {
    let mut world = World::new(yaml)
        .node("vm-1", &["o-1 orders version=v1", "b-1 back", "a-1 admin", "s-1 sick"])
        .node("vm-2", &["o-2 orders version=v2", "b-2 back", "d-2 db:tcp", "c-2 calls:grpc"])
        .node("vm-3", &["o-3 orders version=v1", "b-3 back", "x-3 orders:admin version=v2"]);
    for name in ["vm-1", "vm-2", "vm-3"] {
        let state = match dice.below(6) {
            0 => MemberState::Suspect,
            1 => MemberState::Dead,
            2 => MemberState::Left,
            _ => MemberState::Alive,
        };
        let address = "127.0.0.1:7740".parse().ok();
        world.registry.member(&MemberFact { node: node(name), state, address });
        if dice.one_in(6) {
            world.unready(name);
        }
    }
    // Nobody serves it, ever.
    let ready = |name: &str| HealthEntry { instance: InstanceName::new(name).unwrap(), readiness: Readiness::Ready };
    world.registry.health(&node("vm-1"), &HealthRecord { entries: ["o-1", "b-1", "a-1"].map(ready).to_vec() });
    world
}

fn an_ask(dice: &mut Dice) -> Ask {
    let service =
        dice.of(&["orders", "orders", "orders", "orders", "orders", "admin", "back", "calls", "db", "sick", "nobody"]);
    if dice.one_in(8) {
        return Ask::bytes(service);
    }
    let method = dice.of(&["GET", "GET", "POST", "OPTIONS"]);
    let target = match service {
        "calls" => dice.of(&["/p.S/M", "/p.T/M"]),
        _ => dice.of(&PATHS),
    };
    let query = dice.of(&["", "?q=1", "?q=1&r=1", "?r=2"]);
    let mut ask = Ask::new(service, &format!("{method} {target}{query}"));
    if method == "OPTIONS" {
        ask = ask.header("origin", "https://a.example").header("access-control-request-method", "PUT");
    }
    for name in ["x-a", "x-b"] {
        if dice.one_in(2) {
            ask = ask.header(name, dice.of(&["1", "2", "3"]));
        }
    }
    if dice.one_in(3) {
        ask = ask.from(dice.of(&["web", "shop/web"]));
    }
    if dice.one_in(12) {
        ask = ask.port(dice.of(&["http", "80", "none"]));
    }
    ask
}

/// All that matters of a decision.
fn whole(decision: &Decision) -> String {
    let more = match decision {
        Decision::Forward(choice) => {
            let filters: Vec<_> = choice.filters().map(filters::FilterChain::said).collect();
            let mirrors: Vec<_> = choice.mirrors.iter().map(|mirror| mirror.endpoint().id.to_string()).collect();
            format!("{:?} {filters:?} {mirrors:?} {:?}", choice.backend, choice.policy())
        }
        Decision::Answer(_) | Decision::Refuse { .. } => String::new(),
    };
    format!("{} {more}", told(decision))
}

/// Checks that what the explanation foretells is all that may happen, and that the decision is of it.
fn foretold(decision: &Decision, explanation: &Explanation) -> Result<(), String> {
    let backend = |decision: &Decision| match decision {
        Decision::Forward(choice) => choice.backend,
        Decision::Answer(_) | Decision::Refuse { .. } => None,
    };
    let fits = |outcome: &Outcome| match (&outcome.decision, decision) {
        (Decision::Forward(_), Decision::Forward(choice)) => {
            let candidates = outcome.endpoints.iter().flat_map(|step| &step.candidates);
            let mut likely = candidates.filter(|one| one.share > 0.0);
            outcome.backend == backend(decision) && likely.any(|one| one.id == choice.endpoint().id)
        }
        (Decision::Answer(_), Decision::Answer(_)) | (Decision::Refuse { .. }, Decision::Refuse { .. }) => {
            told(&outcome.decision) == told(decision)
        }
        (Decision::Forward(_) | Decision::Answer(_) | Decision::Refuse { .. }, _) => false,
    };
    let sum: f64 = explanation.outcomes.iter().map(|outcome| outcome.share).sum();
    if (sum - 1.0).abs() > 1e-9 {
        return Err(format!("shares sum to {sum}"));
    }
    if explanation.outcomes.iter().any(fits) { Ok(()) } else { Err("it was not foretold".to_owned()) }
}

/// How a decision ends, as far as a share is told of it.
fn ending(decision: &Decision, backend: Option<usize>) -> String {
    match decision {
        Decision::Forward(_) => format!("forward to backend {backend:?}"),
        Decision::Answer(_) | Decision::Refuse { .. } => told(decision),
    }
}

/// Checks that of many draws each outcome has the share that is foretold: five standard deviations more or less, so none
/// that is likely is missing and none comes that is impossible. The number of shares that lie between nothing and all.
fn shares_hold(draws: impl Iterator<Item = Decision>, explanation: &Explanation) -> Result<u32, String> {
    let mut want: BTreeMap<String, f64> = BTreeMap::new();
    for outcome in &explanation.outcomes {
        *want.entry(ending(&outcome.decision, outcome.backend)).or_default() += outcome.share;
    }
    let (mut found, mut all): (BTreeMap<String, u32>, u32) = (BTreeMap::new(), 0);
    for decision in draws {
        all += 1;
        let backend = match &decision {
            Decision::Forward(choice) => choice.backend,
            Decision::Answer(_) | Decision::Refuse { .. } => None,
        };
        *found.entry(ending(&decision, backend)).or_default() += 1;
    }
    let mut drawn = 0;
    for what in want.keys().chain(found.keys()).collect::<std::collections::BTreeSet<_>>() {
        let share = want.get(what).copied().unwrap_or_default();
        let count = found.get(what).copied().unwrap_or_default();
        let deviation = (f64::from(all) * share * (1.0 - share).max(0.0)).sqrt();
        if (f64::from(count) - f64::from(all) * share).abs() > 5.0 * deviation + 1e-6 {
            return Err(format!("{what} came {count} times of {all}, its share is {share}"));
        }
        drawn += u32::from(share > 0.0 && share < 1.0);
    }
    Ok(drawn)
}

fn count(counts: &mut BTreeMap<&'static str, u32>, decision: &Decision, explanation: &Explanation) {
    let mut add = |what| *counts.entry(what).or_default() += 1;
    match decision {
        Decision::Forward(choice) => {
            add(if choice.rule.is_some() { "forward by a rule" } else { "forward without a route" });
            let filters: Vec<_> = choice.filters().map(filters::FilterChain::said).collect();
            if filters.iter().any(|said| said.path.is_some()) {
                add("rewrite");
            }
            if filters.iter().any(|said| said.request_headers.is_some()) {
                add("request headers");
            }
            if filters.len() > 1 {
                add("filters of a backend");
            }
            if !choice.mirrors.is_empty() {
                add("mirrors");
            }
        }
        Decision::Answer(answer) if answer.status == 204 => add("preflight"),
        Decision::Answer(_) => add("redirect"),
        Decision::Refuse { why, .. } => add(match why {
            Refusal::NoService => "no service",
            Refusal::NoPort => "no port",
            Refusal::NoListener => "no listener",
            Refusal::NoRule => "no rule",
            Refusal::NoBackend => "no backend",
            Refusal::InvalidBackend => "invalid backend",
            Refusal::NoLocation => "no location",
            Refusal::NoEndpoint => "no endpoint",
        }),
    }
    let ends = |outcome: &Outcome| std::mem::discriminant(&outcome.decision);
    if explanation.outcomes.windows(2).any(|pair| ends(&pair[0]) != ends(&pair[1])) {
        add("shares that end differently");
    }
    if let Some(route) = &explanation.route {
        if matches!(route.side, Side::Consumer(_)) {
            add("consumer route");
        }
        add(route.kind.as_str());
        for loser in &route.losers {
            add(match loser.missed.miss {
                Miss::Path => "lost by path",
                Miss::Method => "lost by method",
                Miss::Header(_) => "lost by header",
                Miss::Query(_) => "lost by query",
                Miss::ServerName => "lost by server name",
            });
        }
    }
}

/// Everything that the counters above can name; `TLSRoute` answers as `TCPRoute` does.
const ALL: [&str; 24] = [
    "forward by a rule",
    "forward without a route",
    "rewrite",
    "request headers",
    "filters of a backend",
    "mirrors",
    "preflight",
    "redirect",
    "no service",
    "no port",
    "no rule",
    "no backend",
    "invalid backend",
    "no location",
    "no endpoint",
    "shares that end differently",
    "consumer route",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "lost by path",
    "lost by method",
    "lost by header",
    "lost by query",
];

#[test]
fn an_explanation_says_what_a_decision_does_for_ten_thousand_requests_on_random_documents() {
    let (mut counts, mut asked, mut shares_seen) = (BTreeMap::new(), 0, 0);
    for seed in 0..WORLDS {
        let mut dice = Dice(seed);
        let yaml = documents(&mut dice);
        let table = records(&mut dice, &yaml).table();
        let now = base();
        // Half of the endpoints have a past.
        let past: Vec<Load> = (0..16)
            .map(|_| Load {
                latency: dice.one_in(2).then(|| Duration::from_micros(100 + dice.below(9_000))),
                in_flight: u32::try_from(dice.below(3)).unwrap(),
                failing_until: dice.one_in(5).then(|| base() + Duration::from_secs(60)),
                last_success: None,
                ready_since: dice.one_in(4).then(|| now - Duration::from_millis(dice.below(40_000))),
                turn: u32::try_from(dice.below(9)).unwrap(),
            })
            .collect();
        let loads = |index: EndpointIndex| past[index.0 as usize % past.len()];
        let snapshot = Snapshot::of(&table, now, &loads);
        let json = serde_json::to_vec(&snapshot).unwrap();
        let frozen = Snapshot::read(&json).unwrap().freeze(now).unwrap();
        assert_eq!(frozen.table.digest(), table.digest());
        pools_hold_whom_they_should(&table);
        for _ in 0..ASKS {
            let (ask, draw) = (an_ask(&mut dice), dice.next());
            let context = || format!("seed={seed} draw={draw} {ask:?}\n{yaml}");
            let decide = |draw: u64| ask.with(|request| table.decide(request, now, Draws::from_seed(draw), &loads));
            let (decision, explanation) =
                ask.with(|request| table.explain(request, now, Draws::from_seed(draw), &loads));
            assert_eq!(whole(&decide(draw)), whole(&decision), "{}", context());
            for other in [draw, draw ^ 1, !draw, draw.rotate_left(17)] {
                let happens = decide(other);
                foretold(&happens, &explanation)
                    .unwrap_or_else(|why| panic!("{why}: {}\n{}", told(&happens), context()));
            }
            let nearest = explanation.route.as_ref().and_then(|route| route.nearest.as_ref());
            let few = |route: &explain::RouteStep| route.losers.len() < limits::EXPLAINED_MAX;
            let rest = explanation.route.as_ref().filter(|route| few(route)).map_or(0, |route| route.losers_unlisted);
            assert_eq!(rest, 0, "what comes after the winner has not lost: {}", context());
            let lost = matches!(decision, Decision::Refuse { why: Refusal::NoRule, .. });
            assert_eq!(nearest.is_some(), lost, "{}", context());
            let elsewhere = offline(&ask, draw, &frozen);
            assert_eq!(whole(&elsewhere.0), whole(&decision), "{}", context());
            assert_eq!(elsewhere.1.outcomes.len(), explanation.outcomes.len(), "{}", context());
            for (ours, theirs) in explanation.outcomes.iter().zip(&elsewhere.1.outcomes) {
                assert_eq!(shares(ours), shares(theirs), "{}", context());
            }
            if asked % DRAWN_ONE_IN == 0 {
                shares_seen += ask
                    .with(|request| {
                        let draw = |at: u32| {
                            let draws = Draws::from_seed(draw.wrapping_add(u64::from(at).wrapping_mul(0x9e37_79b9)));
                            table.decide(request, now, draws, &loads)
                        };
                        shares_hold((0..DRAWS).map(draw), &explanation)
                    })
                    .unwrap_or_else(|why| panic!("{why}: {}", context()));
            }
            asked += 1;
            count(&mut counts, &decision, &explanation);
        }
    }
    println!("{counts:?}, {shares_seen} shares");
    assert_eq!(asked, 10_000);
    assert!(shares_seen >= 100, "too few shares between nothing and all: {shares_seen}");
    for what in ALL {
        assert!(counts.get(what).copied().unwrap_or_default() >= 10, "{what} is too rare: {counts:?}");
    }
}

/// A pool is of those that may be picked among those that are of its part, told by the two places that know.
fn pools_hold_whom_they_should(table: &RouteTable) {
    let places = |len: usize| [None].into_iter().chain((0..u16::try_from(len).unwrap()).map(Some));
    for service in table.services() {
        for part in places(service.ports.len())
            .flat_map(|port| places(service.subsets().len()).map(move |subset| Part { port, subset }))
        {
            let pooled: Vec<u32> = service.pool(part).unwrap().positions().collect();
            let fit =
                service.endpoints.iter().enumerate().filter(|(_, one)| one.admissible() && service.is_of(one, part));
            let fit: Vec<u32> = fit.map(|(at, _)| u32::try_from(at).unwrap()).collect();
            assert_eq!(pooled, fit, "{} {part:?}", service.key);
        }
    }
}

fn shares(outcome: &Outcome) -> Vec<(String, f64)> {
    let candidates = outcome.endpoints.iter().flat_map(|step| &step.candidates);
    candidates.map(|one| (one.id.to_string(), one.share)).collect()
}

fn offline(ask: &Ask, draw: u64, frozen: &Frozen) -> (Decision, Explanation) {
    let loads = |index| frozen.load(index);
    ask.with(|request| frozen.table.explain(request, frozen.now, Draws::from_seed(draw), &loads))
}

/// Whoever is left out is told beside those that may be picked, and stands in no pool.
#[test]
fn endpoints_that_cannot_be_picked_are_told_with_their_share_of_nothing() {
    let mut world = World::new("").node("vm-1", &["o-1 orders"]).node("vm-2", &["o-2 orders"]);
    world.unready("vm-2");
    let (decision, explanation) = Ask::new("orders", "GET /").explain(&world.table(), 1);
    assert_eq!(told(&decision), "-> vm-1/default/o-1");
    let step = explanation.outcomes[0].endpoints.clone().unwrap();
    let told: Vec<_> = step.candidates.iter().map(|one| (one.id.to_string(), one.share, one.condition)).collect();
    assert_eq!(
        told,
        [
            ("vm-1/default/o-1".to_owned(), 1.0, Condition::Usable),
            ("vm-2/default/o-2".to_owned(), 0.0, Condition::Unready)
        ]
    );
    world.unready("vm-1");
    let (decision, explanation) = Ask::new("orders", "GET /").explain(&world.table(), 1);
    assert!(matches!(decision, Decision::Refuse { why: Refusal::NoEndpoint, .. }));
    assert_eq!(explanation.outcomes[0].endpoints.as_ref().unwrap().candidates.len(), 2, "why there is none");
}

/// Whoever asks, any local user may be, waits for no square of the endpoints.
#[test]
fn a_service_of_very_many_endpoints_is_explained_at_once() {
    let mut world = World::new("");
    for host in 0..100 {
        let names: Vec<String> = (0..100).map(|at| format!("i-{at} many")).collect();
        world = world.node(&format!("vm-{host}"), &names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let table = world.table();
    let began = base();
    let (_, explanation) = Ask::new("many", "GET /").explain(&table, 1);
    let took = base() - began;
    assert_eq!(explanation.endpoints.unwrap().unlisted, 10_000 - limits::EXPLAINED_MAX);
    assert!(took < Duration::from_millis(500), "{took:?}");
}
