//! lars-dns with a million hosts on a local MariaDB, which is started for it: how long loading takes, and how much memory.
//! `cargo run --profile dist -p lars-benches --example services_on_mariadb`

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use lars_benches::load;
use lars_dns::{Dns, DnsConfig};
use lars_store::{OpenMode, StoreUrl};
use lars_testkit::{MariaDb, eventually};

const HOSTS: u64 = 1_000_000;
const HOSTS_PER_MODULE: u64 = 10;
const LOADS: u64 = 5;

fn main() {
    let server = MariaDb::start();
    let url: StoreUrl = server.url("lars").parse().expect("a URL");
    let mut store = lars_store::open(&url, OpenMode::Create).expect("the database is there");
    let rows = format!(
        "INSERT INTO RouteData (modid, cmdid, serverip, serverport)
         SELECT seq DIV 1000, seq DIV {HOSTS_PER_MODULE} % 100, 167772160 + seq, 8080 FROM seq_0_to_{}",
        HOSTS - 1
    );
    server.execute("lars", &rows);
    let rss_before = rss();
    let mut config = DnsConfig { store: url, ..DnsConfig::default() };
    config.server.listen = ([127, 0, 0, 1], 0).into();
    let (dns, load_time) = timed(|| Dns::start(config).expect("lars-dns starts"));
    let stats = dns.stats();
    println!("loaded {} hosts in {} modules in {load_time:.2?}", stats.hosts, stats.modules);
    println!("memory: {} bytes per host", (rss() - rss_before) / HOSTS);
    eventually("routes are read again", || dns.stats().full_reloads >= 2);
    println!("memory after full reloads: {} bytes per host", (rss() - rss_before) / HOSTS);
    dns.stop();
    let mut times: Vec<_> = (0..LOADS).map(|_| timed(|| drop(store.load(&mut |_, _| {}))).1).collect();
    times.sort_unstable();
    println!("full load of {HOSTS} hosts: {:.0?} (median)", times[times.len() / 2]);
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (work(), start.elapsed())
}

/// Bytes of this process in memory.
fn rss() -> u64 {
    load::resident(std::process::id()).expect("Linux") as u64
}
