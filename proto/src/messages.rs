//! The protobuf messages, generated from `lars.proto`.
//!
//! What is generated is kept in the repository, so that whoever builds Lars compiles no protobuf compiler. After a
//! change of `lars.proto`, `cargo test -p lars-testkit --test messages` writes it anew.

// Their meaning is documented in `lars.proto`; the generated items carry its comments.
#![allow(missing_docs, clippy::all, unreachable_pub, rust_2018_idioms)]

// Included, because a module would be formatted.
include!("generated.rs");
