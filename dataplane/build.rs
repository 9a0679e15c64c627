//! Generates the config stream; the messages come from `proxy-api`. The server half is for the fake operator of the tests.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proxy-api/proto");
    let files = protox::compile(["proxy-api/proto/proxy.proto", "proxy-api/proto/otlp.proto"], ["proxy-api/proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .extern_path(".sluice.proxy.v1beta1", "::proxy_api::v1beta1")
        .compile_fds(files)?;
    Ok(())
}
