//! Propositions about what a scrape shows.

use starling_model::Namespace;

use super::*;

fn key(name: &str) -> ServiceKey {
    ServiceKey::parse(name, &Namespace::default()).unwrap()
}

fn scrape(metrics: &ProxyMetrics) -> String {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

fn end(status: u16, millis: u64) -> RequestEnd {
    RequestEnd {
        status,
        error: None,
        spoken: Spoken::Http1,
        grpc_status: None,
        duration: Duration::from_millis(millis),
        now: Instant::now(),
    }
}

#[test]
fn a_request_shows_under_its_edge() {
    let metrics = ProxyMetrics::new();
    let edges = Edges::new(&metrics);
    let edge = edges.edge(Direction::Outbound, Some(&key("web")), Some(&key("shop/orders")));
    edge.request_began();
    edge.request_ended(end(200, 3));
    edge.request_began();
    let text = scrape(&metrics);
    let labels = "direction=\"outbound\",source_service=\"web\",source_namespace=\"default\",\
                  destination_service=\"orders\",destination_namespace=\"shop\"";
    for line in [
        format!("starling_http_requests_in_flight{{{labels}}} 1"),
        format!(
            "starling_http_requests_total{{{labels},route=\"default\",subset=\"none\",protocol=\"http1\",status_code=\"200\",grpc_status=\"\",error=\"none\",security=\"mtls\"}} 1"
        ),
        "le=\"0.005\",".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\nis not in\n{text}");
    }
    assert!(text.contains("starling_http_request_duration_seconds_count{"), "{text}");
    assert_eq!(metrics.traffic(Direction::Outbound, &key("shop/orders"), Instant::now()).requests, 1);
}

#[test]
fn two_threads_count_into_one_series() {
    let metrics = ProxyMetrics::new();
    let (one, two) = (Edges::new(&metrics), Edges::new(&metrics));
    for edges in [&one, &two] {
        let edge = edges.edge(Direction::Inbound, None, Some(&key("orders")));
        edge.tunnel_opened();
        edge.sent(5);
    }
    let text = scrape(&metrics);
    let labels = "direction=\"inbound\",source_service=\"unknown\",source_namespace=\"unknown\",\
                  destination_service=\"orders\",destination_namespace=\"default\",security=\"mtls\"";
    assert!(text.contains(&format!("starling_tcp_connections_open{{{labels}}} 2")), "{text}");
    assert!(text.contains(&format!("starling_tcp_sent_bytes_total{{{labels}}} 10")), "{text}");
}

#[test]
fn what_is_over_the_cap_counts_under_other() {
    let metrics = ProxyMetrics::new();
    let edges = Edges::new(&metrics);
    for n in 0..=SERIES_MAX {
        let _ = edges.edge(Direction::Inbound, Some(&key(&format!("s{n}"))), None);
    }
    let text = scrape(&metrics);
    assert!(text.contains("source_service=\"other\""), "folded");
    assert!(text.contains("starling_metrics_dropped_series_total{family=\"starling_http_requests_in_flight\"} 1"));
}
