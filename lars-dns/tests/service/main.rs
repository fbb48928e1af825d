//! lars-dns on real sockets, with real databases.

mod database;
mod peer;

mod changes;
mod digests;
mod hostile;
mod serving;
mod shrinking;
mod state;
mod store_faults;
mod subscribers;
mod turmoil;
