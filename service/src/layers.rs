//! Puts a configuration together: the default, then the file, then the environment and flags.

use std::{fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value, de::DeTable};

use crate::{
    ConfigError, Daemon, LoadError, Place,
    error::without_values,
    secret::{self, Secret},
};

/// A key of the default configuration, in the order of the sections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    /// `server.listen`, or `caller_ip` for one outside the sections.
    pub(crate) path: String,
    pub(crate) default: Value,
}

impl Key {
    /// `--server-listen` without the dashes.
    pub(crate) fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// `LARS_DNS_SERVER_LISTEN` for the program `lars-dns`.
    pub(crate) fn env(&self, program: &str) -> String {
        format!("{program}_{}", self.path).replace(['-', '.'], "_").to_uppercase()
    }

    /// A default as a person would type it.
    pub(crate) fn default_text(&self) -> String {
        match &self.default {
            Value::String(text) => text.clone(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            value @ (Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Table(_)) => value.to_string(),
        }
    }
}

/// Every key there is, found in the default configuration; `base` wins over its values.
pub(crate) fn keys<R: Serialize + Default>(base: Table) -> Vec<Key> {
    let mut defaults = defaults::<R>();
    overlay(&mut defaults, base);
    let mut keys = Vec::new();
    for (name, value) in defaults {
        if let Value::Table(section) = value {
            keys.extend(
                section.into_iter().map(|(key, default)| Key { path: format!("{name}.{key}"), default }),
            );
        } else {
            keys.push(Key { path: name, default: value });
        }
    }
    keys
}

/// What errors name where they name no key.
const WHOLE: &str = "configuration";

/// A configuration file.
pub(crate) struct File<'a> {
    path: &'a Path,
    text: String,
}

impl<'a> File<'a> {
    pub(crate) fn read(path: &'a Path) -> Result<Self, LoadError> {
        let text =
            fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.into(), source })?;
        Ok(Self { path, text })
    }

    pub(crate) fn parse(&self) -> Result<Table, LoadError> {
        self.text.parse().map_err(|error| LoadError::in_file(self.path, &self.text, &error))
    }

    /// The error, with the place of its key if that stands in this file.
    pub(crate) fn locate(&self, error: ConfigError) -> LoadError {
        // Of a key that is not known, the section is what the error names.
        let unknown = error.problem.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        let key = match (unknown, error.key.as_str()) {
            (Some(unknown), WHOLE) => unknown.to_owned(),
            (Some(unknown), section) => format!("{section}.{unknown}"),
            (None, key) => key.to_owned(),
        };
        match self.offset(&key) {
            Some(offset) => LoadError::File {
                path: self.path.into(),
                place: Place::of(&self.text, offset),
                problem: error.to_string(),
            },
            None => error.into(),
        }
    }

    fn offset(&self, key: &str) -> Option<usize> {
        let root = DeTable::parse(&self.text).ok()?;
        let (section, name) = key.split_once('.').unwrap_or((key, ""));
        let (section_key, section) = root.get_ref().get_key_value(section)?;
        let name = section.get_ref().as_table().and_then(|table| table.get_key_value(name));
        Some(name.map_or(section_key.span(), |(name, _)| name.span()).start)
    }
}

/// Sets `key` to what a flag or variable says, which must be of the default's type. `origin` is named in
/// the error.
pub(crate) fn set(table: &mut Table, key: &Key, text: &str, origin: &str) -> Result<(), ConfigError> {
    let wrong = |what: &str| ConfigError::new(&key.path, format!("what {origin} says is not {what}"));
    let value = match &key.default {
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
        Value::Float(_) => Value::Float(text.parse().map_err(|_| wrong("a number"))?),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        Value::String(_) | Value::Datetime(_) | Value::Table(_) => Value::String(text.to_owned()),
    };
    insert(table, &key.path, value);
    Ok(())
}

/// Gives the key at `path` a value, whatever it had.
pub(crate) fn insert(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, name)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            // A section that is no table is found when the whole is read.
            if let Value::Table(section) = section {
                section.insert(name.to_owned(), value);
            }
        }
    }
}

pub(crate) fn remove(table: &mut Table, path: &str) {
    match path.split_once('.') {
        None => drop(table.remove(path)),
        Some((section, name)) => {
            if let Some(Value::Table(section)) = table.get_mut(section) {
                section.remove(name);
            }
        }
    }
}

/// The string at `path`, if there is one.
pub(crate) fn text<'a>(table: &'a Table, path: &str) -> Option<&'a str> {
    match path.split_once('.') {
        None => table.get(path)?.as_str(),
        Some((section, name)) => table.get(section)?.get(name)?.as_str(),
    }
}

/// Reads and validates the configuration of `D` from TOML; keys that are absent have their defaults.
///
/// # Errors
/// Naming the key that is unknown, of the wrong type, or has a value that cannot be.
pub fn parse<D: Daemon>(mut table: Table) -> Result<D::Config, ConfigError> {
    secret::read_files(D::SECRETS, &mut table)?;
    let mut whole = defaults::<D::Raw>();
    overlay(&mut whole, table);
    D::validate(typed(whole)?)
}

/// A raw configuration is made of sections, numbers, strings and lists: all of them TOML.
fn defaults<R: Serialize + Default>() -> Table {
    Table::try_from(R::default()).unwrap_or_default()
}

/// `above` wins over `below`, also where it says a secret in the other way.
pub(crate) fn overlay_secrets(secrets: &[Secret], below: &mut Table, above: Table) {
    for secret in secrets {
        for key in [secret.key, secret.file_key] {
            if text(&above, key).is_some_and(|said| !said.is_empty()) {
                secret::forget_alternative(secrets, below, key);
            }
        }
    }
    overlay(below, above);
}

/// Sections are merged key by key, everything else is replaced.
pub(crate) fn overlay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

fn typed<R: DeserializeOwned>(table: Table) -> Result<R, ConfigError> {
    R::deserialize(Value::Table(table)).map_err(|error| {
        // The error's text is `message` and a line `in `section.key``.
        let text = error.to_string();
        let (problem, place) = text.trim().split_once("\nin ").unwrap_or((text.trim(), WHOLE));
        ConfigError::new(place.trim_matches('`'), without_values(problem.trim()))
    })
}
