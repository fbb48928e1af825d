//! [`ReporterStats`]: what is counted, each number declared once, whoever counts it.

lars_runtime::counters! {
    /// What the reporter has done so far, and what it holds now. Each shard and each writer counts its own part.
    #[non_exhaustive]
    pub struct ReporterStats, atomic ReporterCounters {
        /// Messages taken.
        counter requests: u64,
        /// Rows they held.
        counter results: u64,
        /// Results left out because no host has such a port.
        counter invalid_results: u64,
        /// Messages whose time stamp was missing or too far ahead, and was replaced.
        counter ts_corrected: u64,
        /// Times a message had to wait because its writer's queue was full.
        counter busy: u64,
        /// Times an older connection went on under the address that a newer one names as its caller too.
        counter callers_shared: u64,
        /// Rows in the queues now.
        gauge queued_rows: u64,
        /// Keys whose rows wait to be written now.
        gauge pending_keys: u64,
        /// Rows dropped because too many keys waited.
        counter dropped_at_cap: u64,
        /// Rows dropped because the table does not take them.
        counter dropped_refused: u64,
        /// Rows written to the table.
        counter rows_written: u64,
        /// Transactions that wrote them.
        counter flushes: u64,
        /// Transactions that failed; their rows were kept.
        counter flush_failures: u64,
        /// Rows deleted because they were too old.
        counter rows_expired: u64,
    }
}
