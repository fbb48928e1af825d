//! [`Out`]: where a command writes. What was asked for goes to standard output, everything said about it to
//! standard error, so that output can be piped and still be watched.

use std::{
    env,
    fmt::Display,
    io::{self, BufRead, IsTerminal, Write},
};

use lars_service::LogGuard;
use serde::Serialize;

/// The two streams of a command.
pub(crate) struct Out<'a> {
    data: &'a mut dyn Write,
    notes: &'a mut dyn Write,
    terminal: Terminal,
    note_form: NoteForm,
    log: Option<LogGuard>,
}

/// How lines about a command look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NoteForm {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
    /// As log lines, among those of the services.
    Log,
}

/// Why a command failed, as it is said.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Complaint<'a> {
    pub(crate) error: &'a str,
    /// What the person can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<&'a str>,
    /// The exit status.
    pub(crate) status: u8,
}

/// Which of the streams a person looks at, and whether in colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// Standard input.
    pub(crate) input: bool,
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
            input: io::stdin().is_terminal(),
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
        Self { data, notes, terminal, note_form: NoteForm::Text, log: None }
    }

    /// The same, with lines about the command in this form.
    pub(crate) fn with_note_form(self, note_form: NoteForm) -> Self {
        Self { note_form, ..self }
    }

    /// The log is written until this is dropped: why a command failed may be its last line.
    pub(crate) fn keep_log(&mut self, log: LogGuard) {
        self.log = Some(log);
    }

    /// For what the command was asked for.
    pub(crate) fn data(&mut self) -> &mut dyn Write {
        self.data
    }

    /// For a line about it, which comes after what was written before.
    pub(crate) fn note(&mut self, text: impl Display) -> io::Result<()> {
        // Where this fails, the flush at the end fails again and is heard.
        let _ = self.data.flush();
        match self.note_form {
            NoteForm::Text => writeln!(self.notes, "{text}"),
            NoteForm::Json => self.note_json(&serde_json::json!({ "note": text.to_string() })),
            NoteForm::Log => {
                tracing::info!("{text}");
                Ok(())
            }
        }
    }

    /// For the reason why the command failed: the last line.
    pub(crate) fn complain(&mut self, complaint: Complaint<'_>) -> io::Result<()> {
        let Complaint { error, advice, .. } = complaint;
        match (self.note_form, advice) {
            (NoteForm::Text, _) => {
                let paint = self.notes_paint();
                self.note(format_args!("{} {error}", paint.ink(Ink::Red, "error:")))?;
                advice.map_or(Ok(()), |advice| self.note(format_args!("       {advice}")))
            }
            (NoteForm::Json, _) => self.note_json(&complaint),
            (NoteForm::Log, Some(advice)) => {
                tracing::error!(advice, "{error}");
                Ok(())
            }
            (NoteForm::Log, None) => {
                tracing::error!("{error}");
                Ok(())
            }
        }
    }

    fn note_json(&mut self, note: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut *self.notes, note)?;
        self.notes.write_all(b"\n")
    }

    /// Asks the person in front of the terminal; no, if there is none, or no yes comes.
    pub(crate) fn confirm(&mut self, question: &str, input: &mut dyn BufRead) -> io::Result<bool> {
        if !(self.terminal.input && self.terminal.notes) {
            return Ok(false);
        }
        write!(self.notes, "{question} [y/N] ")?;
        self.notes.flush()?;
        let mut answer = String::new();
        input.read_line(&mut answer)?;
        Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
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
            let terminal = Terminal { input: false, data, notes: false, colourless, dumb };
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

    #[test]
    fn complaints_are_for_people_or_for_programs() {
        let check = |note_form, advice, expect: &str| {
            let (mut data, mut notes) = (Vec::new(), Vec::new());
            let mut out = Out::new(&mut data, &mut notes, Terminal::default()).with_note_form(note_form);
            out.note("almost").unwrap();
            out.complain(Complaint { error: "no \"luck\"", advice, status: 4 }).unwrap();
            assert_eq!(String::from_utf8(notes).unwrap(), expect);
        };
        check(NoteForm::Text, None, "almost\nerror: no \"luck\"\n");
        check(NoteForm::Text, Some("try"), "almost\nerror: no \"luck\"\n       try\n");
        let note = "{\"note\":\"almost\"}\n{\"error\":\"no \\\"luck\\\"\",";
        check(NoteForm::Json, None, &format!("{note}\"status\":4}}\n"));
        check(NoteForm::Json, Some("try"), &format!("{note}\"advice\":\"try\",\"status\":4}}\n"));
    }

    #[test]
    fn only_a_yes_at_a_terminal_is_a_yes() {
        let check = |input, notes, answer: &str, expect: bool| {
            let (mut data, mut said) = (Vec::new(), Vec::new());
            let terminal = Terminal { input, notes, ..Terminal::default() };
            let mut out = Out::new(&mut data, &mut said, terminal);
            assert_eq!(out.confirm("go on?", &mut answer.as_bytes()).unwrap(), expect, "{answer}");
            let asked = if input && notes { "go on? [y/N] " } else { "" };
            assert_eq!(String::from_utf8(said).unwrap(), asked);
        };
        check(true, true, "y\n", true);
        check(true, true, " YES\n", true);
        check(true, true, "", false);
        check(true, true, "\n", false);
        check(true, true, "no\n", false);
        check(false, true, "y\n", false);
        check(true, false, "y\n", false);
    }
}
