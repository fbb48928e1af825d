//! Route queries to lars-dns over TCP.
//!
//! A query is a subscription as well: a module that changes meanwhile is pushed, and that counts as unasked for. (A push of
//! the very module whose answer is due cannot be told from it, and is taken for it.)

use std::{net::SocketAddr, rc::Rc};

use clap::Args;
use lars_proto::{ModuleId, frame::HEADER_LEN, messages::MessageId};

use super::{
    Load, LoadError,
    conversation::{self, Connection, Dialogue},
    measurement::{Counts, Measurement},
    run::Plan,
    values::{Modules, some},
};
use crate::frames::{route_query, route_reply};

/// What stands first in a header.
const ID_LEN: usize = size_of::<i32>();

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
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = some)]
    pub connections: usize,
    /// Queries under way at the same time, on each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = some)]
    pub in_flight: usize,
}

impl Load for DnsQueryLoad {
    fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
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
    /// An answer without hosts: the header's id and the body are the beginning of any other's.
    answer_without_hosts: Vec<u8>,
}

impl Question {
    fn new(module: ModuleId) -> Self {
        Self {
            request: route_query(MessageId::GetRouteRequest, module),
            answer_without_hosts: route_reply(MessageId::GetRouteResponse, module, Vec::new()),
        }
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

    fn reply(&mut self, frame: &[u8], counts: &mut Counts) -> Result<bool, &'static str> {
        let expected = &self.questions[self.next_answered].answer_without_hosts;
        if frame[..ID_LEN] != expected[..ID_LEN] {
            return Err("sent something else than a route");
        }
        if !frame[HEADER_LEN..].starts_with(&expected[HEADER_LEN..]) {
            counts.stale += 1;
            return Ok(false);
        }
        counts.refusals += u64::from(frame.len() == expected.len());
        self.next_answered = self.after(self.next_answered);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use lars_proto::{frame, messages::HostInfo};

    use super::*;

    fn route(modid: i32, cmdid: i32, hosts: usize) -> Vec<u8> {
        let host = vec![HostInfo { ip: 1, port: 80 }; hosts];
        route_reply(MessageId::GetRouteResponse, ModuleId::new(modid, cmdid), host)
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let modules = [ModuleId::new(1, 1), ModuleId::new(-2, 0)];
        let mut queries = Queries::new(modules.map(Question::new).into(), 1);
        let mut sent = Vec::new();
        (0..3).for_each(|_| sent.extend_from_slice(queries.request()));
        let (_, body) = frame::next(&sent).expect("well formed").expect("whole");
        assert_eq!(body.len(), 11, "-2/0 comes first");
        let mut counts = Counts::default();
        let mut check = |frame: &[u8], expected, refusals, stale| {
            assert_eq!(queries.reply(frame, &mut counts).ok(), expected);
            assert_eq!((counts.refusals, counts.stale), (refusals, stale));
        };
        check(&route(-2, 0, 3), Some(true), 0, 0);
        check(&route(-2, 0, 3), Some(false), 0, 1); // A push.
        check(&route(1, 1, 0), Some(true), 1, 1);
        check(&route(-2, 0, 1), Some(true), 1, 1);
        check(&[1, 0, 0, 0, 0, 0, 0, 0], None, 1, 1);
    }
}
