//! What a table has for lars-reporter, and when.

use lars_proto::messages::ReportStatusRequest;

use super::{Module, Table};
use crate::core::{
    statistics::{HOSTS_PER_MESSAGE_MAX, status_report},
    time::Moment,
};

impl Table {
    /// The next message for the reporter, if one is due. Its hosts count as sent, so ask only when it can be
    /// sent; if it may have been lost after all, there is [`Table::resend`].
    pub fn poll_statistics(&mut self, now: Moment) -> Option<ReportStatusRequest> {
        loop {
            let due = self.schedule.next_due(now)?;
            let module = self.by_id.get(&due.module).map(|&key| &mut self.modules[key]);
            let Some(Module { queued, balancer, .. }) = module else {
                self.schedule.done(due, None);
                continue;
            };
            let mut hosts = Vec::new();
            let mut has_more = false;
            if let Some(balancer) = balancer {
                balancer.take_dirty(HOSTS_PER_MESSAGE_MAX, &mut hosts);
                has_more = balancer.has_dirty();
            }
            if !has_more {
                self.schedule.done(due, Some(queued));
            }
            self.check_invariants();
            if !hosts.is_empty() {
                return Some(status_report(due.module, &hosts));
            }
        }
    }

    /// The reporter may have lost what was sent, because the connection broke: all of it is sent again.
    pub fn resend(&mut self, now: Moment) {
        for (_, module) in &mut self.modules {
            if let Some(balancer) = &mut module.balancer {
                balancer.resend();
                if balancer.has_dirty() {
                    self.schedule.changed(module.id, &mut module.queued, now);
                }
            }
        }
        self.check_invariants();
    }

    /// Makes everything that was not sent yet due at once, for a last report before a stop.
    pub fn flush_now(&mut self) {
        self.schedule.flush_now();
    }

    /// When [`Table::poll_statistics`] has something to give, if nothing else happens before.
    #[must_use]
    pub fn statistics_deadline(&self) -> Option<Moment> {
        self.schedule.deadline()
    }
}
