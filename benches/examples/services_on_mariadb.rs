//! The figures of lars-dns and lars-reporter on a local MariaDB, which is started for it:
//! `cargo run --profile dist -p lars-benches --example services_on_mariadb`.
//!
//! Load time and memory of a million hosts, the time from an edit to its push with the default intervals, the
//! push of one module to many subscribers, and the rate at which statistics get into the table compared to
//! one upsert for each row in the same run.

#![allow(clippy::print_stdout)]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use lars_dns::{Dns, DnsConfig};
use lars_proto::{
    HostAddr, ModuleId, frame,
    messages::{GetRouteRequest, HostCallResult, MessageId, ReportStatusRequest},
};
use lars_reporter::{Reporter, ReporterConfig};
use lars_store::{CallStatus, OpenMode, RouteEdit, Store, StoreUrl};
use lars_testkit::{MariaDb, eventually};

const HOSTS: u64 = 1_000_000;
const HOSTS_PER_MODULE: u64 = 10;
const EDITS: u16 = 40;
/// Both ends are in this process, which may have 20,000 descriptors on many machines.
const SUBSCRIBERS: usize = 9_900;
const FAN_OUTS: u16 = 5;
/// As many as lars-dns reads one by one.
const MODULES_AT_ONCE: i32 = 900;

/// What is reported on: hosts of modules, by callers.
const MODULES: i32 = 100;
const HOSTS_REPORTED: i32 = 100;
const CALLERS: i32 = 20;
const KEYS: u32 = (MODULES * HOSTS_REPORTED * CALLERS) as u32;
const SINGLE_ROWS: usize = 3_000;

fn main() {
    let server = MariaDb::start();
    let store: StoreUrl = server.url("lars").parse().expect("a URL");
    drop(open(&store));
    dns(&server, &store);
    reporter(&server, &store);
}

fn open(store: &StoreUrl) -> Box<dyn Store> {
    lars_store::open(store, OpenMode::Create).expect("the database is there")
}

fn dns(server: &MariaDb, store: &StoreUrl) {
    server.execute(
        "lars",
        &format!(
            "INSERT INTO RouteData (modid, cmdid, serverip, serverport)
             SELECT seq DIV 1000, seq DIV {HOSTS_PER_MODULE} % 100, 167772160 + seq, 8080
             FROM seq_0_to_{}",
            HOSTS - 1
        ),
    );
    let rss_before = rss();
    let mut config = DnsConfig { store: store.clone(), ..DnsConfig::default() };
    config.server.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.server.connections_max = SUBSCRIBERS * 2;
    let start = Instant::now();
    let dns = Dns::start(config).expect("lars-dns starts");
    let (load_time, stats) = (start.elapsed(), dns.stats());
    println!("loaded {} hosts in {} modules in {load_time:.2?}", stats.hosts, stats.modules);
    println!("memory: {} bytes per host", (rss() - rss_before) / HOSTS);

    let mut editor = open(store);
    edits(&dns, &mut *editor);
    println!("memory after full reloads: {} bytes per host", (rss() - rss_before) / HOSTS);
    fan_out(&dns, &mut *editor);
    many_modules(&dns, &mut *editor);
    dns.stop();
    full_loads(&mut *editor);
}

/// Many modules change in one edit, and one subscriber hears of all of them.
fn many_modules(dns: &Dns, editor: &mut dyn Store) {
    let modules: Vec<_> = (0..MODULES_AT_ONCE).map(|n| ModuleId::new(2 + n / 100, n % 100)).collect();
    let mut subscriber = subscribe(dns.local_addr(), modules[0]);
    for &module in &modules[1..] {
        ask(&mut subscriber, module);
    }
    for n in 1..=FAN_OUTS {
        let hosts = vec![HostAddr::v4(Ipv4Addr::LOCALHOST, n)];
        let edits: Vec<_> = modules.iter().map(|&module| RouteEdit::Replace(module, hosts.clone())).collect();
        editor.edit(&edits).expect("the edit is accepted");
        let edited = Instant::now();
        modules.iter().for_each(|_| read_frame(&mut subscriber));
        let pushed = edited.elapsed();
        let one_by_one = time(|| modules.iter().for_each(|&module| drop(editor.hosts(module))));
        let together = time(|| drop(editor.hosts_of_each(&modules)));
        println!(
            "{MODULES_AT_ONCE} modules in one edit, the last pushed after {pushed:.0?}; \
             to read them takes {one_by_one:.1?} one by one, {together:.1?} together"
        );
    }
}

/// What each full load costs, without anything else going on.
fn full_loads(store: &mut dyn Store) {
    let mut times: Vec<_> = (0..FAN_OUTS).map(|_| time(|| drop(store.load(&mut |_, _| {})))).collect();
    times.sort_unstable();
    println!("full load of {HOSTS} hosts: {:.0?} (median)", times[times.len() / 2]);
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Each edit comes at another moment of the poll and of the full reload.
fn edits(dns: &Dns, editor: &mut dyn Store) {
    let module = ModuleId::new(500, 50);
    let mut subscriber = subscribe(dns.local_addr(), module);
    let mut times: Vec<_> = (1..=EDITS)
        .map(|n| {
            thread::sleep(Duration::from_millis(u64::from(n) * 37 % 1_000));
            let edited = Instant::now();
            change(editor, module, n);
            read_frame(&mut subscriber);
            edited.elapsed()
        })
        .collect();
    times.sort_unstable();
    let reloads = dns.stats().full_reloads;
    println!(
        "{EDITS} edits, pushed after {:.0?} (median), {:.0?} (longest), {reloads} full loads",
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

fn fan_out(dns: &Dns, editor: &mut dyn Store) {
    let module = ModuleId::new(1, 1);
    let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|_| subscribe(dns.local_addr(), module)).collect();
    for n in 1..=FAN_OUTS {
        let before = dns.stats().pushes;
        change(editor, module, n);
        // Asking for the statistics passes through each shard, so it is not done meanwhile.
        read_frame(&mut subscribers[0]);
        let first = Instant::now();
        subscribers[1..].iter_mut().for_each(read_frame);
        println!(
            "{} pushes read, the last {:.1?} after the first",
            dns.stats().pushes - before,
            first.elapsed()
        );
    }
}

fn change(editor: &mut dyn Store, module: ModuleId, n: u16) {
    let host = HostAddr::v4(Ipv4Addr::LOCALHOST, n);
    editor.edit(&[RouteEdit::Replace(module, vec![host])]).expect("the edit is accepted");
}

/// Connects, asks, and reads the answer.
fn subscribe(addr: SocketAddr, module: ModuleId) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("lars-dns listens");
    ask(&mut stream, module);
    stream
}

fn ask(stream: &mut TcpStream, module: ModuleId) {
    let request = GetRouteRequest { modid: module.modid, cmdid: module.cmdid, ..Default::default() };
    let mut bytes = Vec::new();
    frame::encode(MessageId::GetRouteRequest, &request, &mut bytes).expect("fits");
    stream.write_all(&bytes).expect("lars-dns reads");
    read_frame(stream);
}

fn read_frame(stream: &mut TcpStream) {
    let mut header = [0; 8];
    stream.read_exact(&mut header).expect("a header");
    let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    stream.read_exact(&mut vec![0; len as usize]).expect("a body");
}

fn reporter(server: &MariaDb, store: &StoreUrl) {
    // As in production: a commit is on the disk.
    server.execute("", "SET GLOBAL innodb_flush_log_at_trx_commit = 1");
    let mut config = ReporterConfig { store: store.clone(), ..ReporterConfig::default() };
    config.server.listen = (Ipv4Addr::LOCALHOST, 0).into();
    let reporter = Reporter::start(config).expect("the reporter starts");
    // The first time rows are inserted, the second time they change.
    report_all(&reporter, 1);
    let start = Instant::now();
    report_all(&reporter, 2);
    let rate = f64::from(KEYS) / start.elapsed().as_secs_f64();
    reporter.stop();
    let single = one_by_one(store);
    println!("reporter: {rate:.0} rows/s; one by one: {single:.0} rows/s; ratio {:.1}", rate / single);
}

/// Returns when all of it is in the table.
fn report_all(reporter: &Reporter, ts: u32) {
    let mut agent = TcpStream::connect(reporter.local_addr()).expect("the reporter listens");
    for caller in 0..CALLERS {
        for modid in 0..MODULES {
            agent.write_all(&report(modid, caller, ts)).expect("the reporter reads");
        }
    }
    let written = u64::from(KEYS) * u64::from(ts);
    eventually("everything is written", || reporter.stats().rows_written == written);
}

fn report(modid: i32, caller: i32, ts: u32) -> Vec<u8> {
    let result = |port| HostCallResult { ip: 1, port, succ: ts, err: 1, overload: false };
    let message = ReportStatusRequest {
        modid,
        cmdid: 1,
        caller,
        results: (1..=HOSTS_REPORTED).map(result).collect(),
        ts,
    };
    let mut bytes = Vec::new();
    frame::encode(MessageId::ReportStatusRequest, &message, &mut bytes).expect("fits");
    bytes
}

/// Rows per second with a transaction for each, of the rows that the reporter wrote.
fn one_by_one(store: &StoreUrl) -> f64 {
    let mut store = open(store);
    let rows = store.call_status(None).expect("rows");
    let start = Instant::now();
    let chosen = rows.iter().step_by(rows.len() / SINGLE_ROWS);
    for row in chosen.clone() {
        store.upsert(&[CallStatus { ts: 3, succ: 3, ..*row }]).expect("a row");
    }
    chosen.count() as f64 / start.elapsed().as_secs_f64()
}

/// Bytes of this process in memory.
fn rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}
