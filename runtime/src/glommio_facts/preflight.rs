//! Whether this kernel lets this process use io_uring, asked before glommio is, which panics with a misleading
//! text where io_uring is blocked and exits where an operation is missing.

use std::{fs, io};

use io_uring::{IoUring, Probe, opcode};

use super::executor;
use crate::limits;

/// Exit status of a program that cannot start because of its surroundings (`EX_CONFIG`).
pub const EXIT_CODE: u8 = 78;

/// glommio refuses to start with less.
const MEMLOCK_MIN: u64 = 512 << 10;

/// io_uring cannot be used; the text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PreflightError {
    /// `kernel.io_uring_disabled` forbids it.
    #[error(
        "io_uring is disabled by the sysctl kernel.io_uring_disabled = {0}: set it to 0 (sysctl -w kernel.io_uring_disabled=0)"
    )]
    Disabled(i32),
    /// A seccomp filter forbids it, as container engines' default profiles do.
    #[error(
        "io_uring is blocked, most likely by the container's seccomp profile: allow io_uring_setup, io_uring_enter and io_uring_register (for Docker: --security-opt seccomp=PROFILE)"
    )]
    Blocked,
    /// The kernel has no io_uring, or one that lacks operations.
    #[error("this kernel's io_uring is too old or left out (missing: {missing}): Linux 5.8+ is needed")]
    TooOld {
        /// Which operations, or "io_uring".
        missing: String,
    },
    /// The limit on locked memory is too low, and the hard limit with it. It is one for all programs of a user.
    #[error(
        "not enough lockable memory: {shards} shard(s) need {} KiB beside what this user's other programs have locked, and the limit for all of them is {} KiB: raise it (ulimit -l, LimitMEMLOCK= in systemd, --ulimit memlock= for Docker), or start fewer shards",
        needed.div_ceil(1024), have / 1024
    )]
    Memlock {
        /// The hard limit, in bytes.
        have: u64,
        /// What these shards need, in bytes.
        needed: u64,
        /// How many were to start.
        shards: usize,
    },
    /// Anything else.
    #[error("io_uring cannot be set up: {0}")]
    Failed(String),
}

/// Raises the limits on locked memory and open files as far as they go, and tries io_uring.
///
/// # Errors
/// If io_uring cannot be used; programs then print the error and exit with [`EXIT_CODE`].
pub fn check() -> Result<(), PreflightError> {
    limits::raise();
    check_memlock(limits::locked_bytes_max())?;
    let ring = IoUring::new(8).map_err(|error| explain(&error, io_uring_disabled()))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| explain(&error, io_uring_disabled()))?;
    check_operations(|code| probe.is_supported(code))
}

/// Registers the process for expedited memory barriers. glommio does so at its first park, which stalls a
/// process of several threads for 6–30 ms; as the first thing in `main` it costs nothing.
pub fn quiet_membarrier() {
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
    // SAFETY: the call takes two integers and changes no memory of this process. A kernel without it says so,
    // and glommio then does without as well.
    unsafe { libc::syscall(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0) };
}

/// The operations that glommio 0.9.0 insists on.
const OPERATIONS: [(u8, &str); 23] = [
    (opcode::Nop::CODE, "NOP"),
    (opcode::Readv::CODE, "READV"),
    (opcode::Writev::CODE, "WRITEV"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::ReadFixed::CODE, "READ_FIXED"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::PollRemove::CODE, "POLL_REMOVE"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::RecvMsg::CODE, "RECVMSG"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::TimeoutRemove::CODE, "TIMEOUT_REMOVE"),
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::LinkTimeout::CODE, "LINK_TIMEOUT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::OpenAt::CODE, "OPENAT"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::Statx::CODE, "STATX"),
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Send::CODE, "SEND"),
    (opcode::Recv::CODE, "RECV"),
];

fn check_operations(is_supported: impl Fn(u8) -> bool) -> Result<(), PreflightError> {
    let missing: Vec<_> =
        OPERATIONS.iter().filter(|(code, _)| !is_supported(*code)).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(PreflightError::TooOld { missing: missing.join(", ") }) }
}

fn check_memlock(limit: u64) -> Result<(), PreflightError> {
    if limit < MEMLOCK_MIN { Err(memlock(limit, 1, 0)) } else { Ok(()) }
}

/// What it means that the kernel had no memory for one of `shards` shards, whose executors are not all that lock some:
/// `more_each` does so beside each of them. `None` for other errors.
pub(crate) fn locked_memory_shortage(
    error: &io::Error,
    shards: usize,
    more_each: u64,
) -> Option<PreflightError> {
    let limit = limits::locked_bytes_max();
    let is_shortage = error.raw_os_error() == Some(libc::ENOMEM) && limit != u64::MAX;
    is_shortage.then(|| memlock(limit, shards, more_each))
}

fn memlock(have: u64, shards: usize, more_each: u64) -> PreflightError {
    let needed = shards as u64 * (executor::locked_bytes() + more_each);
    PreflightError::Memlock { have, needed: needed.max(MEMLOCK_MIN), shards }
}

/// What a failed set-up means, given the value of `kernel.io_uring_disabled`, if the kernel has it.
fn explain(error: &io::Error, disabled: Option<i32>) -> PreflightError {
    if let Some(shortage) = locked_memory_shortage(error, 1, 0) {
        return shortage;
    }
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM | libc::EACCES), Some(value)) if value != 0 => PreflightError::Disabled(value),
        (Some(libc::EPERM | libc::EACCES), _) => PreflightError::Blocked,
        // Some seccomp profiles answer ENOSYS; a kernel that has the sysctl has io_uring.
        (Some(libc::ENOSYS), Some(_)) => PreflightError::Blocked,
        (Some(libc::ENOSYS), None) => PreflightError::TooOld { missing: "io_uring".into() },
        (Some(libc::EINVAL), _) => PreflightError::TooOld { missing: "probing".into() },
        _ => PreflightError::Failed(error.to_string()),
    }
}

fn io_uring_disabled() -> Option<i32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(errno: i32, disabled: Option<i32>, expect: &str) {
        let text = explain(&io::Error::from_raw_os_error(errno), disabled).to_string();
        assert!(text.contains(expect), "{text}");
    }

    #[test]
    fn each_error_says_what_to_change() {
        check_text(libc::EPERM, Some(2), "sysctl -w kernel.io_uring_disabled=0");
        check_text(libc::EPERM, Some(1), "kernel.io_uring_disabled = 1");
        check_text(libc::EPERM, Some(0), "seccomp profile");
        check_text(libc::EPERM, None, "seccomp profile");
        check_text(libc::ENOSYS, Some(0), "seccomp profile");
        check_text(libc::ENOSYS, None, "Linux 5.8+");
        check_text(libc::EINVAL, None, "Linux 5.8+");
        check_text(libc::EMFILE, Some(0), "Too many open files");
    }

    #[test]
    fn missing_operations_are_named() {
        let without = |missing: &'static [u8]| check_operations(move |code| !missing.contains(&code));
        assert_eq!(without(&[]), Ok(()));
        let error = without(&[opcode::Recv::CODE, opcode::Connect::CODE]).expect_err("two are missing");
        assert!(error.to_string().contains("CONNECT, RECV"), "{error}");
        assert!(error.to_string().contains("Linux 5.8+"), "{error}");
    }

    #[test]
    fn too_little_lockable_memory_is_refused() {
        assert_eq!(check_memlock(512 << 10), Ok(()));
        let error = check_memlock(64 << 10).expect_err("glommio wants 512 KiB");
        assert!(error.to_string().contains("need 512 KiB"), "{error}");
        assert!(error.to_string().contains("limit for all of them is 64 KiB"), "{error}");
        assert!(error.to_string().contains("LimitMEMLOCK"), "{error}");
    }

    #[test]
    fn this_machine_passes() {
        assert_eq!(check(), Ok(()));
    }
}
