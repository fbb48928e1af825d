//! Typed messages between threads and shards, and the timer that follows a state's own deadlines.

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use lars_runtime::{
    Datagram, Flow, Handlers, Mailboxes, Refused, ShardContext, Shards, SubmitError, TcpServer,
    TcpServerConfig, UdpConfig, UdpServer, UdpSockets,
};
use lars_testkit::eventually;
use support::{
    Client, ECHO,
    datagrams::{ask, client},
    frame, framing, shards_config,
};

/// A core that counts, and wants to be called at a time.
#[derive(Debug, Default)]
struct Core {
    received: Vec<(usize, usize)>,
    deadline: Option<Instant>,
    /// Deadlines that it will set, each 1 ms after the one before.
    follow_up: usize,
    handled: usize,
    early: usize,
}

impl Core {
    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn handle_timeout(&mut self, net: &mut ShardContext<Self>) {
        self.early += usize::from(self.deadline.is_none_or(|deadline| net.now() < deadline));
        self.handled += 1;
        self.deadline = None;
        if self.follow_up > 0 {
            self.follow_up -= 1;
            self.deadline = Some(net.now() + Duration::from_millis(1));
        }
    }
}

fn cores(count: usize) -> Shards<Core> {
    Shards::start(shards_config(count), |_| Core::default()).expect("shards start")
}

fn receive(core: &mut Core, _: &mut ShardContext<Core>, message: (usize, usize)) {
    assert_ne!(message.1, usize::MAX, "on demand");
    core.received.push(message);
}

fn read<T: Send + 'static>(shards: &Shards<Core>, shard: usize, f: fn(&mut Core) -> T) -> T {
    shards.shard(shard).call(move |core, _| f(core)).expect("the shard runs")
}

#[test]
fn messages_arrive_on_their_shard_in_the_order_of_their_sender() {
    const MESSAGES: usize = 20_000;
    let shards = cores(2);
    let mailboxes = Mailboxes::new(2, 64);
    mailboxes.try_send(1, (9, 0)).expect("room before it is installed");
    shards.install_mailboxes(&mailboxes, receive);
    thread::scope(|scope| {
        for sender in 0..2 {
            let mailboxes = mailboxes.clone();
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    let mut message = (sender, number);
                    while let Err(refused) = mailboxes.try_send(number % 2, message) {
                        assert_eq!(refused.reason, SubmitError::Full);
                        message = refused.message;
                        thread::yield_now();
                    }
                }
            });
        }
    });
    for shard in 0..2 {
        let expected = MESSAGES + usize::from(shard == 1);
        eventually("all have come", || {
            shards.shard(shard).call(|core, _| core.received.len()) == Ok(expected)
        });
        let received = read(&shards, shard, |core| core.received.clone());
        for sender in 0..2 {
            let numbers = received.iter().filter(|(of, _)| *of == sender).map(|(_, number)| *number);
            assert!(numbers.eq((shard..MESSAGES).step_by(2)), "in order, each once, on shard {shard}");
        }
    }
}

#[test]
fn what_does_not_fit_comes_back_and_so_does_what_comes_too_late() {
    let shards = cores(1);
    let mailboxes = Mailboxes::new(1, 3);
    shards.install_mailboxes(&mailboxes, receive);
    let (entered, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let gate = (Arc::clone(&entered), Arc::clone(&leave));
    let block = move |_: &mut Core, _: &mut ShardContext<Core>| {
        gate.0.wait();
        gate.1.wait();
    };
    shards.shard(0).submit(block).expect("the shard runs");
    entered.wait();
    for number in 0..3 {
        mailboxes.try_send(0, (0, number)).expect("room");
    }
    let refused = mailboxes.try_send(0, (0, 3)).expect_err("it is full");
    assert_eq!(refused, Refused { message: (0, 3), reason: SubmitError::Full });
    leave.wait();
    eventually("the others have come", || read(&shards, 0, |core| core.received.len()) == 3);

    drop(shards);
    let refused = mailboxes.try_send(0, (0, 4)).expect_err("it has stopped");
    assert_eq!(refused, Refused { message: (0, 4), reason: SubmitError::Stopped });
    assert_eq!(refused.to_string(), SubmitError::Stopped.to_string());
}

#[test]
fn what_waits_when_the_shards_stop_is_dropped() {
    let shards = cores(1);
    let mailboxes = Mailboxes::<Arc<()>>::new(1, 10);
    let (message, gate) = (Arc::new(()), Arc::new(Barrier::new(2)));
    shards.install_mailboxes(&mailboxes, |_, _, _| {});
    let entered = Arc::clone(&gate);
    let blocked = shards.shard(0).submit(move |_, _| {
        entered.wait();
        entered.wait();
    });
    blocked.expect("the shard runs");
    gate.wait();
    mailboxes.try_send(0, Arc::clone(&message)).expect("room");
    gate.wait();
    drop(shards);
    assert_eq!(Arc::strong_count(&message), 1);
}

#[test]
fn a_panicking_message_costs_nothing_else() {
    let shards = cores(1);
    let mailboxes = Mailboxes::new(1, 10);
    shards.install_mailboxes(&mailboxes, receive);
    for number in [0, usize::MAX, 1] {
        mailboxes.try_send(0, (0, number)).expect("room");
    }
    eventually("the others have come", || read(&shards, 0, |core| core.received.len()) == 2);
}

#[test]
#[should_panic(expected = "mailboxes are installed once")]
fn mailboxes_are_installed_once() {
    let shards = cores(1);
    let mailboxes = Mailboxes::new(1, 1);
    shards.install_mailboxes(&mailboxes, receive);
    shards.install_mailboxes(&mailboxes, receive);
}

#[test]
fn deadlines_are_handled_when_they_come_and_not_before() {
    const FOLLOW_UP: usize = 500;
    let shards = cores(2);
    shards.install_timer(Core::poll_timeout, Core::handle_timeout);
    let begin = Instant::now();
    for shard in shards.handles() {
        let start = |core: &mut Core, net: &mut ShardContext<Core>| {
            core.follow_up = FOLLOW_UP;
            core.deadline = Some(net.now() + Duration::from_millis(1));
        };
        shard.submit(start).expect("the shard runs");
    }
    for shard in 0..2 {
        eventually("all are handled", || read(&shards, shard, |core| core.handled) == FOLLOW_UP + 1);
        assert_eq!(read(&shards, shard, |core| core.early), 0);
    }
    // A tick of 100 ms would need 50 s.
    assert!(begin.elapsed() < Duration::from_secs(40), "they follow the deadlines, no fixed tick");
}

#[test]
fn a_deadline_that_moves_is_followed() {
    let shards = cores(1);
    shards.install_timer(Core::poll_timeout, Core::handle_timeout);
    let set = |wait: Option<Duration>| {
        let set = move |core: &mut Core, net: &mut ShardContext<Core>| {
            core.deadline = wait.map(|wait| net.now() + wait);
        };
        shards.shard(0).call(set).expect("the shard runs");
    };
    let handled = || read(&shards, 0, |core| (core.handled, core.early));
    set(Some(Duration::from_secs(3600)));
    set(Some(Duration::from_millis(5)));
    eventually("it came closer", || handled() == (1, 0));
    set(Some(Duration::from_millis(5)));
    set(Some(Duration::from_secs(3600)));
    set(None);
    set(Some(Duration::ZERO));
    eventually("it came and went, and is there", || handled() == (2, 0));
}

/// Every way in which the state can change is followed by a look at its deadline.
#[test]
fn frames_datagrams_messages_and_ticks_set_deadlines() {
    fn soon(core: &mut Core, net: &mut ShardContext<Core>) {
        core.deadline = Some(net.now());
    }
    let shards = cores(1);
    shards.install_timer(Core::poll_timeout, Core::handle_timeout);
    let handled = || read(&shards, 0, |core| core.handled);

    let mailboxes = Mailboxes::new(1, 1);
    shards.install_mailboxes(&mailboxes, |core, net, ()| soon(core, net));
    mailboxes.try_send(0, ()).expect("room");
    eventually("a message set one", || handled() == 1);

    let handlers = Handlers::<Core>::new(framing).on(ECHO, |core, net, conn, body| {
        soon(core, net);
        net.send(conn, &frame(ECHO, body)).expect("room");
        Flow::Continue
    });
    let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = TcpServer::start(&shards, config, handlers).expect("a server");
    Client::connect(server.local_addr()).ask(ECHO, b"");
    eventually("a frame set one", || handled() == 2);

    let sockets = UdpSockets::bind(&[([127, 0, 0, 1], 0).into()]).expect("a socket");
    let addr = sockets.local_addrs()[0];
    let echo = |core: &mut Core, net: &mut ShardContext<Core>, request: Datagram<'_>, reply: &mut Vec<u8>| {
        soon(core, net);
        reply.extend_from_slice(request.bytes);
    };
    let _server = UdpServer::start(&shards, sockets, UdpConfig::default(), echo);
    ask(&client(addr), b"x");
    eventually("a datagram set one", || handled() == 3);

    shards.every(Duration::from_millis(5), |core, net| {
        if core.handled == 3 {
            soon(core, net);
        }
    });
    eventually("a tick set one", || handled() == 4);
}

#[test]
fn a_panicking_deadline_costs_nothing_else() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let shards = cores(1);
    let poll = |core: &Core| {
        assert!(ASKED.fetch_add(1, Relaxed).is_multiple_of(2), "every other time");
        core.deadline
    };
    shards.install_timer(poll, Core::handle_timeout);
    let job = |core: &mut Core, net: &mut ShardContext<Core>| core.deadline = Some(net.now());
    eventually("deadlines are handled", || {
        shards.shard(0).call(job).expect("the shard runs");
        read(&shards, 0, |core| core.handled) > 3
    });
}
