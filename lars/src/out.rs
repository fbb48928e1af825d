//! [`Out`]: where a command writes. What was asked for goes to standard output, everything said about it to
//! standard error, so that output can be piped and still be watched.

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal, Write},
};

/// The two streams of a command.
pub(crate) struct Out<'a> {
    data: &'a mut dyn Write,
    notes: &'a mut dyn Write,
    terminal: Terminal,
}

/// Which of the streams a person looks at, and whether in colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terminal {
    pub(crate) data: bool,
    pub(crate) notes: bool,
    /// `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) colourless: bool,
    /// It knows no escape sequences at all.
    pub(crate) dumb: bool,
}

impl Terminal {
    /// What standard output and standard error are.
    pub(crate) fn detect() -> Self {
        let says = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            data: io::stdout().is_terminal(),
            notes: io::stderr().is_terminal(),
            colourless: says("NO_COLOR").is_some(),
            dumb: says("TERM").is_none_or(|term| term == "dumb"),
        }
    }

    fn paint(self, is_terminal: bool) -> Paint {
        Paint { on: is_terminal && !self.colourless && !self.dumb }
    }
}

impl<'a> Out<'a> {
    pub(crate) fn new(data: &'a mut dyn Write, notes: &'a mut dyn Write, terminal: Terminal) -> Self {
        Self { data, notes, terminal }
    }

    /// For what the command was asked for.
    pub(crate) fn data(&mut self) -> &mut dyn Write {
        self.data
    }

    /// For a line about it, which comes after what was written before.
    pub(crate) fn note(&mut self, text: impl Display) -> io::Result<()> {
        // Where this fails, the flush at the end fails again and is heard.
        let _ = self.data.flush();
        writeln!(self.notes, "{text}")
    }

    /// Everything written so far becomes visible, also to a reader at the other end of a pipe.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.data.flush()?;
        self.notes.flush()
    }

    /// Whether a picture that is drawn over and over makes sense.
    pub(crate) fn is_live(&self) -> bool {
        self.terminal.data && !self.terminal.dumb
    }

    /// Whether somebody watches the progress of long work.
    pub(crate) fn is_watched(&self) -> bool {
        self.terminal.notes
    }

    /// How to paint what goes to [`Out::data`].
    pub(crate) fn paint(&self) -> Paint {
        self.terminal.paint(self.terminal.data)
    }

    /// How to paint what goes to [`Out::note`].
    pub(crate) fn notes_paint(&self) -> Paint {
        self.terminal.paint(self.terminal.notes)
    }
}

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    on: bool,
}

/// How text is to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ink {
    #[default]
    Plain,
    Bold,
    Dim,
    Red,
    Green,
}

impl Ink {
    /// The parameter of the escape sequence "select graphic rendition".
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Red => Some("31"),
            Self::Green => Some("32"),
        }
    }
}

impl Paint {
    /// For output that nobody sees on a terminal.
    #[cfg(test)]
    pub(crate) const OFF: Self = Self { on: false };

    pub(crate) fn ink(self, ink: Ink, text: &str) -> String {
        match ink.code().filter(|_| self.on) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_with_colours_gets_colours() {
        let check = |data, colourless, dumb, expect: &str| {
            let (mut data_bytes, mut note_bytes) = (Vec::new(), Vec::new());
            let terminal = Terminal { data, notes: false, colourless, dumb };
            let out = Out::new(&mut data_bytes, &mut note_bytes, terminal);
            assert_eq!(out.paint().ink(Ink::Red, "x"), expect, "{terminal:?}");
            assert_eq!(out.notes_paint().ink(Ink::Red, "x"), "x", "{terminal:?}");
        };
        check(true, false, false, "\x1b[31mx\x1b[0m");
        check(true, true, false, "x");
        check(true, false, true, "x");
        check(false, false, false, "x");
        assert_eq!(Paint { on: true }.ink(Ink::Plain, "x"), "x");
    }

    #[test]
    fn data_and_notes_do_not_mix() {
        let (mut data, mut notes) = (Vec::new(), Vec::new());
        let mut out = Out::new(&mut data, &mut notes, Terminal::default());
        writeln!(out.data(), "10.0.0.1:80").unwrap();
        out.note("found").unwrap();
        assert_eq!((data, notes), (b"10.0.0.1:80\n".to_vec(), b"found\n".to_vec()));
    }
}
