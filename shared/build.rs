//! Compiles `proto/` without protoc and keeps the descriptor set for server reflection.
use prost::Message;
use std::{env, fs, path::PathBuf};

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script its folder in no other way")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["model", "enrollment", "control", "telemetry", "artifacts", "drafts", "admin"]
        .map(|f| root.join(format!("redforge/v1/{f}.proto")));
    let fds = protox::compile(files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("redforge.fds"), fds.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".redforge.v1").compile_fds(fds)?;
    Ok(())
}
