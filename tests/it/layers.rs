//! The layer rule: a crate imports only crates of a lower layer, never its own layer, never a higher one; nothing
//! imports `node`, `tests` or `benches`. Widening the table below is a decision on paper (`docs/adr/`).

use std::collections::{BTreeMap, BTreeSet};

use toml::Table;

use crate::files::{CRATES, demand_none, read};

/// Package, layer, and the packages of this workspace that it may import. Narrower than the rule on purpose.
const LAYERS: [(&str, u8, &[&str]); 8] = [
    ("starling-model", 0, &[]),
    ("starling-config", 1, &["starling-model"]),
    ("starling-identity", 1, &["starling-model"]),
    ("starling-gossip", 1, &["starling-model"]),
    ("starling-routing", 2, &["starling-model", "starling-config"]),
    ("starling-transport", 2, &["starling-model", "starling-identity"]),
    ("starling-proxy", 3, &["starling-model", "starling-identity", "starling-routing", "starling-transport"]),
    (
        "starling",
        4,
        &[
            "starling-model",
            "starling-config",
            "starling-identity",
            "starling-gossip",
            "starling-routing",
            "starling-transport",
            "starling-proxy",
        ],
    ),
];

/// Packages beside the layers: they import anything, nothing imports them.
const BESIDE: [&str; 2] = ["starling-tests", "starling-benches"];

/// Outside crates that a room must never see, because its purity would be gone.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    ("starling-model", &["tokio", "rand", "bytes", "bincode", "tracing", "rustls", "quinn"]),
    ("starling-config", &["tokio", "rand", "rustls", "quinn", "bincode", "sled"]),
    ("starling-identity", &["tokio", "quinn", "rand", "ring", "toml", "bincode", "sled"]),
    ("starling-gossip", &["tokio", "quinn", "rustls", "socket2", "toml", "serde", "serde_json", "aws-lc-rs", "sled"]),
    ("starling-routing", &["tokio", "hyper", "bincode", "rustls", "quinn", "sled"]),
    ("starling-transport", &["hyper", "bincode", "toml", "sled"]),
];

/// Name of the package and the names in one of its dependency tables.
fn manifest(folder: &str) -> (String, Table) {
    let path = format!("{folder}/Cargo.toml");
    let table: Table = read(&path).parse().unwrap_or_else(|error| panic!("{path}: {error}"));
    let name = table["package"]["name"].as_str().unwrap_or_else(|| panic!("{path}: no package name"));
    (name.to_owned(), table)
}

fn dependencies(table: &Table, key: &str) -> BTreeSet<String> {
    table.get(key).and_then(toml::Value::as_table).into_iter().flat_map(Table::keys).cloned().collect()
}

fn all() -> BTreeMap<String, (String, Table)> {
    CRATES
        .iter()
        .map(|folder| (manifest(folder), *folder))
        .map(|((name, table), folder)| (name, (folder.to_owned(), table)))
        .collect()
}

#[test]
fn every_package_is_in_the_table_or_beside_it() {
    let known: BTreeSet<String> = LAYERS.iter().map(|(name, ..)| *name).chain(BESIDE).map(str::to_owned).collect();
    let found: BTreeSet<String> = all().into_keys().collect();
    assert_eq!(found, known);
    let members: Table = read("Cargo.toml").parse().expect("the root manifest");
    let members: BTreeSet<&str> =
        members["workspace"]["members"].as_array().into_iter().flatten().filter_map(toml::Value::as_str).collect();
    assert_eq!(members, BTreeSet::from(CRATES), "workspace.members and the crates that these tests look at");
}

#[test]
fn the_table_itself_keeps_the_rule() {
    let layer: BTreeMap<&str, u8> = LAYERS.iter().map(|(name, layer, _)| (*name, *layer)).collect();
    for (name, own, imports) in LAYERS {
        for import in imports {
            assert!(layer[import] < own, "{name} (layer {own}) may not import {import} (layer {})", layer[import]);
        }
    }
}

#[test]
fn a_crate_imports_only_what_the_table_allows() {
    let ours: BTreeSet<&str> = LAYERS.iter().map(|(name, ..)| *name).chain(BESIDE).collect();
    let manifests = all();
    let mut found = Vec::new();
    for (name, _, allowed) in LAYERS {
        let (folder, table) = &manifests[name];
        // Tests of a crate are held to the same table: what a test needs from above belongs into `tests/`.
        for key in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for import in dependencies(table, key) {
                if ours.contains(import.as_str()) && !allowed.contains(&import.as_str()) {
                    found.push(format!("{folder}/Cargo.toml: [{key}] {import}"));
                }
            }
        }
    }
    demand_none(
        "imports against the layer table",
        "move the type down into model, or pass a value in from node",
        &found,
    );
}

#[test]
fn nothing_imports_the_binary_the_tests_or_the_benches() {
    let mut found = Vec::new();
    for (name, (folder, table)) in all() {
        for top in ["starling", "starling-tests", "starling-benches"] {
            if dependencies(&table, "dependencies").contains(top) && !BESIDE.contains(&name.as_str()) {
                found.push(format!("{folder}/Cargo.toml: {top}"));
            }
        }
    }
    demand_none("a crate imports what must stay on top", "move the shared part down", &found);
}

#[test]
fn pure_rooms_see_no_crate_that_would_end_their_purity() {
    let manifests = all();
    let mut found = Vec::new();
    for (name, forbidden) in FORBIDDEN {
        let (folder, table) = &manifests[name];
        for import in dependencies(table, "dependencies") {
            if forbidden.contains(&import.as_str()) {
                found.push(format!("{folder}/Cargo.toml: {import}"));
            }
        }
    }
    demand_none("a room depends on a crate that it must not see", "do this work in transport, proxy or node", &found);
}

#[test]
fn versions_lints_and_licence_come_from_the_root() {
    let mut found = Vec::new();
    for (_, (folder, table)) in all() {
        for key in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in table.get(key).and_then(toml::Value::as_table).into_iter().flatten() {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    found.push(format!("{folder}/Cargo.toml: {name} has a version of its own"));
                }
            }
        }
        for (section, key) in [("lints", None), ("package", Some("version")), ("package", Some("license"))] {
            let value = match key {
                None => table.get(section),
                Some(key) => table.get(section).and_then(|section| section.get(key)),
            };
            if value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) != Some(true) {
                found
                    .push(format!("{folder}/Cargo.toml: {section} {} is not the workspace's", key.unwrap_or_default()));
            }
        }
    }
    demand_none("a manifest repeats what the root says", "write `name.workspace = true`", &found);
}
