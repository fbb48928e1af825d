//! A changed module, ready to be sent to everybody who wants it.

use std::sync::Arc;

use lars_proto::{
    HostAddr, ModuleId,
    frame::BODY_LEN_MAX,
    route::{self, Extensions, HOST_LEN_MAX, RouteReply},
};

use super::snapshot::Snapshot;

/// So many hosts fit a frame, whatever their addresses; 64 bytes are for everything else in it.
const HOSTS_ALWAYS_FIT: usize = (BODY_LEN_MAX - 64) / HOST_LEN_MAX;

/// Agents that announced themselves are told of an empty route that it is meant: lars-dns has read all routes before it
/// listens.
pub const CONFIRMS: Extensions = Extensions { announces: false, confirms: true };

/// A module's new state as the frame that all its subscribers get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Whose hosts these are.
    pub module: ModuleId,
    /// The response frame, encoded once and shared by all shards and connections.
    pub frame: Arc<[u8]>,
    /// The same for agents that announced themselves, if that is another: it says that an empty route is meant.
    pub extended: Option<Arc<[u8]>>,
    /// Hosts that did not fit into the frame.
    pub hosts_cut: usize,
}

impl Push {
    /// Encodes `hosts`; `scratch` is overwritten.
    #[must_use]
    pub fn encode(module: ModuleId, hosts: &[HostAddr], scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        let sent = route::encode(RouteReply::Dns, module, hosts.iter().copied(), scratch);
        let frame = scratch.as_slice().into();
        let extended = hosts.is_empty().then(|| {
            scratch.clear();
            route::encode_extended(RouteReply::Dns, module, [], CONFIRMS, scratch);
            scratch.as_slice().into()
        });
        Self { module, frame, extended, hosts_cut: hosts.len() - sent }
    }

    /// What a connection is sent, whose agent announced itself or did not.
    #[must_use]
    pub fn frame_for(&self, is_announced: bool) -> &Arc<[u8]> {
        self.extended.as_ref().filter(|_| is_announced).unwrap_or(&self.frame)
    }
}

/// How many hosts of a route are sent; those behind them do not fit a frame.
#[must_use]
pub fn hosts_that_fit(module: ModuleId, hosts: &[HostAddr]) -> usize {
    if hosts.len() <= HOSTS_ALWAYS_FIT {
        return hosts.len();
    }
    // Such routes are so rare that it may take as long as sending it.
    hosts.len() - Push::encode(module, hosts, &mut Vec::new()).hosts_cut
}

/// The modules of `snapshot` whose hosts do not all fit a frame, and how many of them do not.
pub fn cut_routes(snapshot: &Snapshot) -> impl Iterator<Item = (ModuleId, usize)> {
    let mut scratch = Vec::new();
    let long = snapshot.iter().filter(|(_, hosts)| hosts.len() > HOSTS_ALWAYS_FIT);
    let cut = long.map(move |(module, hosts)| (module, Push::encode(module, hosts, &mut scratch).hosts_cut));
    cut.filter(|(_, hosts_cut)| *hosts_cut > 0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::{frame, messages::GetRouteResponse};
    use prost::Message;

    use super::*;

    /// With addresses of the longest form, or of a shorter one.
    fn hosts(count: usize, first_ip: u32) -> Vec<HostAddr> {
        (first_ip..).take(count).map(|ip| HostAddr::v4(Ipv4Addr::from_bits(ip), 65_000)).collect()
    }

    fn check(host_count: usize, cut_expected: bool) {
        let module = ModuleId::new(-1, -2);
        let hosts = hosts(host_count, 0xc0a8_0000);
        let push = Push::encode(module, &hosts, &mut b"left over".to_vec());
        let decoded = frame::decode_datagram(&push.frame).expect("one frame");
        let route = GetRouteResponse::decode(decoded.body).expect("a route");
        assert_eq!((push.module, route.module()), (module, module));
        assert_eq!(route.host.len() + push.hosts_cut, hosts.len());
        assert_eq!(push.hosts_cut > 0, cut_expected, "{host_count} hosts");
        assert!(!route.confirmed, "deployed agents are told what they always were");
        assert_eq!(push.frame_for(false), &push.frame);
        let extended = frame::decode_datagram(push.frame_for(true)).expect("one frame");
        let extended = GetRouteResponse::decode(extended.body).expect("a route");
        assert_eq!(extended, GetRouteResponse { confirmed: hosts.is_empty(), ..route });
    }

    #[test]
    fn says_how_many_hosts_were_cut() {
        check(0, false);
        check(HOSTS_ALWAYS_FIT, false);
        check(HOSTS_ALWAYS_FIT + 10, true);
    }

    #[test]
    fn finds_the_routes_that_are_cut() {
        let routes = [
            (ModuleId::new(1, 1), hosts(10, 1)),
            (ModuleId::new(1, 2), hosts(HOSTS_ALWAYS_FIT + 10, 1)),
            (ModuleId::new(1, 3), hosts(10_000, 1)),
        ];
        let (snapshot, _) = Snapshot::default().apply(routes.into());
        let found: Vec<_> = cut_routes(&snapshot).map(|(module, _)| module).collect();
        assert_eq!(found, [ModuleId::new(1, 3)]);
    }
}
