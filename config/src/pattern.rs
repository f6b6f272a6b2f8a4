//! Regular expressions of documents: the `regex` crate, so matching is linear in the text, whatever the pattern.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use regex::bytes::{Regex, RegexBuilder};

use crate::documents::limits::PATTERN_BYTES_MAX;

/// A compiled regular expression.
///
/// The Gateway API leaves its dialect and its reach to the implementation. Ours is RE2's without look-around and
/// back-references (GEP-4359 calls it portable). A pattern for a path or a gRPC name must hold for the *whole* of it, as
/// Envoy has it: `/admin` does not match `/admin/x`, and nobody is let in by a prefix that was meant to be a name. A
/// pattern for a header or a query parameter may hold *anywhere* in the value, for such values are lists as often as
/// names; `^` and `$` anchor it.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    reach: Reach,
    compiled: Regex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Whole,
    Anywhere,
}

impl Pattern {
    /// One that must hold for the whole text.
    ///
    /// # Errors
    /// A sentence: the syntax is wrong, or the compiled form is over [`PATTERN_BYTES_MAX`].
    pub fn whole(text: &str) -> Result<Self, String> {
        // Alone first: `a)|(b` is no pattern, though its wrapped form would be one.
        compile(text)?;
        let compiled = compile(&format!("\\A(?:{text})\\z"))?;
        Ok(Self { text: text.to_owned(), reach: Reach::Whole, compiled })
    }

    /// One that may hold anywhere in the text.
    ///
    /// # Errors
    /// As [`Self::whole`].
    pub fn anywhere(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), reach: Reach::Anywhere, compiled: compile(text)? })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it holds for `text`.
    #[must_use]
    pub fn holds(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.reach == other.reach
    }
}

impl Eq for Pattern {}

fn compile(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|error| {
        if matches!(error, regex::Error::CompiledTooBig(_)) {
            return format!("its compiled form has over {PATTERN_BYTES_MAX} bytes; large repetitions cause that");
        }
        // Several lines that draw the place; the last one says why.
        let whole = error.to_string();
        let last = whole.lines().last().unwrap_or_default();
        last.strip_prefix("error: ").unwrap_or(last).to_owned()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_match_whole_and_values_anywhere() {
        let whole = Pattern::whole("/a|/ab").unwrap();
        assert!(whole.holds(b"/a") && whole.holds(b"/ab"));
        assert!(!whole.holds(b"/abc") && !whole.holds(b"x/a"));
        let anywhere = Pattern::anywhere(r"(^|;\s*)canary=1(;|$)").unwrap();
        assert!(anywhere.holds(b"a=b; canary=1") && !anywhere.holds(b"xcanary=1"));
        assert_ne!(Pattern::whole("a").unwrap(), Pattern::anywhere("a").unwrap());
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let check = |text: &str, why: &str| {
            let told = Pattern::whole(text).expect_err(text);
            assert!(told.contains(why) && !told.contains('\n'), "{text}: {told}");
        };
        check("(", "unclosed group");
        check("a)|(b", "unopened group");
        check("(?=a)", "look-around");
        check(r"(a)\1", "backreferences");
        check("(?x)a # b", "unclosed group");
    }

    #[test]
    fn one_that_grows_past_its_bound_is_refused() {
        assert!(Pattern::whole(r"[a-z]{100}").is_ok());
        let told = Pattern::whole(r"(([a-z]{100}){100}){100}").unwrap_err();
        assert!(told.contains(&PATTERN_BYTES_MAX.to_string()), "{told}");
        let small = "x".repeat(2_000);
        let large = "x".repeat(PATTERN_BYTES_MAX);
        assert!(Pattern::anywhere(&small).is_ok() && Pattern::anywhere(&large).is_err());
    }

    #[test]
    fn a_catastrophic_pattern_is_linear() {
        let pattern = Pattern::whole(r"(a+)+b").unwrap();
        assert!(!pattern.holds("a".repeat(100_000).as_bytes()));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\PC|[()\\[\\]{}*+?|^$\\\\.]){0,30}") {
            if let Ok(pattern) = Pattern::whole(&text) {
                let _ = pattern.holds(text.as_bytes());
            }
        }
    }
}
