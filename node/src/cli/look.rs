//! How text looks: colour, glyphs, width. Decided once from flags, environment and the terminal; rendering only reads it.

use std::borrow::Cow;
use std::io::IsTerminal as _;

use clap::ValueEnum;

/// When colour is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless the environment says otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a piece of text means; never told by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// Somebody should look.
    Warn,
    /// Broken.
    Bad,
    /// Less important.
    Dim,
}

/// A mark in front of or behind a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// `√`
    Good,
    /// `‼`
    Warn,
    /// `×`
    Bad,
}

/// How text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Tables have their header.
    pub(crate) headers: bool,
    /// Text is coloured.
    pub(crate) colour: bool,
    /// `√ ‼ × █` may be used.
    pub(crate) unicode: bool,
    /// Columns of the terminal; `None` for a pipe or file, where nothing is cut.
    pub(crate) width: Option<usize>,
}

impl Look {
    /// No colour, no limit: what a pipe with a UTF-8 locale sees.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { headers: true, colour: false, unicode: true, width: None }
    }

    /// Text in the colour of its meaning.
    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The mark as this locale can show it.
    pub(crate) fn mark(&self, mark: Mark) -> &'static str {
        match (mark, self.unicode) {
            (Mark::Good, true) => "√",
            (Mark::Warn, true) => "‼",
            (Mark::Bad, true) => "×",
            (Mark::Good, false) => "ok",
            (Mark::Warn, false) => "warn",
            (Mark::Bad, false) => "FAIL",
        }
    }

    /// The mark, coloured.
    pub(crate) fn painted_mark(&self, mark: Mark) -> String {
        let tone = match mark {
            Mark::Good => Tone::Good,
            Mark::Warn => Tone::Warn,
            Mark::Bad => Tone::Bad,
        };
        self.paint(self.mark(mark), tone)
    }
}

/// What the environment and the streams say; a value, so that the decisions below can be tested.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) terminal: bool,
    pub(crate) width: Option<usize>,
    pub(crate) no_color: bool,
    pub(crate) force_color: bool,
    pub(crate) dumb: bool,
    pub(crate) locale: String,
}

impl Surroundings {
    /// Of standard output.
    pub(crate) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        Self { terminal, width, ..Self::of_environment() }
    }

    /// Of standard error.
    pub(crate) fn of_stderr() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let width = terminal_size::terminal_size_of(std::io::stderr()).map(|(width, _)| usize::from(width.0));
        Self { terminal, width, ..Self::of_environment() }
    }

    fn of_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            terminal: false,
            width: None,
            no_color: variable("NO_COLOR").is_some(),
            force_color: variable("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
            dumb: variable("TERM").is_some_and(|value| value == "dumb"),
            locale: ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| variable(name)).unwrap_or_default(),
        }
    }

    /// True when the locale can show more than ASCII.
    fn unicode(&self) -> bool {
        let locale = self.locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    }

    /// The look that follows.
    pub(crate) fn look(&self, choice: ColorChoice, headers: bool) -> Look {
        let colour = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if self.no_color => false,
            ColorChoice::Auto if self.force_color => true,
            ColorChoice::Auto => self.terminal && !self.dumb,
        };
        Look { headers, colour, unicode: self.unicode(), width: self.width.filter(|_| self.terminal) }
    }
}

/// Text of ours as this locale can show it: our own signs have stand-ins in ASCII.
pub(crate) fn for_locale(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || Surroundings::of_environment().unicode() { Cow::Borrowed(text) } else { ascii(text) }
}

/// Stand-ins for our own signs, whatever the locale is.
pub(crate) fn ascii(text: &str) -> Cow<'_, str> {
    Cow::Owned(text.replace('…', "...").replace('→', "->").replace('×', "x").replace('√', "ok").replace('‼', "!!"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_signs_have_stand_ins() {
        assert_eq!(ascii("SHA256:b7e1 … orders ×2 → gone √ ‼"), "SHA256:b7e1 ... orders x2 -> gone ok !!");
    }

    #[test]
    fn colour_follows_flag_then_environment_then_terminal() {
        let terminal = Surroundings { terminal: true, ..Surroundings::default() };
        let check = |surroundings: Surroundings, choice: ColorChoice, want: bool| {
            assert_eq!(surroundings.look(choice, true).colour, want, "{surroundings:?} {choice:?}");
        };
        check(terminal.clone(), ColorChoice::Auto, true);
        check(Surroundings::default(), ColorChoice::Auto, false);
        check(Surroundings { no_color: true, ..terminal.clone() }, ColorChoice::Auto, false);
        check(Surroundings { no_color: true, ..terminal.clone() }, ColorChoice::Always, true);
        check(Surroundings { dumb: true, ..terminal.clone() }, ColorChoice::Auto, false);
        check(Surroundings { force_color: true, ..Surroundings::default() }, ColorChoice::Auto, true);
        check(Surroundings { force_color: true, no_color: true, ..Surroundings::default() }, ColorChoice::Auto, false);
        check(terminal, ColorChoice::Never, false);
    }

    #[test]
    fn glyphs_need_a_utf_8_locale() {
        let mark = |locale: &str| {
            let surroundings = Surroundings { locale: locale.to_owned(), ..Surroundings::default() };
            surroundings.look(ColorChoice::Auto, true).mark(Mark::Bad)
        };
        assert_eq!(mark("de_DE.UTF-8"), "×");
        assert_eq!(mark("C.utf8"), "×");
        assert_eq!(mark("C"), "FAIL");
        assert_eq!(mark(""), "FAIL");
    }
}
