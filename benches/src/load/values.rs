//! What the flags of loads may be: modules, agents, numbers.

use std::{net::SocketAddr, num::ParseIntError, time::Duration};

use clap::Args;
use lars_proto::ModuleId;

use super::in_flight::SLOTS_MAX;

/// Modules whose ids follow each other.
type Series = Vec<ModuleId>;

/// Which modules it is about.
#[derive(Clone, Debug, Args)]
pub struct Modules {
    /// Modules, like 1/1, or 1..1000/1 for all from 1/1 to 1000/1; may be given more than once
    #[arg(long = "module", value_name = "MODID/CMDID", default_value = "1/1", value_parser = modules,
        allow_hyphen_values = true)]
    series: Vec<Series>,
}

impl FromIterator<ModuleId> for Modules {
    fn from_iter<I: IntoIterator<Item = ModuleId>>(modules: I) -> Self {
        Self { series: vec![modules.into_iter().collect()] }
    }
}

impl Modules {
    /// Each of them.
    pub fn all(&self) -> Vec<ModuleId> {
        self.series.concat()
    }
}

/// Whom to ask over UDP, and how much at a time.
#[derive(Clone, Debug, Args)]
pub struct AgentTarget {
    /// The agent's address and first port
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8888")]
    pub agent: SocketAddr,
    /// How many ports the agent has; 1 for an echo
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub shards: u16,
    #[command(flatten)]
    pub modules: Modules,
    /// How many sockets, each for one module
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = some)]
    pub sockets: usize,
    /// Requests under way at the same time, on each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = within::<1, SLOTS_MAX>)]
    pub in_flight: usize,
}

impl AgentTarget {
    /// The port of the shard that owns `module`.
    pub fn of(&self, module: ModuleId) -> SocketAddr {
        let shard = module.shard(usize::from(self.shards));
        SocketAddr::new(self.agent.ip(), self.agent.port().saturating_add(shard as u16))
    }

    /// What each socket asks for, and where; they take turns.
    pub(super) fn sockets<C>(&self, conversation: impl Fn(ModuleId) -> C) -> Vec<(SocketAddr, C)> {
        let modules = self.modules.all();
        let modules = modules.iter().cycle().take(self.sockets);
        modules.map(|module| (self.of(*module), conversation(*module))).collect()
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text).and_then(|time| if time.is_zero() { Err("is 0".into()) } else { Ok(time) })
}

pub(super) fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

pub(super) fn micros(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_micros).map_err(|_| "is not a number of microseconds".into())
}

fn modules(text: &str) -> Result<Series, String> {
    let series = || {
        let (modids, cmdid) = text.split_once('/')?;
        let (first, last) = modids.split_once("..").unwrap_or((modids, modids));
        let (first, last, cmdid) = (first.parse().ok()?, last.parse().ok()?, cmdid.parse().ok()?);
        Some((first..=last).map(|modid| ModuleId::new(modid, cmdid)).collect())
    };
    series().filter(|series: &Series| !series.is_empty()).ok_or_else(|| "is not like 1/1 or 1..9/1".into())
}

/// A number of so many at least and at most.
pub(super) fn within<const MIN: usize, const MAX: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().map_err(|error: ParseIntError| error.to_string())?;
    if (MIN..=MAX).contains(&number) { Ok(number) } else { Err(format!("is not in {MIN}..={MAX}")) }
}

/// One at least.
pub(super) fn some(text: &str) -> Result<usize, String> {
    within::<1, { usize::MAX }>(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_asked_for_at_their_shard() {
        let modules = [ModuleId::new(1, 1), ModuleId::new(-1, 0)].into_iter().collect();
        let agent = SocketAddr::from(([127, 0, 0, 1], 8888));
        let target = AgentTarget { agent, shards: 3, modules, sockets: 3, in_flight: 1 };
        let ports: Vec<_> = target.sockets(|_| ()).iter().map(|(addr, ())| addr.port()).collect();
        assert_eq!(ports, [8890; 3]);
    }
}
