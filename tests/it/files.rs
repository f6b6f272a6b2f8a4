//! The source tree as the tidy tests see it: paths relative to the root, with their text.

use std::fs;
use std::path::{Path, PathBuf};

/// Every crate of the workspace, by folder.
pub(crate) const CRATES: [&str; 10] =
    ["model", "config", "identity", "gossip", "routing", "transport", "proxy", "node", "tests", "benches"];

/// Folders below which nothing is ours.
const FOREIGN: [&str; 3] = ["target", "work", "node_modules"];

/// One text file.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    /// Its lines of code with their numbers: without comment lines and without what follows `//` on a line.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().filter_map(|(at, line)| {
            let code = line.find("//").map_or(line, |cut| if line[..cut].ends_with(':') { line } else { &line[..cut] });
            (!code.trim().is_empty()).then_some((at + 1, code))
        })
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the workspace's root").to_path_buf()
}

/// Text of one file that must exist.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of our own crates whose name ends with `suffix`, in order of path.
pub(crate) fn sources(suffix: &str) -> Vec<SourceFile> {
    let root = root();
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = CRATES.iter().map(|name| root.join(name)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !FOREIGN.contains(&name.as_str()) && !name.starts_with('.') {
                    open.push(path);
                }
            } else if name.ends_with(suffix) {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let relative = path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
                found.push(SourceFile { path: relative, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Fails with everything that was found, so that one run shows all there is to do.
pub(crate) fn demand_none(rule: &str, way_out: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}\n  {}\n  way out: {way_out}\n", found.join("\n  "));
}
