//! Generates the messages from `lars.proto` with a protobuf compiler written in Rust, so that building
//! Lars needs no `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=lars.proto");
    let descriptors = protox::compile(["lars.proto"], ["."])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
