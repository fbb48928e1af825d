//! An intrusive list threaded through the elements of a slab: head to tail, joining and leaving take constant
//! time and no memory.
//!
//! The links form a circle, so moving the head to the tail is no more than looking one element further. An
//! element can be in several orders at once; `LINKS` says which of its pairs of links an order uses.

use slab::Slab;

/// One element's neighbours in an order, as slab keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) struct Links {
    previous: u32,
    next: u32,
}

impl Links {
    /// Of an element that is in no order.
    pub(in crate::core) const NONE: Self = Self { previous: u32::MAX, next: u32::MAX };
}

/// An element that can be in orders.
pub(in crate::core) trait Linked {
    fn links(&self, which: usize) -> &Links;
    fn links_mut(&mut self, which: usize) -> &mut Links;
}

/// A circular queue over elements of one slab, which every call must be given.
#[derive(Debug, Default)]
pub(in crate::core) struct LinkedOrder<const LINKS: usize> {
    /// Meaningless while `len` is 0.
    head: u32,
    len: u32,
}

impl<const LINKS: usize> LinkedOrder<LINKS> {
    pub(in crate::core) const fn len(&self) -> usize {
        self.len as usize
    }

    pub(in crate::core) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(in crate::core) fn head(&self) -> Option<u32> {
        (!self.is_empty()).then_some(self.head)
    }

    /// Moves the head to the tail and returns it.
    pub(in crate::core) fn rotate<T: Linked>(&mut self, slab: &Slab<T>) -> Option<u32> {
        let head = self.head()?;
        self.head = slab[head as usize].links(LINKS).next;
        Some(head)
    }

    /// Appends an element that is in no order of these links.
    pub(in crate::core) fn push_back<T: Linked>(&mut self, slab: &mut Slab<T>, key: u32) {
        debug_assert_eq!(*slab[key as usize].links(LINKS), Links::NONE, "{key} is in such an order already");
        let links = match self.head() {
            None => {
                self.head = key;
                Links { previous: key, next: key }
            }
            Some(head) => {
                let tail = slab[head as usize].links(LINKS).previous;
                slab[head as usize].links_mut(LINKS).previous = key;
                slab[tail as usize].links_mut(LINKS).next = key;
                Links { previous: tail, next: head }
            }
        };
        *slab[key as usize].links_mut(LINKS) = links;
        self.len += 1;
    }

    /// Takes an element out of this order.
    pub(in crate::core) fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, key: u32) {
        let links = std::mem::replace(slab[key as usize].links_mut(LINKS), Links::NONE);
        debug_assert_ne!(links, Links::NONE, "{key} is in no such order");
        self.len -= 1;
        if self.is_empty() {
            return;
        }
        slab[links.previous as usize].links_mut(LINKS).next = links.next;
        slab[links.next as usize].links_mut(LINKS).previous = links.previous;
        if self.head == key {
            self.head = links.next;
        }
    }

    /// The keys from head to tail.
    pub(in crate::core) fn iter<'a, T: Linked>(
        &self,
        slab: &'a Slab<T>,
    ) -> impl Iterator<Item = u32> + use<'a, T, LINKS> {
        let mut key = self.head;
        (0..self.len).map(move |_| {
            let current = key;
            key = slab[current as usize].links(LINKS).next;
            current
        })
    }

    /// Walks the circle both ways; only for `debug_assert`s, its time follows the length.
    pub(in crate::core) fn is_well_formed<T: Linked>(&self, slab: &Slab<T>) -> bool {
        let links = |key: u32| *slab[key as usize].links(LINKS);
        self.is_empty()
            || self.iter(slab).all(|key| links(links(key).next).previous == key)
                && self.iter(slab).skip(1).all(|key| key != self.head)
                && links(self.iter(slab).last().unwrap_or(self.head)).next == self.head
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    struct Element([Links; 2]);

    impl Linked for Element {
        fn links(&self, which: usize) -> &Links {
            &self.0[which]
        }

        fn links_mut(&mut self, which: usize) -> &mut Links {
            &mut self.0[which]
        }
    }

    proptest! {
        /// Two orders over one slab, each against a plain queue.
        #[test]
        fn equals_a_plain_queue(steps in prop::collection::vec((0u8..4, 0u32..8), 0..200)) {
            let mut slab: Slab<Element> = (0..8).map(|key| (key, Element([Links::NONE; 2]))).collect();
            let (mut order, mut queue) = (LinkedOrder::<0>::default(), VecDeque::new());
            let (mut other, mut other_queue) = (LinkedOrder::<1>::default(), VecDeque::new());
            for (step, key) in steps {
                match step {
                    0 if !queue.contains(&key) => {
                        order.push_back(&mut slab, key);
                        queue.push_back(key);
                    }
                    1 if queue.contains(&key) => {
                        order.remove(&mut slab, key);
                        queue.retain(|&k| k != key);
                    }
                    2 => {
                        let head = order.rotate(&slab);
                        prop_assert_eq!(head, queue.front().copied());
                        queue.rotate_left(usize::from(!queue.is_empty()));
                    }
                    _ if !other_queue.contains(&key) => {
                        other.push_back(&mut slab, key);
                        other_queue.push_back(key);
                    }
                    _ => {}
                }
                prop_assert!(order.is_well_formed(&slab) && other.is_well_formed(&slab));
                prop_assert_eq!(order.iter(&slab).collect::<VecDeque<_>>(), queue.clone());
                prop_assert_eq!(other.iter(&slab).collect::<VecDeque<_>>(), other_queue.clone());
                prop_assert_eq!((order.len(), order.head()), (queue.len(), queue.front().copied()));
            }
        }
    }
}
