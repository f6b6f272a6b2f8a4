//! What one end of a connection holds: heap in use and resident memory, between few connections and many.

use std::time::Duration;

use starling_transport::quic::{DialTag, GossipNet, NetEvent};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::mesh::Mesh;
use crate::process::Figures;
use crate::{ALLOCATOR, Done, row};

/// Endpoints: their pairs are the connections.
const ENDPOINTS: usize = 32;

/// Datagrams over each connection before it is weighed: it has worked.
const WARM_UP: usize = 3;

/// Connects two endpoints and waits until the dialler says so.
pub(crate) async fn connect(from: &GossipNet, to: &GossipNet, inbox: &mut mpsc::Receiver<NetEvent>) -> Done<()> {
    from.dial(Some(to.name().clone()), DialTag(to.name().to_string()), vec![to.local_addr()?]);
    loop {
        match timeout(Duration::from_secs(10), inbox.recv()).await?.ok_or("the inbox is closed")? {
            NetEvent::Up { peer, dialled: Some(_), .. } if peer == *to.name() => return Ok(()),
            NetEvent::DialFailed { reason, .. } => return Err(reason.into()),
            NetEvent::Up { .. } | NetEvent::Down { .. } | NetEvent::Datagram { .. } | NetEvent::Sync { .. } => {}
        }
    }
}

fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Weighs a ring and a full mesh of the same endpoints: what differs is connections alone.
pub(crate) fn run(runtime: &Runtime) -> Done<()> {
    let mesh = Mesh::new()?;
    runtime.block_on(async {
        let mut ends = Vec::with_capacity(ENDPOINTS);
        for at in 0..ENDPOINTS {
            ends.push(mesh.endpoint(at)?);
        }
        let mut weights = Vec::new();
        for distance in 1..=ENDPOINTS / 2 {
            for from in 0..ENDPOINTS {
                let to = (from + distance) % ENDPOINTS;
                // The pair of opposites exists once.
                if distance * 2 == ENDPOINTS && from >= to {
                    continue;
                }
                let peer = ends.get(to).map(|(net, _)| net.clone()).ok_or("no such end")?;
                let (net, inbox) = ends.get_mut(from).ok_or("no such end")?;
                let net = net.clone();
                connect(&net, &peer, inbox).await?;
                for _ in 0..WARM_UP {
                    let _ = net.send_datagram(peer.name(), bytes::Bytes::from_static(&[1; 60]));
                    let _ = peer.send_datagram(net.name(), bytes::Bytes::from_static(&[2; 60]));
                }
            }
            if distance == 1 || distance == ENDPOINTS / 2 {
                // Acks and the last words of handshakes are over.
                tokio::time::sleep(Duration::from_secs(2)).await;
                for (_, inbox) in &mut ends {
                    while inbox.try_recv().is_ok() {}
                }
                let count: u64 = ends.iter().map(|(net, _)| net.stats().connections).sum();
                weights.push((count, in_use(), Figures::read().rss));
            }
        }
        let [(few, few_heap, few_rss), (many, many_heap, many_rss)] = weights[..] else {
            return Err("two weights were expected".into());
        };
        let ends_more = (many - few) as f64;
        let slope = |few: f64, many: f64| (many - few) / ends_more / 1024.0;
        row(
            "memory per end of a connection: heap in use",
            format!("{:.1} KiB ({few} to {many} ends)", slope(few_heap as f64, many_heap as f64)),
        );
        row("memory per end of a connection: resident", format!("{:.1} KiB", slope(few_rss as f64, many_rss as f64)));
        Ok(())
    })
}
