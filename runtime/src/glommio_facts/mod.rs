//! What glommio 0.9.0 needs from those who use it, each workaround in one place.

pub mod preflight;

pub(crate) mod executor;

pub(crate) mod event_read;

pub(crate) mod reactor;

pub(crate) mod ticker;
