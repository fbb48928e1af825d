//! Rows as the database has them, and what they mean.
//!
//! Columns are `INT UNSIGNED`, but old tables also have signed ones and SQLite has 64-bit integers only, so
//! every column is read as `i64` and checked here.

use std::net::Ipv4Addr;

use lars_proto::{HostAddr, ModuleId};

use crate::{CallStatus, CallStatusKey, LoadReport, RouteChange};

/// The 32 bits of a column, be it signed or unsigned.
fn bits(column: i64) -> Option<u32> {
    u32::try_from(column).ok().or_else(|| i32::try_from(column).ok().map(i32::cast_unsigned))
}

/// The module that two columns name.
pub(crate) fn module(modid: i64, cmdid: i64) -> Option<ModuleId> {
    Some(ModuleId::from_unsigned(bits(modid)?, bits(cmdid)?))
}

/// The columns of `RouteData` but for its id, in the order of the table.
pub(crate) type RouteColumns = (i64, i64, i64, i64);

/// The host of a module that the columns name.
pub(crate) fn route((modid, cmdid, ip, port): RouteColumns) -> Option<(ModuleId, HostAddr)> {
    Some((module(modid, cmdid)?, host(ip, port)?))
}

/// The host that two columns name.
pub(crate) fn host(ip: i64, port: i64) -> Option<HostAddr> {
    HostAddr::from_unsigned(bits(ip)?, u32::try_from(port).ok()?).ok()
}

/// The change that the columns of `RouteChange` make, in the order of the table.
pub(crate) fn change((id, modid, cmdid, version): (u64, i64, i64, u64)) -> Option<RouteChange> {
    Some(RouteChange { id, module: module(modid, cmdid)?, version })
}

/// The columns of `ServerCallStatus`, in the order of the table.
pub(crate) type CallStatusColumns = (i64, i64, i64, i64, i64, i64, i64, i64, String);

/// The row that the columns make.
pub(crate) fn call_status(columns: &CallStatusColumns) -> Option<CallStatus> {
    let (modid, cmdid, ip, port, caller, succ, err, ts, overload) = columns;
    let key = CallStatusKey {
        module: module(*modid, *cmdid)?,
        host: host(*ip, *port)?,
        caller: Ipv4Addr::from_bits(bits(*caller)?),
    };
    Some(CallStatus {
        key,
        succ: bits(*succ)?,
        err: bits(*err)?,
        ts: u64::try_from(*ts).ok()?,
        overload: overload == "1",
    })
}

/// A number for a signed column; nobody writes one that does not fit.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whether a row of `RouteData` names a host, as a condition: what [`route`] says of its columns.
pub(crate) const SKIPPED_ROW_IDS: &str = "
    SELECT id FROM RouteData
    WHERE (modid BETWEEN -2147483648 AND 4294967295 AND cmdid BETWEEN -2147483648 AND 4294967295
        AND serverip BETWEEN -2147483648 AND 4294967295 AND serverport BETWEEN 1 AND 65535) IS NOT TRUE
    ORDER BY id LIMIT ?";

/// How many hosts all modules have together: what [`Loading`] counts.
pub(crate) const HOST_COUNT: &str = "
    SELECT COUNT(*) FROM (
        SELECT DISTINCT modid, cmdid, serverip, serverport FROM RouteData
        WHERE modid BETWEEN -2147483648 AND 4294967295 AND cmdid BETWEEN -2147483648 AND 4294967295
            AND serverip BETWEEN -2147483648 AND 4294967295 AND serverport BETWEEN 1 AND 65535
    ) AS hosts";

/// The newest acceptance.
pub(crate) const NEWEST_ACCEPTANCE: &str =
    "SELECT id, version, hosts FROM LarsRouteAccept ORDER BY id DESC LIMIT 1";

pub(crate) const ADD_ACCEPTANCE: &str = "INSERT INTO LarsRouteAccept (version, hosts) VALUES (?, ?)";

/// Takes the rows of a load in their order: hands on each host once, and counts.
pub(crate) struct Loading<'a> {
    each: &'a mut dyn FnMut(ModuleId, HostAddr),
    last: Option<(ModuleId, HostAddr)>,
    report: LoadReport,
}

impl<'a> Loading<'a> {
    pub(crate) fn new(each: &'a mut dyn FnMut(ModuleId, HostAddr)) -> Self {
        Self { each, last: None, report: LoadReport::default() }
    }

    /// Takes the next row; `None` if its columns are not even numbers.
    pub(crate) fn row(&mut self, columns: Option<RouteColumns>) {
        match columns.and_then(route) {
            Some(found) => self.route(found),
            None => self.skip(),
        }
    }

    /// Counts a row that names no host.
    pub(crate) fn skip(&mut self) {
        self.report.skipped += 1;
    }

    /// Takes the next row that names a host.
    pub(crate) fn route(&mut self, found: (ModuleId, HostAddr)) {
        // The tables have no unique key, and old editors wrote some rows twice.
        if self.last.replace(found) != Some(found) {
            self.report.rows += 1;
            (self.each)(found.0, found.1);
        }
    }

    pub(crate) fn report(self) -> LoadReport {
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_from_signed_and_unsigned_columns() {
        assert_eq!(module(-1, 4_294_967_295), Some(ModuleId::new(-1, -1)));
        assert_eq!(module(2_147_483_647, -2_147_483_648), Some(ModuleId::new(i32::MAX, i32::MIN)));
        assert_eq!(module(4_294_967_296, 0), None);
        assert_eq!(module(0, -2_147_483_649), None);
    }

    #[test]
    fn hosts_have_ports() {
        assert_eq!(host(-1, 65_535), Some(HostAddr::v4(Ipv4Addr::BROADCAST, u16::MAX)));
        for port in [-1, 0, 65_536, 70_000, i64::MAX] {
            assert_eq!(host(1, port), None, "{port}");
        }
    }

    #[test]
    fn a_load_hands_on_each_host_once_and_counts_the_rest() {
        let mut loaded = Vec::new();
        let mut each = |module, host| loaded.push((module, host));
        let mut loading = Loading::new(&mut each);
        for columns in [Some((1, 1, 1, 1)), Some((1, 1, 1, 1)), None, Some((1, 1, 1, 0)), Some((1, 2, 1, 1))]
        {
            loading.row(columns);
        }
        assert_eq!(loading.report(), LoadReport { rows: 2, skipped: 2 });
        let host = HostAddr::v4(Ipv4Addr::from_bits(1), 1);
        assert_eq!(loaded, [(ModuleId::new(1, 1), host), (ModuleId::new(1, 2), host)]);
    }

    #[test]
    fn overload_is_a_character() {
        let columns = |overload: &str| (1, 1, 1, 1, 1, 1, 1, 1, overload.to_owned());
        assert_eq!(call_status(&columns("1")).map(|row| row.overload), Some(true));
        assert_eq!(call_status(&columns("0")).map(|row| row.overload), Some(false));
        assert_eq!(call_status(&(1, 1, 1, 0, 1, 1, 1, 1, "1".to_owned())), None);
    }
}
