//! Generates the config stream; the messages come from `proxy-api`. The client half is for the tests of the server.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../dataplane/proxy-api/proto/proxy.proto");
    let files = protox::compile(["../dataplane/proxy-api/proto/proxy.proto"], ["../dataplane/proxy-api/proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .extern_path(".sluice.proxy.v1beta1", "::proxy_api::v1beta1")
        .compile_fds(files)?;
    Ok(())
}
