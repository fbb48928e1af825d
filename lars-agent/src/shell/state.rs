//! The agent's state on disk: read before the API opens, written when it has changed.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lars_runtime::{ShardHandle, Shards};
use lars_service::{StateFile, StateSource};

use super::shard::AgentShard;
use crate::core::saved::{self, SavedModule};

/// The file's name.
const NAME: &str = "lars-agent.state";

/// Modules that a shard saves, or takes over, in one turn: well below a millisecond of its time.
const MODULES_PER_TURN: usize = 256;

/// How long the last write may take, at the end.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn file(dir: &Path) -> StateFile {
    StateFile::new(dir, NAME, saved::FORMAT)
}

/// Has the shards take over what an earlier agent knew. What cannot be used is logged, and the agent starts without.
pub(super) fn restore(file: &StateFile, shards: &Shards<AgentShard>) {
    let now = SystemTime::now();
    let state = match file.read(now) {
        Ok(Some(state)) => state,
        Ok(None) => return,
        Err(error) => return tracing::warn!("{error}; starting without it"),
    };
    let age = state.age(now);
    let modules = match saved::decode(&state.body, age) {
        Ok(modules) => modules,
        Err(problem) => return tracing::warn!("{}; starting without it", file.reject(problem)),
    };
    tracing::info!(
        file = %file.path().display(),
        modules = modules.len(),
        age_s = age.as_secs(),
        "routes and overloaded hosts of before are in force until lars-dns says otherwise"
    );
    let handles = shards.handles();
    let mut parts: Vec<Vec<SavedModule>> = handles.iter().map(|_| Vec::new()).collect();
    for module in modules {
        parts[module.module.shard(handles.len())].push(module);
    }
    for (shard, part) in handles.iter().zip(parts) {
        let part: Arc<[SavedModule]> = part.into();
        for from in (0..part.len()).step_by(MODULES_PER_TURN) {
            let part = Arc::clone(&part);
            let taken = shard.call(move |shard, net| {
                let end = part.len().min(from + MODULES_PER_TURN);
                shard.restore(net, &part[from..end])
            });
            if taken != Ok(ControlFlow::Continue(())) {
                tracing::warn!(
                    shard = shard.index(),
                    "more modules were saved than there is room for (api.modules_max); the others are learned anew"
                );
                break;
            }
        }
    }
}

/// Asks the shards for what is to be written.
pub(super) struct Source {
    shards: Vec<ShardHandle<AgentShard>>,
    /// The versions of the tables when they were collected last.
    collected: Option<u64>,
}

impl Source {
    pub(super) fn new(shards: &Shards<AgentShard>) -> Self {
        Self { shards: shards.handles().to_vec(), collected: None }
    }

    /// The sum over the tables, each of which only grows; `None` once they have stopped.
    fn version(&self) -> Option<u64> {
        self.shards.iter().map(|shard| shard.call(|shard, _| shard.table_version()).ok()).sum()
    }
}

impl StateSource for Source {
    fn has_news(&mut self) -> bool {
        let version = self.version();
        // An agent that has learned nothing leaves alone what an earlier one wrote.
        version.is_some_and(|version| version > 0) && version != self.collected
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        // Taken first: what changes while it is collected is collected again.
        let version = self.version()?;
        let mut parts = Vec::new();
        for shard in &self.shards {
            let mut from = Some(0);
            while let Some(place) = from {
                let part;
                (part, from) = shard.call(move |shard, net| shard.save(net, place, MODULES_PER_TURN)).ok()?;
                parts.push(part);
            }
        }
        self.collected = Some(version);
        Some(saved::join(&parts))
    }
}
