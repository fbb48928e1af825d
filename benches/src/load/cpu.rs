//! Processors and memory: where a thread runs, and how much it and others took.

use std::{fs, io, time::Duration};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        resource::{UsageWho, getrusage},
        time::{TimeVal, TimeValLike},
    },
    unistd::Pid,
};

/// Keeps this thread, and those that it will start, on one processor.
///
/// # Errors
/// If there is no such processor, or this process may not use it.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Processor time that the load and its server have taken, so far or in between.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CpuTimes {
    /// In user space and in the kernel.
    pub(super) load: Duration,
    /// If its process is known.
    pub(super) server: Option<Duration>,
}

impl CpuTimes {
    /// Of this thread and of the threads of a process, so far.
    pub(super) fn read(server_pid: Option<u32>) -> Self {
        Self { load: thread_time(), server: server_pid.and_then(process_time) }
    }

    pub(super) fn since(self, start: Self) -> Self {
        let server = self.server.zip(start.server).map(|(end, start)| end.saturating_sub(start));
        Self { load: self.load.saturating_sub(start.load), server }
    }
}

fn thread_time() -> Duration {
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    // It fails for a wrong first argument only.
    getrusage(UsageWho::RUSAGE_THREAD).map_or(Duration::ZERO, |usage| {
        Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
    })
}

/// Processor time that the threads of a process have taken so far; `None` if there is no such process, or the kernel
/// does not keep it.
pub fn process_time(pid: u32) -> Option<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let nanos = tasks.flatten().map(|task| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    nanos.sum::<Option<u64>>().map(Duration::from_nanos)
}

/// Bytes of a process in memory; `None` if there is no such process.
pub fn resident(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_taken_is_seen() {
        let before = thread_time();
        while thread_time() == before {}
        assert!(process_time(std::process::id()).expect("this one runs") > Duration::ZERO);
        let memory = resident(std::process::id()).expect("this one runs");
        assert!((1e6..1e10).contains(&memory), "{memory}");
        assert_eq!((process_time(u32::MAX), resident(u32::MAX)), (None, None));
    }
}
