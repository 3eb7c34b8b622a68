//! Compiles our own `.proto` files with a pure Rust compiler and keeps their descriptors, which
//! the schema test holds against the wire table.

use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

/// Messages with a hand-written `Debug`: prost ignores `debug_redact`.
const SECRET: &[&str] = &["runtime.v1.AuthConfig"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new("proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(
        ["runtime/v1/service.proto", "runtime/v1/windows.proto"],
        [proto],
    )?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("runtime.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .skip_debug(SECRET)
        .compile_fds(descriptors)?;
    Ok(())
}
