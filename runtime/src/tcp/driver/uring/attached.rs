//! Waiting for the end of a connection that the ring drives.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::tcp::connection::CloseReason;

#[derive(Default)]
struct State {
    reason: Option<CloseReason>,
    waker: Option<Waker>,
}

/// Resolves to why the connection ended, when its socket is closed.
#[derive(Default)]
pub(crate) struct Attached(Rc<RefCell<State>>);

/// The driver's end of it.
pub(super) struct Ending(Rc<RefCell<State>>);

impl Attached {
    pub(super) fn ending(&self) -> Ending {
        Ending(Rc::clone(&self.0))
    }
}

impl Ending {
    pub(super) fn resolve(self, reason: CloseReason) {
        let mut state = self.0.borrow_mut();
        state.reason = Some(reason);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl Future for Attached {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut state = self.0.borrow_mut();
        if let Some(reason) = state.reason.take() {
            return Poll::Ready(reason);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
