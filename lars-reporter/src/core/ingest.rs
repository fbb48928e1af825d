//! From a message to rows, with what peers may get wrong.

use std::net::Ipv4Addr;

use lars_proto::{
    HostAddr,
    frame::BODY_LEN_MAX,
    messages::{HostCallResult, HostInfo, ReportStatusRequest},
};

use super::row::{Status, StatusKey, StatusRow};

/// How far an agent's clock may be ahead of ours, in seconds. A row never goes back to an older `ts`, so one
/// time stamp from the far future would keep its row from changing for ever: such a stamp is cut to this.
/// Cut and not replaced by our own time, because then a clock that drifts across the limit would still
/// never go back.
pub const TS_AHEAD_MAX: u64 = 60;

/// The most rows a message can hold: a valid result takes at least four bytes (tag and length of the result,
/// tag and value of its port).
pub const ROWS_PER_MESSAGE_MAX: usize = BODY_LEN_MAX / 4;

/// What a message holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// A row for each valid result.
    pub rows: Vec<StatusRow>,
    /// Results left out because their port is not in 1..=65535.
    pub invalid: usize,
    /// Whether `ts` was missing or too far ahead, and ours was taken.
    pub ts_corrected: bool,
}

/// The rows of `message`, which came at `now` (Unix seconds, our clock).
#[must_use]
pub fn rows(message: &ReportStatusRequest, now: u64) -> Ingest {
    let sent = u64::from(message.ts);
    let ts = corrected_ts(sent, now);
    let rows: Vec<_> = message.results.iter().filter_map(|result| row(message, result, ts)).collect();
    let invalid = message.results.len() - rows.len();
    Ingest { rows, invalid, ts_corrected: ts != sent }
}

/// A missing `ts` (0) means now.
fn corrected_ts(sent: u64, now: u64) -> u64 {
    if sent == 0 { now } else { sent.min(now.saturating_add(TS_AHEAD_MAX)) }
}

fn row(message: &ReportStatusRequest, result: &HostCallResult, ts: u64) -> Option<StatusRow> {
    let host = HostAddr::from_wire(&HostInfo { ip: result.ip, port: result.port }).ok()?;
    let caller = Ipv4Addr::from_bits(message.caller.cast_unsigned());
    Some(StatusRow {
        key: StatusKey { module: message.module(), host, caller },
        status: Status { succ: result.succ, err: result.err, ts, overload: result.overload },
    })
}

#[cfg(test)]
mod tests {
    use lars_proto::ModuleId;
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn result(ip: i32, port: i32) -> HostCallResult {
        HostCallResult { ip, port, succ: 7, err: 2, overload: true }
    }

    fn message(ts: u32, results: Vec<HostCallResult>) -> ReportStatusRequest {
        // -1_062_731_766 is 192.168.0.10, as the wire has addresses from 128.0.0.0 up.
        ReportStatusRequest { modid: -1, cmdid: 2, caller: -1_062_731_766, results, ts }
    }

    #[test]
    fn a_result_becomes_a_row() {
        let ingest = rows(&message(1_600_000_000, vec![result(0x7f00_0001, 7777)]), NOW);
        let key = StatusKey {
            module: ModuleId::new(-1, 2),
            host: "127.0.0.1:7777".parse().expect("a host"),
            caller: Ipv4Addr::new(192, 168, 0, 10),
        };
        let status = Status { succ: 7, err: 2, ts: 1_600_000_000, overload: true };
        let expected = Ingest { rows: vec![StatusRow { key, status }], invalid: 0, ts_corrected: false };
        assert_eq!(ingest, expected);
    }

    #[test]
    fn results_with_an_impossible_port_are_left_out() {
        let ports = [0, -1, 65_536, 80, i32::MIN, i32::MAX];
        let ingest = rows(&message(1, ports.map(|port| result(-1, port)).to_vec()), NOW);
        assert_eq!((ingest.rows.len(), ingest.invalid), (1, 5));
        assert_eq!(ingest.rows[0].key.host.to_string(), "255.255.255.255:80");
    }

    #[test]
    fn a_time_stamp_cannot_be_missing_or_far_ahead() {
        let check = |sent: u64, kept: u64| {
            let sent_ts = u32::try_from(sent).expect("fits the wire");
            let ingest = rows(&message(sent_ts, vec![result(1, 1)]), NOW);
            assert_eq!((ingest.rows[0].status.ts, ingest.ts_corrected), (kept, kept != sent), "sent {sent}");
        };
        check(0, NOW);
        check(1, 1);
        check(NOW, NOW);
        check(NOW + TS_AHEAD_MAX, NOW + TS_AHEAD_MAX);
        check(NOW + TS_AHEAD_MAX + 1, NOW + TS_AHEAD_MAX);
        check(u64::from(u32::MAX), NOW + TS_AHEAD_MAX);
    }

    proptest! {
        #[test]
        fn every_result_is_a_row_or_counted(ts: u32, now: u64, hosts: Vec<(i32, i32)>) {
            let results: Vec<_> = hosts.iter().map(|&(ip, port)| result(ip, port)).collect();
            let ingest = rows(&message(ts, results), now);
            prop_assert_eq!(ingest.rows.len() + ingest.invalid, hosts.len());
            for row in ingest.rows {
                prop_assert!(row.status.ts <= now.saturating_add(TS_AHEAD_MAX));
            }
        }

        #[test]
        fn a_steady_clock_never_goes_back(offset: u32, start in 1_u32..=u32::MAX / 2, later in 0_u64..1_000) {
            let (sent, now) = (u64::from(start) + u64::from(offset), u64::from(start));
            prop_assert!(corrected_ts(sent, now) <= corrected_ts(sent + later, now + later));
        }
    }
}
