//! What a person sees when something does not work: what, why (as the system or the peer said it), what to do.
//!
//! ```text
//! error[ST0301]: no agent answers at unix:///run/starling/api.sock
//!   cause: connect: No such file or directory (os error 2)
//!   help:  start it:  sudo systemctl start starling     or try it without root:  starling demo
//! ```

use std::process::ExitCode;

use starling_model::Code;
use starling_model::codes;

use crate::cli::look::{Look, Tone};
use crate::cli::table::clean;
use crate::files::FileError;

/// How the program ends; `starling help exit-codes` prints this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or the answer is good.
    Done,
    /// The answer is bad, or a failure without a code of its own.
    Bad,
    /// Wrong usage.
    Usage,
    /// No agent answered at the address.
    NoAgent,
    /// The named thing does not exist.
    NotFound,
    /// Refused: invalid document, signature, role, permission.
    Refused,
    /// Timed out.
    TimedOut,
    /// Interrupted.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Bad => 1,
            Self::Usage => 2,
            Self::NoAgent => 3,
            Self::NotFound => 4,
            Self::Refused => 5,
            Self::TimedOut => 6,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// `starling help exit-codes`.
pub(crate) const EXIT_CODES: &str = "\
  0   done, or the answer is good
  1   the answer is bad, or a failure without a code of its own
  2   wrong usage: a flag, a name of a command, a setting
  3   no agent answered at the address
  4   the named thing does not exist
  5   refused: invalid document, signature, role, permission, state
  6   timed out (--timeout)
101   a bug in starling (panic)
130   interrupted
";

/// One failure of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CliError {
    exit: Exit,
    code: Option<Code>,
    what: String,
    cause: Option<String>,
    help: Vec<String>,
}

impl CliError {
    /// A failure with an entry in the catalogue, whose general help it starts with.
    pub(crate) fn coded(exit: Exit, code: Code, what: impl Into<String>) -> Self {
        Self { exit, code: Some(code), what: what.into(), cause: None, help: vec![code.help.to_owned()] }
    }

    /// A failure without an entry.
    pub(crate) fn plain(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, code: None, what: what.into(), cause: None, help: Vec::new() }
    }

    /// Why, as the operating system or the peer said it.
    #[must_use]
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Help for exactly this case, instead of the general one; one line each.
    #[must_use]
    pub(crate) fn help(mut self, lines: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.help = lines.into_iter().map(Into::into).collect();
        self
    }

    /// How the program ends with it.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// What happened, in one line.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// The entry of the catalogue.
    #[cfg(test)]
    pub(crate) fn code(&self) -> Option<Code> {
        self.code
    }

    /// The whole message, each line with its line feed.
    pub(crate) fn render(&self, look: &Look) -> String {
        let head = match self.code {
            Some(code) => format!("error[{code}]"),
            None => "error".to_owned(),
        };
        let mut text = format!("{}: {}\n", look.paint(&head, Tone::Bad), printable(&self.what, ""));
        if let Some(cause) = &self.cause {
            text.push_str(&format!("  cause: {}\n", printable(cause, "         ")));
        }
        for (at, line) in self.help.iter().enumerate() {
            let label = if at == 0 { "help:  " } else { "       " };
            text.push_str(&format!("  {label}{}\n", printable(line, "         ")));
        }
        text
    }
}

/// Keeps line feeds, indents what follows them, and lets no other control character through.
fn printable(text: &str, indent: &str) -> String {
    let lines: Vec<String> = text.lines().map(clean).collect();
    lines.join(&format!("\n{indent}"))
}

/// The causes of an error below its own text, joined.
pub(crate) fn causes(error: &dyn std::error::Error) -> Option<String> {
    let mut parts = Vec::new();
    let mut next = error.source();
    while let Some(source) = next {
        parts.push(source.to_string());
        next = source.source();
    }
    (!parts.is_empty()).then(|| parts.join(": "))
}

impl From<FileError> for CliError {
    fn from(error: FileError) -> Self {
        match &error {
            FileError::Unsafe { path, why, help } => {
                Self::coded(Exit::Refused, codes::SECRET_UNSAFE, format!("{} {why}", path.display()))
                    .help([help.clone()])
            }
            FileError::Io { action, path, source } => {
                let exit = if error.is_missing() { Exit::NotFound } else { Exit::Bad };
                Self::plain(exit, format!("cannot {action} {}", path.display())).cause(source.to_string())
            }
            FileError::TooLarge { .. } | FileError::NotText { .. } => Self::plain(Exit::Bad, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let error =
            CliError::coded(Exit::NoAgent, codes::NO_AGENT, "no agent answers at unix:///run/starling/api.sock")
                .cause("connect: No such file or directory (os error 2)")
                .help(["start it", "or else"]);
        assert_eq!(
            error.render(&Look::plain()),
            "error[ST0301]: no agent answers at unix:///run/starling/api.sock\n\
            \x20 cause: connect: No such file or directory (os error 2)\n\
            \x20 help:  start it\n\
            \x20        or else\n"
        );
        assert_eq!(CliError::plain(Exit::Bad, "x\x1b[2J").render(&Look::plain()), "error: x\u{fffd}[2J\n");
    }

    #[test]
    fn the_printed_table_names_every_exit_code() {
        let all = [
            Exit::Done,
            Exit::Bad,
            Exit::Usage,
            Exit::NoAgent,
            Exit::NotFound,
            Exit::Refused,
            Exit::TimedOut,
            Exit::Interrupted,
        ];
        for exit in all {
            let number = exit.number().to_string();
            assert!(EXIT_CODES.lines().any(|line| line.split_whitespace().next() == Some(&number)), "{number}");
        }
        assert!(EXIT_CODES.contains("101 "));
    }

    #[test]
    fn every_code_has_help_for_people() {
        for code in codes::ALL {
            let text = CliError::coded(Exit::Bad, *code, code.title).render(&Look::plain());
            assert!(text.contains("  help:  ") && text.starts_with(&format!("error[{code}]: ")), "{text}");
        }
    }
}
