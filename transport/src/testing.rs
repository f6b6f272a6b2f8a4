//! Meshes for tests: certificates of named nodes, at a fixed time.

use std::time::{Duration, Instant};

use starling_identity::{
    CurrentIdentity, IssuingCa, NewTrustDomain, NodeIdentity, TrustView, UnixTime, create_trust_domain, new_record_key,
};
use starling_model::{MeshId, NodeName, TrustDomain};

/// A Tuesday in November 2026.
pub(crate) const NOW: UnixTime = UnixTime(1_795_521_600);

pub(crate) fn clock() -> UnixTime {
    NOW
}

/// Longest that a test waits for something that should be there at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct TestMesh {
    domain: NewTrustDomain,
    issuer: IssuingCa,
}

impl TestMesh {
    pub(crate) fn new() -> Self {
        Self::in_domain("prod.internal")
    }

    pub(crate) fn in_domain(domain: &str) -> Self {
        let domain = create_trust_domain(&TrustDomain::new(domain).unwrap(), "alice", false, NOW).unwrap();
        let issuer = IssuingCa::load(&domain.bundle, &domain.issuer_key_pem).unwrap();
        Self { domain, issuer }
    }

    pub(crate) fn id(&self) -> MeshId {
        self.domain.bundle.mesh_id
    }

    pub(crate) fn node(&self, node: &str) -> CurrentIdentity {
        self.node_at(node, NOW)
    }

    /// A node whose certificates begin at another time.
    pub(crate) fn node_at(&self, node: &str, at: UnixTime) -> CurrentIdentity {
        let issued = self.issuer.issue_node(&name(node), 30, at).unwrap();
        let bundle = &self.domain.bundle;
        let identity =
            NodeIdentity::load(bundle, &issued.chain_pem, &issued.issuing_key_pem, &new_record_key(), at).unwrap();
        CurrentIdentity::new(identity.mint_leaf(at).unwrap(), TrustView::new(bundle.clone()))
    }
}

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// Waits until `condition` holds, by looking again whenever the runtime has nothing else to do for a moment.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
