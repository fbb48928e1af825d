//! `lars-bench-heap`: the memory that the cores ask for. `lars-bench scale` runs it; here the allocator counts.

#![forbid(unsafe_code)]

use std::{
    alloc::System,
    io::{self, Write},
};

use cap::Cap;
use lars_benches::scale::heap;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

fn main() -> io::Result<()> {
    let heap = heap::count(|| HEAP.allocated());
    writeln!(io::stdout(), "{}", serde_json::to_string(&heap)?)
}
