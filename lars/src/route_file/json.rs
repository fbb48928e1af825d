//! A list of modules, each with its hosts.

use std::io::{self, BufReader, Read, Write};

use lars_proto::{HostAddr, ModuleId};
use serde::{Deserialize, Serialize};

use super::{RouteFileError, Routes};
use crate::values::callable_host;

/// A module and its hosts.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Module {
    modid: i32,
    cmdid: i32,
    hosts: Hosts,
}

/// At least one host: a list that came out empty by mistake would silence a service.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "Vec<Host>")]
struct Hosts(Vec<Host>);

/// A host as text. Checked where it is read, so that the error knows the line.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct Host(HostAddr);

impl TryFrom<Vec<Host>> for Hosts {
    type Error = &'static str;

    fn try_from(hosts: Vec<Host>) -> Result<Self, Self::Error> {
        if hosts.is_empty() {
            return Err("a module without hosts; `lars route rm MODID CMDID --all` removes one");
        }
        Ok(Self(hosts))
    }
}

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        callable_host(&text).map(Self)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0.to_string()
    }
}

pub(super) fn read(name: &str, input: impl Read) -> Result<Routes, RouteFileError> {
    let modules: Vec<Module> =
        serde_json::from_reader(BufReader::new(input)).map_err(|error| json_error(name, error))?;
    let mut routes = Routes::new();
    for Module { modid, cmdid, hosts } in modules {
        let route = routes.entry(ModuleId::new(modid, cmdid)).or_default();
        route.extend(hosts.0.into_iter().map(|host| host.0));
    }
    Ok(routes)
}

fn json_error(name: &str, error: serde_json::Error) -> RouteFileError {
    if error.is_io() {
        return RouteFileError::Read { file: name.to_owned(), source: error.into() };
    }
    let text = error.to_string();
    let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
    RouteFileError::line(name, error.line() as u64, problem)
}

/// Writes `routes`, a line per module.
pub(crate) fn write_json(routes: &Routes, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"[")?;
    for (n, (module, hosts)) in routes.iter().enumerate() {
        out.write_all(if n == 0 { b"\n" } else { b",\n" })?;
        let hosts = Hosts(hosts.iter().copied().map(Host).collect());
        serde_json::to_writer(&mut *out, &Module { modid: module.modid, cmdid: module.cmdid, hosts })?;
    }
    out.write_all(if routes.is_empty() { b"]\n" } else { b"\n]\n" })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::routes, *};

    #[test]
    fn a_module_may_come_more_than_once() {
        let text = r#"[{"modid": 1, "cmdid": -1, "hosts": ["10.0.0.1:80", "10.0.0.1:80"]},
            {"hosts": ["10.0.0.2:80"], "modid": 1, "cmdid": -1}]"#;
        let expect = routes(&[(1, -1, "10.0.0.1:80"), (1, -1, "10.0.0.2:80")]);
        assert_eq!(read("routes.json", text.as_bytes()).unwrap(), expect);
    }

    #[test]
    fn writes_a_line_per_module() {
        let mut bytes = Vec::new();
        write_json(
            &routes(&[(1, 1, "10.0.0.1:80"), (1, 1, "10.0.0.2:80"), (2, 1, "10.0.0.1:80")]),
            &mut bytes,
        )
        .unwrap();
        let expect = "[\n{\"modid\":1,\"cmdid\":1,\"hosts\":[\"10.0.0.1:80\",\"10.0.0.2:80\"]},\n\
            {\"modid\":2,\"cmdid\":1,\"hosts\":[\"10.0.0.1:80\"]}\n]\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expect);
    }

    #[track_caller]
    fn check_refused(text: &str, expect: &str) {
        assert_eq!(read("routes.json", text.as_bytes()).unwrap_err().to_string(), expect);
    }

    #[test]
    fn says_where_it_is_wrong() {
        check_refused(
            "[\n{\"modid\":1,\"cmdid\":1,\"hosts\":[\"10.0.0.1:80\",\n\"10.0.0.1\"]}]",
            "routes.json:3: '10.0.0.1' is not an IPv4 address and port like 10.0.0.7:8080",
        );
        check_refused(
            "[{\"modid\":1,\"cmdid\":1,\n\"hosts\":[]}]",
            "routes.json:2: a module without hosts; `lars route rm MODID CMDID --all` removes one",
        );
        check_refused(
            "[\n{\"modid\":1,\"hosts\":[\"10.0.0.1:80\"]}]",
            "routes.json:2: missing field `cmdid`",
        );
        check_refused("[", "routes.json:1: EOF while parsing a list");
        check_refused(
            "[{\"modid\":1,\"cmdid\":1,\"host\":\"10.0.0.1:80\"}]",
            "routes.json:1: unknown field `host`, expected one of `modid`, `cmdid`, `hosts`",
        );
    }
}
