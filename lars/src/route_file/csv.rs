//! A line per host: `modid,cmdid,host`. No field can hold a comma or a line break, so this needs no more of
//! CSV than commas and the quotes that spreadsheets put around fields.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};

use lars_proto::{HostAddr, ModuleId};

use super::{RouteFileError, Routes};
use crate::values::{callable_host, module_number};

const TITLES: [&str; 3] = ["modid", "cmdid", "host"];

pub(super) fn read(name: &str, input: impl Read) -> Result<Routes, RouteFileError> {
    let mut routes = Routes::new();
    let mut titles = None;
    for (line, text) in (1..).zip(BufReader::new(input).lines()) {
        let text = text.map_err(|error| read_error(name, line, error))?;
        let wrong = |problem| RouteFileError::line(name, line, problem);
        if text.trim().is_empty() {
            continue;
        }
        if titles.is_none() {
            titles = Some(check_titles(&text).map_err(wrong)?);
            continue;
        }
        let (module, host) = row(&text).map_err(wrong)?;
        routes.entry(module).or_default().insert(host);
    }
    Ok(routes)
}

fn read_error(name: &str, line: u64, error: io::Error) -> RouteFileError {
    if error.kind() == ErrorKind::InvalidData {
        return RouteFileError::line(name, line, "not UTF-8");
    }
    RouteFileError::Read { file: name.to_owned(), source: error }
}

fn fields(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(|field| field.trim().trim_matches('"').trim())
}

fn check_titles(text: &str) -> Result<(), String> {
    // A byte order mark is what spreadsheets put before the first title.
    if fields(text.trim_start_matches('\u{feff}')).eq(TITLES) {
        return Ok(());
    }
    Err(format!("the first line must be '{}'", TITLES.join(",")))
}

fn row(text: &str) -> Result<(ModuleId, HostAddr), String> {
    let mut all = fields(text);
    let (Some(modid), Some(cmdid), Some(host), None) = (all.next(), all.next(), all.next(), all.next())
    else {
        return Err(format!("{} fields, not 3 ({})", fields(text).count(), TITLES.join(",")));
    };
    let module = ModuleId::new(id("modid", modid)?, id("cmdid", cmdid)?);
    Ok((module, callable_host(host)?))
}

fn id(title: &str, text: &str) -> Result<i32, String> {
    module_number(text).map_err(|problem| format!("{title} {problem}"))
}

pub(super) fn write(routes: &Routes, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", TITLES.join(","))?;
    for (module, hosts) in routes {
        for host in hosts {
            writeln!(out, "{},{},{host}", module.modid, module.cmdid)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::tests::routes, *};

    #[test]
    fn reads_what_people_write() {
        let text =
            "\u{feff}modid,cmdid,host\r\n1, 1, 10.0.0.1:80\r\n\r\n\"-5\",7,\"10.0.0.2:80\"\n1,1,10.0.0.1:80";
        let expect = routes(&[(1, 1, "10.0.0.1:80"), (-5, 7, "10.0.0.2:80")]);
        assert_eq!(read("routes.csv", text.as_bytes()).unwrap(), expect);
        assert_eq!(read("routes.csv", &b""[..]).unwrap(), Routes::new());
    }

    #[track_caller]
    fn check_refused(text: &[u8], expect: &str) {
        assert_eq!(read("routes.csv", text).unwrap_err().to_string(), expect);
    }

    #[test]
    fn says_where_it_is_wrong() {
        check_refused(b"1,1,10.0.0.1:80\n", "routes.csv:1: the first line must be 'modid,cmdid,host'");
        check_refused(
            b"modid,cmdid,host\n1,1,10.0.0.1:80\n1,x,10.0.0.1:80\n",
            "routes.csv:3: cmdid 'x' is not a whole number from -2147483648 to 2147483647",
        );
        check_refused(
            b"modid,cmdid,host\n4294967296,1,10.0.0.1:80\n",
            "routes.csv:2: modid '4294967296' is not a whole number from -2147483648 to 2147483647",
        );
        check_refused(
            b"modid,cmdid,host\r\n\r\n1,1,10.0.0.1\r\n",
            "routes.csv:3: '10.0.0.1' is not an IPv4 address and port like 10.0.0.7:8080",
        );
        check_refused(b"modid,cmdid,host\n1,1,10.0.0.1:0\n", "routes.csv:2: port 0 is not in 1..=65535");
        check_refused(b"modid,cmdid,host\n1,1\n", "routes.csv:2: 2 fields, not 3 (modid,cmdid,host)");
        check_refused(b"modid,cmdid,host\n1,1,\xff\n", "routes.csv:2: not UTF-8");
    }
}
