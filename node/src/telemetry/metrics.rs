//! `/metrics`: gossip, identity and process figures, read at each scrape from the snapshots, beside the data plane's own
//! families. No label ever comes from a peer's packets; members' names are a label of one gauge only, and that is off
//! above 100 nodes.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use starling_gossip::stats::{RTT_BUCKETS_US, SUSPICION_BUCKETS_MS};
use starling_model::{MemberState, SpiffeId, mesh};
use starling_proxy::{AccessLogFigures, ProxyMetrics};
use starling_transport::quic::{DownReason, GossipNet, NetStats};

use super::process::Figures;
use crate::mesh_view::{MeshView, MeshViewCell};
use crate::store::StoreHandle;
use crate::tasks::identity::Identity;
use crate::tasks::routes::{Cause, LeftBehind, RoutesFigures, RoutesInbox};

/// Above this many members the gauge per peer is off.
const PEER_SERIES_MAX: usize = 100;

/// All metrics of the agent.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
}

/// Where the figures of the agent's own families are read.
#[derive(Debug)]
pub struct Sources {
    /// The mesh.
    pub view: MeshViewCell,
    /// Our credentials.
    pub identity: Arc<Identity>,
    /// The store.
    pub store: StoreHandle,
    /// News on their way to the table.
    pub routes_inbox: RoutesInbox,
    /// Rebuilds.
    pub routes: Arc<RoutesFigures>,
    /// Threads that hang in a compile step.
    pub left_behind: LeftBehind,
    /// Lines of the access log.
    pub access_log: Arc<AccessLogFigures>,
    /// Connections with the others.
    pub net: GossipNet,
}

impl Metrics {
    /// Registers the data plane's families and our own.
    #[must_use]
    pub fn new(proxy: &ProxyMetrics, sources: Sources) -> Self {
        let mut registry = Registry::default();
        proxy.register(&mut registry);
        registry.register_collector(Box::new(sources));
        Self { registry: Arc::new(registry) }
    }

    /// The text of one scrape.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(fmt::Error) => String::new(),
        }
    }
}

/// Labels of one series.
type Labels<'a> = [(&'a str, &'a str)];

/// One family: its series follow each other.
struct Family<'e>(MetricEncoder<'e>);

impl Family<'_> {
    fn counter(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        self.series(labels, &ConstCounter::new(value))
    }

    fn gauge(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        self.series(labels, &ConstGauge::new(whole(value)))
    }

    fn gauge_f64(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        self.series(labels, &ConstGauge::new(value))
    }

    fn series(&mut self, labels: &Labels<'_>, metric: &impl EncodeMetric) -> fmt::Result {
        metric.encode(self.0.encode_family(&labels)?)
    }
}

fn family<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<Family<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind).map(Family)
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A family of one series without labels.
fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstGauge::new(whole(value)).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

/// The same as a counter.
fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.view.load();
        membership(&mut encoder, &view)?;
        let net = self.net.stats();
        traffic(&mut encoder, &view, &net)?;
        network(&mut encoder, &net)?;
        self.identity(&mut encoder)?;
        self.agent(&mut encoder, &view)?;
        Figures::read().encode(&mut encoder)
    }
}

fn membership(encoder: &mut DescriptorEncoder<'_>, view: &MeshView) -> fmt::Result {
    let (stats, counts) = (&view.stats, view.counts());
    let mut members = family(encoder, "starling_gossip_members", "Members by state", MetricType::Gauge)?;
    for (state, count) in [
        (MemberState::Joining, counts.joining),
        (MemberState::Alive, counts.alive),
        (MemberState::Suspect, counts.suspect),
        (MemberState::Dead, counts.failed),
        (MemberState::Left, counts.left),
    ] {
        members.gauge(&[("state", state.as_str())], count)?;
    }
    let ratio = view.agreement().share();
    let help = "Share of live members that use the same documents and trust";
    let metric = encoder.encode_descriptor("starling_gossip_agreement_ratio", help, None, MetricType::Gauge)?;
    ConstGauge::new(ratio).encode(metric)?;
    let mut probes = family(encoder, "starling_gossip_probes", "Probes by result", MetricType::Counter)?;
    probes.counter(&[("result", "ack")], stats.probes_acked)?;
    probes.counter(&[("result", "indirect_ack")], stats.probes_acked_indirectly)?;
    probes.counter(&[("result", "timeout")], stats.probes_failed)?;
    rtt_histogram(encoder, view)?;
    suspicions(encoder, view)?;
    let help = "Suspicions of this node that it refuted";
    counter(encoder, "starling_gossip_refutations", help, stats.refutations)?;
    let help = "Local health score, 0 is good";
    gauge(encoder, "starling_gossip_health_score", help, u64::from(view.health_score))?;
    let help = "True while this node assumes that it is cut off";
    gauge(encoder, "starling_gossip_isolated", help, u64::from(view.isolated))?;
    let mut changes =
        family(encoder, "starling_gossip_state_changes", "Changes of members' states", MetricType::Counter)?;
    for ((from, to), count) in &stats.state_changes {
        changes.counter(&[("from", from.as_str()), ("to", to.as_str())], *count)?;
    }
    if view.members.len() <= PEER_SERIES_MAX {
        let mut rtts = family(encoder, "starling_gossip_peer_rtt_seconds", "Smoothed round trip", MetricType::Gauge)?;
        for member in view.members.iter().filter(|member| member.name != view.node) {
            if let Some(rtt) = member.rtt {
                rtts.gauge_f64(&[("peer", member.name.as_str())], rtt.as_secs_f64())?;
            }
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "bucket bounds are at most 128,000 milliseconds")]
fn suspicions(encoder: &mut DescriptorEncoder<'_>, view: &MeshView) -> fmt::Result {
    let held = &view.stats.suspicion;
    let bounds = SUSPICION_BUCKETS_MS.iter().map(|ms| *ms as f64 / 1e3).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(held.buckets.iter().copied()).collect();
    let help = "How long suspicions lasted, until a refutation or death";
    let mut metric =
        encoder.encode_descriptor("starling_gossip_suspicion_seconds", help, None, MetricType::Histogram)?;
    metric.encode_histogram::<[(&str, &str); 0]>(held.sum.as_secs_f64(), held.count, &buckets, None)?;
    let help = "Accusations above their accuser's cap, not believed";
    counter(encoder, "starling_gossip_accusations_over_cap", help, view.stats.accusations_over_cap)?;
    let help = "Bytes of state held for the owner that holds most";
    gauge(encoder, "starling_gossip_largest_owner_bytes", help, view.stats.largest_owner_bytes as u64)
}

#[expect(clippy::cast_precision_loss, reason = "bucket bounds are at most a million microseconds")]
fn rtt_histogram(encoder: &mut DescriptorEncoder<'_>, view: &MeshView) -> fmt::Result {
    let rtt = &view.stats.probe_rtt;
    let bounds = RTT_BUCKETS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(rtt.buckets.iter().copied()).collect();
    let help = "Round trips of direct probes";
    let mut metric =
        encoder.encode_descriptor("starling_gossip_probe_rtt_seconds", help, None, MetricType::Histogram)?;
    metric.encode_histogram::<[(&str, &str); 0]>(rtt.sum.as_secs_f64(), rtt.count, &buckets, None)
}

fn traffic(encoder: &mut DescriptorEncoder<'_>, view: &MeshView, net: &NetStats) -> fmt::Result {
    let stats = &view.stats;
    let mut sent = family(encoder, "starling_gossip_sent_bytes", "Bytes sent", MetricType::Counter)?;
    sent.counter(&[("kind", "datagram")], stats.sent_datagram_bytes)?;
    sent.counter(&[("kind", "sync")], stats.sent_sync_bytes)?;
    sent.counter(&[("kind", "udp")], net.udp_bytes_sent)?;
    sent.counter(&[("kind", "wire")], net.wire_bytes_sent)?;
    let mut received = family(encoder, "starling_gossip_received_bytes", "Bytes received", MetricType::Counter)?;
    received.counter(&[("kind", "datagram")], stats.received_datagram_bytes)?;
    received.counter(&[("kind", "sync")], stats.received_sync_bytes)?;
    received.counter(&[("kind", "udp")], net.udp_bytes_received)?;
    received.counter(&[("kind", "wire")], net.wire_bytes_received)?;
    let mut packets = family(encoder, "starling_gossip_udp_packets", "UDP packets", MetricType::Counter)?;
    packets.counter(&[("direction", "sent")], net.udp_packets_sent)?;
    packets.counter(&[("direction", "received")], net.udp_packets_received)?;
    let mut queues = family(encoder, "starling_gossip_queue_depth", "Items waiting", MetricType::Gauge)?;
    queues.gauge(&[("queue", "broadcasts")], stats.queue_broadcasts as u64)?;
    queues.gauge(&[("queue", "waiting")], stats.queue_waiting as u64)?;
    let help = "Input refused as a whole, by reason";
    let mut rejected = family(encoder, "starling_gossip_rejected", help, MetricType::Counter)?;
    for (reason, count) in &stats.rejected {
        rejected.counter(&[("reason", reason)], *count)?;
    }
    let mut dropped = family(encoder, "starling_gossip_dropped", "Items dropped, by reason", MetricType::Counter)?;
    for (reason, count) in &stats.dropped {
        dropped.counter(&[("reason", reason.as_str())], *count)?;
    }
    dropped.counter(&[("reason", "judge_full")], view.judge_dropped)
}

fn network(encoder: &mut DescriptorEncoder<'_>, stats: &NetStats) -> fmt::Result {
    let help = "Gossip connections open";
    gauge(encoder, "starling_gossip_connections", help, stats.connections)?;
    let help = "What became of datagrams, frames, handshakes and dials";
    let mut events = family(encoder, "starling_gossip_network_events", help, MetricType::Counter)?;
    for (event, count) in [
        ("datagram_sent", stats.datagrams_sent),
        ("datagram_dropped_out", stats.datagrams_dropped_out),
        ("datagram_received", stats.datagrams_received),
        ("datagram_dropped_inbox", stats.datagrams_dropped_inbox),
        ("frame_received", stats.frames_received),
        ("frame_dropped", stats.frames_dropped),
        ("exchange_broken", stats.exchanges_broken),
        ("handshake_accepted", stats.handshakes_accepted),
        ("handshake_refused", stats.handshakes_refused),
        ("handshake_ignored", stats.handshakes_ignored),
        ("handshake_retried", stats.handshakes_retried),
        ("handshake_dialled", stats.handshakes_dialled),
        ("duplicate", stats.duplicates),
        ("renewal", stats.renewals),
        ("other_mesh", stats.other_mesh),
        ("dial", stats.dials),
        ("dial_failed", stats.dials_failed),
        ("report_dropped", stats.reports_dropped),
        ("trust_answered", stats.trust_answered),
        ("trust_refused", stats.trust_refused),
        ("trust_busy", stats.trust_busy),
        ("trust_asked", stats.trust_asked),
        ("trust_unanswered", stats.trust_unanswered),
        ("swept", stats.swept),
    ] {
        events.counter(&[("event", event)], count)?;
    }
    let help = "Pairs that were disconnected, by reason";
    let mut ended = family(encoder, "starling_gossip_disconnects", help, MetricType::Counter)?;
    for (reason, count) in DownReason::ALL.into_iter().zip(stats.ended) {
        ended.counter(&[("reason", reason.as_str())], count)?;
    }
    Ok(())
}

impl Sources {
    fn identity(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (node, bundle) = (&self.identity.node, self.identity.bundle());
        let id = SpiffeId::node(node.trust_domain(), node.node()).to_string();
        let name = "starling_identity_cert_expiration_timestamp_seconds";
        let mut ends = family(encoder, name, "End of our certificates", MetricType::Gauge)?;
        ends.gauge(&[("spiffe_id", &id), ("kind", "issuing")], node.certificate_not_after().0)?;
        ends.gauge(&[("spiffe_id", &id), ("kind", "leaf")], self.identity.current.leaf_not_after().0)?;
        let (good, failed) = self.identity.refreshes();
        let mut refreshes = family(encoder, "starling_identity_cert_refreshes", "Leaf keys made", MetricType::Counter)?;
        refreshes.counter(&[("result", "success")], good)?;
        refreshes.counter(&[("result", "failure")], failed)?;
        let mut refused =
            family(encoder, "starling_identity_peers_refused", "Certificates of peers refused", MetricType::Counter)?;
        for (reason, count) in self.identity.current.refusals() {
            refused.counter(&[("reason", reason)], count)?;
        }
        let name = "starling_trust_anchor_expiration_timestamp_seconds";
        let mut anchors = family(encoder, name, "End of the roots", MetricType::Gauge)?;
        for row in starling_identity::inspect::describe_bundle(&bundle).iter().filter(|row| row.what == "root CA") {
            anchors.gauge(&[("anchor", &row.serial)], row.not_after.0)?;
        }
        let help = "Sequence of the trust bundle in use";
        gauge(encoder, "starling_trust_bundle_sequence", help, bundle.sequence)
    }

    fn agent(&self, encoder: &mut DescriptorEncoder<'_>, view: &MeshView) -> fmt::Result {
        let help = "Documents in use";
        gauge(encoder, "starling_config_documents", help, view.applied.documents as u64)?;
        let help = "Documents of the mesh that this node cannot use in their newest version";
        gauge(encoder, "starling_config_documents_held_back", help, view.applied.held_back.len() as u64)?;
        let help = "Of those, documents whose contents no table came about with";
        gauge(encoder, "starling_config_documents_quarantined", help, view.applied.quarantined() as u64)?;
        let help = "Threads left behind in a compile step that did not end in time";
        let mut hanging = family(encoder, "starling_config_compile_hanging", help, MetricType::Gauge)?;
        hanging.gauge(&[("with", "documents")], self.left_behind.of(Cause::Documents) as u64)?;
        hanging.gauge(&[("with", "members")], self.left_behind.of(Cause::Members) as u64)?;
        let delayed = self.left_behind.delayed();
        let help = "Operators' keys and members of whom nothing new is tried for now: compile steps hung with it";
        let mut waiting = family(encoder, "starling_config_owners_delayed", help, MetricType::Gauge)?;
        waiting.gauge(&[("of", "signers")], delayed.signers.len() as u64)?;
        waiting.gauge(&[("of", "members")], delayed.members.len() as u64)?;
        let help = "Live members that use other documents";
        let behind = view.agreement().behind_count;
        gauge(encoder, "starling_config_members_behind", help, behind)?;
        let digest = view.applied.digest.to_string();
        let help = "Digest of the documents in use";
        family(encoder, "starling_config_applied_info", help, MetricType::Gauge)?.gauge(&[("digest", &digest)], 1)?;
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        let mut rebuilds = family(encoder, "starling_config_rebuilds", "Route tables built", MetricType::Counter)?;
        rebuilds.counter(&[("result", "success")], self.routes.rebuilds.load(relaxed))?;
        rebuilds.counter(&[("result", "failure")], self.routes.failures.load(relaxed))?;
        let help = "Lines of the access log, by what became of them";
        let mut lines = family(encoder, "starling_access_log_lines", help, MetricType::Counter)?;
        for (result, count) in [
            ("written", &self.access_log.written),
            ("dropped", &self.access_log.dropped),
            ("failed", &self.access_log.failed),
        ] {
            lines.counter(&[("result", result)], count.load(relaxed))?;
        }
        let help = "Owners whose news wait for the next route table";
        gauge(encoder, "starling_config_news_waiting", help, self.routes_inbox.depth() as u64)?;
        let help = "1 while writes to the store are durable";
        let durable = u64::from(self.store.degraded().is_none());
        gauge(encoder, "starling_store_durable", help, durable)?;
        let help = "Bytes of the store on disk";
        gauge(encoder, "starling_store_size_bytes", help, self.store.size_bytes())?;
        let help = "Writes to the store dropped";
        counter(encoder, "starling_store_dropped", help, self.store.dropped())?;
        let mesh = mesh::hex(&self.identity.node.mesh_id().0).chars().take(8).collect::<String>();
        let labels = [("version", crate::RELEASE), ("revision", REVISION), ("mesh", &mesh)];
        family(encoder, "starling_build_info", "This build", MetricType::Gauge)?.gauge(&labels, 1)
    }
}

/// Source revision of this build, where the build said it.
pub const REVISION: &str = match option_env!("STARLING_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
