//! Generates the client half of the config stream; the messages come from `proxy-api`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proxy-api/proto/proxy.proto");
    let files = protox::compile(["proxy-api/proto/proxy.proto"], ["proxy-api/proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(false)
        .extern_path(".sluice.proxy.v1beta1", "::proxy_api::v1beta1")
        .compile_fds(files)?;
    Ok(())
}
