//! The protobuf messages, generated from `lars.proto` when the crate is built.

// Their meaning is documented in `lars.proto`; the generated items carry its comments.
#![allow(missing_docs, clippy::all, unreachable_pub, rust_2018_idioms)]

include!(concat!(env!("OUT_DIR"), "/lars.rs"));
