//! On which CPU a shard runs.

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

/// Where the shards' threads run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Shard i is pinned to the i-th CPU this process may use, wrapping around.
    #[default]
    Spread,
    /// The kernel decides.
    Unpinned,
}

impl Placement {
    /// The CPU for shard `index`; `None` if it is not to be pinned.
    pub(crate) fn cpu(self, index: usize, allowed: &[usize]) -> Option<usize> {
        match self {
            Self::Spread if !allowed.is_empty() => Some(allowed[index % allowed.len()]),
            Self::Spread | Self::Unpinned => None,
        }
    }
}

/// The CPUs this process may run on (cgroup cpusets and `taskset` included), in ascending order.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_spread_over_the_allowed_cpus_and_wrap() {
        let cpus = |placement: Placement, allowed: &[usize]| -> Vec<_> {
            (0..5).map(|shard| placement.cpu(shard, allowed)).collect()
        };
        assert_eq!(cpus(Placement::Spread, &[1, 4]), [Some(1), Some(4), Some(1), Some(4), Some(1)]);
        assert_eq!(cpus(Placement::Spread, &[]), [None; 5]);
        assert_eq!(cpus(Placement::Unpinned, &[1, 4]), [None; 5]);
    }

    #[test]
    fn this_process_may_run_somewhere() {
        assert!(!allowed_cpus().is_empty());
    }
}
