//! Bad input: each with its code, its place, and what is told beside it.

use starling_model::codes::{BAD_DOCUMENT, Code, DOCUMENT_TWICE, STARLING_FIELD, UNKNOWN_FIELD};

use super::route;
use crate::documents::parse;
use crate::problem::{Problem, render};

fn refused(text: &str) -> Vec<Problem> {
    let told = parse("a.yaml", text).expect_err(text);
    told.into_iter().filter(|problem| problem.code.level == starling_model::codes::Level::Error).collect()
}

/// One problem, with its code, line, column, and a part of its message or note.
fn check(text: &str, code: Code, place: (usize, usize), part: &str) {
    let told = refused(text);
    assert_eq!(told.len(), 1, "{text}\n{}", render(&told));
    let problem = &told[0];
    assert_eq!(problem.code, code, "{text}\n{problem}");
    assert_eq!((problem.line(), problem.column()), (Some(place.0), Some(place.1)), "{text}\n{problem}");
    assert!(problem.sentence().contains(part), "{part:?} is not in {}", problem.sentence());
}

/// As [`check`], for a rule whose first line is line 7, from column 7.
fn rule(text: &str, code: Code, place: (usize, usize), part: &str) {
    check(&route(text), code, place, part);
}

fn service(spec: &str, place: (usize, usize), part: &str) {
    let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}");
    check(&text, BAD_DOCUMENT, place, part);
}

fn ours(spec: &str, place: (usize, usize), part: &str) {
    let text = format!("apiVersion: starling/v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}");
    check(&text, BAD_DOCUMENT, place, part);
}

const TO: &str = "backendRefs: [{name: c}]\n";

#[test]
fn the_top_of_a_document() {
    let doc =
        |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}");
    check(&doc("starling/v2", "Service"), BAD_DOCUMENT, (1, 13), "did you mean `starling/v1`?");
    check(
        &doc("gateway.networking.k8s.io/v1beta1", "HTTPRoute"),
        BAD_DOCUMENT,
        (1, 13),
        "did you mean `gateway.networking.k8s.io/v1`?",
    );
    check(&doc("starling/v1", "HttpRoute"), BAD_DOCUMENT, (2, 7), "did you mean `HTTPRoute`?");
    check(&doc("gateway.networking.k8s.io/v1", "Service"), BAD_DOCUMENT, (2, 7), "it is one of v1");
    check(&doc("gateway.networking.k8s.io/v1", "UDPRoute"), BAD_DOCUMENT, (2, 7), "does not have");
    check("kind: Service\nmetadata: {name: a}\nspec: {}", BAD_DOCUMENT, (1, 1), "`apiVersion` is missing");
    check("apiVersion: v1\nkind: Service\nspec: {ports: []}", BAD_DOCUMENT, (1, 1), "`metadata` is missing");
    check("apiVersion: v1\nkind: Service\nmetadata: {name: a}", BAD_DOCUMENT, (1, 1), "`spec` is missing");
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: A_b}\nspec: {ports: []}",
        BAD_DOCUMENT,
        (3, 18),
        "did you mean \"a-b\"?",
    );
    check("apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {ports: []}", BAD_DOCUMENT, (3, 11), "`name` is missing");
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {}}\nspec: {ports: []}",
        UNKNOWN_FIELD,
        (3, 21),
        "did you mean `labels`?",
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: node}\nspec: {ports: []}",
        BAD_DOCUMENT,
        (3, 32),
        "reserved",
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: {a: 1}}\nspec: {ports: []}",
        BAD_DOCUMENT,
        (3, 33),
        "must be a string",
    );
    check("- a\n- b\n", BAD_DOCUMENT, (1, 1), "must be a table");
    check("a: [", BAD_DOCUMENT, (1, 4), "this is not YAML");
    check("kind: a\nkind: b\n", BAD_DOCUMENT, (2, 1), "stands twice");
}

#[test]
fn the_same_document_twice() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: []}\n";
    let second = text.replace("v1\n", "starling/v1\n");
    check(&format!("{text}---\n{second}"), DOCUMENT_TWICE, (6, 1), "begins at a.yaml:1");
}

#[test]
fn parents_and_backends() {
    let with = |parents: &str| route(TO).replace("[{kind: Service, name: b}]", parents);
    check(&with("[{kind: Service}]"), BAD_DOCUMENT, (5, 16), "`name` is missing");
    check(&with("[{kind: Servce, name: b}]"), BAD_DOCUMENT, (5, 23), "did you mean `Service`?");
    check(&with("[{kind: Service, group: apps, name: b}]"), BAD_DOCUMENT, (5, 39), "has no Service");
    check(&with("[{kind: Service, name: b, port: 0}]"), BAD_DOCUMENT, (5, 47), "is outside 1 to 65535");
    check(&with("[{kind: Service, name: b}, {kind: Service, name: b}]"), BAD_DOCUMENT, (5, 42), "an earlier one");
    check(&with("b"), BAD_DOCUMENT, (5, 15), "must be a list");
    check(
        &route(TO).replace("  parentRefs: [{kind: Service, name: b}]\n", ""),
        BAD_DOCUMENT,
        (5, 3),
        "`parentRefs` is missing",
    );

    rule("backendRefs:\n  - name: c\n    wieght: 1", UNKNOWN_FIELD, (9, 11), "did you mean `weight`?");
    rule("backendRefs: [{name: c, weight: 1000001}]", BAD_DOCUMENT, (7, 39), "is outside 0 to 1000000");
    rule("backendRefs: [{name: c, weight: -1}]", BAD_DOCUMENT, (7, 39), "is outside 0 to 1000000");
    rule("backendRefs: [{name: c, weight: '1'}]", BAD_DOCUMENT, (7, 39), "without quotes");
    rule("backendRefs: [{name: c, weight: 1.5}]", BAD_DOCUMENT, (7, 39), "must be an integer, not a fraction");
    rule("backendRefs: [{name: c, port: 65536}]", BAD_DOCUMENT, (7, 37), "is outside 1 to 65535");
    rule("backendRefs: [{name: c, subset: {}}]", BAD_DOCUMENT, (7, 39), "names no label");
    rule("backendRefs: [{name: c, subset: 5}]", BAD_DOCUMENT, (7, 39), "must be a name or a table");
    rule("backendRefs: [c]", BAD_DOCUMENT, (7, 21), "must be a table of fields, not a string");
    let standard =
        route("backendRefs: [{name: c, port: 80, subset: v1}]").replace("starling/v1", "gateway.networking.k8s.io/v1");
    check(&standard, STARLING_FIELD, (7, 41), "needs `apiVersion: starling/v1`");
}

#[test]
fn matches() {
    let one = |text: &str, column: usize, part: &str| {
        rule(&format!("{TO}matches: [{text}]"), BAD_DOCUMENT, (8, column), part);
    };
    one("{path: {type: Prefix, value: /a}}", 31, "did you mean \"PathPrefix\"?");
    one("{path: {value: a}}", 32, "did you mean `/a`?");
    one("{path: {value: /a//b}}", 32, "holds `//`");
    one("{path: {value: /a%2Fb}}", 32, "holds `%2f`");
    one("{path: {value: /a/..}}", 32, "dot segment");
    one("{path: {value: /a/../b}}", 32, "holds `/../`");
    one("{path: {value: '/a#b'}}", 32, "stands in no path");
    one("{path: {value: '/a b'}}", 32, "stands in no path");
    one("{path: {value: /a%2}}", 32, "ends within an escape");
    one("{path: {value: /a%zz}}", 32, "stands in no path");
    one("{path: {type: RegularExpression, value: '('}}", 57, "unclosed group");
    one("{path: {type: RegularExpression, value: '(([a-z]{99}){99}){99}'}}", 57, "large repetitions");
    one("{path: {type: RegularExpression}}", 24, "`value` is missing");
    one("{method: get}", 26, "did you mean `GET`?");
    one("{method: FETCH}", 26, "is not one of GET");
    one("{headers: [{name: 'a b', value: c}]}", 35, "is not the name of a header");
    one("{headers: [{name: a, value: true}]}", 45, "put it in double quotes");
    one("{headers: [{name: a}]}", 28, "`value` is missing");
    one("{headers: [{name: a, value: b}, {name: a, value: c}]}", 56, "stands here twice");
    one("{queryParams: [{name: a, value: b}, {name: a, value: c}]}", 60, "stands here twice");
    one("{queryParams: [{name: a, value: b, type: Regex}]}", 58, "is not one of");
}

#[test]
fn names_and_structure_of_rules() {
    rule(&format!("{TO}name: A b"), BAD_DOCUMENT, (8, 13), "did you mean `a-b`?");
    let two = format!("{}    - name: x\n      {TO}", route(&format!("name: x\n{TO}")));
    check(&two, BAD_DOCUMENT, (9, 13), "stands here twice");
    rule(&format!("{TO}timeout: {{request: 1s}}"), UNKNOWN_FIELD, (8, 7), "did you mean `timeouts`?");
    rule(&format!("{TO}<<: {{name: x}}"), UNKNOWN_FIELD, (8, 7), "merge keys are not read");
    check(&route(TO).replace("  rules:", "  hostnames: [http://a]\n  rules:"), BAD_DOCUMENT, (6, 15), "no scheme");
    check(&route(TO).replace("  rules:", "  hostnames: [10.0.0.1]\n  rules:"), BAD_DOCUMENT, (6, 15), "is an address");
    check(&route(TO).replace("  rules:", "  hostnames: ['a.*.b']\n  rules:"), BAD_DOCUMENT, (6, 15), "`*`");
    check(&route(TO).replace("  rules:", "  useDefaultGateways: All\n  rules:"), BAD_DOCUMENT, (6, 3), "does not have");
}

#[test]
fn filters() {
    let one = |text: &str, column: usize, part: &str| {
        rule(&format!("{TO}filters: [{text}]"), BAD_DOCUMENT, (8, column), part);
    };
    one("{type: RequestHeaderModifer, requestHeaderModifier: {}}", 24, "did you mean \"RequestHeaderModifier\"?");
    one("{type: URLRewrite}", 17, "`urlRewrite` is missing");
    one("{type: URLRewrite, urlRewrite: {hostname: a}, cors: {}}", 63, "does not belong to a filter of this type");
    one("{type: URLRewrite, urlRewrite: {}}", 48, "rewrites nothing");
    one("{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}", 24, "does not have");
    one("{type: ExternalAuth, externalAuth: {}}", 24, "does not have");
    one("{requestMirror: {backendRef: {name: d}}}", 17, "`type` is missing");
    one("{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Content-Length]}}", 80, "frames the message");
    one(
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}",
        84,
        "urlRewrite.hostname",
    );
    one(
        "{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: \"b\\nc\"}]}}",
        94,
        "control character",
    );
    one("{type: RequestMirror, requestMirror: {percent: 1}}", 54, "`backendRef` is missing");
    one("{type: RequestMirror, requestMirror: {backendRef: {name: d}, percent: 101}}", 87, "is outside 0 to 100");
    one(
        "{type: RequestMirror, requestMirror: {backendRef: {name: d}, percent: 1, fraction: {numerator: 1}}}",
        90,
        "exclude each other",
    );
    one(
        "{type: RequestMirror, requestMirror: {backendRef: {name: d}, fraction: {numerator: 101}}}",
        100,
        "over the denominator, 100",
    );
    one(
        "{type: RequestMirror, requestMirror: {backendRef: {name: d}, fraction: {numerator: 1, denominator: 0}}}",
        116,
        "is outside 1",
    );
    one(
        "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}",
        79,
        "write `replaceFullPath`",
    );
    one("{type: CORS, cors: {allowOrigins: ['*', 'https://a']}}", 51, "`*` beside other entries");
    one("{type: CORS, cors: {allowOrigins: ['https://a/b']}}", 52, "is not an origin");
    one("{type: CORS, cors: {maxAge: 0}}", 45, "is outside 1 to 86400");
    one("{type: CORS, cors: {}}, {type: CORS, cors: {}}", 48, "only one can apply");
}

#[test]
fn filters_that_exclude_something_else() {
    let redirect = "filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]";
    rule(&format!("{redirect}\n{TO}"), BAD_DOCUMENT, (8, 7), "stand beside a RequestRedirect");
    let both = "filters:\n- {type: RequestRedirect, requestRedirect: {scheme: https}}\n- {type: URLRewrite, urlRewrite: {hostname: a}}";
    rule(both, BAD_DOCUMENT, (9, 16), "only one can apply");
    rule(
        "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]",
        BAD_DOCUMENT,
        (7, 71),
        "is not one of 301",
    );
    rule("filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]", BAD_DOCUMENT, (7, 67), "is not one of");
    let prefix =
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]\n";
    rule(
        &format!("{prefix}{TO}matches: [{{path: {{type: Exact, value: /a}}}}]"),
        BAD_DOCUMENT,
        (7, 7),
        "one match at most",
    );
    rule(
        &format!("{prefix}{TO}matches: [{{path: {{value: /a}}}}, {{path: {{value: /b}}}}]"),
        BAD_DOCUMENT,
        (7, 7),
        "one match at most",
    );
    // Without matches a rule holds for the prefix `/`.
    parse("a.yaml", &route(&format!("{prefix}{TO}"))).unwrap();
}

#[test]
fn timeouts_retries_and_sessions() {
    let one = |text: &str, column: usize, part: &str| rule(&format!("{TO}{text}"), BAD_DOCUMENT, (8, column), part);
    one("timeouts: {request: 5}", 27, "did you mean \"5s\"?");
    one("timeouts: {request: 5 s}", 27, "is not a duration");
    one("timeouts: {request: 1.5s}", 27, "is not a duration");
    one("timeouts: {request: 1s, backendRequest: 2s}", 47, "is longer than the whole request may take, 1s");
    one("retry: {attempts: 0}", 25, "is outside 1 to 10");
    one("retry: {codes: [200]}", 23, "is outside 400 to 599");
    one("retry: {codes: [502, 502]}", 28, "stands here twice");
    one("retry: {backoff: 0s}", 24, "is outside 1ms");
    one("sessionPersistence: {type: Header}", 34, "does not have");
    one("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}", 27, "needs `absoluteTimeout`");
    one("sessionPersistence: {sessionName: 'a b'}", 41, "is not the name of a cookie");
    rule(
        &format!("{TO}sessionPersistence: {{idleTimeout: 1h}}"),
        UNKNOWN_FIELD,
        (8, 28),
        "unknown field `idleTimeout`",
    );
}

#[test]
fn grpc_tcp_and_tls_routes() {
    let call = |rule: &str, code: Code, place: (usize, usize), part: &str| {
        check(&route(rule).replace("HTTPRoute", "GRPCRoute"), code, place, part);
    };
    call(&format!("{TO}matches: [{{method: {{}}}}]"), BAD_DOCUMENT, (8, 26), "neither `service` nor `method`");
    call(
        &format!("{TO}matches: [{{method: {{service: a/b}}}}]"),
        BAD_DOCUMENT,
        (8, 36),
        "is not the name of a gRPC service",
    );
    call(
        &format!("{TO}matches: [{{method: {{method: a.b}}}}]"),
        BAD_DOCUMENT,
        (8, 35),
        "is not the name of a gRPC method",
    );
    call(
        &format!("{TO}matches: [{{method: {{type: RegularExpression, method: '['}}}}]"),
        BAD_DOCUMENT,
        (8, 60),
        "unclosed character class",
    );
    call(&format!("{TO}timeouts: {{request: 1s}}"), UNKNOWN_FIELD, (8, 7), "unknown field `timeouts`");
    call(
        &format!("{TO}filters: [{{type: URLRewrite, urlRewrite: {{hostname: a}}}}]"),
        BAD_DOCUMENT,
        (8, 24),
        "is not one of",
    );

    let tcp = |rule: &str| route(rule).replace("HTTPRoute", "TCPRoute");
    check(&format!("{}    - {TO}", tcp(TO)), BAD_DOCUMENT, (7, 5), "has 2 elements, at most 1");
    check(&tcp("name: x"), BAD_DOCUMENT, (7, 7), "`backendRefs` is missing");
    check(&tcp(&format!("{TO}matches: []")), UNKNOWN_FIELD, (8, 7), "unknown field `matches`");
    let tls = route("backendRefs: [{name: c, port: 1}]").replace("HTTPRoute", "TLSRoute");
    check(&tls.replace("starling/v1", "gateway.networking.k8s.io/v1"), BAD_DOCUMENT, (5, 3), "`hostnames` is missing");
}

#[test]
fn services_and_policies() {
    service("{ports: [{port: 80}, {port: 81}]}", (4, 15), "each needs a `name`");
    service("{ports: [{name: a, port: 80}, {name: b, port: 80}]}", (4, 15), "port 80 twice");
    service("{ports: [{name: a, port: 80}, {name: a, port: 81}]}", (4, 44), "stands here twice");
    service("{ports: [{port: http}]}", (4, 23), "must be an integer");
    service("{ports: [{port: 80, targetPort: 0}]}", (4, 39), "is outside 1 to 65535");
    service("{selector: {}, ports: []}", (4, 18), "names no label");
    service("{type: ExternalName, externalName: a.b, ports: []}", (4, 14), "does not have");

    ours("{ports: [{name: a, port: 80}]}", (4, 16), "`protocol` is missing");
    ours("{ports: [{name: a, port: 80, protocol: htp}]}", (4, 46), "did you mean \"http\"?");
    ours("{subsets: {V1: {version: v1}}}", (4, 22), "no label of a-z");
    ours("{subsets: {v1: {}}}", (4, 22), "names no label");
    ours("{loadBalancing: {policy: maglev}}", (4, 23), "`key` is missing");
    ours("{loadBalancing: {policy: random, key: path}}", (4, 40), "for policy maglev only");
    ours("{loadBalancing: {policy: maglev, key: 'head:x'}}", (4, 45), "is not one of header:NAME");
    ours("{loadBalancing: {locality: {prefer: 80}}}", (4, 43), "did you mean 80%?");
    ours("{loadBalancing: {locality: {prefer: 101%}}}", (4, 43), "is not a share");
    ours("{slowStart: 2h}", (4, 19), "is outside 0s to 1h");

    let policy = |spec: &str, place: (usize, usize), part: &str| {
        let text = format!("apiVersion: starling/v1\nkind: BackendTrafficPolicy\nmetadata: {{name: a}}\nspec: {spec}");
        check(&text, BAD_DOCUMENT, place, part);
    };
    policy("{}", (4, 7), "`targetRefs` is missing");
    policy("{targetRefs: [{kind: Node, name: a}]}", (4, 28), "is no kind");
    policy(
        "{targetRefs: [{kind: Service, name: a}], retryConstraint: {budget: {percent: 101}}}",
        (4, 84),
        "is outside 0 to 100",
    );
    policy(
        "{targetRefs: [{kind: Service, name: a}], retryConstraint: {minRetryRate: {count: 1}}}",
        (4, 80),
        "`interval` is missing",
    );
    policy("{targetRefs: [{kind: Service, name: a}], circuitBreaker: {maxRequests: 0}}", (4, 78), "is outside 1 to");
}

#[test]
fn all_problems_of_a_file_come_at_once_in_the_order_of_lines() {
    let first = route("backendRefs: [{name: c, wieght: 1}]\nretry: {codes: [1]}\nmatches: [{path: {value: a}}]");
    let second = route("backendRefs: [{nam: C}]").replace("name: a", "name: b");
    let told = refused(&format!("{first}---\n{second}"));
    let lines: Vec<usize> = told.iter().filter_map(Problem::line).collect();
    assert_eq!(lines, [7, 8, 9, 17, 17], "{}", render(&told));
    assert!(parse("a.yaml", &format!("{}---\n{second}", route(TO))).is_err(), "a file counts whole or not at all");
}

#[test]
fn the_contract_s_sample_of_a_typing_error_looks_like_this() {
    let text = route("backendRefs:\n  - name: orders\n    wieght: 10\n");
    let told = parse("canary.yaml", &text).unwrap_err();
    let want = "error[ST0401]: unknown field `wieght`
  --> canary.yaml:9:11
   |
 8 |         - name: orders
 9 |           wieght: 10
   |           ^^^^^^ did you mean `weight`?
   |
  help:  known of spec.rules[0].backendRefs[0]: group, kind, namespace, port, subset, name, weight, filters
1 error in 1 file
";
    assert_eq!(render(&told), want);
    assert_eq!(told[0].pointer.as_deref(), Some("/spec/rules/0/backendRefs/0/wieght"));
}
