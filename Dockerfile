# Images of the operator and the proxy: one static binary each, nothing else.
#   docker build --target sluice-operator -t registry.example.org/sluice-operator:0.1.0 .
#   docker build --target sluice-proxy    -t registry.example.org/sluice-proxy:0.1.0 .
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(uname -m)-unknown-linux-gnu" \
 && cargo build --locked --release --target "$target" -p operator --bin sluice-operator -p dataplane --bin sluice-proxy \
 && mkdir /out && cp target/"$target"/release/sluice-operator target/"$target"/release/sluice-proxy /out/

FROM scratch AS sluice-operator
# For Slack, and a Prometheus behind TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/sluice-operator /sluice-operator
USER 65532:65532
ENTRYPOINT ["/sluice-operator"]

FROM scratch AS sluice-proxy
COPY --from=build /out/sluice-proxy /sluice-proxy
USER 65532:65532
ENTRYPOINT ["/sluice-proxy"]
