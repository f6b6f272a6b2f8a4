//! One past each bound is refused, and the bound itself is not.

use super::route;
use crate::documents::limits::{
    BACKENDS_MAX, CORS_ENTRIES_MAX, COUNT_MAX, DOCUMENT_PATTERN_BYTES_MAX, DOCUMENT_TEXT_BYTES_MAX, FILE_BYTES_MAX,
    FILTERS_MAX, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, HOSTNAMES_MAX, INPUT_PATTERN_BYTES_MAX,
    MATCH_VALUE_BYTES_MAX, MATCHES_PER_ROUTE_MAX, MATCHES_PER_RULE_MAX, METADATA_ENTRIES_MAX, ORIGIN_BYTES_MAX,
    PARENTS_MAX, PATH_BYTES_MAX, PATTERNS_MAX, RETRIES_MAX, RETRY_CODES_MAX, RULE_NAME_BYTES_MAX, RULES_MAX,
    SERVICE_PORTS_MAX, SESSION_NAME_BYTES_MAX, SLOW_START_MAX, SUBSETS_MAX,
};
use crate::documents::{parse, parse_all};
use crate::problem::{PROBLEMS_MAX, Problem, render};

/// `text(n)` is accepted for `max` and refused for one more, where the message has `part`.
fn bound(max: usize, part: &str, text: impl Fn(usize) -> String) {
    if let Err(told) = parse("a.yaml", &text(max)) {
        panic!("{part} at {max}\n{}", render(&told));
    }
    let told = parse("a.yaml", &text(max + 1)).err().unwrap_or_else(|| panic!("{part} beyond {max} is accepted"));
    assert!(told.iter().any(|problem| problem.message.contains(part)), "{part}\n{}", render(&told));
}

fn each(count: usize, text: impl Fn(usize) -> String) -> String {
    (0..count).map(|at| text(at) + ", ").collect()
}

const TO: &str = "backendRefs: [{name: c}]\n";

#[test]
fn lists() {
    let rules = |count: usize, rule: &str| route(TO) + &format!("    - {rule}\n").repeat(count - 1);
    bound(RULES_MAX, "elements, at most 16", |n| rules(n, TO.trim_end()));
    bound(BACKENDS_MAX, "elements, at most 16", |n| {
        route(&format!("backendRefs: [{}]", each(n, |at| format!("{{name: c{at}}}"))))
    });
    bound(FILTERS_MAX, "elements, at most 16", |n| {
        route(&format!(
            "{TO}filters: [{}]",
            each(n, |_| "{type: RequestMirror, requestMirror: {backendRef: {name: d}}}".into())
        ))
    });
    bound(HEADERS_MAX, "elements, at most 16", |n| {
        route(&format!("{TO}matches: [{{headers: [{}]}}]", each(n, |at| format!("{{name: h{at}, value: x}}"))))
    });
    bound(MATCHES_PER_RULE_MAX, "elements, at most 64", |n| {
        route(&format!("{TO}matches: [{}]", each(n, |_| "{method: GET}".into())))
    });
    bound(MATCHES_PER_ROUTE_MAX, "matches in all, at most 128", |n| {
        let most = format!("{{backendRefs: [{{name: c}}], matches: [{}]}}", each(60, |_| "{method: GET}".into()));
        let rest = format!("{{backendRefs: [{{name: c}}], matches: [{}]}}", each(n - 120, |_| "{method: GET}".into()));
        route(TO) + &format!("    - {most}\n    - {most}\n    - {rest}\n")
    });
    bound(HOSTNAMES_MAX, "elements, at most 16", |n| {
        route(TO).replace("  rules:", &format!("  hostnames: [{}]\n  rules:", each(n, |at| format!("h{at}"))))
    });
    bound(PARENTS_MAX, "elements, at most 32", |n| {
        route(TO).replace("{kind: Service, name: b}", &each(n, |at| format!("{{kind: Service, name: b{at}}}")))
    });
    bound(CORS_ENTRIES_MAX, "elements, at most 64", |n| {
        route(&format!("{TO}filters: [{{type: CORS, cors: {{allowHeaders: [{}]}}}}]", each(n, |at| format!("h{at}"))))
    });
    bound(RETRY_CODES_MAX, "elements, at most 32", |n| {
        route(&format!("{TO}retry: {{codes: [{}]}}", each(n, |at| format!("{}", 500 + at))))
    });
    bound(PATTERNS_MAX, "at most 128 fit into a document", |n| {
        let headers = |n: usize| each(n, |at| format!("{{name: h{at}, value: x, type: RegularExpression}}"));
        let one = format!("{{headers: [{}]}}, ", headers(16)).repeat(n / 16);
        route(&format!("{TO}matches: [{one}{{headers: [{}]}}]", headers(n % 16)))
    });
}

#[test]
fn texts() {
    let x = |n: usize| "x".repeat(n);
    bound(PATH_BYTES_MAX, "bytes, at most 1024", |n| {
        route(&format!("{TO}matches: [{{path: {{value: /{}}}}}]", x(n - 1)))
    });
    bound(HEADER_NAME_BYTES_MAX, "bytes, at most 256", |n| {
        route(&format!("{TO}matches: [{{headers: [{{name: {}, value: a}}]}}]", x(n)))
    });
    bound(HEADER_VALUE_BYTES_MAX, "bytes, at most 4096", |n| {
        route(&format!("{TO}matches: [{{headers: [{{name: a, value: {}}}]}}]", x(n)))
    });
    bound(MATCH_VALUE_BYTES_MAX, "bytes, at most 1024", |n| {
        route(&format!("{TO}matches: [{{queryParams: [{{name: a, value: {}}}]}}]", x(n)))
    });
    bound(SESSION_NAME_BYTES_MAX, "bytes, at most 128", |n| {
        route(&format!("{TO}sessionPersistence: {{sessionName: {}}}", x(n)))
    });
    bound(RULE_NAME_BYTES_MAX, "bytes, at most 253", |n| {
        let labels = format!("{}.", x(63)).repeat(3);
        route(&format!("{TO}name: {labels}{}", x(n - labels.len())))
    });
    bound(ORIGIN_BYTES_MAX, "bytes, at most 253", |n| {
        let host = x(n - "https://".len());
        route(&format!("{TO}filters: [{{type: CORS, cors: {{allowOrigins: [\"https://{host}\"]}}}}]"))
    });
    bound(DOCUMENT_TEXT_BYTES_MAX, "bytes, at most 65536", |n| {
        let text = route(TO);
        format!("{text}# {}", x(n - text.len() - 2))
    });
}

/// A route whose regular expressions have so many bytes in all.
fn patterns(bytes: usize) -> String {
    let one = |bytes: usize| format!("{{name: h, value: {}, type: RegularExpression}}", "x".repeat(bytes));
    let whole = format!("{{headers: [{}]}}, ", one(512)).repeat(bytes / 512);
    let rest = if bytes.is_multiple_of(512) { String::new() } else { format!("{{headers: [{}]}}", one(bytes % 512)) };
    route(&format!("{TO}matches: [{whole}{rest}]"))
}

#[test]
fn regular_expressions_of_a_document_and_of_an_input() {
    bound(DOCUMENT_PATTERN_BYTES_MAX, "16384 bytes of regular expressions fit into a document", patterns);
    let files = |last: usize| -> Vec<(String, String)> {
        let whole = INPUT_PATTERN_BYTES_MAX / DOCUMENT_PATTERN_BYTES_MAX;
        let named =
            |at: usize, text: String| (format!("{at}.yaml"), text.replacen("name: a", &format!("name: a{at}"), 1));
        let mut files: Vec<_> = (0..whole).map(|at| named(at, patterns(DOCUMENT_PATTERN_BYTES_MAX))).collect();
        if last > 0 {
            files.push(named(whole, patterns(last)));
        }
        files
    };
    assert!(parse_all(&files(0)).is_ok(), "{}", render(&parse_all(&files(0)).unwrap_err()));
    let told = parse_all(&files(1)).unwrap_err();
    assert!(told.iter().any(|problem| problem.message.contains("65536 into one input")), "{}", render(&told));
}

#[test]
fn of_very_many_warnings_the_first_are_kept() {
    let idle = |at: usize| route("name: r").replacen("name: a", &format!("name: a{at}"), 1);
    let all: Vec<_> = (0..=PROBLEMS_MAX).map(|at| (format!("{at}.yaml"), idle(at))).collect();
    let warnings = |count: usize| -> Vec<Problem> {
        let read = parse_all(all.get(..count).unwrap_or_default());
        read.unwrap().into_iter().flat_map(|document| document.warnings).collect()
    };
    assert_eq!(warnings(PROBLEMS_MAX).len(), PROBLEMS_MAX);
    let told = warnings(PROBLEMS_MAX + 1);
    assert_eq!(told.len(), PROBLEMS_MAX + 1);
    assert_eq!(told.last().map(|problem| problem.message.as_str()), Some("further warnings are not listed"));
}

#[test]
fn numbers() {
    bound(RETRIES_MAX as usize, "is outside 1 to 10", |n| route(&format!("{TO}retry: {{attempts: {n}}}")));
    let policy = |spec: String| {
        format!(
            "apiVersion: starling/v1\nkind: BackendTrafficPolicy\nmetadata: {{name: a}}\nspec: {{targetRefs: [{{kind: Service, name: a}}], {spec}}}"
        )
    };
    bound(COUNT_MAX as usize, "is outside 1 to 1000000", |n| policy(format!("circuitBreaker: {{maxRequests: {n}}}")));
    let slow =
        |n: usize| format!("apiVersion: starling/v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{slowStart: {n}s}}");
    bound(SLOW_START_MAX.as_secs().try_into().unwrap(), "is outside 0s to 1h", slow);
}

#[test]
fn services() {
    let service =
        |spec: String| format!("apiVersion: starling/v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{{spec}}}");
    bound(SERVICE_PORTS_MAX, "elements, at most 64", |n| {
        service(format!("ports: [{}]", each(n, |at| format!("{{name: p{at}, port: {}, protocol: tcp}}", at + 1))))
    });
    bound(SUBSETS_MAX, "entries, at most 64", |n| {
        service(format!("subsets: {{{}}}", each(n, |at| format!("s{at}: {{a: b}}"))))
    });
    bound(METADATA_ENTRIES_MAX, "entries, at most 256", |n| {
        service(String::new())
            .replace("{name: a}", &format!("{{name: a, labels: {{{}}}}}", each(n, |at| format!("l{at}: x"))))
    });
}

#[test]
fn a_file_one_byte_too_large_is_not_read() {
    bound(FILE_BYTES_MAX, "bytes, at most 1048576", |n| {
        let text = route(TO);
        format!("{text}---\n{}", " ".repeat(n - text.len() - 4))
    });
}

#[test]
fn of_very_many_problems_the_first_are_listed() {
    let fields: String = (0..1_000).map(|at| format!("      x{at}: 1\n")).collect();
    let told = parse("a.yaml", &(route(TO) + &fields)).unwrap_err();
    assert_eq!(told.len(), PROBLEMS_MAX + 1);
    assert_eq!(told.last().map(|problem| problem.message.as_str()), Some("further problems are not listed"));
}
