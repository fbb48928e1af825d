//! Frames to a server that sends each one back.

use std::{net::SocketAddr, sync::atomic::AtomicU64};

use lars_proto::frame::HEADER_LEN;

use super::{
    LoadError,
    measurement::Measurement,
    run::Plan,
    tcp::{self, Dialogue, Reply},
};
use crate::frames::ECHO_ID;

/// The shortest body: each frame is numbered.
pub const BODY_LEN_MIN: usize = 4;

/// How frames are sent.
#[derive(Clone, Debug)]
pub struct TcpEchoLoad {
    /// The server.
    pub server: SocketAddr,
    /// How many connections.
    pub connections: usize,
    /// Frames of each connection that are under way at the same time, at most.
    pub in_flight: usize,
    /// Bytes of each frame behind its header, [`BODY_LEN_MIN`] at least.
    pub body_len: usize,
}

impl TcpEchoLoad {
    /// Measures. `progress` is kept at the number of frames that came back.
    ///
    /// # Errors
    /// If there is nobody to connect to, or frames do not come back as they were sent.
    pub fn run(&self, plan: &Plan, progress: &AtomicU64) -> Result<Measurement, LoadError> {
        let echoes = (0..self.connections).map(|_| Echo::new(self.body_len)).collect();
        tcp::run(self.server, echoes, self.in_flight, plan, progress)
    }
}

/// Numbered frames.
struct Echo {
    /// A frame, whose number is written over.
    template: Vec<u8>,
    next_sent: u32,
    next_received: u32,
}

impl Echo {
    fn new(body_len: usize) -> Self {
        let mut template = [ECHO_ID.to_le_bytes(), (body_len as i32).to_le_bytes()].concat();
        template.resize(HEADER_LEN + body_len, 0);
        Self { template, next_sent: 0, next_received: 0 }
    }
}

impl Dialogue for Echo {
    fn request(&mut self, out: &mut Vec<u8>) {
        let number = out.len() + HEADER_LEN;
        out.extend_from_slice(&self.template);
        out[number..number + BODY_LEN_MIN].copy_from_slice(&self.next_sent.to_le_bytes());
        self.next_sent = self.next_sent.wrapping_add(1);
    }

    fn reply(&mut self, frame: &[u8]) -> Result<Reply, &'static str> {
        let expected = self.next_received.to_le_bytes();
        self.next_received = self.next_received.wrapping_add(1);
        let as_sent = frame.len() == self.template.len() && frame[HEADER_LEN..].starts_with(&expected);
        if as_sent { Ok(Reply::Answer) } else { Err("a frame did not come back as it was sent") }
    }
}
