//! [`Service`]: a program of Lars in a process of its own, as it is deployed.

use std::{
    env, fs,
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
    addrs: Vec<SocketAddr>,
}

impl Service {
    /// Starts `name`, which lies beside this program, on one processor, and waits until it says where it listens.
    ///
    /// # Errors
    /// If it is not there, or ends instead.
    pub(super) fn start(name: &'static str, flags: &[&str], cpu: usize) -> Result<Self, ScaleError> {
        let mut command = Command::new(beside(name)?);
        command.args(flags).args(["--log-format", "json"]).stdin(Stdio::null()).stderr(Stdio::piped());
        // A process stays where the thread was that started it.
        let started = thread::scope(|scope| {
            let pinned = scope.spawn(|| load::pin(cpu).and_then(|()| command.spawn()));
            pinned.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let mut service = Self { process: started?, addrs: Vec::new() };
        service.addrs = service.wait_for_addrs(name)?;
        Ok(service)
    }

    /// Where it listens, at least one address.
    #[must_use]
    pub(super) fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    #[must_use]
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Bytes of the process in memory.
    ///
    /// # Errors
    /// If it has ended.
    pub(super) fn resident(&self) -> io::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        resident(&status).ok_or_else(|| io::Error::other("no VmRSS in its status"))
    }

    /// Processor time of all its threads so far.
    ///
    /// # Errors
    /// If it has ended.
    pub(super) fn processor_time(&self) -> io::Result<Duration> {
        load::process_time(self.id()).ok_or_else(|| io::Error::other("the service has ended"))
    }

    /// What it says behind that is read and dropped, lest it waits for a reader.
    fn wait_for_addrs(&mut self, name: &'static str) -> Result<Vec<SocketAddr>, ScaleError> {
        let log = self.process.stderr.take().expect("it was asked for");
        let mut said = String::new();
        let mut lines = BufReader::new(log).lines();
        for line in &mut lines {
            let line = line?;
            let addrs = addrs(&line);
            if !addrs.is_empty() {
                thread::spawn(move || lines.for_each(drop));
                return Ok(addrs);
            }
            said = line;
        }
        Err(ScaleError::Ended { name, said })
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

/// The addresses in a line of the log, like `"addr":"127.0.0.1:7778"` or `"addr":"[127.0.0.1:8888, …]"`.
fn addrs(line: &str) -> Vec<SocketAddr> {
    let Some((_, value)) = line.split_once("\"addr\":\"") else { return Vec::new() };
    let value = value.split('"').next().unwrap_or_default();
    value.trim_matches(['[', ']']).split(", ").filter_map(|addr| addr.parse().ok()).collect()
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_service_listens() {
        let line = r#"{"level":"INFO","fields":{"message":"listening","addr":"127.0.0.1:7778","hosts":3}}"#;
        assert_eq!(addrs(line), ["127.0.0.1:7778".parse().expect("an address")]);
        assert_eq!(addrs(r#"{"addr":"[127.0.0.1:1, 127.0.0.1:2]"}"#).len(), 2);
        assert!(addrs(r#"{"message":"starting"}"#).is_empty());
    }

    #[test]
    fn memory_of_a_process() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2 kB\n"), Some(2_048.0));
        assert_eq!(resident("Name:\tx\n"), None);
    }
}
