//! `agent.toml`, then `conf.d` files, variables and flags, parted by zero bytes: `-key=value` is a flag, `NAME=value`
//! a variable, anything else a file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_config::{ConfigDir, SourceFile, SourceKind, Sources, load, render};

fuzz_target!(|text: &str| {
    let mut parts = text.split('\0');
    let mut sources = Sources { dir: ConfigDir::new("/etc/starling"), hostname: "vm-1".into(), ..Sources::default() };
    let first = parts.next().unwrap_or_default();
    sources.files.push(SourceFile { path: "agent.toml".into(), text: first.into(), kind: SourceKind::AgentToml });
    for (at, part) in parts.take(16).enumerate() {
        let pair = |text: &str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        if let Some(flag) = part.strip_prefix('-') {
            sources.flags.extend(pair(flag));
        } else if part.starts_with("STARLING_") {
            sources.environment.extend(pair(part));
        } else {
            let path = format!("conf.d/{at}.toml");
            sources.files.push(SourceFile { path, text: part.into(), kind: SourceKind::ConfD });
        }
    }
    if let Some(hostname) = first.strip_prefix("# host ").and_then(|rest| rest.lines().next()) {
        sources.hostname = hostname.to_owned();
    }
    match load(sources) {
        Ok(loaded) => {
            let _ = render(&loaded.warnings);
            assert!(loaded.origins.iter().any(|setting| !setting.value.is_empty()), "nothing to print");
            let _: Vec<String> = loaded.origins.iter().map(|setting| setting.origin.to_string()).collect();
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let shown = render(&problems);
            assert!(!shown.is_empty());
            problems.iter().for_each(|problem| drop((problem.sentence(), problem.line(), problem.column())));
        }
    }
});
