//! Routes in files, for `route import` and `route export`.
//!
//! CSV has a line per host under the titles `modid,cmdid,host`; JSON is a list of
//! `{"modid": 1, "cmdid": 1, "hosts": ["10.0.0.1:80"]}`. What is exported can be imported. Errors name the
//! file and the line.

mod csv;
mod json;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, Read, Write},
    path::Path,
};

use clap::ValueEnum;
use lars_proto::{HostAddr, ModuleId};
use lars_store::RouteEdit;

pub(crate) use self::json::write_json;

/// Hosts by module.
pub(crate) type Routes = BTreeMap<ModuleId, BTreeSet<HostAddr>>;

/// For `--help`.
pub(crate) const FORMATS_HELP: &str = r#"CSV has a line per host under these titles:
  modid,cmdid,host
  1,1,10.0.0.7:8080
  1,1,10.0.0.8:8080

JSON is a list of modules:
  [{"modid": 1, "cmdid": 1, "hosts": ["10.0.0.7:8080", "10.0.0.8:8080"]}]"#;

/// How routes are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Csv,
    Json,
}

impl Format {
    /// What the name of a file says.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        [Self::Csv, Self::Json].into_iter().find(|format| extension.eq_ignore_ascii_case(format.extension()))
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }

    /// Reads all routes of `input`, of which there is at least one: a file that came out empty by mistake is
    /// not taken for work that is done. `name` is for errors.
    pub(crate) fn read(self, name: &str, input: impl Read) -> Result<Routes, RouteFileError> {
        let routes = match self {
            Self::Csv => csv::read(name, input),
            Self::Json => json::read(name, input),
        }?;
        if routes.is_empty() {
            return Err(RouteFileError::Empty { file: name.to_owned() });
        }
        Ok(routes)
    }

    /// Writes `routes`, in their order.
    pub(crate) fn write(self, routes: &Routes, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Csv => csv::write(routes, out),
            Self::Json => write_json(routes, out),
        }
    }
}

/// What becomes of hosts that are stored but not in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They stay.
    Merge,
    /// They go, if their module is in the file. Modules that are not in it stay as they are.
    Replace,
}

/// The edits that bring `routes` into the store.
pub(crate) fn edits(routes: Routes, mode: Mode) -> Vec<RouteEdit> {
    match mode {
        Mode::Merge => routes
            .into_iter()
            .flat_map(|(module, hosts)| hosts.into_iter().map(move |host| RouteEdit::Add(module, host)))
            .collect(),
        Mode::Replace => routes
            .into_iter()
            .map(|(module, hosts)| RouteEdit::Replace(module, hosts.into_iter().collect()))
            .collect(),
    }
}

/// Why a file does not say routes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteFileError {
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: io::Error },
    #[error("{file}: is it CSV or JSON? its name does not say; say --format csv or --format json")]
    UnknownFormat { file: String },
    #[error("{file}: there are no routes in it")]
    Empty { file: String },
    #[error("{file}:{line}: {problem}")]
    Line { file: String, line: u64, problem: String },
}

impl RouteFileError {
    fn line(file: &str, line: u64, problem: impl fmt::Display) -> Self {
        Self::Line { file: file.to_owned(), line, problem: problem.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    pub(super) fn routes(hosts: &[(i32, i32, &str)]) -> Routes {
        let mut routes = Routes::new();
        for (modid, cmdid, host) in hosts {
            let module = ModuleId::new(*modid, *cmdid);
            routes.entry(module).or_default().insert(host.parse().expect("a host"));
        }
        routes
    }

    #[test]
    fn the_name_of_a_file_says_its_format() {
        assert_eq!(Format::of(Path::new("a/routes.csv")), Some(Format::Csv));
        assert_eq!(Format::of(Path::new("ROUTES.JSON")), Some(Format::Json));
        assert_eq!(Format::of(Path::new("routes.txt")), None);
        assert_eq!(Format::of(Path::new("csv")), None);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let many = (0..500).map(|n| {
            let host = HostAddr::v4(Ipv4Addr::from_bits(1 + n * 7_500_000), 1 + n as u16 * 131);
            (ModuleId::new(n as i32 % 7 - 3, i32::MIN + n as i32 % 5), host)
        });
        let mut routes = Routes::new();
        many.for_each(|(module, host)| {
            routes.entry(module).or_default().insert(host);
        });
        for format in [Format::Csv, Format::Json] {
            let mut bytes = Vec::new();
            format.write(&routes, &mut bytes).unwrap();
            assert_eq!(format.read("routes", &bytes[..]).unwrap(), routes, "{format:?}");
        }
    }

    #[test]
    fn a_file_without_routes_is_an_error() {
        for format in [Format::Csv, Format::Json] {
            let mut bytes = Vec::new();
            format.write(&Routes::new(), &mut bytes).unwrap();
            let error = format.read("routes", &bytes[..]).unwrap_err();
            assert_eq!(error.to_string(), "routes: there are no routes in it", "{format:?}");
        }
    }

    #[test]
    fn the_examples_of_the_help_can_be_imported() {
        let expect = routes(&[(1, 1, "10.0.0.7:8080"), (1, 1, "10.0.0.8:8080")]);
        let (csv, json) = FORMATS_HELP.split_once("\n\n").unwrap();
        for (format, example) in [(Format::Csv, csv), (Format::Json, json)] {
            let (_, example) = example.split_once('\n').unwrap();
            assert_eq!(format.read("example", example.as_bytes()).unwrap(), expect, "{format:?}");
        }
    }

    #[test]
    fn merging_adds_and_replacing_replaces_what_is_named() {
        let routes = routes(&[(1, 1, "10.0.0.1:80"), (1, 1, "10.0.0.2:80"), (2, 1, "10.0.0.3:80")]);
        let [a, b, c] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"].map(|host| host.parse().unwrap());
        let (one, two) = (ModuleId::new(1, 1), ModuleId::new(2, 1));
        let merged = [RouteEdit::Add(one, a), RouteEdit::Add(one, b), RouteEdit::Add(two, c)];
        assert_eq!(edits(routes.clone(), Mode::Merge), merged);
        let replaced = [RouteEdit::Replace(one, vec![a, b]), RouteEdit::Replace(two, vec![c])];
        assert_eq!(edits(routes, Mode::Replace), replaced);
    }
}
