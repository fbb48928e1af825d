//! [`Agent`]: the agent, put together.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use lars_runtime::{
    Linger, ListenError, Shards, ShardsConfig, StartError as ShardsError, TcpClient, TcpClientConfig,
    UdpConfig, UdpServer, UdpSockets,
};
use lars_service::Shutdown;

use super::{
    dns::{self, DnsSession},
    post,
    reporter::{self, Gate, ReporterSession},
    shard::{AgentShard, LINKS_SHARD, Links},
    stats::AgentStats,
};
use crate::{
    config::{AgentConfig, ApiConfig},
    core::table::Table,
};

/// How often each shard does what is due by time. All that an idle agent costs is these ticks.
const TICK_PERIOD: Duration = Duration::from_millis(100);

/// How long the links may take to accept the last statistics, at the end, and how often they are offered.
const TELL_DEADLINE: Duration = Duration::from_secs(3);
const TELL_PAUSE: Duration = Duration::from_millis(10);

/// How long the links may take to flush, at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How often free consecutive ports are looked for.
const PORT_TRIES: usize = 100;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel does not let this process have what it needs.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// A port is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There are no free ports in a row.
    #[error("no {shards} consecutive ports of {ip} are free")]
    NoPorts { ip: IpAddr, shards: usize },
    /// Not even one port can be had.
    #[error("cannot bind a socket to {ip}: {source}")]
    Bind { ip: IpAddr, source: io::Error },
}

/// A running agent. Dropping it stops it at once; see [`Agent::stop`].
pub struct Agent {
    addrs: Vec<SocketAddr>,
    udp: UdpServer,
    shards: Shards<AgentShard>,
}

impl Agent {
    /// Takes the ports and answers from then on. Neither lars-dns nor lars-reporter needs to be there; the
    /// agent connects when they are.
    ///
    /// # Errors
    /// If a port is taken, or the machine cannot run the shards.
    pub fn start(config: AgentConfig) -> Result<Self, StartError> {
        let sockets = bind(&config.api)?;
        let addrs = sockets.local_addrs();
        let shards = start_shards(&config, &sockets)?;
        let udp_config =
            UdpConfig { spin: config.api.spin, linger: Some(Linger::default()), ..UdpConfig::default() };
        let udp = UdpServer::start(&shards, sockets, udp_config, AgentShard::on_datagram);
        let links_shard = shards.shard(LINKS_SHARD);
        TcpClient::start(links_shard, TcpClientConfig::new(config.dns_servers), dns::handlers());
        TcpClient::start(links_shard, TcpClientConfig::new(config.reporter_servers), reporter::handlers());
        shards.every(TICK_PERIOD, AgentShard::on_tick);
        Ok(Self { addrs, udp, shards })
    }

    /// Where it listens, one address per shard.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.addrs.clone()
    }

    /// What was counted so far, and what there is now. Asks every shard: not for a shard's own thread.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        let shares =
            self.shards.handles().iter().filter_map(|shard| shard.call(|shard, _| shard.stats()).ok());
        shares.fold(AgentStats::of_sockets(&self.udp.stats()), AgentStats::plus)
    }

    /// Ends it: statistics that wait for their interval are sent now, for some seconds at most.
    pub fn stop(self) {
        let deadline = Instant::now() + TELL_DEADLINE;
        while !self.tell_last() && Instant::now() < deadline {
            thread::sleep(TELL_PAUSE);
        }
        let report = self.shards.drain(DRAIN_DEADLINE);
        tracing::info!(flushed = report.connections_flushed, cut = report.connections_cut, "links ended");
    }

    /// One round over the shards; true if no statistics are left that lars-reporter could be told. The shard
    /// with the link comes last, because what the others tell goes through its post box.
    fn tell_last(&self) -> bool {
        let mut shards: Vec<_> = self.shards.handles().iter().collect();
        shards.sort_by_key(|shard| shard.index() == LINKS_SHARD);
        // Every one is asked, whatever the others say; one that has stopped has nothing to tell.
        let left = shards.iter().filter(|shard| !shard.call(AgentShard::tell_last).unwrap_or(true)).count();
        left == 0
    }
}

/// Runs the agent until `shutdown` is triggered, then drains it.
///
/// # Errors
/// If it cannot start.
pub fn run(config: AgentConfig, shutdown: &Shutdown) -> Result<(), StartError> {
    let agent = Agent::start(config)?;
    tracing::info!(addr = ?agent.local_addrs(), "listening");
    shutdown.wait();
    agent.stop();
    Ok(())
}

fn start_shards(config: &AgentConfig, sockets: &UdpSockets) -> Result<Shards<AgentShard>, ShardsError> {
    let (started, gate, senders) = (Instant::now(), Gate::default(), sockets.senders());
    let offices: Vec<_> =
        post::offices(config.api.shards).into_iter().map(|post| Mutex::new(Some(post))).collect();
    let (table, caller_ip, answer_timeout) =
        (config.table.clone(), config.caller_ip, config.dns_answer_timeout);
    let shards_config = ShardsConfig {
        name: "lars-agent".into(),
        shards: config.api.shards,
        tcp_driver: config.tcp_driver,
        ..ShardsConfig::default()
    };
    Shards::start(shards_config, move |i| {
        let post = offices[i].lock().unwrap_or_else(PoisonError::into_inner).take();
        let post = post.expect("each shard is made once");
        let links = || Links {
            dns: DnsSession::new(answer_timeout),
            reporter: ReporterSession::new(gate.clone(), caller_ip),
        };
        let links = (i == LINKS_SHARD).then(|| Box::new(links()));
        AgentShard::new(started, Table::new(table.clone()), post, senders.clone(), gate.clone(), links)
    })
}

fn bind(api: &ApiConfig) -> Result<UdpSockets, StartError> {
    if api.base_port != 0 {
        return Ok(UdpSockets::bind(&addrs(api, api.base_port))?);
    }
    for _ in 0..PORT_TRIES {
        let base_port =
            free_port(api.listen_ip).map_err(|source| StartError::Bind { ip: api.listen_ip, source })?;
        if usize::from(base_port) + api.shards > usize::from(u16::MAX) {
            continue;
        }
        // The ports behind it, and since a moment ago it too, may be somebody else's.
        if let Ok(sockets) = UdpSockets::bind(&addrs(api, base_port)) {
            return Ok(sockets);
        }
    }
    Err(StartError::NoPorts { ip: api.listen_ip, shards: api.shards })
}

fn free_port(ip: IpAddr) -> io::Result<u16> {
    Ok(UdpSocket::bind((ip, 0))?.local_addr()?.port())
}

/// One address per shard. The configuration has seen to it that the ports exist.
fn addrs(api: &ApiConfig, base_port: u16) -> Vec<SocketAddr> {
    (base_port..).take(api.shards).map(|port| SocketAddr::new(api.listen_ip, port)).collect()
}
