//! Cutting a file into its documents.

use proptest::prelude::*;

use crate::documents::limits::{DOCUMENT_TEXT_BYTES_MAX, DOCUMENTS_MAX};
use crate::documents::split;

fn check(text: &str, want: &[&str]) {
    let got: Vec<&str> = split("a.yaml", text).unwrap().into_iter().map(|span| &text[span]).collect();
    assert_eq!(got, want, "{text:?}");
}

#[test]
fn markers_at_the_start_of_a_line_separate_documents() {
    check("a: 1\n---\nb: 2\n", &["a: 1", "b: 2"]);
    check("--- {a: 1}\n...\nb: 2", &[" {a: 1}", "b: 2"]);
    check("a: 1\r\n---\r\nb: 2\r\n", &["a: 1", "b: 2"]);
    check("a: |\n  ---\n  x\n", &["a: |\n  ---\n  x"]);
    check("a: 1\n---b: 2\n", &["a: 1\n---b: 2"]);
}

#[test]
fn documents_that_say_nothing_are_left_out() {
    check("", &[]);
    check("---\n---\n# only this\n---\n\n", &[]);
    check("# head\n---\na: 1\n", &["a: 1"]);
}

#[test]
fn comments_travel_with_their_document_and_directives_do_not() {
    check("# head\n\na: 1 # one\n# tail\n", &["# head\n\na: 1 # one\n# tail"]);
    check("%YAML 1.2\n---\n\n# head\na: 1\n", &["# head\na: 1"]);
    // Directives end with a marker: without one they are left to the reader, which refuses them.
    check("%YAML 1.2\na: 1\n", &["%YAML 1.2\na: 1"]);
    assert!(super::super::parse("a.yaml", "%YAML 1.2\na: 1\n").is_err());
}

#[test]
fn a_document_one_byte_too_large_is_refused_at_its_line() {
    let fits = format!("a: {}", "x".repeat(DOCUMENT_TEXT_BYTES_MAX - 3));
    check(&fits, &[&fits]);
    let problems = split("a.yaml", &format!("b: 1\n---\n{fits}x\n")).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].code.to_string(), "ST0402");
    assert_eq!((problems[0].line(), problems[0].column()), (Some(3), Some(1)));
}

#[test]
fn one_document_too_many_is_refused_at_its_line() {
    let text = "a: 1\n---\n".repeat(DOCUMENTS_MAX);
    assert_eq!(split("a.yaml", &text).unwrap().len(), DOCUMENTS_MAX);
    let problems = split("a.yaml", &format!("{text}a: 1\n")).unwrap_err();
    assert_eq!((problems.len(), problems[0].line()), (1, Some(2 * DOCUMENTS_MAX + 1)));
}

proptest! {
    #[test]
    fn no_text_panics_and_stretches_are_in_order(text in "(\\PC|\n|\r|---|\\.\\.\\.|#|%){0,60}") {
        let mut end = 0;
        for span in split("a.yaml", &text).unwrap_or_default() {
            prop_assert!(end <= span.start && span.start < span.end && text.get(span.clone()).is_some());
            end = span.end;
        }
    }
}

#[test]
fn a_pointer_leads_to_its_place_in_the_file() {
    let text = "# first\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n---\n\n# second\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: b}\nspec:\n  \
        parentRefs: [{group: \"\", kind: Service, name: a}]\n  rules:\n    - backendRefs:\n        - {name: a, port: 80}\n        - name: c\n          port: 81\n";
    let read = super::super::parse("b.yaml", text).unwrap();
    let place = |pointer: &str| match read[1].place(pointer) {
        Some(crate::problem::Place::File(place)) => (place.file, place.line, place.column, place.text),
        other => panic!("{other:?}"),
    };
    let at = |line: usize, column| ("b.yaml".to_owned(), line, column, text.lines().nth(line - 1).unwrap().to_owned());
    assert_eq!(place("/spec/rules/0/backendRefs/0"), at(16, 11));
    assert_eq!(place("/spec/rules/0/backendRefs/1/port"), at(18, 11));
    assert_eq!(place("/spec/parentRefs"), at(13, 3));
    // Of what is not there, what it would stand in; the document begins at its comment.
    assert_eq!(place("/spec/rules/7/filters"), at(14, 3));
    assert_eq!(place(""), at(8, 1));
}
