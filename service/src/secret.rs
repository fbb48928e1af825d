//! Values that must not be readable by others, like a URL with a password: they come from a file as well as from
//! the command line, where every user of the machine sees them.

use std::{env, fs, path::Path};

use toml::{Table, Value};

use crate::{ConfigError, layers};

/// A key whose value may be secret.
#[derive(Clone, Copy, Debug)]
pub struct Secret {
    /// The key with its section, like `store.url`.
    pub key: &'static str,
    /// The key of a file that holds the value instead, like `store.url_file`.
    pub file_key: &'static str,
    /// The name of a systemd credential (`LoadCredential=`) that holds it where neither key says anything.
    pub credential: &'static str,
    /// Whether a value holds something to hide.
    pub is_secret: fn(&str) -> bool,
}

/// Who says `key`, says it instead of who said one of the two keys of its secret before.
pub(crate) fn forget_alternative(secrets: &[Secret], table: &mut Table, key: &str) {
    for secret in secrets {
        if key == secret.key {
            layers::remove(table, secret.file_key);
        } else if key == secret.file_key {
            layers::remove(table, secret.key);
        }
    }
}

/// Has the values of secrets that lie in files read.
pub(crate) fn read_files(secrets: &[Secret], table: &mut Table) -> Result<(), ConfigError> {
    let credentials = env::var_os("CREDENTIALS_DIRECTORY");
    for secret in secrets {
        let file = layers::text(table, secret.file_key).filter(|path| !path.is_empty()).map(str::to_owned);
        let is_said = layers::text(table, secret.key).is_some();
        let value = match file {
            Some(_) if is_said => {
                let problem = format!("{} says it already; only one of the two can be", secret.key);
                return Err(ConfigError::new(secret.file_key, problem));
            }
            Some(file) => read_secret(secret.file_key, Path::new(&file))?,
            None if is_said => continue,
            None => {
                let credential = credentials.as_ref().map(|dir| Path::new(dir).join(secret.credential));
                match credential.filter(|path| path.exists()) {
                    Some(path) => read_secret("$CREDENTIALS_DIRECTORY", &path)?,
                    None => continue,
                }
            }
        };
        layers::insert(table, secret.key, Value::String(value));
    }
    Ok(())
}

/// The text in a file that holds nothing else, without the line end that editors leave. `key` said where it is.
///
/// # Errors
/// Naming the file that cannot be read or is empty.
pub fn read_secret(key: &str, path: &Path) -> Result<String, ConfigError> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| ConfigError::new(key, format!("cannot read {shown}: {error}")))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(ConfigError::new(key, format!("{shown} is empty")));
    }
    Ok(text.to_owned())
}
