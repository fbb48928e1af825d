//! What is counted, each number once: a shard fills its part of the table in plain integers, the polling thread
//! and the thread that loads theirs in atomics.

use lars_runtime::counters;

counters! {
    /// What has been counted since the start, and what there is now.
    pub struct DnsStats, atomic DnsCounters {
        /// Connections now.
        gauge connections: u64,
        /// Subscriptions of these connections now.
        gauge subscriptions: u64,
        /// Queries that were answered.
        counter queries: u64,
        /// Queries that were answered without a subscription, because there are too many.
        counter subscriptions_refused: u64,
        /// Subscriptions to modules without hosts that made room for others.
        counter subscriptions_evicted: u64,
        /// Subscriptions that an agent ended because it does not know the module any more.
        counter subscriptions_forgotten: u64,
        /// Digests of an agent's subscriptions that were answered.
        counter digests: u64,
        /// Of these, those that differed from what is served.
        counter digests_differing: u64,
        /// Modules named to agents because a digest differed.
        counter digest_modules: u64,
        /// Changed modules handed to a subscriber's connection.
        counter pushes: u64,
        /// Times a changed module had to wait for its subscriber to take bytes.
        counter pushes_deferred: u64,
        /// Changed modules that wait for their subscriber to take bytes now.
        gauge pushes_pending: u64,
        /// Times a module got more hosts than fit a frame.
        counter truncated_routes: u64,
        /// Steps that the store failed.
        counter store_errors: u64,
        /// Times everything was loaded, the first time included.
        counter full_reloads: u64,
        /// Loads that were not used, because their server was behind what had been seen.
        counter loads_discarded: u64,
        /// Times that hosts were gone from the table without a trace and went on being served.
        counter shrinks_held: u64,
        /// Times that somebody accepted that they are gone.
        counter shrinks_accepted: u64,
        /// Times that they did not come back in time.
        counter shrinks_timed_out: u64,
        /// Hosts that are served now although they are gone from the table.
        gauge hosts_held: u64,
        /// 1 while the routes are those from before the start, because nothing was loaded yet.
        gauge serves_saved: u64,
        /// Rows of the last load that name no host.
        gauge rows_skipped: u64,
        /// Modules with hosts now.
        gauge modules: u64,
        /// Hosts of all modules now.
        gauge hosts: u64,
        /// `RouteVersion.version` as it was last read; 0 if that was not possible.
        gauge version: u64,
    }
}
