//! Kinds and names of documents as people type them: `httproute orders`, `svc shop/cart`.

use starling_config::documents;
use starling_model::{DocumentKey, DocumentKind, DocumentName, Namespace, codes};

use crate::cli::errors::{CliError, Exit};

/// Words that are used for kinds everywhere.
const SHORT: &[(&str, &str)] = &[("svc", "Service"), ("route", "HTTPRoute"), ("routes", "HTTPRoute")];

/// The kind that a word means: in any case, in the plural, or a short form.
///
/// # Errors
/// ST0101 with the nearest kind.
pub(super) fn kind(word: &str) -> Result<DocumentKind, CliError> {
    let same = |known: &str| {
        let known = known.to_ascii_lowercase();
        let plural = known.strip_suffix('y').map_or_else(|| format!("{known}s"), |stem| format!("{stem}ies"));
        word.eq_ignore_ascii_case(&known) || word.eq_ignore_ascii_case(&plural)
    };
    let short = SHORT.iter().find(|(short, _)| word.eq_ignore_ascii_case(short)).map(|(_, kind)| *kind);
    let found = short.or_else(|| documents::kinds().find(|known| same(known)));
    found.and_then(|found| DocumentKind::new(found).ok()).ok_or_else(|| {
        let near = starling_config::suggest(word, documents::kinds()).map(|near| format!("did you mean {near}?"));
        let all = format!("kinds are {}", documents::kinds().collect::<Vec<_>>().join(", "));
        CliError::coded(Exit::NotFound, codes::UNKNOWN_NAME, format!("no kind is called `{word}`"))
            .help(near.into_iter().chain([all]))
    })
}

/// A document of that kind; a name without a namespace is of `fallback`.
///
/// # Errors
/// Wrong usage when it is no name.
pub(super) fn key(kind: DocumentKind, name: &str, fallback: &Namespace) -> Result<DocumentKey, CliError> {
    let wrong = |error: starling_model::names::NameInvalid| CliError::plain(Exit::Usage, error.to_string());
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (Namespace::new(namespace).map_err(wrong)?, name),
        None => (fallback.clone(), name),
    };
    Ok(DocumentKey { kind, namespace, name: DocumentName::new(name).map_err(wrong)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_in_any_case_in_the_plural_and_by_short_forms() {
        for (word, want) in [
            ("HTTPRoute", "HTTPRoute"),
            ("httproute", "HTTPRoute"),
            ("httproutes", "HTTPRoute"),
            ("svc", "Service"),
            ("services", "Service"),
            ("AuthorizationPolicies", "AuthorizationPolicy"),
            ("gateway", "Gateway"),
        ] {
            assert_eq!(kind(word).unwrap().as_str(), want, "{word}");
        }
        let error = kind("htproute").unwrap_err();
        assert_eq!((error.exit(), error.code()), (Exit::NotFound, Some(codes::UNKNOWN_NAME)));
        assert!(error.render(&crate::cli::look::Look::plain()).contains("did you mean HTTPRoute?"));
        assert!(kind("").is_err());
    }

    #[test]
    fn a_name_carries_its_namespace_or_takes_the_preset_one() {
        let (kind, preset) = (DocumentKind::new("Service").unwrap(), Namespace::new("lab").unwrap());
        let check = |name: &str| key(kind.clone(), name, &preset).map(|key| key.to_string()).map_err(|e| e.exit());
        assert_eq!(check("orders"), Ok("Service lab/orders".to_owned()));
        assert_eq!(check("shop/orders"), Ok("Service shop/orders".to_owned()));
        for bad in ["Orders", "a/b/c", "", "/a", "a/"] {
            assert_eq!(check(bad), Err(Exit::Usage), "{bad}");
        }
    }
}
