//! Frames to a server that sends each one back.

use std::net::SocketAddr;

use clap::Args;
use lars_proto::frame::{BODY_LEN_MAX, HEADER_LEN};

use super::{
    Load, LoadError,
    conversation::{self, Connection, Dialogue},
    measurement::{Counts, Measurement},
    run::Plan,
    values::{some, within},
};
use crate::frames::ECHO_ID;

/// The shortest body: each frame is numbered.
const BODY_LEN_MIN: usize = 4;

/// How frames are sent.
#[derive(Clone, Debug, Args)]
pub struct TcpEchoLoad {
    /// The server
    #[arg(long, value_name = "IP:PORT")]
    pub connect: SocketAddr,
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = some)]
    pub connections: usize,
    /// Frames under way at the same time, on each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = some)]
    pub in_flight: usize,
    /// Bytes of each frame behind its header
    #[arg(long = "body", value_name = "BYTES", default_value_t = 16, value_parser = within::<BODY_LEN_MIN, BODY_LEN_MAX>)]
    pub body_len: usize,
}

impl Load for TcpEchoLoad {
    fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
        let echo = |_| (self.connect, Connection::new(Echo::new(self.body_len), self.in_flight));
        conversation::run((0..self.connections).map(echo).collect(), plan)
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
    fn request(&mut self) -> &[u8] {
        self.template[HEADER_LEN..HEADER_LEN + BODY_LEN_MIN].copy_from_slice(&self.next_sent.to_le_bytes());
        self.next_sent = self.next_sent.wrapping_add(1);
        &self.template
    }

    fn reply(&mut self, frame: &[u8], _: &mut Counts) -> Result<bool, &'static str> {
        let expected = self.next_received.to_le_bytes();
        self.next_received = self.next_received.wrapping_add(1);
        let as_sent = frame.len() == self.template.len() && frame[HEADER_LEN..].starts_with(&expected);
        if as_sent { Ok(true) } else { Err("a frame did not come back as it was sent") }
    }
}
