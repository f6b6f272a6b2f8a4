//! "Did you mean": the nearest known name, or none when nothing is near enough to be what somebody meant.

/// Longest text that is compared; anything longer is no typing error of a name.
const COMPARED_CHARS_MAX: usize = 128;

/// The candidate nearest to `name`, if one is near.
///
/// Near means: a third of the letters or fewer are wrong (swapped neighbours count once, case and `-` against `_` not
/// at all), or one is the other with a whole word left out (`timeout` for `ready_timeout`). Of equally near ones the
/// first wins.
pub fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.is_empty() || name.chars().nth(COMPARED_CHARS_MAX).is_some() {
        return None;
    }
    candidates
        .into_iter()
        .filter_map(|candidate| distance(name, candidate).map(|distance| (distance, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn fold(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

/// The words of `ready_timeout`, `mesh.listen` and `backendRequest`, folded.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut parted = String::with_capacity(name.len());
    let mut before_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && before_lower {
            parted.push('_');
        }
        before_lower = c.is_lowercase();
        parted.push(c);
    }
    fold(&parted).split(['_', '.']).map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// How far apart two names are, or `None` when they are too far apart to suggest one for the other.
fn distance(name: &str, candidate: &str) -> Option<usize> {
    let (folded, known) = (fold(name), fold(candidate));
    let letters = folded.chars().count().max(known.chars().count());
    let edits = strsim::damerau_levenshtein(&folded, &known);
    // A third of the letters, but always at least one: `ap` for `api`.
    if edits <= (letters / 3).max(1) && edits < letters {
        return Some(edits);
    }
    let has_word = |whole: &str, word: &str| word.len() >= 4 && words(whole).any(|part| part == word);
    // Behind every true typing error, whatever its distance.
    (has_word(candidate, &folded) || has_word(name, &known)).then_some(COMPARED_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["listen", "advertise", "seeds", "labels", "preset", "ready_timeout", "http", "tcp"];

    fn check(name: &str, want: Option<&str>) {
        assert_eq!(suggest(name, KNOWN.iter().copied()), want, "{name}");
    }

    #[test]
    fn a_slip_finds_its_name() {
        check("lisen", Some("listen"));
        check("litsen", Some("listen"));
        check("Listen", Some("listen"));
        check("seed", Some("seeds"));
        check("ready-timeout", Some("ready_timeout"));
        check("timeout", Some("ready_timeout"));
        check("advertize", Some("advertise"));
        check("htpt", Some("http"));
        assert_eq!(suggest("Prefix", ["Exact", "PathPrefix"]), Some("PathPrefix"));
    }

    #[test]
    fn another_word_finds_nothing() {
        check("banana", None);
        check("", None);
        check("x", None);
        check(&"listen".repeat(100), None);
    }
}
