//! Compiles the `.proto` files, without protoc.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const FILES: [&str; 3] = [
    "comments/v1/comments.proto",
    "conf/v1/conf.proto",
    "profile/v1/profile.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for folder in ["comments", "conf", "google", "profile"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(FILES)?;
    // These bytes keep custom options, such as `google.api.http`. The
    // generated types do not.
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.binpb"), descriptors)?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
