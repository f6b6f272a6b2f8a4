//! `tests/floors.toml` against `Cargo.lock`: no dependency older than its last advisory, no banned crate, no source but
//! the registry. Offline; `cargo deny check` (`deny.toml`) asks the advisory database where there is one.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Deserialize;

use crate::files::{demand_none, read, root};

/// The one source of outside crates.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Floors {
    /// Most packages that `Cargo.lock` may hold.
    packages_max: usize,
    floor: Vec<Floor>,
    ban: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Floor {
    name: String,
    /// Least version, one for each compatible line that has a fix; a line without one needs the greatest.
    at_least: Option<Vec<String>>,
    /// First version that is too new.
    below: Option<String>,
    /// The only version allowed.
    exactly: Option<String>,
    because: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    name: String,
    because: String,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
}

/// Major, minor, patch; a pre-release counts as the version before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    numbers: [u64; 3],
    released: bool,
}

impl Version {
    fn parse(text: &str) -> Self {
        let text = text.split('+').next().unwrap_or_default();
        let (numbers, released) = text.split_once('-').map_or((text, true), |(numbers, _)| (numbers, false));
        let mut parts = numbers.split('.').map(|part| part.parse().unwrap_or_else(|_| panic!("version {text:?}")));
        let mut next = || parts.next().unwrap_or(0);
        Self { numbers: [next(), next(), next()], released }
    }

    /// The part of a version that must not change for Cargo to call two versions compatible.
    fn line(self) -> [u64; 3] {
        match self.numbers {
            [0, 0, patch] => [0, 0, patch],
            [0, minor, _] => [0, minor, 0],
            [major, ..] => [major, 0, 0],
        }
    }
}

/// Why this version breaks this floor, if it does.
fn breach(floor: &Floor, version: &str) -> Option<String> {
    let have = Version::parse(version);
    if let Some(exactly) = &floor.exactly
        && have != Version::parse(exactly)
    {
        return Some(format!("must be exactly {exactly}"));
    }
    if let Some(below) = &floor.below
        && have >= Version::parse(below)
    {
        return Some(format!("must be below {below}"));
    }
    let mut floors: Vec<Version> = floor.at_least.iter().flatten().map(|text| Version::parse(text)).collect();
    floors.sort_unstable();
    let least = floors.iter().find(|floor| floor.line() == have.line()).or(floors.last()).copied()?;
    (have < least).then(|| format!("must be at least {:?}", least.numbers))
}

fn floors() -> Floors {
    toml::from_str(&read("tests/floors.toml")).expect("tests/floors.toml")
}

fn locked() -> Vec<Locked> {
    toml::from_str::<Lock>(&read("Cargo.lock")).expect("Cargo.lock").package
}

#[test]
fn nothing_is_older_than_its_last_advisory() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in locked() {
        versions.entry(package.name).or_default().push(package.version);
    }
    let mut found = Vec::new();
    for floor in floors().floor {
        for version in versions.get(&floor.name).into_iter().flatten() {
            if let Some(breach) = breach(&floor, version) {
                found.push(format!("{} {version} {breach}: {}", floor.name, floor.because));
            }
        }
    }
    demand_none("versions below their floor", "cargo update -p NAME --precise VERSION", &found);
}

/// The lock file also lists what no build uses (optional parts of optional parts), so the tree that is built decides.
#[test]
fn no_banned_crate_is_built() {
    let listed: Vec<String> = locked().into_iter().map(|package| package.name).collect();
    let mut found = Vec::new();
    for ban in floors().ban.into_iter().filter(|ban| listed.contains(&ban.name)) {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--locked",
                "--workspace",
                "--edges",
                "normal,build,dev",
                "--invert",
                &ban.name,
            ])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        let tree = String::from_utf8_lossy(&output.stdout);
        if !tree.trim().is_empty() {
            found.push(format!("{}: {}\n{tree}", ban.name, ban.because));
        } else if !output.status.success() {
            found.push(format!("{}: {}", ban.name, String::from_utf8_lossy(&output.stderr)));
        }
    }
    demand_none("banned crates in the build", "switch off the feature that pulls it in", &found);
}

#[test]
fn everything_comes_from_the_registry_and_there_is_not_too_much_of_it() {
    let packages = locked();
    let found: Vec<String> = packages
        .iter()
        .filter(|package| package.source.as_deref().is_some_and(|source| source != REGISTRY))
        .map(|package| {
            format!("{} {} from {}", package.name, package.version, package.source.as_deref().unwrap_or("?"))
        })
        .collect();
    demand_none("sources other than the registry", "publish it, or write it", &found);
    let max = floors().packages_max;
    assert!(packages.len() <= max, "Cargo.lock holds {} packages, at most {max} are allowed", packages.len());
}

#[test]
fn a_floor_that_is_broken_is_found() {
    let floor = |at_least: &[&str], below: Option<&str>, exactly: Option<&str>| Floor {
        name: "x".to_owned(),
        at_least: Some(at_least.iter().map(ToString::to_string).collect()),
        below: below.map(str::to_owned),
        exactly: exactly.map(str::to_owned),
        because: String::new(),
    };
    let check =
        |floor: &Floor, version: &str, good: bool| assert_eq!(breach(floor, version).is_none(), good, "{version}");
    let lines = floor(&["0.10.1", "0.9.3"], None, None);
    check(&lines, "0.10.0", false);
    check(&lines, "0.10.1", true);
    check(&lines, "0.9.2", false);
    check(&lines, "0.9.3", true);
    check(&lines, "0.8.9", false);
    check(&lines, "0.11.0", true);
    let range = floor(&["0.23.46"], Some("0.24"), None);
    check(&range, "0.23.46", true);
    check(&range, "0.24.0", false);
    check(&range, "0.24.0-dev.2", true);
    let pinned = floor(&[], None, Some("2.0.1"));
    check(&pinned, "2.0.1", true);
    check(&pinned, "2.0.2", false);
    check(&pinned, "2.0.1-rc.1", false);
    check(&floor(&["1.2.3"], None, None), "1.2.3-alpha", false);
}
