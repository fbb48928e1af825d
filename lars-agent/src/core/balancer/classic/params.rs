//! [`ClassicParams`]: the numbers of the classic policy.

use std::time::Duration;

/// The numbers of the classic policy, named as operators know them. The shell's configuration checks their
/// ranges; in here any values are safe, if not sensible.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassicParams {
    /// After so many lookups the next one probes an overloaded host.
    pub probe_num: u32,
    /// Successes that a fresh window of an idle host starts with, so that its first few failures weigh
    /// little.
    pub init_succ_cnt: u32,
    /// Failures that the window of an overloaded host starts with, so that it must earn its return.
    pub init_err_cnt: u32,
    /// An idle host with a greater share of failures, virtual successes counted, is overloaded.
    pub err_rate: f64,
    /// An overloaded host with a greater share of successes, virtual failures counted, is idle again.
    pub succ_rate: f64,
    /// An idle host is overloaded after so many failures in a row.
    pub contin_err_limit: u32,
    /// An overloaded host is idle again after so many successes in a row.
    pub contin_succ_limit: u32,
    /// An idle host whose window ends with at least this share of real failures is overloaded.
    pub window_err_rate: f64,
    /// Length of an idle host's window.
    pub idle_timeout: Duration,
    /// How long a host stays overloaded at most.
    pub overload_timeout: Duration,
}

impl Default for ClassicParams {
    fn default() -> Self {
        Self {
            probe_num: 10,
            init_succ_cnt: 180,
            init_err_cnt: 5,
            err_rate: 0.1,
            succ_rate: 0.5,
            contin_err_limit: 15,
            contin_succ_limit: 15,
            window_err_rate: 0.7,
            idle_timeout: Duration::from_secs(15),
            overload_timeout: Duration::from_secs(15),
        }
    }
}
