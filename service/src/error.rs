//! What can be wrong with a configuration.

use std::{
    fmt, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// A key has a value that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key with its section, like `balance.err_rate`.
    pub key: String,
    /// What is wrong, naming the value and what would be right.
    pub problem: String,
}

impl ConfigError {
    /// `key` is wrong because of `problem`.
    #[must_use]
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    /// `value` of `key`, if it lies in `range`.
    ///
    /// # Errors
    /// If it does not; the error tells both.
    pub fn check_range<T: PartialOrd + fmt::Debug>(
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) -> Result<T, Self> {
        if range.contains(&value) {
            return Ok(value);
        }
        Err(Self::new(key, format!("{value:?} is not in {range:?}")))
    }
}

/// A configuration could not be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or a key in it is unknown, of the wrong type, or has a value that cannot be. Never shows
    /// the text itself, which may be a password.
    #[error("{}:{place}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What is wrong, naming the key where there is one.
        problem: String,
    },
    /// A key that a flag or variable gave is of the wrong type or has a value that cannot be.
    #[error("{0}")]
    Key(#[from] ConfigError),
}

impl LoadError {
    /// What a TOML parser says about the text of a file.
    #[must_use]
    pub fn in_file(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let place = Place::of(text, error.span().map_or(0, |span| span.start));
        Self::File { path: path.into(), place, problem: without_values(error.message()) }
    }
}

/// A place in a text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl Place {
    /// Where the byte at `offset` is.
    #[must_use]
    pub fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset.min(text.len())).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What serde says of a value, without the value: `invalid type: string "secret", expected u16`.
pub(crate) fn without_values(message: &str) -> String {
    for (opening, kind, quote) in [("string \"", "string", '"'), ("variant `", "variant", '`')] {
        let Some((before, rest)) = message.split_once(opening) else { continue };
        // The value may hold quotes of its own, and what follows it too.
        let value_max = rest.rfind(", expected").unwrap_or(rest.len());
        let value_end = rest[..value_max].rfind(quote).map_or(value_max, |quote| quote + 1);
        return format!("{before}{kind}{}", &rest[value_end..]);
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_shown() {
        let check = |message: &str, expect: &str| assert_eq!(without_values(message), expect);
        check(
            r#"invalid type: string "mysql://u:se\"cret, expected@h/d", expected struct StoreSection"#,
            "invalid type: string, expected struct StoreSection",
        );
        check(
            r#"invalid value: string "secret", expected a driver"#,
            "invalid value: string, expected a driver",
        );
        check(
            "unknown variant `secret`, expected one of `a`, `b`",
            "unknown variant, expected one of `a`, `b`",
        );
        check("unknown field `probes`, expected `probe_num`", "unknown field `probes`, expected `probe_num`");
        check("invalid type: integer `7`, expected a string", "invalid type: integer `7`, expected a string");
    }

    #[test]
    fn places_count_from_one_and_in_characters() {
        let text = "a = 1\nü = x\n";
        assert_eq!(Place::of(text, 0), Place { line: 1, column: 1 });
        assert_eq!(Place::of(text, text.find('x').unwrap()), Place { line: 2, column: 5 });
        assert_eq!(Place::of(text, 1_000), Place { line: 3, column: 1 });
    }
}
