//! Checks of [`CallStatusStore`](lars_store::CallStatusStore).

use std::net::Ipv4Addr;

use lars_proto::{HostAddr, ModuleId};
use lars_store::{CallStatus, CallStatusKey, ExpiryCursor, StoreError};

use crate::{Database, routes::host};

const MODULE: ModuleId = ModuleId::new(1, 1);

pub(crate) fn row(n: u32, ts: u64, succ: u32) -> CallStatus {
    let key = CallStatusKey { module: MODULE, host: host(n), caller: Ipv4Addr::LOCALHOST };
    CallStatus { key, succ, err: succ + 1, ts, overload: succ % 2 == 1 }
}

pub(crate) fn an_empty_database_has_nothing_to_tell(database: &Database) {
    let mut store = database.open();
    assert_eq!(store.call_status(None), Ok(vec![]));
    assert_eq!(store.call_status(Some(MODULE)), Ok(vec![]));
    assert_eq!(store.upsert(&[]), Ok(()));
}

pub(crate) fn a_row_never_grows_older(database: &Database) {
    let mut store = database.open();
    for (written, kept) in [
        (row(1, 100, 1), row(1, 100, 1)),
        (row(1, 99, 2), row(1, 100, 1)),
        (row(1, 100, 3), row(1, 100, 3)),
        (row(1, 101, 4), row(1, 101, 4)),
        (row(1, 0, 5), row(1, 101, 4)),
    ] {
        store.upsert(&[written]).expect("an upsert");
        assert_eq!(store.call_status(None), Ok(vec![kept]), "{written:?}");
    }
}

pub(crate) fn one_batch_with_a_key_twice(database: &Database) {
    let mut store = database.open();
    store
        .upsert(&[row(1, 10, 1), row(2, 10, 2), row(1, 12, 3), row(1, 11, 4), row(2, 10, 5)])
        .expect("an upsert");
    assert_eq!(store.call_status(None), Ok(vec![row(1, 12, 3), row(2, 10, 5)]));
    store.upsert(&[row(1, 11, 6), row(1, 10, 7), row(2, 11, 8)]).expect("an upsert");
    assert_eq!(store.call_status(None), Ok(vec![row(1, 12, 3), row(2, 11, 8)]));
}

pub(crate) fn many_rows_ordered_by_key(database: &Database) {
    let mut store = database.open();
    let of_module = |cmdid, n| {
        let mut row = row(n, 50, n);
        row.key.module = ModuleId::new(1, cmdid);
        row
    };
    let one: Vec<_> = (0..1_500).map(|n| of_module(1, n)).collect();
    let two: Vec<_> = (0..7).map(|n| of_module(2, n)).collect();
    let shuffled: Vec<_> = two.iter().chain(one.iter().rev()).copied().collect();
    store.upsert(&shuffled).expect("an upsert");
    assert_eq!(store.call_status(Some(ModuleId::new(1, 1))).as_ref(), Ok(&one));
    assert_eq!(store.call_status(Some(ModuleId::new(1, 2))).as_ref(), Ok(&two));
    assert_eq!(store.call_status(Some(ModuleId::new(2, 1))), Ok(vec![]));
    assert_eq!(store.call_status(None), Ok([one, two].concat()));
}

pub(crate) fn every_number_survives(database: &Database) {
    let mut store = database.open();
    let extreme = CallStatus {
        key: CallStatusKey {
            module: ModuleId::new(i32::MIN, -1),
            host: HostAddr::v4(Ipv4Addr::BROADCAST, u16::MAX),
            caller: Ipv4Addr::BROADCAST,
        },
        succ: u32::MAX,
        err: u32::MAX,
        ts: u64::from(u32::MAX) + 1,
        overload: true,
    };
    let least = CallStatus {
        key: CallStatusKey {
            module: ModuleId::new(0, i32::MAX),
            host: HostAddr::v4(Ipv4Addr::UNSPECIFIED, 1),
            caller: Ipv4Addr::UNSPECIFIED,
        },
        succ: 0,
        err: 0,
        ts: 0,
        overload: false,
    };
    store.upsert(&[least, extreme]).expect("an upsert");
    assert_eq!(store.call_status(None), Ok(vec![extreme, least]));
    assert_eq!(store.call_status(Some(extreme.key.module)), Ok(vec![extreme]));

    // A time that no table can hold is the latest there is, not a reason to lose the batch.
    store.upsert(&[CallStatus { ts: u64::MAX, ..least }, row(1, 1, 1)]).expect("an upsert");
    let latest = CallStatus { ts: i64::MAX.unsigned_abs(), ..least };
    assert_eq!(store.call_status(None), Ok(vec![extreme, latest, row(1, 1, 1)]));
}

pub(crate) fn a_failing_row_leaves_no_trace_of_its_batch(database: &Database) {
    let mut store = database.open();
    store.upsert(&[row(1, 10, 1)]).expect("an upsert");
    database.refuse("ServerCallStatus", "succ_cnt", 666);
    // The rows come in the order of their keys, so this one fails in the last of several statements.
    let rows: Vec<_> = (1..=700).map(|n| row(n, 20, if n == 700 { 666 } else { 2 })).collect();
    let error = store.upsert(&rows).expect_err("a refusal");
    assert!(
        matches!(&error, StoreError::RowRefused { problem, .. } if problem.contains("refusal")),
        "{error}"
    );
    assert_eq!(store.call_status(None), Ok(vec![row(1, 10, 1)]));
    store.upsert(&rows[..699]).expect("the connection is as good as before");
    assert_eq!(store.call_status(None).map(|rows| rows.len()), Ok(699));
}

fn unix_now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs()
}

pub(crate) fn a_time_stamp_from_the_far_future_is_healed(database: &Database) {
    let mut store = database.open();
    let now = unix_now();
    // Nobody waits for so long here that the second is past before it is looked at.
    store.upsert(&[row(1, now + 100_000, 1), row(2, now + 30, 1)]).expect("an upsert");
    store.upsert(&[row(1, now, 2), row(2, now, 2)]).expect("an upsert");
    assert_eq!(store.call_status(None), Ok(vec![row(1, now, 2), row(2, now + 30, 1)]));
    store.upsert(&[row(1, now - 1, 3)]).expect("an upsert");
    assert_eq!(store.call_status(None), Ok(vec![row(1, now, 2), row(2, now + 30, 1)]));
}

pub(crate) fn checking_writes_nothing(database: &Database) {
    let mut store = database.open();
    store.upsert(&[row(1, 10, 1)]).expect("an upsert");
    assert_eq!(store.check_upsert(), Ok(()));
    assert_eq!(store.call_status(None), Ok(vec![row(1, 10, 1)]));
}

pub(crate) fn old_rows_leave_in_steps(database: &Database) {
    let mut store = database.open();
    let of_module = |modid, n: u32| {
        let mut row = row(n, if n.is_multiple_of(3) { 99 } else { 100 }, n);
        row.key.module = ModuleId::new(modid, -1);
        row
    };
    let rows: Vec<_> = (1..=5).flat_map(|modid| (0..500).map(move |n| of_module(modid, n))).collect();
    store.upsert(&rows).expect("an upsert");
    // It names no host, and is old all the same.
    database.execute(
        "INSERT INTO ServerCallStatus (modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload)
         VALUES (3, 0, 1, 70000, 1, 0, 0, 1, '1')",
    );
    let (mut cursor, mut deleted) = (ExpiryCursor::default(), Vec::new());
    loop {
        let step = store.expire_step(cursor, 100).expect("a step");
        deleted.push(step.deleted);
        match step.next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    let young: Vec<_> = rows.into_iter().filter(|row| row.ts >= 100).collect();
    assert_eq!(store.call_status(None), Ok(young));
    assert_eq!(deleted.iter().sum::<u64>(), 5 * 167 + 1);
    assert!(deleted.len() > 2 && deleted.iter().all(|&rows| rows <= 1_000), "{deleted:?}");
}
