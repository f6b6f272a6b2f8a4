//! Wrong usage, in the form of all our errors: what, the nearest known name, where to read on. Exit code 2.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use starling_model::codes;

use crate::cli::errors::{CliError, Exit};
use crate::cli::look::Look;
use crate::cli::output;

/// Prints what the parser found and says how the program ends: `--help` and `--version` are found this way, too.
pub(crate) fn report(error: &clap::Error, arguments: &[OsString], tree: &clap::Command, look: &Look) -> Exit {
    if !error.use_stderr() {
        // Help was asked for, so it is data. Nothing can be done about a reader that has gone.
        return output::print(&error.render().to_string()).unwrap_or(Exit::Done);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        output::message(&error.render().to_string());
        return Exit::Usage;
    }
    output::message(&as_ours(error, &more(arguments, tree)).render(look));
    Exit::Usage
}

/// The parser's error in our form; `more` says where to read on.
pub(crate) fn as_ours(error: &clap::Error, more: &str) -> CliError {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        Some(_) | None => None,
    };
    // The parser names a flag together with its value's name, `--seed <HOST:PORT>`.
    let bare = |text: String| text.split([' ', '[']).next().unwrap_or_default().to_owned();
    let unknown = |what: &str, invalid: ContextKind, suggested: ContextKind| {
        let name = text(invalid).unwrap_or_default();
        let near = text(suggested).map(|near| format!("did you mean `{}`?", bare(near)));
        CliError::coded(Exit::Usage, codes::UNKNOWN_NAME, format!("unknown {what} `{name}`"))
            .help(near.into_iter().chain([more.to_owned()]))
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "clap's kinds are open-ended; all others share one form")]
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            unknown("command", ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand)
        }
        ErrorKind::UnknownArgument if text(ContextKind::InvalidArg).is_some_and(|name| name.starts_with('-')) => {
            unknown("flag", ContextKind::InvalidArg, ContextKind::SuggestedArg)
        }
        ErrorKind::InvalidValue if text(ContextKind::SuggestedValue).is_some() => {
            let flag = text(ContextKind::InvalidArg).map(bare).unwrap_or_default();
            unknown(&format!("value of {flag}"), ContextKind::InvalidValue, ContextKind::SuggestedValue)
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(names)) => names.join(" and "),
                Some(_) | None => text(ContextKind::InvalidArg).unwrap_or_default(),
            };
            CliError::plain(Exit::Usage, format!("missing {missing}"))
                .help(usage_of(&error.render().to_string()).into_iter().chain([more.to_owned()]))
        }
        _ => {
            let whole = error.render().to_string();
            let mut lines = whole.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim_end);
            let first = lines.next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            let rest: Vec<String> = lines
                .map(|line| line.trim().trim_start_matches("tip: "))
                .map(|line| match line.strip_prefix("[possible values: ").and_then(|list| list.strip_suffix(']')) {
                    Some(list) => format!("known values: {list}"),
                    None => line.to_owned(),
                })
                .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
                .collect();
            let cli = CliError::plain(Exit::Usage, first).help(usage_of(&whole).into_iter().chain([more.to_owned()]));
            if rest.is_empty() { cli } else { cli.cause(rest.join("\n")) }
        }
    }
}

/// The usage line of the parser's text.
fn usage_of(whole: &str) -> Option<String> {
    whole.lines().find_map(|line| line.strip_prefix("Usage: ")).map(|usage| format!("usage:  {usage}"))
}

/// Where to read on: the help of the command that was meant, as far as the arguments name one.
pub(crate) fn more(arguments: &[OsString], tree: &clap::Command) -> String {
    let (mut at, mut path) = (tree, "starling".to_owned());
    for word in arguments.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(next) = at.find_subcommand(word) {
            at = next;
            path = format!("{path} {word}");
        }
    }
    if path == "starling" { "all commands:  starling help".to_owned() } else { format!("its flags:  {path} --help") }
}
