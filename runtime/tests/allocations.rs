//! What the steady state allocates on a shard: nothing per datagram and nothing per frame.

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, RefCell},
    io::{self, Write},
    net::UdpSocket,
};

use lars_runtime::{
    Datagram, ShardContext, Shards, TcpServer, TcpServerConfig, UdpConfig, UdpServer, UdpSockets,
};
use support::*;

const ANY: &str = "127.0.0.1:0";

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: the system's allocator does the work; counting touches a thread-local integer without destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sent at once; what a turn allocates besides is far less.
const REQUESTS: u64 = 128;

/// What shard 0 allocates while it serves what `send` sends, which reaches it all at once, until `receive` has what
/// comes back. The first rounds fill what is kept, and others may meet a pulse: the least of some counts.
fn allocations(shards: &Shards<Log>, mut send: impl FnMut(), mut receive: impl FnMut()) -> u64 {
    let so_far = || shards.shard(0).call(|_, _| ALLOCATIONS.get()).expect("the shard runs");
    let round = |_| {
        let before = so_far();
        let (go, wait) = flume::bounded::<()>(1);
        shards.shard(0).submit(move |_, _| wait.recv().expect("the test goes on")).expect("the shard runs");
        send();
        go.send(()).expect("the shard waits");
        receive();
        so_far() - before
    };
    (0..8).map(round).min().expect("several rounds")
}

fn echo(_: &mut Log, _: &mut ShardContext<Log>, request: Datagram<'_>, reply: &mut Vec<u8>) {
    reply.extend(request.bytes);
}

#[test]
fn datagrams_are_served_without_allocating() {
    let shards = shards(1);
    let sockets = UdpSockets::bind(&[ANY.parse().expect("an address")]).expect("a socket");
    let client = UdpSocket::bind(ANY).expect("a socket");
    client.connect(sockets.local_addrs()[0]).expect("connect");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let _server = UdpServer::start(&shards, sockets, UdpConfig::default(), echo);

    let send = || {
        for _ in 0..REQUESTS {
            client.send(b"request").expect("send");
        }
    };
    let receive = || (0..REQUESTS).for_each(|_| receive(&client));
    let count = allocations(&shards, send, receive);
    assert!(count < REQUESTS / 2, "{count} allocations for {REQUESTS} datagrams");
}

/// Waits are interrupted by what the shards do to the threads of their process.
fn receive(socket: &UdpSocket) {
    loop {
        match socket.recv(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => {
                received.expect("a reply");
                return;
            }
        }
    }
}

#[test]
fn frames_are_served_without_allocating() {
    let shards = shards(1);
    let config = TcpServerConfig::new(ANY.parse().expect("an address"));
    let server = TcpServer::start(&shards, config, handlers()).expect("a server");
    let client = RefCell::new(Client::connect(server.local_addr()));

    let requests = frame(SINK, b"request").repeat(REQUESTS as usize);
    let send = || client.borrow_mut().0.write_all(&requests).expect("write");
    let receive = || drop(client.borrow_mut().ask(WHERE, b""));
    let count = allocations(&shards, send, receive);
    assert!(count < REQUESTS / 2, "{count} allocations for {REQUESTS} frames");
}
