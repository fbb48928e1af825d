//! [`StoreUrl`]: which database, as text.

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const MYSQL_PORT: u16 = 3306;

/// What may stand in a user or database name as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Which database.
///
/// `sqlite:PATH` (`sqlite:lars.db`, `sqlite:/var/lib/lars/lars.db`) or
/// `mysql://user:password@host:port/database`. Password and port (3306) may be left out. Characters of user,
/// password and database name that mean something in a URL are percent-encoded: `@` is `%40`. Shown as
/// text, also by `Debug`, it hides the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A file, created if it is missing.
    Sqlite(PathBuf),
    /// A server that speaks MySQL's protocol.
    Mysql(MysqlUrl),
}

/// A database on a server that speaks MySQL's protocol.
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlUrl {
    /// The account.
    pub user: String,
    /// Its password, as it is typed.
    pub password: Option<String>,
    /// A name or an address; an IPv6 address has no brackets here.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The name of the database on that server.
    pub database: String,
}

impl StoreUrl {
    /// Whether `text` is a URL with a password in it.
    #[must_use]
    pub fn has_password(text: &str) -> bool {
        matches!(text.parse(), Ok(Self::Mysql(MysqlUrl { password: Some(_), .. })))
    }
}

/// Which part of the text is not that of a [`StoreUrl`]. Never shows the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// It begins with nothing that is known.
    #[error("it begins with neither 'sqlite:' nor 'mysql://'")]
    Scheme,
    /// `sqlite:` and nothing else.
    #[error("no path follows 'sqlite:'")]
    Path,
    /// Each connection to `:memory:` is a database of its own, so nobody would see what another wrote.
    #[error("':memory:' cannot be shared between the parts of Lars; name a file")]
    Memory,
    /// No user before the host.
    #[error("no user: write mysql://user@host/database")]
    User,
    /// No host.
    #[error("no host: write mysql://user@host/database")]
    Host,
    /// Not a number in 1..=65535. Not shown: it may be the rest of a password that is not encoded.
    #[error("the port is not in 1..=65535")]
    Port,
    /// No database after the host.
    #[error("no database: write mysql://user@host/database")]
    Database,
    /// Something follows the name of the database.
    #[error("something follows the database: options are not known, other characters are percent-encoded")]
    AfterDatabase,
    /// The bytes behind the percent signs are no text.
    #[error("the percent-encoded {0} is not UTF-8")]
    Encoding(&'static str),
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            sqlite_path(path).map(Self::Sqlite)
        } else if let Some(rest) = text.strip_prefix("mysql://") {
            mysql_url(rest).map(Self::Mysql)
        } else {
            Err(StoreUrlError::Scheme)
        }
    }
}

/// `sqlite:PATH`, and `sqlite://PATH` as other programs write it.
fn sqlite_path(text: &str) -> Result<PathBuf, StoreUrlError> {
    match text.strip_prefix("//").unwrap_or(text) {
        "" => Err(StoreUrlError::Path),
        ":memory:" => Err(StoreUrlError::Memory),
        path => Ok(path.into()),
    }
}

/// Parses what follows `mysql://`.
fn mysql_url(text: &str) -> Result<MysqlUrl, StoreUrlError> {
    let (authority, database) = text.split_once('/').unwrap_or((text, ""));
    // The last '@': a password that is not encoded as it should be shall not become a part of the host.
    let (account, address) = authority.rsplit_once('@').ok_or(StoreUrlError::User)?;
    let (user, password) = match account.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (account, None),
    };
    if user.is_empty() {
        return Err(StoreUrlError::User);
    }
    let (host, port) = host_and_port(address)?;
    Ok(MysqlUrl {
        user: decoded("user", user)?,
        password: password.map(|password| decoded("password", password)).transpose()?,
        host: host.to_owned(),
        port,
        database: database_name(database)?,
    })
}

fn host_and_port(address: &str) -> Result<(&str, u16), StoreUrlError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or(StoreUrlError::Host)?,
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    if host.is_empty() {
        return Err(StoreUrlError::Host);
    }
    if port.is_empty() {
        return Ok((host, MYSQL_PORT));
    }
    let number = port.strip_prefix(':').and_then(|digits| digits.parse().ok()).filter(|port| *port != 0);
    Ok((host, number.ok_or(StoreUrlError::Port)?))
}

fn database_name(text: &str) -> Result<String, StoreUrlError> {
    let (name, rest) = text.split_at(text.find(['/', '?', '#']).unwrap_or(text.len()));
    if name.is_empty() {
        return Err(StoreUrlError::Database);
    }
    if !rest.is_empty() {
        return Err(StoreUrlError::AfterDatabase);
    }
    decoded("database", name)
}

fn decoded(part: &'static str, text: &str) -> Result<String, StoreUrlError> {
    percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| StoreUrlError::Encoding(part))
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Mysql(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for MysqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mysql://{}", utf8_percent_encode(&self.user, ENCODED))?;
        if self.password.is_some() {
            f.write_str(":***")?;
        }
        if self.host.contains(':') { write!(f, "@[{}]", self.host) } else { write!(f, "@{}", self.host) }?;
        if self.port != MYSQL_PORT {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "/{}", utf8_percent_encode(&self.database, ENCODED))
    }
}

impl fmt::Debug for MysqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mysql(text: &str) -> MysqlUrl {
        match text.parse() {
            Ok(StoreUrl::Mysql(url)) => url,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn files() {
        for (text, path) in [
            ("sqlite:lars.db", "lars.db"),
            ("sqlite:./var/lars.db", "./var/lars.db"),
            ("sqlite:/var/lib/lars/lars.db", "/var/lib/lars/lars.db"),
            ("sqlite:///var/lib/lars/lars.db", "/var/lib/lars/lars.db"),
            ("sqlite:a b%20?.db", "a b%20?.db"),
        ] {
            assert_eq!(text.parse(), Ok(StoreUrl::Sqlite(path.into())), "{text}");
        }
        assert_eq!(StoreUrl::Sqlite("/a/b.db".into()).to_string(), "sqlite:/a/b.db");
    }

    #[test]
    fn servers() {
        let url = mysql("mysql://lars:secret@db.example.org:3307/lars_dns");
        let expected = MysqlUrl {
            user: "lars".to_owned(),
            password: Some("secret".to_owned()),
            host: "db.example.org".to_owned(),
            port: 3307,
            database: "lars_dns".to_owned(),
        };
        assert_eq!(url, expected);

        let short = mysql("mysql://lars@10.0.0.1/lars");
        assert_eq!((short.password, short.host.as_str(), short.port), (None, "10.0.0.1", 3306));
        assert_eq!(mysql("mysql://lars:@h/lars").password.as_deref(), Some(""));
        let v6 = mysql("mysql://lars@[::1]:3307/lars");
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 3307));
        assert_eq!(mysql("mysql://lars@[::1]/lars").port, 3306);
    }

    #[test]
    fn passwords_with_every_character() {
        let url = mysql("mysql://la%40rs:p%40ss%3Aw%2Frd%25%C3%A4@h/la%20rs");
        assert_eq!(url.user, "la@rs");
        assert_eq!(url.password.as_deref(), Some("p@ss:w/rd%\u{e4}"));
        assert_eq!(url.database, "la rs");
        // Typed as they are, colons, at signs and lone percent signs are understood all the same.
        assert_eq!(mysql("mysql://lars:a:b@c%zz@h/lars").password.as_deref(), Some("a:b@c%zz"));
    }

    #[test]
    fn shown_without_the_password() {
        let url: StoreUrl = "mysql://la%40rs:secret@h:3307/la%20rs".parse().expect("a URL");
        assert_eq!(url.to_string(), "mysql://la%40rs:***@h:3307/la%20rs");
        assert_eq!(format!("{url:?}"), "Mysql(mysql://la%40rs:***@h:3307/la%20rs)");
        assert_eq!(mysql("mysql://lars@[::1]:3306/lars").to_string(), "mysql://lars@[::1]/lars");
    }

    #[test]
    fn what_is_wrong() {
        for (text, error) in [
            ("", StoreUrlError::Scheme),
            ("postgres://u@h/d", StoreUrlError::Scheme),
            ("mysql:u@h/d", StoreUrlError::Scheme),
            ("sqlite:", StoreUrlError::Path),
            ("sqlite://", StoreUrlError::Path),
            ("sqlite::memory:", StoreUrlError::Memory),
            ("mysql://h/d", StoreUrlError::User),
            ("mysql://@h/d", StoreUrlError::User),
            ("mysql://:p@h/d", StoreUrlError::User),
            ("mysql://u@/d", StoreUrlError::Host),
            ("mysql://u@:3306/d", StoreUrlError::Host),
            ("mysql://u@[::1/d", StoreUrlError::Host),
            ("mysql://u@h:/d", StoreUrlError::Port),
            ("mysql://u@h:0/d", StoreUrlError::Port),
            ("mysql://u@h:65536/d", StoreUrlError::Port),
            ("mysql://u@[::1]3306/d", StoreUrlError::Port),
            ("mysql://u@h", StoreUrlError::Database),
            ("mysql://u@h:3306/", StoreUrlError::Database),
            ("mysql://u@h/?x=1", StoreUrlError::Database),
            ("mysql://u@h/d?ssl=1", StoreUrlError::AfterDatabase),
            ("mysql://u@h/d/e", StoreUrlError::AfterDatabase),
            ("mysql://u:%ff@h/d", StoreUrlError::Encoding("password")),
        ] {
            assert_eq!(text.parse::<StoreUrl>(), Err(error), "{text}");
        }
    }
}
