//! Letters between shards.
//!
//! The links live on shard 0 and the modules everywhere, so routes, questions and statistics have to cross
//! from one shard to another. Each shard has a bounded box for the letters to it. A box that is full hands
//! the letter back: nothing that must not be lost is lost. One job in the receiver's mailbox, the bell, is
//! enough for any number of letters; if even that finds no room, the receiver's next tick looks into the box.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use lars_proto::{HostAddr, ModuleId};
use lars_runtime::ShardContext;

use super::shard::AgentShard;
use crate::core::{statistics::StatusReport, table::Output};

/// Letters that wait in one shard's box.
const LETTERS_MAX: usize = 1_024;

/// What one shard tells another.
#[derive(Debug)]
pub(super) enum Letter {
    /// To shard 0: a table has a question for lars-dns.
    Question(Output),
    /// To shard 0: for lars-reporter.
    Statistics(StatusReport),
    /// From shard 0 to the owner of the module: its route.
    Route { module: ModuleId, hosts: Vec<HostAddr> },
}

#[derive(Clone)]
struct Mailbox {
    letters: flume::Sender<Letter>,
    /// The bell is in the receiver's mailbox and was not heard yet.
    rung: Arc<AtomicBool>,
}

impl Mailbox {
    /// True if nobody has rung the bell since the box was read.
    fn put(&self, letter: Letter) -> Result<bool, Letter> {
        self.letters.try_send(letter).map_err(flume::TrySendError::into_inner)?;
        Ok(!self.rung.swap(true, Ordering::AcqRel))
    }
}

/// All boxes, and the reading end of one's own.
pub(super) struct Post {
    boxes: Vec<Mailbox>,
    inbox: flume::Receiver<Letter>,
    own: usize,
}

/// The post of as many shards, to be taken by one each.
pub(super) fn offices(shards: usize) -> Vec<Post> {
    let (boxes, inboxes): (Vec<Mailbox>, Vec<_>) = (0..shards)
        .map(|_| {
            let (letters, inbox) = flume::bounded(LETTERS_MAX);
            (Mailbox { letters, rung: Arc::default() }, inbox)
        })
        .unzip();
    let office = |(own, inbox)| Post { boxes: boxes.clone(), inbox, own };
    inboxes.into_iter().enumerate().map(office).collect()
}

impl Post {
    /// Puts `letter` into the box of shard `to`.
    ///
    /// # Errors
    /// Gives the letter back if the box is full.
    pub(super) fn send(
        &self,
        net: &ShardContext<AgentShard>,
        to: usize,
        letter: Letter,
    ) -> Result<(), Letter> {
        let must_ring = self.boxes[to].put(letter)?;
        if must_ring && net.shard(to).try_submit(AgentShard::read_post).is_err() {
            self.boxes[to].rung.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Takes out what is in the box now. Letters that arrive meanwhile have rung again.
    pub(super) fn read(&self) -> Vec<Letter> {
        self.boxes[self.own].rung.store(false, Ordering::Release);
        self.inbox.drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(n: i32) -> Letter {
        Letter::Question(Output::QueryDns(ModuleId::new(n, 0)))
    }

    #[test]
    fn a_full_box_hands_the_letter_back_and_one_ring_is_enough() {
        let posts = offices(2);
        let receiver = &posts[0].boxes[1];
        let rings = (0..LETTERS_MAX).filter(|&n| receiver.put(question(n as i32)).expect("room")).count();
        assert_eq!(rings, 1);
        let refused = receiver.put(question(-1)).expect_err("full");
        assert!(matches!(refused, Letter::Question(Output::QueryDns(ModuleId { modid: -1, .. }))));

        assert_eq!(posts[0].read().len(), 0, "the letters are for the other shard");
        assert_eq!(posts[1].read().len(), LETTERS_MAX);
        assert!(receiver.put(question(0)).expect("room again"), "the bell must be rung again");
    }
}
