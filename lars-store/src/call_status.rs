//! [`CallStatusStore`]: how calls went.

use lars_proto::{CallStatus, ModuleId};

use crate::StoreError;

/// The table `ServerCallStatus`: one row per caller and host of a module, for people to look at.
pub trait CallStatusStore {
    /// Writes all rows or none. A row never goes back to an older `ts`, unless the one in the table is more than
    /// [`TS_AHEAD_MAX`] in the future by the database's own clock, which all writers share: no agent's clock may
    /// keep a row from changing for ever. Of equal ones the later write wins, within `rows` as well as between
    /// calls.
    fn upsert(&mut self, rows: &[CallStatus]) -> Result<(), StoreError>;

    /// Whether rows can be written: by this account, to a database that takes writes. Writes none.
    fn check_upsert(&mut self) -> Result<(), StoreError>;

    /// One step of deleting the rows whose `ts` is older than `oldest_ts`. It reads the next `EXPIRY_STEP_ROWS`
    /// after `cursor` in the order of the key, for an existing table has no index by age, and deletes the old ones
    /// among them, so that no lock is held for long. With several writers, one at a time has the turn, from its
    /// first step to its last.
    fn expire_step(&mut self, cursor: ExpiryCursor, oldest_ts: u64) -> Result<ExpiryStep, StoreError>;

    /// The rows of one module, or all, ordered by key. Rows that name no host are left out.
    fn call_status(&mut self, module: Option<ModuleId>) -> Result<Vec<CallStatus>, StoreError>;
}

/// How far the `ts` of a row may be ahead, in seconds, before any other is better. Who writes rows sends none that is
/// further ahead.
pub const TS_AHEAD_MAX: u64 = 60;

/// The rows that one step of [`CallStatusStore::expire_step`] looks at.
pub(crate) const EXPIRY_STEP_ROWS: usize = 1_000;

/// How far the old rows were looked for: the key columns of the last row seen, as they are in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpiryCursor(pub(crate) Option<KeyColumns>);

/// `modid`, `cmdid`, `ip`, `port` and `caller`, whether or not they name a module and a host.
pub(crate) type KeyColumns = [i64; 5];

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryStep {
    /// Rows deleted.
    pub deleted: u64,
    /// Where the next step goes on; `None` if this was the last one, or if another writer has the turn.
    pub next: Option<ExpiryCursor>,
}

/// The rows that remain when each key is written in turn: one per key, in the order of keys. That order is
/// the same in every transaction, so two of them hardly ever deadlock.
pub(crate) fn newest_by_key(rows: &[CallStatus]) -> Vec<CallStatus> {
    let mut newest = rows.to_vec();
    // Stable: rows of one key stay in the order in which they are to be written.
    newest.sort_by_key(|row| row.key);
    newest.dedup_by(|later, kept| {
        let same = later.key == kept.key;
        if same && later.ts >= kept.ts {
            *kept = *later;
        }
        same
    });
    newest
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use lars_proto::{CallStatusKey, HostAddr};
    use proptest::prelude::*;

    use super::*;

    fn row(caller: u32, ts: u64, succ: u32) -> CallStatus {
        let host = HostAddr::v4(Ipv4Addr::LOCALHOST, 80);
        let key = CallStatusKey { module: ModuleId::new(1, 1), host, caller: Ipv4Addr::from_bits(caller) };
        CallStatus { key, succ, err: 0, ts, overload: false }
    }

    #[test]
    fn the_newest_row_of_each_key_is_left() {
        let rows = [row(2, 5, 1), row(1, 7, 2), row(2, 6, 3), row(1, 6, 4), row(2, 6, 5)];
        assert_eq!(newest_by_key(&rows), [row(1, 7, 2), row(2, 6, 5)]);
        assert_eq!(newest_by_key(&[]), []);
    }

    proptest! {
        #[test]
        fn each_key_is_as_after_writing_row_by_row(writes in prop::collection::vec((0_u32..5, 0_u64..5), 0..50)) {
            let rows: Vec<_> = writes.iter().zip(0..).map(|(&(caller, ts), succ)| row(caller, ts, succ)).collect();
            let mut table: BTreeMap<CallStatusKey, CallStatus> = BTreeMap::new();
            for &row in &rows {
                let kept = table.entry(row.key).or_insert(row);
                if row.ts >= kept.ts {
                    *kept = row;
                }
            }
            prop_assert_eq!(newest_by_key(&rows), table.into_values().collect::<Vec<_>>());
        }
    }
}
