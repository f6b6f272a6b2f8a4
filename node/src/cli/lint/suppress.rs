//! `--suppress CODE=NAME`: a warning that was looked at and is meant so.

use std::str::FromStr;

use starling_model::codes::{self, Level};
use starling_model::{Code, DocumentKey, Namespace};

/// Which warning of which document is not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suppress {
    code: Code,
    /// `None`: of the namespace that is asked for, or `default`.
    namespace: Option<String>,
    name: String,
}

impl FromStr for Suppress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (code, name) = text.split_once('=').ok_or("is not CODE=NAME, like ST0431=orders")?;
        let number = code.strip_prefix("ST").and_then(|digits| digits.parse().ok());
        let code = number.and_then(codes::find).ok_or_else(|| format!("{code} is no code of the catalogue"))?;
        if code.level == Level::Error {
            return Err(format!("{code} is an error, and only warnings are suppressed"));
        }
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, name),
        };
        if name.is_empty() || namespace.as_ref().is_some_and(String::is_empty) {
            return Err("names no document: CODE=NAME or CODE=NAMESPACE/NAME".to_owned());
        }
        Ok(Self { code, namespace, name: name.to_owned() })
    }
}

impl Suppress {
    /// A name alone is of this namespace.
    pub(super) fn within(self, asked: Option<&Namespace>) -> Self {
        Self { namespace: self.namespace.or_else(|| asked.map(ToString::to_string)), ..self }
    }

    /// Whether it is meant for a warning of this document.
    pub(super) fn holds(&self, code: Code, document: &DocumentKey) -> bool {
        let namespace = self.namespace.as_deref().unwrap_or("default");
        self.code == code && document.name.as_str() == self.name && document.namespace.as_str() == namespace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_of_one_document_is_meant_and_never_an_error() {
        let read = |text: &str| text.parse::<Suppress>();
        let orders = DocumentKey::parse("HTTPRoute", "default", "orders").unwrap();
        let shop = DocumentKey::parse("HTTPRoute", "shop", "orders").unwrap();
        let here = read("ST0431=orders").unwrap();
        assert!(here.holds(codes::BACKEND_EMPTY, &orders) && !here.holds(codes::BACKEND_EMPTY, &shop));
        assert!(!here.holds(codes::UNKNOWN_REFERENCE, &orders));
        let there = read("ST0431=shop/orders").unwrap();
        assert!(there.holds(codes::BACKEND_EMPTY, &shop) && !there.holds(codes::BACKEND_EMPTY, &orders));
        // `-n shop`, as everywhere: a name alone is of that namespace, one that says its own is not.
        let asked = Namespace::new("shop").unwrap();
        let (alone, named) = (here.within(Some(&asked)), read("ST0431=default/orders").unwrap().within(Some(&asked)));
        assert!(alone.holds(codes::BACKEND_EMPTY, &shop) && !alone.holds(codes::BACKEND_EMPTY, &orders));
        assert!(named.holds(codes::BACKEND_EMPTY, &orders) && !named.holds(codes::BACKEND_EMPTY, &shop));
        for bad in ["", "ST0431", "ST0431=", "ST0431=/a", "ST0431=a/", "431=a", "ST9999=a", "ST0401=a"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
