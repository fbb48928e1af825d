//! An agent's end of the connection, on a plain socket.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use lars_dns::Dns;
use lars_proto::{
    HostAddr, ModuleId,
    digest::{BucketSums, Digest, Held},
    frame,
    messages::{
        BucketSumsAnswer, Forget, GetRouteRequest, GetRouteResponse, MessageId, SubscriptionDigest,
        SubscriptionDigestAnswer,
    },
};
use prost::Message;

/// Long enough for the slowest machine: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Peer {
    pub(crate) fn connect(dns: &Dns) -> Self {
        let stream = TcpStream::connect(dns.local_addr()).expect("lars-dns listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, input: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("lars-dns reads");
    }

    /// Asks without waiting for the answer.
    pub(crate) fn ask(&mut self, module: ModuleId) {
        self.send(&request(module));
    }

    /// Asks, and returns the hosts in the answer.
    pub(crate) fn query(&mut self, module: ModuleId) -> Vec<HostAddr> {
        self.ask(module);
        let (answered, hosts) = self.next_route();
        assert_eq!(answered, module);
        hosts
    }

    /// Asks as an agent that knows these extensions, and returns the answer.
    pub(crate) fn query_as(&mut self, module: ModuleId, peer_version: u32) -> GetRouteResponse {
        let request = GetRouteRequest { modid: module.modid, cmdid: module.cmdid, peer_version };
        self.send(&encoded(MessageId::GetRouteRequest, &request));
        self.next_response()
    }

    /// The next answer or push, with all that it says.
    pub(crate) fn next_response(&mut self) -> GetRouteResponse {
        let (id, body) = self.next_frame();
        assert_eq!(id, MessageId::GetRouteResponse as i32);
        GetRouteResponse::decode(&body[..]).expect("a route")
    }

    /// Says that no changes of the module are wanted any more.
    pub(crate) fn forget(&mut self, module: ModuleId) {
        self.send(&encoded(MessageId::Forget, &Forget { modid: module.modid, cmdid: module.cmdid }));
    }

    /// Says what it has, and returns what lars-dns makes of that.
    pub(crate) fn digest(&mut self, digest: Digest) -> SubscriptionDigestAnswer {
        let Digest { count, sum } = digest;
        self.send(&encoded(MessageId::SubscriptionDigest, &SubscriptionDigest { count, sum }));
        let (id, body) = self.next_frame();
        assert_eq!(id, MessageId::SubscriptionDigestAnswer as i32);
        SubscriptionDigestAnswer::decode(&body[..]).expect("an answer")
    }

    /// Says what it has in the buckets from `first` on, and returns what lars-dns has where that differs.
    pub(crate) fn bucket_sums(&mut self, sums: &BucketSums, first: usize) -> Held {
        self.send(&encoded(MessageId::BucketSums, &sums.question(first)));
        self.held()
    }

    /// The answer to bucket sums.
    pub(crate) fn held(&mut self) -> Held {
        let (id, body) = self.next_frame();
        assert_eq!(id, MessageId::BucketSumsAnswer as i32);
        let answer = BucketSumsAnswer::decode(&body[..]).expect("an answer");
        Held::from_wire(answer).expect("as many hashes as modules")
    }

    /// Asks, and returns the hosts in the next answer or push.
    pub(crate) fn query_any(&mut self, module: ModuleId) -> Vec<HostAddr> {
        self.ask(module);
        self.next_route().1
    }

    /// The next answer or push.
    pub(crate) fn next_route(&mut self) -> (ModuleId, Vec<HostAddr>) {
        let route = self.next_response();
        let hosts = route.host.iter().map(|host| HostAddr::from_wire(host).expect("a host"));
        (route.module(), hosts.collect())
    }

    /// Reads until `module` has exactly these hosts.
    pub(crate) fn wait_for(&mut self, module: ModuleId, hosts: &[HostAddr]) {
        while self.next_route() != (module, hosts.to_vec()) {}
    }

    fn next_frame(&mut self) -> (i32, Vec<u8>) {
        loop {
            if let Some((id, body)) = frame::next(&self.input).expect("frames") {
                let (end, body) = (body.end, self.input[body].to_vec());
                self.input.drain(..end);
                return (id, body);
            }
            let mut buffer = [0; 64 * 1024];
            let read = self.read(&mut buffer).expect("lars-dns answers");
            assert_ne!(read, 0, "lars-dns closed the connection");
            self.input.extend_from_slice(&buffer[..read]);
        }
    }

    /// A read with a timeout is interrupted by the kernel's own business, too.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// The next `len` bytes, whatever they are.
    pub(crate) fn read_exact(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("lars-dns answers");
        bytes
    }

    /// Waits for the other side to close, which must come without another byte.
    pub(crate) fn expect_closed(&mut self) {
        match self.read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("expected the end of the connection, not {other:?}"),
        }
    }
}

/// The request for a module, as bytes.
pub(crate) fn request(module: ModuleId) -> Vec<u8> {
    let request = GetRouteRequest { modid: module.modid, cmdid: module.cmdid, ..Default::default() };
    encoded(MessageId::GetRouteRequest, &request)
}

pub(crate) fn encoded(id: MessageId, message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(id, message, &mut bytes).expect("fits");
    bytes
}
