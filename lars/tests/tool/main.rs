//! The `lars` command as people and scripts meet it: the built binary, in a folder of its own.

mod asking;
mod lars;
mod routes;
mod running;
mod store;
