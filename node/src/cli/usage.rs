//! Wrong usage, in the form of all our errors: what, the nearest known name, where to read on. Exit code 2.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use starling_model::codes;

use crate::cli::errors::{CliError, Exit};
use crate::cli::look::Look;
use crate::cli::output;

/// Prints what the parser found and says how the program ends: `--help` and `--version` are found this way, too.
pub(crate) fn report(error: &clap::Error, look: &Look) -> Exit {
    if !error.use_stderr() {
        // Help was asked for, so it is data. Nothing can be done about a reader that has gone.
        return output::print(&error.render().to_string()).unwrap_or(Exit::Done);
    }
    output::message(&as_ours(error).render(look));
    Exit::Usage
}

/// The message without colour, for tests.
#[cfg(test)]
pub(crate) fn rendered(error: &clap::Error) -> String {
    as_ours(error).render(&Look::plain())
}

fn as_ours(error: &clap::Error) -> CliError {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        Some(_) | None => None,
    };
    let unknown = |what: &str, invalid: ContextKind, suggested: ContextKind| {
        let name = text(invalid).unwrap_or_default();
        // The parser's message names a flag with its value's name, `--seed <HOST:PORT>`.
        let near = text(suggested).map(|near| near.split(' ').next().unwrap_or_default().to_owned());
        let near = near.map(|near| format!("did you mean `{near}`?"));
        CliError::coded(Exit::Usage, codes::UNKNOWN_NAME, format!("unknown {what} `{name}`"))
            .help(near.into_iter().chain([more(error)]))
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
            let flag = text(ContextKind::InvalidArg).unwrap_or_default();
            unknown(&format!("value of {flag}"), ContextKind::InvalidValue, ContextKind::SuggestedValue)
        }
        _ => {
            let whole = error.render().to_string();
            let mut lines = whole.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim_end);
            let first = lines.next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            let rest: Vec<String> = lines
                .map(|line| line.trim().trim_start_matches("tip: ").to_owned())
                .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
                .collect();
            let usage = whole.lines().find(|line| line.starts_with("Usage:")).map(str::to_lowercase);
            let cli = CliError::plain(Exit::Usage, first).help(usage.into_iter().chain([more(error)]));
            if rest.is_empty() { cli } else { cli.cause(rest.join("\n")) }
        }
    }
}

/// Where to read on: the help of the command that was meant.
fn more(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        Some(_) | None => String::new(),
    };
    let words: Vec<&str> = usage
        .split_whitespace()
        .skip_while(|word| *word != "starling")
        .take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-'))
        .collect();
    if words.len() > 1 {
        format!("its flags:  {} --help", words.join(" "))
    } else {
        "all commands:  starling help".to_owned()
    }
}
