//! What a service does with a connection: one function per message id, and hooks at open, writable, close.

use std::{error::Error, fmt, ops::Range, sync::Arc};

use crate::{
    shard::context::ShardContext,
    tcp::connection::{CloseReason, ConnId},
};

/// What a frame function says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Taken; go on with the next.
    Continue,
    /// Not taken: keep the frame, stop reading this connection, offer the same frame again in ~10 ms. TCP pushes
    /// back on the peer meanwhile.
    Busy,
    /// Malformed or not wanted: counted, logged with the peer, and the connection is closed.
    Close(&'static str),
}

pub(crate) type OnFrame<S> = fn(&mut S, &mut ShardContext<S>, ConnId, &[u8]) -> Flow;
pub(crate) type Hook<S> = fn(&mut S, &mut ShardContext<S>, ConnId);
pub(crate) type ClosedHook<S> = fn(&mut S, &mut ShardContext<S>, ConnId, &CloseReason);

/// Where the first frame lies, if there is a whole one: its message id and the range of its body. The frame ends
/// where its body ends.
pub type Frame = Option<(i32, Range<usize>)>;

type Framing = dyn Fn(&[u8]) -> Result<Frame, String> + Send + Sync;

/// The functions of a service, by message id, and its hooks. All of them run on the connection's shard.
pub struct Handlers<S> {
    framing: Arc<Framing>,
    /// In the order of registration; a service has a handful.
    by_id: Vec<(i32, OnFrame<S>)>,
    pub(crate) opened: Option<Hook<S>>,
    pub(crate) writable: Option<Hook<S>>,
    pub(crate) closed: Option<ClosedHook<S>>,
}

impl<S> Handlers<S> {
    /// No functions yet. `framing` finds the first frame of the input; its error closes the connection.
    pub fn new<E: Error + 'static>(
        framing: impl Fn(&[u8]) -> Result<Frame, E> + Send + Sync + 'static,
    ) -> Self {
        Self {
            framing: Arc::new(move |input| framing(input).map_err(|error| error.to_string())),
            by_id: Vec::new(),
            opened: None,
            writable: None,
            closed: None,
        }
    }

    /// Frames with this id go to `f`. A frame whose id has no function closes its connection.
    ///
    /// # Panics
    /// If the id has a function already.
    #[must_use]
    pub fn on(mut self, id: i32, f: fn(&mut S, &mut ShardContext<S>, ConnId, &[u8]) -> Flow) -> Self {
        assert!(self.for_id(id).is_none(), "message id {id} is registered twice");
        self.by_id.push((id, f));
        self
    }

    /// Runs when a connection is established, before its first frame.
    #[must_use]
    pub fn opened(mut self, f: fn(&mut S, &mut ShardContext<S>, ConnId)) -> Self {
        self.opened = Some(f);
        self
    }

    /// Runs after a send was refused with [`SendError::Full`](crate::SendError::Full), once the output has
    /// fallen below its low-water mark.
    #[must_use]
    pub fn writable(mut self, f: fn(&mut S, &mut ShardContext<S>, ConnId)) -> Self {
        self.writable = Some(f);
        self
    }

    /// Runs exactly once per opened connection, at its end. The id still tells the peer, but sending is over.
    #[must_use]
    pub fn closed(mut self, f: fn(&mut S, &mut ShardContext<S>, ConnId, &CloseReason)) -> Self {
        self.closed = Some(f);
        self
    }

    pub(crate) fn find_frame(&self, input: &[u8]) -> Result<Frame, String> {
        (self.framing)(input)
    }

    pub(crate) fn for_id(&self, id: i32) -> Option<OnFrame<S>> {
        self.by_id.iter().find(|(of, _)| *of == id).map(|(_, f)| *f)
    }
}

impl<S> Clone for Handlers<S> {
    fn clone(&self) -> Self {
        Self {
            framing: Arc::clone(&self.framing),
            by_id: self.by_id.clone(),
            opened: self.opened,
            writable: self.writable,
            closed: self.closed,
        }
    }
}

impl<S> fmt::Debug for Handlers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_id.iter().map(|(id, _)| id)).finish()
    }
}
