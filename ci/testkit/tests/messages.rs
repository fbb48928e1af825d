//! The messages in `proto/src/generated.rs` follow from `proto/lars.proto`. A test, not a build script: whoever builds
//! Lars compiles no protobuf compiler. It stands here because this builds whatever state `proto/` is in.

use std::{error::Error, fs, path::Path};

#[test]
fn messages_are_those_of_lars_proto() -> Result<(), Box<dyn Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let folder = tempfile::tempdir()?;
    let descriptors = protox::compile(["lars.proto"], [&proto])?;
    prost_build::Config::new().out_dir(folder.path()).compile_fds(descriptors)?;
    let follows = fs::read_to_string(folder.path().join("lars.rs"))?;

    let kept = proto.join("src/generated.rs");
    if fs::read_to_string(&kept).unwrap_or_default() == follows {
        return Ok(());
    }
    fs::write(&kept, follows)?;
    Err("proto/src/generated.rs did not follow from lars.proto and has been written anew: commit it".into())
}
