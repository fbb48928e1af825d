//! Both clients against an agent that follows a script.

mod blocking;
mod fake_agent;
mod forked;
#[cfg(feature = "tokio")]
mod on_tokio;
