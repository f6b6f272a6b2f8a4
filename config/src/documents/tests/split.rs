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
