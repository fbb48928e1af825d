//! The demo while it plays: gathers what is to be seen, asks the script what comes next, and does it.

use std::time::{Duration, Instant};

use lars_service::Shutdown;
use lars_store::{RouteEdit, Store};

use super::{
    caller::Callers,
    cast::{MODULE, Role},
    expectations,
    facts::Facts,
    hosts::Hosts,
    script::{Cue, Marks, Script},
    story,
    view::View,
};
use crate::{exit::Failure, out::Out};

const STEP: Duration = Duration::from_millis(20);
/// Between two looks at the stored rows.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Everything that moves while the demo plays.
pub(crate) struct Stage<'a> {
    hosts: &'a Hosts,
    store: Box<dyn Store>,
    callers: Callers,
    start: Instant,
    /// When the stored rows were read last.
    looked_at: Duration,
    facts: Facts,
    script: Script,
}

impl<'a> Stage<'a> {
    /// The callers have just begun, at `start`.
    pub(crate) fn new(
        hosts: &'a Hosts,
        store: Box<dyn Store>,
        callers: Callers,
        start: Instant,
        watch: Duration,
    ) -> Self {
        let facts = Facts::new(hosts.cast.clone());
        let script = Script::new(watch);
        Self { hosts, store, callers, start, looked_at: Duration::ZERO, facts, script }
    }

    /// Plays to the end.
    pub(crate) fn play(
        &mut self,
        view: &mut View,
        shutdown: &Shutdown,
        out: &mut Out<'_>,
    ) -> Result<(), Failure> {
        while !shutdown.wait_timeout(STEP) {
            self.watch()?;
            let now = self.start.elapsed();
            match self.script.advance(now, &self.facts) {
                Some(Cue::End) => return Ok(()),
                Some(cue) => {
                    self.act(cue)?;
                    view.say(&story::headline(cue, self.edit_took()), out)?;
                }
                None => view.show(&self.facts, now, out)?,
            }
        }
        view.erase(out)?;
        Err(Failure::Interrupted)
    }

    /// Ends the callers, and says what was seen and when.
    pub(crate) fn close(mut self) -> (Facts, Marks) {
        self.callers.stop().into_iter().for_each(|event| self.facts.add(event));
        (self.facts, *self.script.marks())
    }

    fn watch(&mut self) -> Result<(), Failure> {
        self.callers.events().for_each(|event| self.facts.add(event));
        let now = self.start.elapsed();
        if now.saturating_sub(self.looked_at) >= LOOK_INTERVAL {
            self.looked_at = now;
            self.facts.rows = self.store.call_status(Some(MODULE))?;
        }
        Ok(())
    }

    fn act(&mut self, cue: Cue) -> Result<(), Failure> {
        match cue {
            Cue::Repair => self.hosts.repair(Role::Flaky),
            Cue::EditRoute => {
                let host = |role| self.hosts.cast.host(role);
                let edits = [
                    RouteEdit::Remove(MODULE, host(Role::Leaving)),
                    RouteEdit::Add(MODULE, host(Role::Joining)),
                ];
                self.store.edit(&edits)?;
            }
            Cue::Ejected | Cue::Arrived | Cue::End => {}
        }
        Ok(())
    }

    /// From the beginning of the edit to the first lookup that found the new host.
    fn edit_took(&self) -> Duration {
        let edited = self.script.marks().edited.unwrap_or_default();
        expectations::arrival(&self.facts).map_or(Duration::ZERO, |call| call.picked.saturating_sub(edited))
    }
}
