//! Shards: one pinned thread with an executor each, its state, its mailbox, its clock.

pub(crate) mod context;

pub(crate) mod mailbox;

pub(crate) mod mailboxes;

pub(crate) mod clock;

pub(crate) mod timer;

pub(crate) mod panics;

pub(crate) mod placement;

pub(crate) mod local;

mod run;

pub(crate) mod shards;
