//! [`PerProcess`]: a value that a forked child makes anew.

use std::{process, sync::OnceLock};

/// A value of the process that made it. A child that was forked afterwards has inherited the memory, and with it sockets
/// that its parent reads, locks that a thread held which the child does not have, and numbers that its parent goes on
/// to use. It touches none of them: it makes a value of its own at its first call.
///
/// The process is known by its id. A child that is given the id of an ancestor which ended meanwhile is taken
/// for that.
#[derive(Debug)]
pub(crate) struct PerProcess<T> {
    id: u32,
    value: T,
    /// What a child of process `id` uses. Never set in that process itself, so that no fork can meet it half set.
    in_child: OnceLock<Box<Self>>,
}

impl<T> PerProcess<T> {
    /// The value of this process.
    pub(crate) fn new(value: T) -> Self {
        Self::of(process::id(), value)
    }

    fn of(id: u32, value: T) -> Self {
        Self { id, value, in_child: OnceLock::new() }
    }

    /// This process's value; in a child, made by `make` at the first call that succeeds.
    pub(crate) fn get_or_make<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        self.get_in(process::id(), make)
    }

    fn get_in<E>(&self, id: u32, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        let mut generation = self;
        while generation.id != id {
            generation = match generation.in_child.get() {
                Some(child) => child,
                None => {
                    let own = Box::new(Self::of(id, make()?));
                    // A thread that was quicker has made one that does as well.
                    let made = generation.in_child.get_or_init(|| own);
                    return Ok(&made.value);
                }
            };
        }
        Ok(&generation.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_has_a_value_of_its_own_and_keeps_it() {
        let parent = PerProcess::of(1, "parent");
        let in_process = |id, made| parent.get_in(id, || Ok::<_, ()>(made)).copied();
        assert_eq!(in_process(1, "unused"), Ok("parent"));
        assert_eq!(in_process(2, "child"), Ok("child"));
        assert_eq!(in_process(2, "unused"), Ok("child"));
        assert_eq!(in_process(3, "grandchild"), Ok("grandchild"));
        assert_eq!(in_process(3, "unused"), Ok("grandchild"));
        assert_eq!(in_process(1, "unused"), Ok("parent"));
    }

    #[test]
    fn what_could_not_be_made_is_tried_again() {
        let parent = PerProcess::of(1, 10);
        assert_eq!(parent.get_in(2, || Err("no descriptor left")), Err("no descriptor left"));
        assert_eq!(parent.get_in(2, || Ok::<_, &str>(20)), Ok(&20));
    }
}
