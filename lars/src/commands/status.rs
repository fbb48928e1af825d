//! `lars status`: the stored call statistics.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use lars_store::CallStatus;
use serde::Serialize;

use crate::{
    cli::StatusArgs,
    exit::Failure,
    out::{Ink, Out, Paint},
    store_location::StoreLocation,
    table::{self, Cell, left, percent, right},
};

pub(crate) fn run(args: &StatusArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let location = StoreLocation::find(&args.store)?;
    let mut store = location.open_existing()?;
    let rows = store.call_status(args.module.id())?;
    if let (true, Some(module)) = (rows.is_empty(), args.module.id())
        && store.hosts(module)?.is_empty()
    {
        return Err(Failure::NoModule { module, store: location.url().clone() });
    }
    if args.json {
        return Ok(write_json(&rows, out.data())?);
    }
    if rows.is_empty() {
        return Ok(out.note(format_args!("no calls are stored in {} yet", location.url()))?);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let paint = out.paint();
    Ok(write_table(&rows, now, paint, out.data())?)
}

/// A row as scripts see it.
#[derive(Serialize)]
struct JsonRow {
    modid: i32,
    cmdid: i32,
    host: String,
    caller: String,
    succ: u32,
    err: u32,
    ts: u64,
    overload: bool,
}

impl From<&CallStatus> for JsonRow {
    fn from(row: &CallStatus) -> Self {
        Self {
            modid: row.key.module.modid,
            cmdid: row.key.module.cmdid,
            host: row.key.host.to_string(),
            caller: row.key.caller.to_string(),
            succ: row.succ,
            err: row.err,
            ts: row.ts,
            overload: row.overload,
        }
    }
}

fn write_json(rows: &[CallStatus], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<JsonRow> = rows.iter().map(JsonRow::from).collect();
    serde_json::to_writer_pretty(&mut *out, &rows)?;
    out.write_all(b"\n")
}

fn write_table(rows: &[CallStatus], now: u64, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let columns = [
        right("MODID"),
        right("CMDID"),
        left("HOST"),
        left("CALLER"),
        right("OK"),
        right("FAILED"),
        right("FAILED%"),
        left("STATE"),
        right("AGE"),
    ];
    table::write(out, paint, columns, || rows.iter().map(|row| cells(row, now)))
}

fn cells(row: &CallStatus, now: u64) -> [Cell; 9] {
    [
        row.key.module.modid.into(),
        row.key.module.cmdid.into(),
        row.key.host.into(),
        row.key.caller.into(),
        row.succ.into(),
        row.err.into(),
        percent(row.err.into(), u64::from(row.succ) + u64::from(row.err)).into(),
        state(row.overload),
        age(now.saturating_sub(row.ts)).into(),
    ]
}

/// The state of a host, as it is called everywhere.
pub(crate) fn state(overload: bool) -> Cell {
    if overload { Cell::inked(Ink::Red, "overloaded") } else { Cell::inked(Ink::Green, "idle") }
}

/// How long ago, in the largest unit of which it is at least two.
fn age(seconds: u64) -> String {
    const UNITS: [(u64, char); 3] = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    match UNITS.into_iter().find(|(unit, _)| seconds >= 2 * unit) {
        Some((unit, letter)) => format!("{}{letter}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::ModuleId;
    use lars_store::CallStatusKey;

    use super::*;

    fn row(succ: u32, err: u32, overload: bool) -> CallStatus {
        let host = "10.0.0.1:80".parse().unwrap();
        let key = CallStatusKey { module: ModuleId::new(1, -2), host, caller: Ipv4Addr::LOCALHOST };
        CallStatus { key, succ, err, ts: 1_000, overload }
    }

    #[test]
    fn a_table_for_people() {
        let mut bytes = Vec::new();
        let rows = [row(7, 1, false), row(0, 0, true)];
        write_table(&rows, 1_125, Paint::OFF, &mut bytes).unwrap();
        let expect = "\
MODID  CMDID  HOST         CALLER     OK  FAILED  FAILED%  STATE       AGE
    1     -2  10.0.0.1:80  127.0.0.1   7       1     12.5  idle         2m
    1     -2  10.0.0.1:80  127.0.0.1   0       0        -  overloaded   2m
";
        assert_eq!(String::from_utf8(bytes).unwrap(), expect);
    }

    #[test]
    fn json_for_scripts() {
        let mut bytes = Vec::new();
        write_json(&[row(7, 1, true)], &mut bytes).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let expect = serde_json::json!([{
            "modid": 1, "cmdid": -2, "host": "10.0.0.1:80", "caller": "127.0.0.1",
            "succ": 7, "err": 1, "ts": 1_000, "overload": true,
        }]);
        assert_eq!(value, expect);
    }

    #[test]
    fn ages() {
        let ages = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }
}
