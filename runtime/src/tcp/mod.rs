//! TCP: servers and clients, connections and what moves their bytes.

pub(crate) mod handlers;

pub(crate) mod connection;

pub(crate) mod service;

pub(crate) mod serve;

pub(crate) mod driver;

pub(crate) mod listener;

pub(crate) mod acceptor;

mod places;

pub(crate) mod client;

pub(crate) mod stats;
