//! `starling` alone, `starling help …`: the overview of all commands, exit codes, error codes.

use starling_model::codes::{self, Level};

use crate::cli::errors::{CliError, EXIT_CODES, Exit};
use crate::cli::output;

/// The commands by what one wants to do; a test compares this with the commands that there are.
pub(crate) const GROUPS: &[(&str, &[&str])] = &[
    ("Get started", &["demo", "trust", "join", "agent", "leave"]),
    ("See", &["status", "members", "services", "routes", "events"]),
    ("Change", &["apply", "get", "diff", "delete", "lint"]),
    ("Debug", &["explain", "check", "ping", "snapshot"]),
    ("Shell", &["completions", "version", "help"]),
];

/// Groups, one line for each command, the flags that go everywhere, three examples.
pub(crate) fn overview(tree: &clap::Command) -> String {
    let mut text = format!("starling {}: a service mesh for hosts, without a control plane\n\n", crate::RELEASE);
    for (group, names) in GROUPS {
        text.push_str(&format!("{group}\n"));
        for name in *names {
            let about = tree.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {name:<13}{about}\n"));
        }
        text.push('\n');
    }
    text.push_str(
        "Everywhere
  --address ADDRESS   the agent: unix:///PATH or http://HOST:PORT (or STARLING_ADDRESS)
  -n NAMESPACE        namespace of names that carry none (or STARLING_NAMESPACE)
  --color WHEN        auto, always or never
  --help, --version   of any command: starling members --help

Examples
  starling demo                        # see it work: no root, no set-up, nothing stays
  starling services orders             # endpoints of one service, with the reason for each
  starling members -o json | jq .      # every answer as JSON, the same as GET /v1/members
",
    );
    text
}

/// `starling help TOPIC`: a command, `exit-codes`, or an error code.
pub(crate) fn on(topic: &[String], mut tree: clap::Command) -> Result<Exit, CliError> {
    tree.build();
    match topic {
        [] => output::print(&overview(&tree)),
        [word] if word == "exit-codes" => output::print(EXIT_CODES),
        [word] if is_code(word) => output::print(&code(word)?),
        words => output::print(&command(words, &mut tree)?),
    }
}

/// `ST` and digits, in any case.
fn is_code(word: &str) -> bool {
    let digits = word.get(..2).filter(|head| head.eq_ignore_ascii_case("st")).and_then(|_| word.get(2..));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn code(word: &str) -> Result<String, CliError> {
    let found = word.get(2..).and_then(|digits| digits.parse().ok()).and_then(codes::find);
    let Some(code) = found else {
        let known: Vec<String> = codes::ALL.iter().map(ToString::to_string).collect();
        let near = starling_config::suggest(word, known.iter().map(String::as_str));
        let what = format!("no error has the code {word}");
        let near = near.map(|near| format!("did you mean {near}?"));
        return Err(CliError::coded(Exit::NotFound, codes::UNKNOWN_NAME, what)
            .help(near.into_iter().chain(["all codes and what to do about them: docs/errors.md".to_owned()])));
    };
    let level = match code.level {
        Level::Error => "error",
        Level::Warning => "warning",
    };
    Ok(format!("{level}[{code}]: {}\n  help:  {}\n", code.title, code.help))
}

fn command(words: &[String], tree: &mut clap::Command) -> Result<String, CliError> {
    let mut at = tree;
    for word in words {
        let known: Vec<String> = at
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .map(|sub| sub.get_name().to_owned())
            .chain(["exit-codes".to_owned()])
            .collect();
        at = at.find_subcommand_mut(word).ok_or_else(|| {
            let near = starling_config::suggest(word, known.iter().map(String::as_str));
            let near = near.map(|near| format!("did you mean `{near}`?"));
            let what = format!("there is no help on `{word}`");
            CliError::coded(Exit::Usage, codes::UNKNOWN_NAME, what)
                .help(near.into_iter().chain(["all commands:  starling help".to_owned()]))
        })?;
    }
    Ok(at.render_long_help().to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_stands_in_one_group_with_its_line() {
        let tree = crate::cli::Starling::command();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut known: Vec<&str> =
            tree.get_subcommands().filter(|sub| !sub.is_hide_set()).map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        known.sort_unstable();
        assert_eq!(grouped, known);
        let text = overview(&tree);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("  starling ")).count(), 3, "{text}");
        assert!(!text.contains("demo-service"), "{text}");
    }

    #[test]
    fn a_code_is_explained_in_any_case() {
        let text = code("ST0301").unwrap();
        assert!(text.starts_with("error[ST0301]: no agent answers\n  help:  "), "{text}");
        assert_eq!(code("st0301").unwrap(), text);
        assert!(is_code("St604") && !is_code("status") && !is_code("st") && !is_code("é"));
        assert!(code("ST0604").unwrap().starts_with("warning[ST0604]"));
        assert_eq!(code("ST9999").unwrap_err().exit(), Exit::NotFound);
        assert_eq!(code("ST99999999").unwrap_err().exit(), Exit::NotFound);
    }

    #[test]
    fn help_reaches_commands_of_commands() {
        let help = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let mut tree = crate::cli::Starling::command();
            tree.build();
            command(&words, &mut tree)
        };
        assert!(help(&["trust", "issue", "node"]).unwrap().contains("--seed"));
        let error = help(&["membres"]).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.render(&crate::cli::look::Look::plain()).contains("did you mean `members`?"));
    }
}
