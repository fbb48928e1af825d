//! The end of a full load: what of it takes effect.

use std::{collections::BTreeSet, iter, sync::Arc, time::Instant};

use lars_proto::ModuleId;
use lars_runtime::Backoff;
use lars_store::RouteAcceptance;

use super::{Event, LoadedRoutes, Place, RETRY_PAUSE_MAX, Read, Tracker, is_behind};
use crate::core::{
    shrink_guard::{Comparison, Verdict},
    snapshot::Snapshot,
};

impl Tracker {
    /// The load that went on is done, with these routes of a database that was so far.
    pub fn handle_load(&mut self, loaded: LoadedRoutes, now: Instant) -> Vec<Event> {
        let LoadedRoutes { snapshot, position, named, accepted } = loaded;
        let seen = self.load.as_ref().and_then(|load| load.version);
        if is_behind(position.version, seen) {
            let discarded = Event::LoadDiscarded { version: position.version, seen };
            return iter::once(discarded).chain(self.handle_load_failure(now)).collect();
        }
        self.load = None;
        let stays = |read: &Read| read.during_load || position < read.position;
        let read = self.reads.iter().filter(|(_, read)| stays(read));
        let read = read.map(|(&module, _)| (module, self.current.hosts(module).to_vec()));
        let (snapshot, _) = snapshot.apply(read.collect());
        let first = !self.has_routes();
        // Then the shards hear of it though nothing may have changed.
        let confirms = self.loaded_at.replace(now).is_none();
        self.load_failures = 0;
        if self.place == Place::Restoring {
            self.place = Place::Known;
        }
        self.dealt_with_id = self.log.newest();
        if first {
            self.guard.note_first(accepted);
            let published = self.publish(snapshot, Vec::new());
            return self.back(now).into_iter().chain([published]).collect();
        }
        let mut events = Vec::from_iter(self.back(now));
        self.compare(snapshot, &named, accepted, now, &mut events);
        if confirms && !events.iter().any(|event| matches!(event, Event::Publish { .. })) {
            events.push(Event::Publish { snapshot: Arc::clone(&self.current), changed: Vec::new() });
        }
        events
    }

    /// Publishes what differs from what is served, as far as the guard lets it.
    fn compare(
        &mut self,
        loaded: Snapshot,
        named: &BTreeSet<ModuleId>,
        accepted: Option<RouteAcceptance>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let changed = self.current.diff(&loaded);
        let sizes = |module: &ModuleId| (self.current.hosts(*module).len(), loaded.hosts(*module).len());
        let unnamed = || changed.iter().filter(|module| !named.contains(module)).map(sizes);
        let comparison = Comparison {
            hosts_served: self.current.host_count(),
            hosts_loaded: loaded.host_count(),
            lost: unnamed().map(|(served, loaded)| served.saturating_sub(loaded)).sum(),
            gained: unnamed().map(|(served, loaded)| loaded.saturating_sub(served)).sum(),
            accepted,
        };
        let held_before = self.guard.hold();
        match self.guard.judge(&comparison, now) {
            Verdict::Use(end) => {
                events.extend(end.map(|end| Event::ShrinkOver { end, hold: held_before }));
                if !changed.is_empty() || self.current.has_overlay() {
                    events.push(self.publish(loaded, changed));
                }
            }
            Verdict::Hold(hold) => {
                events.push(Event::ShrinkHeld(hold));
                let stays = |module: &ModuleId| {
                    let (served, loaded) = sizes(module);
                    loaded < served && !named.contains(module)
                };
                let meant = changed.iter().filter(|module| !stays(module));
                let meant = meant.map(|&module| (module, loaded.hosts(module).to_vec())).collect();
                let (next, changed) = self.current.apply(meant);
                if !changed.is_empty() {
                    events.push(self.publish(next, changed));
                }
            }
        }
    }

    /// The load that went on failed. Polls go on; only if the load was to restore the place in the log, no changes
    /// are seen until one succeeds.
    pub fn handle_load_failure(&mut self, now: Instant) -> Option<Event> {
        self.load = None;
        self.reload_wanted = true;
        let pauses = Backoff { base: self.reload_pause_min(), max: RETRY_PAUSE_MAX };
        self.load_retry_at = now + self.retry_pause(pauses, self.load_failures);
        self.load_failures = self.load_failures.saturating_add(1);
        if self.place == Place::Known {
            return None;
        }
        self.lose_place();
        self.gone(now)
    }
}
