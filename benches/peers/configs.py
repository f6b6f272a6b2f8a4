#!/usr/bin/env python3
"""Writes the configuration of every peer except Starling, and of the HTTP server behind them all.

    configs.py WORK BACKEND_PORT

A listens on 127.0.0.1:18110 in plain text and speaks mutual TLS 1.3 to B on 127.0.0.1:18111, which speaks plain text
to the backend. Peers run bare: no policy, no metrics export, no traces, no access log.
"""
import json
import sys

WORK, BACKEND = sys.argv[1], int(sys.argv[2])
CERTS, CONF, RUN = f"{WORK}/certs", f"{WORK}/conf", f"{WORK}/run"
PORT_A, PORT_B, PORT_HTTP, PORT_H2 = 18110, 18111, 18000, 18001
NAME = "bench.internal"


def write(name, text):
    with open(f"{CONF}/{name}", "w", encoding="utf-8") as file:
        file.write(text)


# ---- the HTTP server: nginx with one worker, no disk and no log, so that it is never what limits
SMALL, KIB = "y" * 128, "x" * 1024
write("backend.conf", f"""
daemon off; worker_processes 1; pid {RUN}/backend.pid; error_log {WORK}/logs/backend.err crit; worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
  access_log off; server_tokens off; default_type text/plain;
  keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {RUN}/t1; proxy_temp_path {RUN}/t2; fastcgi_temp_path {RUN}/t3; uwsgi_temp_path {RUN}/t4; scgi_temp_path {RUN}/t5;
  server {{
    listen 127.0.0.1:{PORT_HTTP} backlog=4096;
    location / {{ return 200 "{SMALL}"; }}
    location /10k {{ set $kib "{KIB}"; return 200 "{"$kib" * 10}"; }}
  }}
  server {{
    listen 127.0.0.1:{PORT_H2} http2 backlog=4096;
    http2_max_concurrent_streams 1000; client_max_body_size 1m;
    location / {{ return 200 "{SMALL}"; }}
  }}
}}
""")


# ---- Envoy
def envoy_type(name):
    return f"type.googleapis.com/{name}"


def envoy_tls(side, alpn):
    """The TLS of one side: both check the other's certificate, the client also its name."""
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": f"{CERTS}/node.crt"},
            "private_key": {"filename": f"{CERTS}/node.key"},
        }],
        "validation_context": {"trusted_ca": {"filename": f"{CERTS}/ca.crt"}},
        "alpn_protocols": alpn,
    }
    if side == "client":
        common["validation_context"]["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": NAME}}]
        kind, extra = "UpstreamTlsContext", {"sni": NAME}
    else:
        kind, extra = "DownstreamTlsContext", {"require_client_certificate": True}
    config = {"@type": envoy_type(f"envoy.extensions.transport_sockets.tls.v3.{kind}"), "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": {**config, **extra}}


HTTP2 = {"max_concurrent_streams": 1000, "initial_stream_window_size": 1 << 20, "initial_connection_window_size": 1 << 24}


def envoy_cluster(port, http2=False, tls=None):
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    protocol = {"http2_protocol_options": HTTP2} if http2 else {"http_protocol_options": {}}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    cluster = {
        "name": "next", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        "circuit_breakers": {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]},
        "typed_extension_protocol_options": {options: {"@type": envoy_type(options), "explicit_http_config": protocol}},
    }
    return {**cluster, "transport_socket": tls} if tls else cluster


def envoy_listener(port, chain_filter, tls=None):
    chain = {"filters": [chain_filter]}
    if tls:
        chain["transport_socket"] = tls
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": f"port-{port}", "address": address, "tcp_backlog_size": 4096, "filter_chains": [chain]}


def envoy_http(port, tls=None):
    router = {"@type": envoy_type("envoy.extensions.filters.http.router.v3.Router")}
    config = {
        "@type": envoy_type("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http", "codec_type": "AUTO", "generate_request_id": False, "http2_protocol_options": HTTP2,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    if tls:
        config["forward_client_cert_details"] = "SANITIZE_SET"
    return envoy_listener(port, {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}, tls)


def envoy_tcp(port, tls=None):
    config = {"@type": envoy_type("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "tcp", "cluster": "next"}
    return envoy_listener(port, {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}, tls)


def envoy(name, listener, cluster):
    monitor = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": envoy_type("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
            "max_active_downstream_connections": 50000,
        },
    }
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}, "overload_manager": {"resource_monitors": [monitor]}}
    write(f"envoy-{name}.json", json.dumps(config, indent=1))


# HTTP/2 between the two, as meshes on Envoy run it.
envoy("http-a", envoy_http(PORT_A), envoy_cluster(PORT_B, True, envoy_tls("client", ["h2"])))
envoy("http-b", envoy_http(PORT_B, envoy_tls("server", ["h2"])), envoy_cluster(BACKEND))
envoy("grpc-a", envoy_http(PORT_A), envoy_cluster(PORT_B, True, envoy_tls("client", ["h2"])))
envoy("grpc-b", envoy_http(PORT_B, envoy_tls("server", ["h2"])), envoy_cluster(BACKEND, True))
envoy("tcp-a", envoy_tcp(PORT_A), envoy_cluster(PORT_B, False, envoy_tls("client", ["bench"])))
envoy("tcp-b", envoy_tcp(PORT_B, envoy_tls("server", ["bench"])), envoy_cluster(BACKEND))


# ---- HAProxy
def haproxy(name, mode, bind, server):
    # One header is set on every request, since every other peer here adds some too.
    http = "option http-keep-alive\n  http-reuse always" if mode == "http" else ""
    header = "http-request set-header X-Forwarded-For 127.0.0.1" if mode == "http" else ""
    write(f"haproxy-{name}.cfg", f"""global
  maxconn 9000
  nbthread 1
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode {mode}
  maxconn 9000
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  {http}
frontend front
  bind {bind}
  {header}
  default_backend back
backend back
  server next {server}
""")


CLIENT = f"ssl crt {CERTS}/node.pem ca-file {CERTS}/ca.crt verify required sni str({NAME}) verifyhost {NAME}"
SERVER = f"ssl crt {CERTS}/node.pem ca-file {CERTS}/ca.crt verify required"
for version, alpn in (("h1", "http/1.1"), ("h2", "h2")):
    haproxy(f"{version}-a", "http", f"127.0.0.1:{PORT_A}", f"127.0.0.1:{PORT_B} {CLIENT} alpn {alpn} pool-max-conn 4000")
    haproxy(f"{version}-b", "http", f"127.0.0.1:{PORT_B} {SERVER} alpn {alpn}", f"127.0.0.1:{BACKEND} pool-max-conn 4000")
haproxy("grpc-a", "http", f"127.0.0.1:{PORT_A} proto h2", f"127.0.0.1:{PORT_B} {CLIENT} alpn h2 pool-max-conn 4000")
haproxy("grpc-b", "http", f"127.0.0.1:{PORT_B} {SERVER} alpn h2", f"127.0.0.1:{BACKEND} proto h2 pool-max-conn 4000")
haproxy("tcp-a", "tcp", f"127.0.0.1:{PORT_A}", f"127.0.0.1:{PORT_B} {CLIENT}")
haproxy("tcp-b", "tcp", f"127.0.0.1:{PORT_B} {SERVER}", f"127.0.0.1:{BACKEND}")
