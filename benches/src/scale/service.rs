//! [`Service`]: a program of Lars in a process of its own, as it is deployed.

use std::{
    env,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use super::ScaleError;
use crate::load;

/// A running program, ended when this is dropped.
pub(super) struct Service {
    process: Child,
    addr: SocketAddr,
}

impl Service {
    /// Starts `name`, which lies beside this program, on one processor, and waits until it says where it listens.
    pub(super) fn start(name: &'static str, flags: &[&str], cpu: usize) -> Result<Self, ScaleError> {
        let mut command = Command::new(beside(name)?);
        command.args(flags).args(["--log-format", "json"]).stdin(Stdio::null()).stderr(Stdio::piped());
        // A process stays where the thread was that started it.
        let started = thread::scope(|scope| {
            let pinned = scope.spawn(|| load::pin(cpu).and_then(|()| command.spawn()));
            pinned.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let mut process = started?;
        let mut lines = BufReader::new(process.stderr.take().expect("it was asked for")).lines();
        let mut said = String::new();
        while let Some(line) = lines.next().transpose()? {
            if let Some(addr) = first_addr(&line) {
                // What it says behind that is read and dropped, lest it waits for a reader.
                thread::spawn(move || lines.for_each(drop));
                return Ok(Self { process, addr });
            }
            said = line;
        }
        process.wait()?;
        Err(ScaleError::Ended { name, said })
    }

    /// Where it listens; the first of its addresses.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Bytes of the process in memory.
    pub(super) fn resident(&self) -> io::Result<f64> {
        load::resident(self.id()).ok_or_else(|| io::Error::other("the service has ended"))
    }

    /// Processor time of all its threads so far.
    pub(super) fn processor_time(&self) -> io::Result<Duration> {
        load::process_time(self.id()).ok_or_else(|| io::Error::other("the service has ended"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Programs of one build lie in one folder; those of tests one below it.
pub(super) fn beside(name: &'static str) -> Result<PathBuf, ScaleError> {
    let this = env::current_exe()?;
    let found = this.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or(ScaleError::NotBuilt(name))
}

/// The first address in a line of the log, like `"addr":"127.0.0.1:7778"` or `"addr":"[127.0.0.1:8888, …]"`.
fn first_addr(line: &str) -> Option<SocketAddr> {
    let (_, value) = line.split_once("\"addr\":\"")?;
    value.trim_start_matches('[').split([',', ']', '"']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_service_listens() {
        let check = |line, expected: Option<&str>| {
            assert_eq!(first_addr(line).map(|a| a.to_string()).as_deref(), expected)
        };
        let line = r#"{"level":"INFO","fields":{"message":"listening","addr":"127.0.0.1:7778","hosts":3}}"#;
        check(line, Some("127.0.0.1:7778"));
        check(r#"{"addr":"[127.0.0.1:1, 127.0.0.1:2]"}"#, Some("127.0.0.1:1"));
        check(r#"{"message":"starting"}"#, None);
    }
}
