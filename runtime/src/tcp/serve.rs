//! The frame loop: input to frames, frames to their functions.

use crate::{
    pool::{Pool, PoolBuf, PoolExhausted},
    shard::context::ShardContext,
    shard::panics::contain,
    tcp::connection::{CloseReason, ConnId, Pause, Round},
    tcp::handlers::Flow,
    tcp::service::Service,
    tcp::stats::Counters,
};

/// Serves the frames in what is held of `id`'s input and in `fresh`, which follows it. What cannot be served
/// yet is held. A panic of a function costs this connection and nothing else.
pub(crate) fn serve<S>(
    state: &mut S,
    net: &mut ShardContext<S>,
    service: &Service<S>,
    id: ConnId,
    fresh: &[u8],
) {
    let (now, pool) = (net.now(), net.pool().clone());
    let Some(conn) = net.connection(id) else { return };
    let held = conn.begin_round(!fresh.is_empty(), now);
    service.counters[net.shard_index()].bytes_in.add(fresh.len() as u64);

    net.serving = Some(id);
    let served = Input::join(held, fresh).and_then(|input| {
        let (len, round) = serve_frames(state, net, service, id, input.bytes());
        Ok((input.rest(len, &pool)?, round, len > 0))
    });
    net.serving = None;

    let (rest, round, progress) = served.unwrap_or((None, Round::Close(CloseReason::PoolExhausted), false));
    if matches!(round, Round::Paused(Pause::Busy)) {
        net.busy.push(id);
    }
    if let Some(conn) = net.connection(id) {
        conn.end_round(rest, round, progress, now);
    }
}

/// The bytes of a round: copied only if something of the round before was left over.
enum Input<'a> {
    Fresh(&'a [u8]),
    Held(PoolBuf),
}

impl<'a> Input<'a> {
    fn join(held: Option<PoolBuf>, fresh: &'a [u8]) -> Result<Self, PoolExhausted> {
        let Some(mut held) = held else { return Ok(Self::Fresh(fresh)) };
        held.extend_from_slice(fresh)?;
        Ok(Self::Held(held))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Fresh(bytes) => bytes,
            Self::Held(buffer) => buffer,
        }
    }

    /// What is left behind the first `served` bytes, in a buffer no larger than it needs.
    fn rest(self, served: usize, pool: &Pool) -> Result<Option<PoolBuf>, PoolExhausted> {
        let bytes = self.bytes();
        if served == bytes.len() {
            return Ok(None);
        }
        match self {
            Self::Fresh(bytes) => {
                let mut rest = pool.take(bytes.len() - served)?;
                rest.extend_from_slice(&bytes[served..])?;
                Ok(Some(rest))
            }
            Self::Held(mut buffer) => {
                buffer.discard_front(served);
                buffer.shrink_to_fit();
                Ok(Some(buffer))
            }
        }
    }
}

/// Serves frames from the front of `input`; returns how many bytes they have, and why it ended.
fn serve_frames<S>(
    state: &mut S,
    net: &mut ShardContext<S>,
    service: &Service<S>,
    id: ConnId,
    input: &[u8],
) -> (usize, Round) {
    let counters = &service.counters[net.shard_index()];
    let mut served = 0;
    let round = contain("serving a frame", net.shard_index(), || {
        loop {
            if let Some(round) = net.connection(id).map_or(Some(Round::Starved), |conn| conn.must_pause()) {
                return round;
            }
            match serve_frame(state, net, service, id, &input[served..]) {
                Ok(len) => {
                    counters.frames.add(1);
                    served += len;
                }
                Err(round) => return round,
            }
        }
    });
    let round = round.unwrap_or_else(|| {
        counters.panics.add(1);
        Round::Close(CloseReason::Panicked)
    });
    count_end(counters, &round);
    (served, round)
}

/// Serves the first frame of `input` and returns its length, or why it could not.
fn serve_frame<S>(
    state: &mut S,
    net: &mut ShardContext<S>,
    service: &Service<S>,
    id: ConnId,
    input: &[u8],
) -> Result<usize, Round> {
    let malformed = |what: String| Round::Close(CloseReason::Malformed(what));
    let len_max = service.limits.frame_len_max;
    let Some((message, body)) = service.handlers.find_frame(input).map_err(malformed)? else {
        return Err(if input.len() >= len_max {
            malformed(format!("frame is over the limit of {len_max} bytes"))
        } else {
            Round::Starved
        });
    };
    let len = body.end;
    if len > len_max {
        return Err(malformed(format!("frame of {len} bytes is over the limit of {len_max}")));
    }
    let body = match input.get(body) {
        Some(body) if len > 0 => body,
        Some(_) | None => return Err(malformed(format!("framing found {len} bytes in {}", input.len()))),
    };
    let Some(f) = service.handlers.for_id(message) else {
        return Err(Round::Close(CloseReason::UnknownMessage(message)));
    };
    match f(state, net, id, body) {
        Flow::Continue => Ok(len),
        Flow::Busy => Err(Round::Paused(Pause::Busy)),
        Flow::Close(why) => Err(Round::Close(CloseReason::Refused(why))),
    }
}

fn count_end(counters: &Counters, round: &Round) {
    match round {
        Round::Paused(Pause::Busy) => counters.busy.add(1),
        Round::Close(reason) if reason.is_malformed() => counters.malformed.add(1),
        Round::Starved | Round::Paused(Pause::Output) | Round::Close(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::IoSlice,
        net::SocketAddr,
        ops::Range,
        sync::Arc,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        tcp::connection::{Connection, Limits, SLICES_MAX, Step},
        tcp::handlers::Handlers,
    };

    const ECHO: u8 = 1;
    const CLOSE: u8 = 2;
    const PANIC: u8 = 3;

    /// One byte of id, one of length, the body.
    fn framing(input: &[u8]) -> Result<Option<(i32, Range<usize>)>, std::fmt::Error> {
        match input {
            [_, 255, ..] => Err(std::fmt::Error),
            [id, len, rest @ ..] if rest.len() >= usize::from(*len) => {
                Ok(Some((i32::from(*id), 2..2 + usize::from(*len))))
            }
            _ => Ok(None),
        }
    }

    fn frame(id: u8, body: &[u8]) -> Vec<u8> {
        [&[id, body.len() as u8], body].concat()
    }

    /// What the function is to say to the next frames (then: busy no more), and the bodies it took.
    #[derive(Default)]
    struct State {
        busy: VecDeque<bool>,
        taken: Vec<Vec<u8>>,
    }

    fn echo(state: &mut State, net: &mut ShardContext<State>, id: ConnId, body: &[u8]) -> Flow {
        if state.busy.pop_front().unwrap_or(false) {
            return Flow::Busy;
        }
        state.taken.push(body.to_vec());
        net.send(id, &frame(ECHO, body)).expect("a reply fits while frames are served");
        Flow::Continue
    }

    /// A connection without a socket.
    struct Bench {
        state: State,
        net: ShardContext<State>,
        service: Arc<Service<State>>,
        id: ConnId,
        start: Instant,
        /// What was written to the peer.
        written: Vec<u8>,
    }

    impl Bench {
        fn new(output_bytes_max: usize) -> Self {
            let handlers = Handlers::new(framing)
                .on(ECHO.into(), echo)
                .on(CLOSE.into(), |_, net, id, _| {
                    net.close(id, "as asked");
                    Flow::Continue
                })
                .on(PANIC.into(), |_, _, _, _| panic!("on demand"));
            let limits = Limits {
                frame_len_max: 100,
                output_bytes_max,
                idle_timeout: Some(Duration::from_secs(10)),
                stall_timeout: Duration::from_secs(5),
                frame_timeout: Duration::from_secs(7),
                unacknowledged_timeout: Duration::from_secs(60),
            };
            let start = Instant::now();
            let mut net = ShardContext::new(Arc::from([]), 0, Pool::new(1 << 20), start);
            let addr = SocketAddr::from(([127, 0, 0, 1], 1));
            let id = net.table().insert(Connection::new(addr, addr, limits, start));
            let service = Service::new("bench".into(), handlers, limits, 1);
            Self { state: State::default(), net, service, id, start, written: Vec::new() }
        }

        fn serve(&mut self, fresh: &[u8]) {
            serve(&mut self.state, &mut self.net, &self.service, self.id, fresh);
        }

        fn conn(&mut self) -> &mut Connection {
            self.net.connection(self.id).expect("it was never removed")
        }

        fn step(&mut self) -> Step {
            self.conn().step(false)
        }

        /// The socket takes up to `len` bytes.
        fn write(&mut self, len: usize) {
            let now = self.net.now();
            let conn = self.net.connection(self.id).expect("it was never removed");
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = conn.output.slices(&mut slices);
            let bytes: Vec<u8> =
                slices[..count].iter().flat_map(|slice| slice.iter().copied()).take(len).collect();
            conn.output.consume(bytes.len(), now);
            self.written.extend(bytes);
        }

        /// Does what a driver does until it has to read or wait; whether it has to read.
        fn settle(&mut self, write: usize) -> bool {
            loop {
                self.write(write);
                let step = self.step();
                if step != Step::Serve {
                    return step == Step::Read;
                }
                self.serve(&[]);
            }
        }
    }

    fn check_end(input: &[u8], expect: CloseReason) {
        let mut bench = Bench::new(1000);
        bench.serve(input);
        bench.write(usize::MAX);
        assert_eq!(bench.step(), Step::Close(expect));
    }

    #[test]
    fn what_is_wrong_ends_the_connection_with_its_reason() {
        check_end(&[9, 255], CloseReason::Malformed(std::fmt::Error.to_string()));
        check_end(
            &frame(ECHO, &[0; 99]),
            CloseReason::Malformed("frame of 101 bytes is over the limit of 100".into()),
        );
        check_end(&frame(77, b"x"), CloseReason::UnknownMessage(77));
        check_end(&frame(CLOSE, b""), CloseReason::Closed("as asked"));
        check_end(&frame(PANIC, b""), CloseReason::Panicked);
        let partial = &frame(ECHO, &[0; 200])[..100];
        check_end(partial, CloseReason::Malformed("frame is over the limit of 100 bytes".into()));
    }

    #[test]
    fn frames_behind_the_end_are_not_served_and_those_before_are_answered() {
        let mut bench = Bench::new(1000);
        bench.serve(&[frame(ECHO, b"a"), frame(CLOSE, b""), frame(ECHO, b"b")].concat());
        assert_eq!(bench.state.taken, [b"a"]);
        assert_eq!(bench.step(), Step::Wait, "the reply has to leave first");
        bench.write(usize::MAX);
        assert_eq!(bench.written, frame(ECHO, b"a"));
        assert_eq!(bench.step(), Step::Close(CloseReason::Closed("as asked")));
    }

    #[test]
    fn serving_stops_while_output_is_high() {
        let mut bench = Bench::new(400);
        bench.serve(&frame(ECHO, &[1; 48]).repeat(20));
        assert_eq!(bench.state.taken.len(), 5, "five replies of 50 bytes are more than half of the bound");
        assert_eq!(bench.step(), Step::Wait);
        bench.write(149);
        assert_eq!(bench.step(), Step::Wait, "101 bytes are not low yet");
        bench.write(1);
        assert_eq!(bench.step(), Step::Serve);
        bench.serve(&[]);
        while !bench.settle(50) {}
        assert_eq!(bench.state.taken.len(), 20);
        bench.write(usize::MAX);
        assert_eq!(bench.net.pool().stats().bytes_in_use, 0);
    }

    #[test]
    fn after_the_end_of_input_what_is_there_is_served() {
        let mut bench = Bench::new(1000);
        bench.state.busy = VecDeque::from([true]);
        bench.serve(&[frame(ECHO, b"a"), frame(ECHO, b"b"), vec![ECHO, 9]].concat());
        bench.conn().end_of_input(CloseReason::PeerClosed);
        assert_eq!(bench.step(), Step::Wait, "the function is busy");
        bench.conn().retry();
        assert_eq!(bench.step(), Step::Serve);
        bench.serve(&[]);
        assert_eq!(bench.state.taken, [b"a", b"b"]);
        assert_eq!(bench.step(), Step::Wait, "the replies have to leave first");
        bench.write(usize::MAX);
        assert_eq!(bench.step(), Step::Close(CloseReason::PeerClosed));
    }

    #[test]
    fn a_drain_reads_what_is_there_first() {
        let mut bench = Bench::new(1000);
        assert_eq!(bench.conn().step(true), Step::ReadLast);
        bench.conn().end_of_input(CloseReason::Drained);
        assert_eq!(bench.conn().step(true), Step::Close(CloseReason::Drained));
    }

    #[test]
    fn timeouts_look_at_what_moves() {
        let mut bench = Bench::new(1000);
        let at = |bench: &Bench, s| bench.start + Duration::from_secs(s);
        let now = at(&bench, 8);
        bench.net.set_now(now);
        bench.serve(&frame(ECHO, b"active"));
        bench.write(usize::MAX);
        let (nearly, idle) = (at(&bench, 17), at(&bench, 18));
        bench.conn().check_timeouts(nearly);
        assert_eq!(bench.step(), Step::Read);
        bench.conn().check_timeouts(idle);
        assert_eq!(bench.step(), Step::Close(CloseReason::Idle));

        let mut stuck = Bench::new(1000);
        stuck.serve(&frame(ECHO, b"stuck"));
        let (nearly, stalled) = (at(&stuck, 4), at(&stuck, 5));
        stuck.conn().check_timeouts(nearly);
        assert_eq!(stuck.step(), Step::Read);
        stuck.conn().check_timeouts(stalled);
        assert_eq!(stuck.step(), Step::Close(CloseReason::Stalled));
        assert_eq!(stuck.net.pool().stats().bytes_in_use, 0, "its buffers are released at once");
    }

    #[test]
    fn a_frame_has_to_be_completed_in_time_however_much_is_answered() {
        let mut bench = Bench::new(1000);
        let at = |bench: &mut Bench, s, input: &[u8]| {
            let now = bench.start + Duration::from_secs(s);
            bench.net.set_now(now);
            bench.serve(input);
            bench.write(usize::MAX);
            bench.conn().check_timeouts(now);
            bench.step()
        };
        let frame = frame(ECHO, b"four");
        assert_eq!(at(&mut bench, 1, &frame[..1]), Step::Read);
        assert_eq!(at(&mut bench, 7, &frame[1..]), Step::Read, "complete after six seconds");
        assert_eq!(at(&mut bench, 9, &[&frame[..], &frame[..1]].concat()), Step::Read);
        assert_eq!(at(&mut bench, 15, &frame[1..2]), Step::Read);
        assert_eq!(at(&mut bench, 16, &frame[2..3]), Step::Close(CloseReason::FrameTimeout));

        let mut busy = Bench::new(1000);
        busy.state.busy = VecDeque::from([true]);
        at(&mut busy, 0, &[&frame[..], &frame[..1]].concat());
        assert_eq!(at(&mut busy, 9, &[]), Step::Wait, "it is the function that takes long");
        busy.conn().retry();
        assert_eq!(busy.step(), Step::Serve);
        assert_eq!(at(&mut busy, 9, &[]), Step::Read);
        assert_eq!(at(&mut busy, 15, &[]), Step::Read);
        assert_eq!(at(&mut busy, 16, &[]), Step::Close(CloseReason::FrameTimeout));
    }

    proptest! {
        /// However the stream is cut, however often the function is busy, however slowly the peer reads.
        #[test]
        fn every_frame_is_served_once_in_order_and_every_reply_leaves(
            bodies in prop::collection::vec(prop::collection::vec(0..255_u8, 0..90), 0..60),
            cuts in prop::collection::vec(1..200_usize, 1..40),
            busy in prop::collection::vec(any::<bool>(), 0..60),
            write in 1..300_usize,
        ) {
            let mut bench = Bench::new(1000);
            bench.state.busy = busy.into();
            let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(ECHO, body)).collect();
            let (mut rest, mut cuts) = (&stream[..], cuts.into_iter().cycle());
            loop {
                if !bench.settle(write) {
                    bench.conn().retry();
                } else if rest.is_empty() {
                    break;
                } else {
                    let (piece, behind) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                    bench.serve(piece);
                    rest = behind;
                }
            }
            bench.write(usize::MAX);
            while bench.conn().output.queued() > 0 {
                bench.write(usize::MAX);
            }
            prop_assert_eq!(&bench.state.taken, &bodies);
            prop_assert_eq!(bench.written, stream);
            prop_assert_eq!(bench.net.pool().stats().bytes_in_use, 0);
        }
    }
}
