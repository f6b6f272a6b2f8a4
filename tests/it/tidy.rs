//! What no file may do, and what must be written down. Each failure names the file, the rule and the way out.
//! Exceptions are lists that may only shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use starling_model::codes::{self, Level};

use crate::files::{SourceFile, demand_none, read, root, sources};

/// A file beyond this is split by idea, or listed below.
const LINES_MAX: usize = 600;

/// Files that are longer, with the length that they may not pass. Shorten the list as you pass by.
const LONG_FILES: &[(&str, usize)] = &[];

/// Rooms that fill with junk, because nothing says what does not belong there.
const VAGUE_ROOMS: [&str; 7] = ["util", "utils", "common", "misc", "helper", "helpers", "manager"];

/// Crates without clock, chance or IO. clippy reads the nearest `clippy.toml` only, so each has one.
const PURE: [&str; 5] = ["model", "config", "identity", "gossip", "routing"];

/// Where a wrapped crate may be named: the rest of the tree goes through that file.
const WRAPPED: [(&str, &str); 2] = [("bincode", "gossip/src/codec.rs"), ("sled", "node/src/store/sled.rs")];

fn lines_with<'a>(file: &'a SourceFile, hit: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = String> + 'a {
    file.code_lines()
        .filter(move |(_, line)| hit(line))
        .map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim()))
}

/// True where `text` holds `word` and not as a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// True where a line names the crate `name`, not just a module of ours that wears the same name.
fn names_crate(line: &str, name: &str) -> bool {
    let uses =
        [format!("use {name}::"), format!("use {name};"), format!("extern crate {name}"), format!(" ::{name}::")];
    uses.iter().any(|form| line.contains(form.as_str()))
        || line.match_indices(&format!("{name}::")).any(|(at, form)| {
            let own = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            !own && line[at + form.len()..].starts_with(|c: char| c.is_ascii_uppercase())
        })
}

#[test]
fn bincode_and_sled_have_one_place_each() {
    let mut found = Vec::new();
    for file in sources(".rs") {
        for (name, home) in WRAPPED {
            if file.path != home && file.path != "tests/it/tidy.rs" {
                found.extend(lines_with(&file, |line| names_crate(line, name)));
                // Functions in lower case are told from a module of the same name by who declares that module.
                if !file.text.contains(&format!("mod {name};")) && !file.path.starts_with("node/src/store") {
                    found.extend(lines_with(&file, |line| line.contains(&format!(" {name}::"))));
                }
            }
        }
    }
    demand_none(
        "a wrapped crate is named outside its file",
        "call gossip/src/codec.rs or node/src/store.rs, and extend it if need be",
        &found,
    );
}

#[test]
fn no_file_is_too_long() {
    let mut found = Vec::new();
    let mut listed: BTreeMap<&str, usize> = LONG_FILES.iter().copied().collect();
    for file in sources(".rs") {
        let lines = file.text.lines().count();
        match listed.remove(file.path.as_str()) {
            None if lines > LINES_MAX => found.push(format!("{}: {lines} lines, at most {LINES_MAX}", file.path)),
            Some(bound) if lines > bound => found.push(format!("{}: {lines} lines, its bound is {bound}", file.path)),
            Some(_) if lines <= LINES_MAX => {
                found.push(format!("{}: {lines} lines: take it off LONG_FILES", file.path))
            }
            None | Some(_) => {}
        }
    }
    found.extend(listed.keys().map(|path| format!("{path}: listed, but not there: take it off LONG_FILES")));
    demand_none(
        "files of the wrong length",
        "split by idea, never into a second part; tests go to foo/tests.rs",
        &found,
    );
}

#[test]
fn every_todo_has_an_owner_and_no_fixme_is_left() {
    let mut found = Vec::new();
    for file in sources(".rs").into_iter().filter(|file| file.path != "tests/it/tidy.rs") {
        for (at, line) in file.text.lines().enumerate() {
            let ownerless = has_word(line, "TODO") && !line.contains("TODO(");
            if ownerless || has_word(line, "FIXME") || has_word(line, "XXX") {
                found.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    demand_none("work without an owner", "do it, or write TODO(name): and what is missing", &found);
}

#[test]
fn no_room_has_a_vague_name() {
    let mut found = Vec::new();
    for file in sources(".rs") {
        let vague =
            file.path.split('/').map(|part| part.trim_end_matches(".rs")).any(|part| VAGUE_ROOMS.contains(&part));
        if vague {
            found.push(file.path);
        }
    }
    demand_none("rooms that anything could go into", "name the file by its idea", &found);
}

#[test]
fn nothing_is_unsafe_and_no_lint_is_silenced_without_a_reason() {
    let mut found = Vec::new();
    for file in sources(".rs").into_iter().filter(|file| file.path != "tests/it/tidy.rs") {
        found.extend(lines_with(&file, |line| has_word(line, "unsafe")));
        found.extend(lines_with(&file, |line| line.contains("#[allow(") || line.contains("#![allow(")));
        found.extend(lines_with(&file, |line| has_word(line, "todo!") || has_word(line, "unimplemented!")));
    }
    demand_none("unsafe or silenced code", "#[expect(lint, reason = \"..\")], and never unsafe", &found);
    let lints = read("Cargo.toml");
    assert!(lints.contains("unsafe_code = \"forbid\""), "the workspace forbids unsafe code");
}

#[test]
fn every_module_begins_with_what_it_is_for() {
    let found: Vec<String> = sources(".rs")
        .into_iter()
        .filter(|file| !file.text.trim_start().starts_with("//!") && !file.path.ends_with("/tests.rs"))
        .map(|file| file.path)
        .collect();
    demand_none("files without a module doc", "begin with //! and the idea of the file", &found);
}

#[test]
fn pure_crates_ban_clocks_chance_and_io() {
    let texts: BTreeSet<String> = PURE.iter().map(|name| read(&format!("{name}/clippy.toml"))).collect();
    assert_eq!(texts.len(), 1, "the pure crates' clippy.toml differ; they must be the same file");
    for banned in ["std::time::Instant::now", "std::time::SystemTime::now", "std::fs::read", "std::env::var"] {
        assert!(texts.iter().all(|text| text.contains(banned)), "clippy.toml of the pure crates does not ban {banned}");
    }
}

/// Name of the section that a code belongs to (`style.md`, rule 14).
fn area(number: u16) -> &'static str {
    match number / 100 {
        1 => "Usage and configuration",
        2 => "Joining and gossip",
        3 => "The local API",
        4 => "Documents and signatures",
        5 => "Routing and proxy",
        6 => "Identity",
        7 => "The host",
        _ => "Others",
    }
}

/// `docs/errors.md` as the catalogue wants it.
fn errors_page() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         Every error and warning that a person can meet has a code of the form `STnnnn`. A code is stable and never \
         reused. This page is written from `model/src/codes.rs`; after a change there, run \
         `UPDATE=1 cargo test -p starling-tests --test it error_codes`.\n",
    );
    let mut last = "";
    for code in codes::ALL {
        let section = area(code.number);
        if section != last {
            page.push_str(&format!("\n## {section}\n"));
            last = section;
        }
        let level = match code.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        page.push_str(&format!(
            "\n### {code}\n\n**{}** ({level})\n\nWhat to do: {}.\n",
            code.title,
            code.help.trim_end_matches('.')
        ));
    }
    page
}

#[test]
fn error_codes_are_documented() {
    let want = errors_page();
    let path = root().join("docs/errors.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &want).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let have = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        have == want,
        "docs/errors.md does not match model/src/codes.rs\n  way out: UPDATE=1 cargo test -p starling-tests --test it error_codes"
    );
}

#[test]
fn no_source_names_a_code_that_the_catalogue_does_not_have() {
    let mut found = Vec::new();
    for file in sources(".rs").into_iter().filter(|file| file.path != "tests/it/tidy.rs") {
        for (at, line) in file.text.lines().enumerate() {
            for (start, _) in line.match_indices("ST0") {
                let digits: String = line[start + 2..].chars().take_while(char::is_ascii_digit).collect();
                let known = digits.len() != 4 || digits.parse().ok().and_then(codes::find).is_some();
                if !known {
                    found.push(format!("{}:{}: ST{digits}", file.path, at + 1));
                }
            }
        }
    }
    demand_none("codes that nobody can look up", "add the code to model/src/codes.rs, in order of numbers", &found);
}

/// Names of metric families that the source registers or writes: text literals that follow a registering call, and
/// literals that begin with the project's prefix and look like a family.
fn metrics_in_source() -> BTreeMap<String, String> {
    let family = |text: &str| {
        text.contains('_') && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let mut found = BTreeMap::new();
    for file in
        sources(".rs").into_iter().filter(|file| !file.path.starts_with("tests/") && !file.path.contains("/tests"))
    {
        // Tests inside a file come last, behind their own attribute.
        let text = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        for call in [".register(", ".register_with_unit(", ".register_collector(", "family("] {
            for (at, _) in text.match_indices(call) {
                let rest = text[at + call.len()..].trim_start();
                if let Some(name) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next())
                    && family(name)
                {
                    found.insert(format!("starling_{}", name.trim_start_matches("starling_")), file.path.clone());
                }
            }
        }
        for (at, _) in text.match_indices("\"starling_") {
            let name: String = text[at + 1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let crate_name = crate::files::CRATES.iter().any(|room| name == format!("starling_{room}"));
            if family(&name) && !crate_name && !name.ends_with('_') {
                found.insert(name, file.path.clone());
            }
        }
    }
    found
}

#[test]
fn every_metric_is_explained_to_operators() {
    let page = fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap_or_default();
    let found: Vec<String> = metrics_in_source()
        .into_iter()
        .filter(|(name, _)| {
            // As it is declared, or as whoever scrapes it reads it.
            let base = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            ![name, base.unwrap_or(name), &format!("{name}_total")].iter().any(|name| has_word(&page, name))
        })
        .map(|(name, path)| format!("{name} ({path})"))
        .collect();
    demand_none(
        "metrics without a line in docs/OPERATIONS.md",
        "say what it means and what to do when it moves",
        &found,
    );
}

#[test]
fn the_rules_of_this_file_can_fail() {
    assert!(names_crate("use bincode::Decode;", "bincode"));
    assert!(names_crate("    let db: sled::Db = open();", "sled"));
    assert!(!names_crate("    match sled::open(&folder) {", "sled"), "a module of ours");
    assert!(!names_crate("mod sled;", "sled"));
    assert!(!names_crate("crate::store::sled::Thing", "sled"));
    assert!(has_word("a TODO here", "TODO"));
    assert!(!has_word("TODOS", "TODO"));
    let file = SourceFile {
        path: String::new(),
        text: "// unsafe\nlet a = 1; // unsafe\nlet url = \"http://x\";\n".to_owned(),
    };
    assert_eq!(lines_with(&file, |line| has_word(line, "unsafe")).count(), 0);
    assert_eq!(file.code_lines().count(), 2);
    assert!(errors_page().contains("### ST0301"));
}
