//! Where the database is: what the caller says, else the file that `lars up` uses, so that every command
//! finds the same one with nothing said.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use lars_service::{ConfigError, read_secret};
use lars_store::{OpenMode, Store, StoreError, StoreUrl, StoreUrlError};

/// The database within the data folder.
const DATABASE: &str = "lars.db";

/// Which database.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreArgs {
    /// The database: sqlite:PATH or mysql://user:password@host:port/database [default: lars.db in the data
    /// folder]
    #[arg(long, value_name = "URL", env = "LARS_STORE_URL", hide_env_values = true)]
    pub(crate) store: Option<String>,
    /// A file that holds the URL instead, which keeps a password out of the list of processes
    #[arg(long, value_name = "FILE", env = "LARS_STORE_URL_FILE")]
    pub(crate) store_url_file: Option<PathBuf>,
    /// The data folder [default: $XDG_DATA_HOME/lars or ~/.local/share/lars]
    #[arg(long, value_name = "DIR", env = "LARS_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Why there is no database to work on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocationError {
    /// The text is not shown: it may hold a password.
    #[error("store URL (--store, --store-url-file or their variables): {0}")]
    Url(#[from] StoreUrlError),
    #[error(transparent)]
    UrlFile(#[from] ConfigError),
    #[error("there is no data folder: neither XDG_DATA_HOME nor HOME says where")]
    NoDataDir,
    #[error("cannot create the data folder {}: {source}", path.display())]
    CreateDataDir { path: PathBuf, source: io::Error },
    #[error("there is no database at {0}")]
    Missing(StoreUrl),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the environment says about where a user's data lies.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataHome {
    pub(crate) xdg_data_home: Option<OsString>,
    pub(crate) home: Option<OsString>,
}

impl DataHome {
    fn from_env() -> Self {
        Self { xdg_data_home: env::var_os("XDG_DATA_HOME"), home: env::var_os("HOME") }
    }

    /// `$XDG_DATA_HOME/lars`, else `~/.local/share/lars`. The XDG specification ignores relative paths.
    fn data_dir(&self) -> Option<PathBuf> {
        let absolute =
            |path: &Option<OsString>| path.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
        let share = || absolute(&self.home).map(|home| home.join(".local/share"));
        absolute(&self.xdg_data_home).or_else(share).map(|share| share.join("lars"))
    }
}

/// A database, found but not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreLocation {
    url: StoreUrl,
    /// The folder to create first; only where Lars chose the file's name.
    data_dir: Option<PathBuf>,
}

impl StoreLocation {
    /// What `args` and the environment say.
    pub(crate) fn find(args: &StoreArgs) -> Result<Self, LocationError> {
        Self::find_in(args, &DataHome::from_env())
    }

    /// The database in the data folder, where nothing else is said.
    pub(crate) fn usual() -> Option<Self> {
        let args =
            StoreArgs { data_dir: env::var_os("LARS_DATA_DIR").map(PathBuf::from), ..StoreArgs::default() };
        Self::find(&args).ok()
    }

    fn find_in(args: &StoreArgs, data_home: &DataHome) -> Result<Self, LocationError> {
        let in_file = args.store_url_file.as_deref().map(|path| read_secret("--store-url-file", path));
        if let Some(text) = in_file.transpose()?.as_ref().or(args.store.as_ref()) {
            return Ok(Self { url: text.parse()?, data_dir: None });
        }
        let dir = args.data_dir.clone().or_else(|| data_home.data_dir()).ok_or(LocationError::NoDataDir)?;
        Ok(Self { url: StoreUrl::Sqlite(dir.join(DATABASE)), data_dir: Some(dir) })
    }

    pub(crate) fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// The data folder, if the database lies in it.
    pub(crate) fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// Creates the data folder where that is Lars's own business.
    pub(crate) fn prepare(&self) -> Result<(), LocationError> {
        let Some(path) = &self.data_dir else { return Ok(()) };
        fs::create_dir_all(path).map_err(|source| LocationError::CreateDataDir { path: path.clone(), source })
    }

    /// Opens the database to write; it is created if it is missing.
    pub(crate) fn open_or_create(&self) -> Result<Box<dyn Store>, LocationError> {
        self.prepare()?;
        Ok(lars_store::open(&self.url, OpenMode::Create)?)
    }

    /// Opens the database to read. Looking at something does not create it.
    pub(crate) fn open_existing(&self) -> Result<Box<dyn Store>, LocationError> {
        self.open_to(OpenMode::ReadOnly)
    }

    /// Opens the database to change it, if it is there.
    pub(crate) fn open_to_change(&self) -> Result<Box<dyn Store>, LocationError> {
        self.open_to(OpenMode::Existing)
    }

    fn open_to(&self, mode: OpenMode) -> Result<Box<dyn Store>, LocationError> {
        let opened = lars_store::open(&self.url, mode);
        if matches!(&opened, Err(StoreError::Missing { .. })) {
            return Err(LocationError::Missing(self.url.clone()));
        }
        Ok(opened?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(store: Option<&str>, data_dir: Option<&str>, data_home: [Option<&str>; 2], expect: &str) {
        let data_dir = data_dir.map(PathBuf::from);
        let args = StoreArgs { store: store.map(str::to_owned), data_dir, ..StoreArgs::default() };
        let [xdg_data_home, home] = data_home.map(|path| path.map(OsString::from));
        let found = match StoreLocation::find_in(&args, &DataHome { xdg_data_home, home }) {
            Ok(location) => location.url.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn what_is_said_wins_over_what_is_usual() {
        let usual = [Some("/xdg"), Some("/home/me")];
        check(Some("sqlite:a.db"), Some("/data"), usual, "sqlite:a.db");
        check(None, Some("/data"), usual, "sqlite:/data/lars.db");
        check(None, None, usual, "sqlite:/xdg/lars/lars.db");
        check(
            None,
            None,
            [Some("not/absolute"), Some("/home/me")],
            "sqlite:/home/me/.local/share/lars/lars.db",
        );
        check(None, None, [None, Some("/home/me")], "sqlite:/home/me/.local/share/lars/lars.db");
    }

    #[test]
    fn a_wrong_place_is_refused_without_its_password() {
        check(None, None, [None, None], &LocationError::NoDataDir.to_string());
        check(
            Some("mysql://root:secret@/lars"),
            None,
            [None, None],
            "store URL (--store, --store-url-file or their variables): no host: write mysql://user@host/database",
        );
    }

    #[test]
    fn a_file_may_hold_the_url() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "mysql://root:secret@db/lars\n").unwrap();
        let find = |path: &str| {
            let args = StoreArgs { store_url_file: Some(path.into()), ..StoreArgs::default() };
            StoreLocation::find_in(&args, &DataHome::default()).map(|found| found.url.to_string())
        };
        assert_eq!(find(file.path().to_str().unwrap()).unwrap(), "mysql://root:***@db/lars");
        let error = find("/nonexistent/url").unwrap_err().to_string();
        assert!(error.starts_with("--store-url-file: cannot read /nonexistent/url"), "{error}");
    }

    #[test]
    fn reading_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("deep/down");
        let args = StoreArgs { data_dir: Some(data_dir.clone()), ..StoreArgs::default() };
        let location = StoreLocation::find_in(&args, &DataHome::default()).unwrap();
        assert!(matches!(location.open_existing(), Err(LocationError::Missing(_))));
        assert!(!data_dir.exists());
        location.open_or_create().unwrap();
        assert!(location.open_existing().is_ok());
    }
}
