//! The places for connections of a server, and who may have one.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Why a connection was closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The server has as many as it may.
    Full(usize),
    /// This peer has as many as one may.
    FullOfPeer(IpAddr, usize),
    /// The process has as many descriptors open as it may.
    OutOfDescriptors,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(max) => write!(f, "there are {max}, the most there may be"),
            Self::FullOfPeer(peer, max) => write!(f, "{peer} has {max}, the most that one address may have"),
            Self::OutOfDescriptors => f.write_str("out of descriptors (ulimit -n, LimitNOFILE= in systemd)"),
        }
    }
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Empty where an address may have as many as it likes.
    by_peer: HashMap<IpAddr, usize>,
}

/// Counted by the accepting thread, given back by the shards.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    per_peer_max: Option<usize>,
    taken: Mutex<Taken>,
}

/// A place; dropping it frees it.
#[derive(Debug)]
pub(super) struct Permit {
    places: Arc<Places>,
    peer: Option<IpAddr>,
}

impl Places {
    pub(super) fn new(max: usize, per_peer_max: Option<usize>) -> Self {
        Self { max, per_peer_max, taken: Mutex::default() }
    }

    /// A place for a connection of `peer`, who is asked for only if that matters.
    pub(super) fn take(this: &Arc<Self>, peer: impl FnOnce() -> Option<IpAddr>) -> Result<Permit, Refusal> {
        let mut taken = this.lock();
        if taken.all >= this.max {
            return Err(Refusal::Full(this.max));
        }
        let peer = this.per_peer_max.and_then(|max| Some((peer()?, max)));
        if let Some((peer, max)) = peer {
            let count = taken.by_peer.entry(peer).or_default();
            if *count >= max {
                return Err(Refusal::FullOfPeer(peer, max));
            }
            *count += 1;
        }
        taken.all += 1;
        Ok(Permit { places: Arc::clone(this), peer: peer.map(|(peer, _)| peer) })
    }

    pub(super) fn taken(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(peer) = self.peer
            && let Some(count) = taken.by_peer.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                taken.by_peer.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn neither_all_nor_one_peer_get_more_than_they_may() {
        let places = Arc::new(Places::new(3, Some(2)));
        let peer = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let take = |last| Places::take(&places, || Some(peer(last)));
        let first = take(1).expect("a place");
        let _second = take(1).expect("a place");
        assert_eq!(take(1).expect_err("two are the most"), Refusal::FullOfPeer(peer(1), 2));
        let _other = take(2).expect("a place");
        assert_eq!(take(3).expect_err("three are the most"), Refusal::Full(3));
        drop(first);
        let again = take(1).expect("its place is free");
        drop(again);
        assert_eq!(places.taken(), 2);
        assert_eq!(places.lock().by_peer.len(), 2, "who has none is forgotten");
    }
}
