//! The same task told to each proxy in its own words: one worker, 90/10 over two endpoints, connections to them kept,
//! `X-Forwarded-For` and `-Proto` set, metrics on, access log off. Pure but for [`start`].

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Result;

use crate::guest::Guest;
use crate::origin::Origin;
use crate::peers::{Kind, Peer};

/// A proxy that serves.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) kind: Kind,
    pub(crate) guest: Guest,
    /// HTTP/1.1 on both sides.
    pub(crate) http1: SocketAddr,
    /// HTTP/2 without TLS on both sides.
    pub(crate) http2: SocketAddr,
}

/// What the configurations are made of.
struct Ports {
    http1: u16,
    http2: u16,
    admin: u16,
    stable: SocketAddr,
    canary: SocketAddr,
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts a proxy on the given cores and waits until it listens.
pub(crate) fn start(peer: &Peer, origin: &Origin, cores: &str, clients: u64, folder: &Path) -> Result<Running> {
    let ports = Ports {
        http1: free_port()?,
        http2: free_port()?,
        admin: free_port()?,
        stable: origin.stable,
        canary: origin.canary,
    };
    let folder = folder.join(peer.kind.name());
    fs::create_dir_all(folder.join("logs"))?;
    let (file, text) = match peer.kind {
        Kind::Sluice => (folder.join("routes.yaml"), sluice(&ports)),
        Kind::Haproxy => (folder.join("haproxy.cfg"), haproxy(&ports, clients)),
        Kind::Nginx => (
            folder.join("nginx.conf"),
            nginx(&ports, Nginx { listen: "http2", http2: "", metrics: "stub_status;" }, &folder),
        ),
        Kind::NginxMainline => (
            folder.join("nginx.conf"),
            nginx(&ports, Nginx { listen: "", http2: "http2 on;", metrics: "return 404;" }, &folder),
        ),
        Kind::Envoy => (folder.join("envoy.yaml"), envoy(&ports)),
    };
    fs::write(&file, text)?;
    let file = file.display().to_string();
    let arguments: Vec<String> = match peer.kind {
        Kind::Sluice => sluice_arguments(&file, ports.admin, 1),
        Kind::Haproxy => ["-db", "-f", &file].map(str::to_owned).to_vec(),
        Kind::Nginx | Kind::NginxMainline => {
            ["-p", &folder.display().to_string(), "-c", &file].map(str::to_owned).to_vec()
        }
        Kind::Envoy => {
            ["--concurrency", "1", "--disable-hot-restart", "-l", "warn", "-c", &file].map(str::to_owned).to_vec()
        }
    };
    let log = folder.join("output.log");
    let mut guest = Guest::start(cores, &peer.program, &arguments, &log)?;
    let [http1, http2] = [ports.http1, ports.http2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    guest.listens(http1, &log)?;
    guest.listens(http2, &log)?;
    Ok(Running { kind: peer.kind, guest, http1, http2 })
}

/// What `sluice-proxy` is started with to serve `file`.
pub(crate) fn sluice_arguments(file: &str, admin: u16, workers: usize) -> Vec<String> {
    let (admin, workers) = (format!("127.0.0.1:{admin}"), workers.to_string());
    [
        "--config",
        file,
        "--admin",
        &admin,
        "--listen-address",
        "127.0.0.1",
        "--workers",
        &workers,
        "--drain-delay",
        "0ms",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// One route per port, as its `routes` say.
pub(crate) fn sluice_route(name: &str, port: u16, protocol: &str, stable: SocketAddr, canary: SocketAddr) -> String {
    format!(
        "- service: {name}\n  weight: 10\n  stableRevision: old\n  canaryRevision: new\n  listeners:\n  \
         - {{port: {port}, protocol: {protocol}, stable: ['{stable}'], canary: ['{canary}']}}\n"
    )
}

fn sluice(ports: &Ports) -> String {
    let Ports { http1, http2, admin: _, stable, canary } = *ports;
    let (http1, http2) =
        (sluice_route("one", http1, "http", stable, canary), sluice_route("two", http2, "h2c", stable, canary));
    format!("routes:\n{http1}{http2}")
}

fn haproxy(ports: &Ports, clients: u64) -> String {
    let Ports { http1, http2, admin, stable, canary } = ports;
    format!(
        "global
  nbthread 1
  maxconn {clients}
defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 15s
  option http-keep-alive
  option forwardfor
  http-reuse always
  balance roundrobin
frontend one
  bind 127.0.0.1:{http1}
  http-request set-header X-Forwarded-Proto http
  default_backend one
backend one
  server stable {stable} weight 90
  server canary {canary} weight 10
frontend two
  bind 127.0.0.1:{http2} proto h2
  http-request set-header X-Forwarded-Proto http
  default_backend two
backend two
  server stable {stable} weight 90 proto h2
  server canary {canary} weight 10 proto h2
frontend metrics
  bind 127.0.0.1:{admin}
  http-request use-service prometheus-exporter if {{ path /metrics }}
"
    )
}

/// In what the two nginx differ: HTTP/2 is switched on otherwise since 1.25.1, and the wheel has no `stub_status`.
struct Nginx {
    listen: &'static str,
    http2: &'static str,
    metrics: &'static str,
}

fn nginx(ports: &Ports, Nginx { listen, http2: http2_on, metrics }: Nginx, folder: &Path) -> String {
    let Ports { http1, http2, admin, stable, canary } = ports;
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {folder}/{what};\n"))
        .concat();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
error_log {folder}/logs/error.log crit;
pid {folder}/nginx.pid;
events {{ worker_connections 30000; }}
http {{
  access_log off;
  keepalive_timeout 120s;
  keepalive_requests 1000000000;
  client_max_body_size 0;
{temporary}  upstream arms {{
    server {stable} weight=90;
    server {canary} weight=10;
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{http1};
    location / {{
      proxy_pass http://arms;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
    }}
  }}
  server {{
    listen 127.0.0.1:{http2} {listen};
    {http2_on}
    location / {{
      grpc_pass grpc://arms;
      grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      grpc_set_header X-Forwarded-Proto $scheme;
    }}
  }}
  server {{
    listen 127.0.0.1:{admin};
    location /metrics {{ {metrics} }}
  }}
}}
"
    )
}

fn envoy(ports: &Ports) -> String {
    let Ports { http1, http2, admin, stable, canary } = ports;
    let listener = |name: &str, port: u16, codec: &str| {
        format!(
            "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          codec_type: {codec}
          use_remote_address: true
          generate_request_id: false
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {{prefix: /}}
                route:
                  weighted_clusters:
                    clusters:
                    - {{name: {name}-stable, weight: 90}}
                    - {{name: {name}-canary, weight: 10}}
"
        )
    };
    let cluster = |name: &str, address: &SocketAddr, http2: bool| {
        let (host, port) = (address.ip(), address.port());
        let options = if http2 {
            "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"
        } else {
            ""
        };
        format!(
            "  - name: {name}
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096}}]}}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}
{options}"
        )
    };
    let listeners = listener("one", *http1, "HTTP1") + &listener("two", *http2, "HTTP2");
    let clusters = cluster("one-stable", stable, false)
        + &cluster("one-canary", canary, false)
        + &cluster("two-stable", stable, true)
        + &cluster("two-canary", canary, true);
    format!(
        "admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}
static_resources:
  listeners:
{listeners}  clusters:
{clusters}"
    )
}
