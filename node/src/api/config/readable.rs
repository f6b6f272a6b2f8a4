//! What is handed in must be what its header says: one document that this release can read, of that kind and name. A
//! signature says who wrote a text and nothing about its sense, so the text is read before anything is kept.

use axum::http::StatusCode;
use bytes::Bytes;
use starling_config::Problem;
use starling_config::documents;
use starling_gossip::DocumentView;
use starling_model::codes::{self, Level};
use starling_model::{Document, DocumentKey, envelope};

use crate::api::bench::Bench;
use crate::api::problem::Refusal;
use crate::api::views::ProblemPart;

/// Reads the texts of one submission; deletions have none.
///
/// # Errors
/// 422 with every error of every text. A form that cannot be read is left to the mesh task, which says what is wrong
/// with it.
pub(super) async fn check(bench: &Bench, signed: &[Bytes]) -> Result<(), Refusal> {
    let texts: Vec<(DocumentKey, String)> = signed.iter().filter_map(text_of).collect();
    // Patterns of a text are compiled, which may take long.
    let read = bench.run(move || problems(&texts)).await;
    let problems = read.ok_or_else(|| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, codes::BAD_DOCUMENT, "the documents cannot be read")
    })?;
    if problems.is_empty() { Ok(()) } else { Err(refusal(&problems, signed.len())) }
}

/// Why a document that the mesh brought cannot be read here; `None` where it can. A later release may write what this
/// one does not know: it is kept and passed on all the same.
pub(super) async fn held_back(bench: &Bench, document: &DocumentView) -> Option<String> {
    if document.deleted {
        return None;
    }
    let text = String::from_utf8_lossy(&document.text).into_owned();
    let texts = vec![(document.key.clone(), text)];
    let problems = bench.run(move || problems(&texts)).await.unwrap_or_default();
    problems.first().map(|problem| match (problem.line(), problem.column()) {
        (Some(line), Some(column)) => format!("line {line}, column {column}: {}", sentence(problem)),
        _ => sentence(problem),
    })
}

fn text_of(signed: &Bytes) -> Option<(DocumentKey, String)> {
    let (body, _) = envelope::split_signature(signed)?;
    let (head, text) = Document::read(body).ok()?;
    (!head.deleted).then(|| (head.key, text.to_owned()))
}

/// Everything that is wrong, errors only; each problem's file is the key of its document.
fn problems(texts: &[(DocumentKey, String)]) -> Vec<Problem> {
    let files: Vec<(String, String)> = texts.iter().map(|(key, text)| (key.to_string(), text.clone())).collect();
    match documents::parse_all(&files) {
        Err(mut problems) => {
            problems.retain(|problem| problem.code.level == Level::Error);
            problems
        }
        Ok(read) => texts
            .iter()
            .filter_map(|(key, _)| {
                let name = key.to_string();
                let inside: Vec<String> =
                    read.iter().filter(|one| one.file == name).map(|one| one.key.to_string()).collect();
                let message = match &inside[..] {
                    [one] if *one == name => return None,
                    [] => format!("{key}: its text holds no document"),
                    [one] => format!("{key}: its text is of {one}"),
                    [_, ..] => format!("{key}: its text holds {} documents", inside.len()),
                };
                Some(Problem::new(codes::BAD_DOCUMENT, message))
            })
            .collect(),
    }
}

pub(super) fn part(problem: &Problem, detail: String) -> ProblemPart {
    let number = |number: Option<usize>| number.and_then(|number| u32::try_from(number).ok());
    let pointer = problem.pointer.as_ref().map(|pointer| format!("#{pointer}"));
    ProblemPart { pointer, line: number(problem.line()), column: number(problem.column()), detail }
}

pub(super) fn sentence(problem: &Problem) -> String {
    match &problem.note {
        Some(note) => format!("{}, {note}", problem.message),
        None => problem.message.clone(),
    }
}

/// The first problem decides the code; all are listed.
pub(super) fn refusal(problems: &[Problem], documents: usize) -> Refusal {
    let code = problems.first().map_or(codes::BAD_DOCUMENT, |problem| problem.code);
    // Of one document, the request says which; of several, each problem does.
    let told = |problem: &Problem| match problem.file().filter(|_| documents > 1) {
        Some(key) => format!("{key}: {}", sentence(problem)),
        None => sentence(problem),
    };
    let mut refusal =
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, code, problems.first().map(told).unwrap_or_default())
            .with_help("starling lint -f FILE shows each place");
    refusal.errors = problems.iter().map(|problem| part(problem, told(problem))).collect();
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";

    fn check(texts: &[(&str, &str)]) -> Vec<String> {
        let texts: Vec<(DocumentKey, String)> = texts
            .iter()
            .map(|(name, text)| (DocumentKey::parse("Service", "default", name).unwrap(), (*text).to_owned()))
            .collect();
        problems(&texts).iter().map(|problem| format!("{} {}", problem.code, problem.message)).collect()
    }

    #[test]
    fn a_text_is_one_document_of_its_header_or_is_refused() {
        let none: [String; 0] = [];
        assert_eq!(check(&[("a", RIGHT)]), none);
        assert_eq!(check(&[("b", RIGHT)]), ["ST0402 Service default/b: its text is of Service default/a"]);
        assert_eq!(check(&[("a", "# nothing\n")]), ["ST0402 Service default/a: its text holds no document"]);
        let two = format!("{RIGHT}---\n{}", RIGHT.replace("name: a", "name: b"));
        assert_eq!(check(&[("a", &two)]), ["ST0402 Service default/a: its text holds 2 documents"]);
        let b = RIGHT.replace("name: a", "name: b");
        assert_eq!(check(&[("a", RIGHT), ("b", &b)]), none);
    }

    #[test]
    fn every_error_of_every_text_comes_with_its_place_and_warnings_are_none() {
        let (a, b) = (RIGHT.replace("port: 80", "prt: 80, port: x"), RIGHT.replace("name: a", "nam: b"));
        let texts =
            [("a", a), ("b", b)].map(|(name, text)| (DocumentKey::parse("Service", "shop", name).unwrap(), text));
        let told = refusal(&problems(&texts), 2);
        assert_eq!((told.status.as_u16(), told.code), (422, codes::UNKNOWN_FIELD));
        assert!(told.detail.starts_with("Service shop/a: unknown field `prt`"), "{told:?}");
        let first = &told.errors[0];
        assert_eq!(
            (first.pointer.as_deref(), first.line, first.column),
            (Some("#/spec/ports/0/prt"), Some(4), Some(17))
        );
        assert!(told.errors.iter().any(|part| part.detail.starts_with("Service shop/b: ")), "{told:?}");
        assert!(told.errors.len() >= 3, "{told:?}");
        assert!(check(&[("a", &RIGHT.replace("port: 80", "port: 53, protocol: UDP"))]).is_empty(), "a warning");
    }
}
