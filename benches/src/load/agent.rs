//! [`AgentPorts`]: where an agent answers for a module.

use std::net::{IpAddr, SocketAddr};

use lars_proto::ModuleId;

/// The UDP ports of an agent, one a shard, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentPorts {
    /// Where it runs.
    pub ip: IpAddr,
    /// Its first port.
    pub base_port: u16,
    /// How many it has; an echo has 1.
    pub shards: u16,
}

impl AgentPorts {
    /// The port of the shard that owns `module`.
    pub fn of(self, module: ModuleId) -> SocketAddr {
        let shard = module.shard(usize::from(self.shards));
        SocketAddr::new(self.ip, self.base_port.saturating_add(shard as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_asked_for_at_their_shard() {
        let agent = AgentPorts { ip: [127, 0, 0, 1].into(), base_port: 8888, shards: 3 };
        assert_eq!(agent.of(ModuleId::new(1, 1)).to_string(), "127.0.0.1:8890");
        assert_eq!(agent.of(ModuleId::new(-1, 0)).to_string(), "127.0.0.1:8890");
    }
}
