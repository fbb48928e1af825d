//! [`Measurement`]: what a run has found.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::spread::Spread;

/// Latencies are kept to three digits up to here, an hour; longer ones count as so long.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// A load generator that takes more of its processor than this may be what limits the figures.
const CPU_SHARE_MAX: f64 = 0.9;

/// The result of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured, in the words of who measured.
    pub label: String,
    /// Length of the measurement, without the warm-up.
    pub seconds: f64,
    /// Operations that ended within it.
    pub completed: u64,
    /// The same per second.
    pub per_second: f64,
    /// Of the operations that began within it.
    pub latency: Latency,
    /// Of the whole run, warm-up included.
    pub counts: Counts,
    /// Share of its processor that the load generator took.
    pub cpu_share: f64,
    /// Processor time that the server took per operation, in microseconds, if its process was named.
    pub server_us: Option<f64>,
    /// Of pushes, if those were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushes: Option<Pushes>,
    /// Of rows that SQL has, if they were waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
}

/// When the subscribers of a module heard of edits, in milliseconds since an edit was committed; over all edits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pushes {
    /// How many connections waited.
    pub subscribers: usize,
    /// Until the first had it: what lars-dns needed to notice, mostly.
    pub to_first_ms: Spread,
    /// Until the last had it.
    pub to_last_ms: Spread,
    /// From the first to the last.
    pub first_to_last_ms: Spread,
    /// Processor time of the server for each subscriber, in microseconds, if its process was named.
    pub server_us: Option<Spread>,
}

/// What SQL got of what was reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Rows that are there.
    pub rows: u64,
    /// The same per second, from the first that was sent to the last that was seen.
    pub per_second: f64,
}

/// What became of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that want a reply.
    pub requests: u64,
    /// Replies to them.
    pub replies: u64,
    /// Requests without a reply in time.
    pub lost: u64,
    /// Replies that came later than that, or to nothing that was asked.
    pub stale: u64,
    /// Replies that say no: overloaded, unknown module.
    pub refusals: u64,
    /// Reports of calls, which want no reply.
    pub reports: u64,
}

/// Microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// Of nanoseconds, without any.
    pub(super) fn histogram() -> Histogram<u64> {
        Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are valid")
    }

    /// From nanoseconds.
    pub(super) fn of(latencies: &Histogram<u64>) -> Self {
        let quantile = |q| latencies.value_at_quantile(q) as f64 / 1e3;
        Self {
            mean_us: latencies.mean() / 1e3,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: latencies.max() as f64 / 1e3,
        }
    }
}

impl Measurement {
    /// Processor time that the load generator took per operation, in microseconds.
    pub fn load_us(&self) -> f64 {
        self.cpu_share * self.seconds * 1e6 / self.completed.max(1) as f64
    }

    /// What makes the figures say less than they seem to.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.cpu_share > CPU_SHARE_MAX {
            warnings.push(format!(
                "the load generator took {:.0} % of its processor: it may be the bottleneck, not the server",
                self.cpu_share * 100.0
            ));
        }
        let Counts { lost, stale, refusals, .. } = self.counts;
        for (count, what) in [
            (lost, "requests were not answered in time"),
            (stale, "replies came too late or to nothing that was asked"),
            (refusals, "replies named no host"),
        ] {
            if count > 0 {
                warnings.push(format!("{count} {what}"));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_run_has_no_warnings_and_each_defect_has_one() {
        let good = Measurement { cpu_share: 0.5, ..Measurement::default() };
        assert_eq!(good.warnings(), [""; 0]);
        let counts = Counts { lost: 1, stale: 2, refusals: 3, ..Counts::default() };
        let bad = Measurement { cpu_share: 0.97, counts, ..good };
        let warnings = bad.warnings();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(warnings[0].contains("97 % of its processor"), "{}", warnings[0]);
    }
}
