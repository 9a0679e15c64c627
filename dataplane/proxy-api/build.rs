//! Generates the messages from `proto/proxy.proto` with protox: no protoc needs to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/proxy.proto");
    let files = protox::compile(["proto/proxy.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
