//! From a message to rows, with what peers may get wrong, and to the writer that keeps them.

use std::net::Ipv4Addr;

use lars_proto::{
    CallStatus, CallStatusKey, HostAddr, ModuleId,
    frame::BODY_LEN_MAX,
    messages::{HostCallResult, HostInfo, ReportStatusRequest},
};
use lars_store::TS_AHEAD_MAX;

/// The most rows a message can hold: a valid result takes at least four bytes (tag and length of the result,
/// tag and value of its port).
pub const ROWS_PER_MESSAGE_MAX: usize = BODY_LEN_MAX / 4;

/// A seed of the hash: any will do, as long as it stays: another seed would deal the modules anew.
const SEED: u32 = 0;

/// What a message holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// A row for each valid result.
    pub rows: Vec<CallStatus>,
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

/// A missing `ts` (0) means now. An agent's clock may be ahead of ours by [`TS_AHEAD_MAX`]: a row never goes back to an
/// older `ts`, so one from the far future would keep its row from changing. It is cut to that and not replaced by our
/// own time, because then a clock that drifts across the limit would still never go back.
fn corrected_ts(sent: u64, now: u64) -> u64 {
    if sent == 0 { now } else { sent.min(now.saturating_add(TS_AHEAD_MAX)) }
}

fn row(message: &ReportStatusRequest, result: &HostCallResult, ts: u64) -> Option<CallStatus> {
    let host = HostAddr::from_wire(&HostInfo { ip: result.ip, port: result.port }).ok()?;
    let caller = Ipv4Addr::from_bits(message.caller.cast_unsigned());
    let key = CallStatusKey { module: message.module(), host, caller };
    Some(CallStatus { key, succ: result.succ, err: result.err, ts, overload: result.overload })
}

/// The one of `writers` that all rows of `module` go to, so that they are written by one thread and in the
/// order in which they came.
///
/// # Panics
/// If `writers` is 0; the number is validated where it is configured.
#[must_use]
pub fn writer_of(module: ModuleId, writers: usize) -> usize {
    let mut name = [0; 8];
    name[..4].copy_from_slice(&module.modid.to_le_bytes());
    name[4..].copy_from_slice(&module.cmdid.to_le_bytes());
    let hash = murmur3::murmur3_32(&mut &name[..], SEED).expect("memory can be read");
    hash as usize % writers
}

#[cfg(test)]
mod tests {
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
        let key = CallStatusKey {
            module: ModuleId::new(-1, 2),
            host: "127.0.0.1:7777".parse().expect("a host"),
            caller: Ipv4Addr::new(192, 168, 0, 10),
        };
        let row = CallStatus { key, succ: 7, err: 2, ts: 1_600_000_000, overload: true };
        let expected = Ingest { rows: vec![row], invalid: 0, ts_corrected: false };
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
            assert_eq!((ingest.rows[0].ts, ingest.ts_corrected), (kept, kept != sent), "sent {sent}");
        };
        check(0, NOW);
        check(1, 1);
        check(NOW, NOW);
        check(NOW + TS_AHEAD_MAX, NOW + TS_AHEAD_MAX);
        check(NOW + TS_AHEAD_MAX + 1, NOW + TS_AHEAD_MAX);
        check(u64::from(u32::MAX), NOW + TS_AHEAD_MAX);
    }

    #[test]
    fn stays_as_it_is() {
        let of_64 = |modid, cmdid| writer_of(ModuleId::new(modid, cmdid), 64);
        assert_eq!([of_64(0, 0), of_64(1, 1), of_64(1, 2), of_64(-1, 7)], [60, 26, 6, 3]);
    }

    #[test]
    fn neighbouring_modules_are_spread_evenly() {
        const WRITERS: usize = 8;
        let mut modules = [0_i32; WRITERS];
        for modid in 0..100 {
            for cmdid in 0..100 {
                modules[writer_of(ModuleId::new(modid, cmdid), WRITERS)] += 1;
            }
        }
        let fair = 100 * 100 / WRITERS as i32;
        for (writer, count) in modules.iter().enumerate() {
            assert!((count - fair).abs() < fair / 10, "writer {writer} has {count} modules, fair is {fair}");
        }
    }

    proptest! {
        #[test]
        fn every_result_is_a_row_or_counted(ts: u32, now: u64, hosts: Vec<(i32, i32)>) {
            let results: Vec<_> = hosts.iter().map(|&(ip, port)| result(ip, port)).collect();
            let ingest = rows(&message(ts, results), now);
            prop_assert_eq!(ingest.rows.len() + ingest.invalid, hosts.len());
            for row in ingest.rows {
                prop_assert!(row.ts <= now.saturating_add(TS_AHEAD_MAX));
            }
        }

        #[test]
        fn a_steady_clock_never_goes_back(offset: u32, start in 1_u32..=u32::MAX / 2, later in 0_u64..1_000) {
            let (sent, now) = (u64::from(start) + u64::from(offset), u64::from(start));
            prop_assert!(corrected_ts(sent, now) <= corrected_ts(sent + later, now + later));
        }

        #[test]
        fn is_always_in_range(modid: i32, cmdid: i32, writers in 1_usize..=64) {
            prop_assert!(writer_of(ModuleId::new(modid, cmdid), writers) < writers);
        }
    }
}
