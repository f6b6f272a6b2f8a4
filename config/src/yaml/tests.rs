use proptest::prelude::*;

use super::*;
use crate::documents::limits::DOCUMENT_TEXT_BYTES_MAX;

fn read(text: &str) -> Result<Node, Vec<Problem>> {
    let source = Arc::new(Source::file("a.yaml", text));
    parse(&source, text, &(0..text.len()))
}

fn check(text: &str, want: &str) {
    let got = read(text).map(|node| node.value.to_toml()).unwrap_or_else(|told| panic!("{text:?}: {told:?}"));
    assert_eq!(got, want, "{text:?}");
}

fn refused(text: &str, want: &[(usize, usize)]) {
    let told = read(text).expect_err(text);
    let places: Vec<(usize, usize)> =
        told.iter().map(|problem| (problem.line().unwrap_or(0), problem.column().unwrap_or(0))).collect();
    assert_eq!(places, want, "{text:?}: {told:?}");
}

#[test]
fn values_are_what_yaml_1_2_says() {
    check("a: 1", "{ a = 1 }");
    check("a: '1'", "{ a = \"1\" }");
    check("a: [yes, on, true, 80%, 2s, x]", "{ a = [\"yes\", \"on\", true, \"80%\", \"2s\", \"x\"] }");
    check("a: {b: {c: -3}}", "{ a = { b = { c = -3 } } }");
    check("a:\nb: ~\nc: null", "{ a = null, b = null, c = null }");
    check("a: 1.5\nb: 99999999999999999999", "{ a = 1.5, b = 99999999999999999999 }");
    check("{\"a\": [1, \"b\"]}", "{ a = [1, \"b\"] }");
    check("a: &x {b: 1}\nc: *x", "{ a = { b = 1 }, c = { b = 1 } }");
    check("a: {<<: 1}", "{ a = { \"<<\" = 1 } }");
    check("a: >-\n  b\n  c\n", "{ a = \"b c\" }");
}

#[test]
fn places_are_in_the_file() {
    let text = "ä: 1\n---\nspec:\n  rules:\n    - name: x\n      weight: 7\n";
    let source = Arc::new(Source::file("a.yaml", text));
    let start = text.find("spec").unwrap();
    let node = parse(&source, text, &(start..text.len())).unwrap();
    let place = |node: &Node| match node.at.place() {
        Some(crate::Place::File(place)) => (place.line, place.column, place.width),
        other => panic!("{other:?}"),
    };
    let rules = crate::tree::lookup(node.value.as_table().unwrap(), &["spec", "rules"]).unwrap();
    assert_eq!((place(&node).0, place(rules).0), (3, 5));
    let Value::Array(rules) = &rules.value else { panic!("{rules:?}") };
    let rule = rules[0].value.as_table().unwrap();
    assert_eq!(place(&rules[0]), (5, 7, 1));
    assert_eq!(place(&rule["weight"].node), (6, 15, 1));
    let At { span, .. } = &rule["weight"].key_at;
    assert_eq!(&text[span.clone()], "weight");
}

#[test]
fn doubled_keys_are_all_told() {
    refused("a: 1\nb: 2\na: 3\nc: {d: 1, d: 2, d: 3}\n", &[(3, 1), (4, 11), (4, 17)]);
}

#[test]
fn what_is_no_yaml_is_told_at_its_place() {
    refused("a: [1, 2\nb: 3\n", &[(2, 2)]);
    refused("a: \"x\n", &[(1, 4)]);
    refused("a: *none\n", &[(1, 4)]);
    refused("a: !mine x\n", &[(1, 10)]);
}

#[test]
fn one_past_each_bound_is_refused() {
    let nested = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(&nested(YAML_DEPTH_MAX - 1)).is_ok());
    assert!(read(&nested(YAML_DEPTH_MAX)).is_err());
    // Besides the list there are the table, its key and the list itself.
    let wide = |count: usize| format!("a: [{}]", "1,".repeat(count));
    assert!(read(&wide(YAML_NODES_MAX - 3)).is_ok());
    assert!(read(&wide(YAML_NODES_MAX - 2)).is_err());
    let aliases = |count: usize| format!("a: &x 1\nb: [{}]", "*x,".repeat(count));
    assert!(read(&aliases(YAML_ALIASES_MAX)).is_ok());
    assert!(read(&aliases(YAML_ALIASES_MAX + 1)).is_err());
}

#[test]
fn texts_are_bounded_with_their_repetitions() {
    // An alias repeats its text: one of 32 KiB stands for a part of the bound in few bytes.
    let bytes = 32 * 1024;
    let repeated = |times: usize| format!("a: &x {}\nb: [{}]", "x".repeat(bytes), "*x,".repeat(times));
    let most = YAML_TEXT_BYTES_MAX / bytes;
    assert!(read(&repeated(most - 2)).is_ok());
    assert!(read(&repeated(most)).is_err());
}

#[test]
fn aliases_of_aliases_do_not_grow() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let below = format!("*a{},", level - 1).repeat(8);
        text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert!(text.len() < DOCUMENT_TEXT_BYTES_MAX && read(&text).is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|[\n\t:\\-\\[\\]{},&*!|>'\"#%]){0,120}") {
        if let Err(told) = read(&text) {
            prop_assert!(!told.is_empty());
            let _ = crate::render(&told);
        }
    }
}
