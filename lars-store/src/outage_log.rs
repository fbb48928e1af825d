//! [`OutageLog`]: which failures of an outage are worth a log line.

use std::time::{Duration, Instant};

/// How often an outage that lasts is mentioned again.
pub const REMINDER_INTERVAL: Duration = Duration::from_secs(60);

/// Reasons that are remembered. In an outage with more of them, the others are seen in reminders only.
const REASONS_MAX: usize = 16;

/// What to say of a database that fails: each new reason once, and a reminder each minute; one outage after the
/// other.
#[derive(Debug, Default)]
pub struct OutageLog {
    /// Those that were said since the outage began.
    reasons: Vec<String>,
    last_said: Option<Instant>,
    /// Failures since then.
    unsaid: u64,
}

impl OutageLog {
    /// Something failed for this reason. `Some` if it is to be said: how many failures were not, since the last
    /// time.
    pub fn failed(&mut self, reason: String, now: Instant) -> Option<u64> {
        let is_new = self.reasons.len() < REASONS_MAX && !self.reasons.contains(&reason);
        let is_reminder = self.last_said.is_none_or(|at| now.duration_since(at) >= REMINDER_INTERVAL);
        if is_new {
            self.reasons.push(reason);
        }
        if !is_new && !is_reminder {
            self.unsaid += 1;
            return None;
        }
        self.last_said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }

    /// The outage is over. Whether there was one.
    pub fn over(&mut self) -> bool {
        std::mem::take(self).last_said.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said_once_and_again_in_reminders() {
        let start = Instant::now();
        let mut log = OutageLog::default();
        let mut said =
            |seconds, reason: &str| log.failed(reason.to_owned(), start + Duration::from_secs(seconds));
        assert_eq!(said(0, "refused"), Some(0));
        assert_eq!(said(1, "refused"), None);
        assert_eq!(said(2, "access denied"), Some(1), "another reason");
        assert_eq!(said(3, "refused"), None);
        assert_eq!(said(61, "refused"), None);
        assert_eq!(said(62, "access denied"), Some(2), "a minute after the last line");
        assert_eq!(said(63, "refused"), None);
    }

    #[test]
    fn reasons_that_are_never_the_same_fill_no_log() {
        let start = Instant::now();
        let mut log = OutageLog::default();
        let said = (0..1_000).filter(|n| log.failed(format!("connection {n} was lost"), start).is_some());
        assert_eq!(said.count(), REASONS_MAX);
    }

    #[test]
    fn an_outage_that_is_over_is_forgotten() {
        let now = Instant::now();
        let mut log = OutageLog::default();
        assert!(!log.over());
        assert_eq!(log.failed("refused".to_owned(), now), Some(0));
        assert!(log.over());
        assert_eq!(log.failed("refused".to_owned(), now), Some(0));
    }
}
