//! What lars-dns decides, without IO: no clock, no socket, no thread, no store.

pub mod change_log;
pub mod digest;
mod index;
pub mod push;
pub mod saved;
pub mod shrink_guard;
pub mod snapshot;
pub mod subscriptions;
pub mod tracker;
