//! Route queries to lars-dns over TCP.
//!
//! A query is a subscription as well: a module that changes meanwhile is pushed, and that counts as unasked for. (A push of
//! the very module whose answer is due cannot be told from it, and is taken for it.)

use std::{net::SocketAddr, rc::Rc};

use clap::Args;
use lars_proto::{
    ModuleId,
    frame::{self, HEADER_LEN},
    messages::{GetRouteRequest, GetRouteResponse, MessageId},
};

use super::{
    LoadError,
    conversation::{self, Connection, Dialogue, Reply},
    measurement::Measurement,
    run::Plan,
    values::{Modules, at_least},
};

/// How routes are queried.
#[derive(Clone, Debug, Args)]
pub struct DnsQueryLoad {
    /// lars-dns
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7778")]
    pub dns: SocketAddr,
    /// In turn; each connection begins somewhere else.
    #[command(flatten)]
    pub modules: Modules,
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least::<1>)]
    pub connections: usize,
    /// Queries under way at the same time, on each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least::<1>)]
    pub in_flight: usize,
}

impl DnsQueryLoad {
    /// Measures.
    ///
    /// # Errors
    /// If there is nobody to connect to, or what comes is no answer.
    pub fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
        let questions: Rc<[Question]> = self.modules.all().into_iter().map(Question::new).collect();
        let step = (questions.len() / self.connections).max(1);
        let queries = (0..self.connections).map(|index| {
            let queries = Queries::new(Rc::clone(&questions), index * step % questions.len());
            (self.dns, Connection::new(queries, self.in_flight))
        });
        conversation::run(queries.collect(), plan)
    }
}

/// One module: what is sent, and how what comes begins.
struct Question {
    request: Vec<u8>,
    /// The header's id.
    answer_id: [u8; 4],
    /// The body of an answer without hosts, and the beginning of any other.
    answer_without_hosts: Vec<u8>,
}

impl Question {
    fn new(ModuleId { modid, cmdid }: ModuleId) -> Self {
        let (mut request, mut answer) = (Vec::new(), Vec::new());
        let short = "a message without hosts is short";
        frame::encode(
            MessageId::GetRouteRequest,
            &GetRouteRequest { modid, cmdid, ..Default::default() },
            &mut request,
        )
        .expect(short);
        let empty = GetRouteResponse { modid, cmdid, ..GetRouteResponse::default() };
        frame::encode(MessageId::GetRouteResponse, &empty, &mut answer).expect(short);
        let answer_without_hosts = answer.split_off(HEADER_LEN);
        Self { request, answer_id: (MessageId::GetRouteResponse as i32).to_le_bytes(), answer_without_hosts }
    }
}

/// Modules in turn, without end.
struct Queries {
    questions: Rc<[Question]>,
    next_sent: usize,
    next_answered: usize,
}

impl Queries {
    fn new(questions: Rc<[Question]>, first: usize) -> Self {
        Self { questions, next_sent: first, next_answered: first }
    }

    fn after(&self, index: usize) -> usize {
        if index + 1 == self.questions.len() { 0 } else { index + 1 }
    }
}

impl Dialogue for Queries {
    fn request(&mut self) -> &[u8] {
        let next = self.next_sent;
        self.next_sent = self.after(next);
        &self.questions[next].request
    }

    fn reply(&mut self, frame: &[u8]) -> Result<Reply, &'static str> {
        let (header, body) = frame.split_at(HEADER_LEN);
        let expected = &self.questions[self.next_answered];
        if !header.starts_with(&expected.answer_id) {
            return Err("sent something else than a route");
        }
        if !body.starts_with(&expected.answer_without_hosts) {
            return Ok(Reply::Unasked);
        }
        let is_empty = body.len() == expected.answer_without_hosts.len();
        self.next_answered = self.after(self.next_answered);
        Ok(if is_empty { Reply::Refusal } else { Reply::Answer })
    }
}

#[cfg(test)]
mod tests {
    use lars_proto::messages::HostInfo;

    use super::*;

    fn route(modid: i32, cmdid: i32, hosts: usize) -> Vec<u8> {
        let host = (0..hosts).map(|n| HostInfo { ip: n as i32, port: 80 }).collect();
        let mut frame = Vec::new();
        let route = GetRouteResponse { modid, cmdid, host, ..GetRouteResponse::default() };
        frame::encode(MessageId::GetRouteResponse, &route, &mut frame).expect("short");
        frame
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let modules = [ModuleId::new(1, 1), ModuleId::new(-2, 0)];
        let mut queries = Queries::new(modules.map(Question::new).into(), 1);
        let mut sent = Vec::new();
        (0..3).for_each(|_| sent.extend_from_slice(queries.request()));
        let (_, body) = frame::next(&sent).expect("well formed").expect("whole");
        assert_eq!(body.len(), 11, "-2/0 comes first");
        assert_eq!(queries.reply(&route(-2, 0, 3)), Ok(Reply::Answer));
        assert_eq!(queries.reply(&route(-2, 0, 3)), Ok(Reply::Unasked), "a push");
        assert_eq!(queries.reply(&route(1, 1, 0)), Ok(Reply::Refusal));
        assert_eq!(queries.reply(&route(-2, 0, 1)), Ok(Reply::Answer));
        assert!(queries.reply(&[1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
