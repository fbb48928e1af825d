//! The connections of a shard, by id.

use std::fmt;

use slab::Slab;

use super::Connection;

/// A connection of one shard. When it ends its id is [`SendError::Gone`](crate::SendError::Gone), even if its
/// slot is used again.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

struct Entry {
    generation: u32,
    conn: Connection,
}

/// Slots are reused at once, generations only after 2^32 connections.
#[derive(Default)]
pub(crate) struct Table {
    entries: Slab<Entry>,
    next_generation: u32,
}

impl Table {
    pub(crate) fn insert(&mut self, conn: Connection) -> ConnId {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let slot = self.entries.insert(Entry { generation, conn });
        // A connection has a file descriptor, and those are `i32`s.
        ConnId { slot: u32::try_from(slot).expect("fewer than 2^32 connections"), generation }
    }

    pub(crate) fn get(&self, id: ConnId) -> Option<&Connection> {
        let entry = self.entries.get(id.slot as usize)?;
        (entry.generation == id.generation).then_some(&entry.conn)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        let entry = self.entries.get_mut(id.slot as usize)?;
        (entry.generation == id.generation).then_some(&mut entry.conn)
    }

    /// One that can be sent to.
    pub(crate) fn open_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.get_mut(id).filter(|conn| !conn.is_closing())
    }

    pub(crate) fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        Some(self.entries.remove(id.slot as usize).conn)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.entries.iter_mut().map(|(_, entry)| &mut entry.conn)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnId> {
        self.entries.iter().map(|(slot, entry)| ConnId { slot: slot as u32, generation: entry.generation })
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
