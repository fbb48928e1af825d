//! How a connection calls for its driver.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::Waker,
};

/// Calls the driver of one connection.
#[derive(Default)]
pub(crate) enum DriverWaker {
    /// It has not begun yet.
    #[default]
    Off,
    /// A task of the connection's own.
    Task(Waker),
    /// A task for all connections of the shard.
    Queue { queue: Rc<WakeQueue>, slot: u32, queued: Cell<bool> },
}

impl DriverWaker {
    pub(crate) fn of_queue(queue: &Rc<WakeQueue>, slot: u32) -> Self {
        Self::Queue { queue: Rc::clone(queue), slot, queued: Cell::new(false) }
    }

    pub(crate) fn wake(&self) {
        match self {
            Self::Off => {}
            Self::Task(waker) => waker.wake_by_ref(),
            Self::Queue { queue, slot, queued } => {
                if !queued.replace(true) {
                    queue.push(*slot);
                }
            }
        }
    }

    /// It has been heard: the next call counts again.
    pub(crate) fn reset(&self) {
        if let Self::Queue { queued, .. } = self {
            queued.set(false);
        }
    }

    pub(crate) fn set_task(&mut self, waker: &Waker) {
        if !matches!(self, Self::Task(present) if present.will_wake(waker)) {
            *self = Self::Task(waker.clone());
        }
    }
}

/// Connections of a shard that called, each once until it is heard; so there are never more than connections.
#[derive(Default)]
pub(crate) struct WakeQueue {
    slots: RefCell<Vec<u32>>,
    waker: RefCell<Option<Waker>>,
}

impl WakeQueue {
    fn push(&self, slot: u32) {
        self.slots.borrow_mut().push(slot);
        self.wake();
    }

    /// Wakes whoever serves the queue, also if nobody called.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Wakes this task once, at the next call.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        *self.waker.borrow_mut() = Some(waker.clone());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.borrow().is_empty()
    }

    /// Appends those that called to `slots`.
    pub(crate) fn take(&self, slots: &mut impl Extend<u32>) {
        slots.extend(self.slots.borrow_mut().drain(..));
    }
}
