//! [`CurrentIdentity`]: our leaf and our trust as a snapshot that every handshake reads anew, so a new leaf or bundle is
//! in use at the next handshake and no listener is ever restarted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use starling_model::NodeName;
use zeroize::Zeroize as _;

use crate::leaf::Leaf;
use crate::negotiated::Negotiated;
use crate::refusals::Refusals;
use crate::revoked::Revoked;
use crate::time::UnixTime;
use crate::trust::TrustView;

#[derive(Clone)]
struct Snapshot {
    certified: Arc<CertifiedKey>,
    number: u64,
    not_after: UnixTime,
    trust: Arc<TrustView>,
}

/// A cheap handle; all clones see the same identity.
#[derive(Clone)]
pub struct CurrentIdentity {
    snapshot: Arc<ArcSwap<Snapshot>>,
    refusals: Arc<Refusals>,
    negotiated: Arc<Negotiated>,
}

impl fmt::Debug for CurrentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentIdentity").field("leaf_not_after", &self.leaf_not_after()).finish_non_exhaustive()
    }
}

impl CurrentIdentity {
    /// Starts with this leaf and trust.
    #[must_use]
    pub fn new(mut leaf: Leaf, trust: impl Into<Arc<TrustView>>) -> Self {
        leaf.key.zeroize(); // The signer in `certified` holds its own copy, which aws-lc wipes.
        let (not_after, certified) = (leaf.not_after, leaf.certified);
        let snapshot = Snapshot { not_after, certified, number: 1, trust: trust.into() };
        Self {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            refusals: Arc::default(),
            negotiated: Arc::default(),
        }
    }

    /// Shows this leaf from the next handshake on.
    pub fn swap_leaf(&self, mut leaf: Leaf) {
        leaf.key.zeroize();
        let (certified, not_after) = (leaf.certified, leaf.not_after);
        self.snapshot.rcu(|held| Snapshot {
            certified: Arc::clone(&certified),
            number: held.number.saturating_add(1),
            not_after,
            trust: Arc::clone(&held.trust),
        });
    }

    /// Judges by this trust from the next handshake on; who is revoked stays revoked. Connections that stand are the
    /// caller's to sweep.
    pub fn swap_trust(&self, trust: impl Into<Arc<TrustView>>) {
        let trust = trust.into();
        self.snapshot.rcu(|held| {
            let keeps = held.trust.revoked().is_empty() || !trust.revoked().is_empty();
            let revoked = Arc::clone(held.trust.revoked());
            let trust = if keeps { Arc::clone(&trust) } else { Arc::new(trust.with_revoked(revoked)) };
            Snapshot { trust, ..Snapshot::clone(held) }
        });
    }

    /// Refuses these from the next handshake on. Connections that stand are the caller's to sweep.
    pub fn revoke(&self, revoked: impl Into<Arc<Revoked>>) {
        let revoked = revoked.into();
        self.snapshot.rcu(|held| Snapshot {
            trust: Arc::new(held.trust.with_revoked(Arc::clone(&revoked))),
            ..Snapshot::clone(held)
        });
    }

    /// What we believe.
    #[must_use]
    pub fn trust(&self) -> Arc<TrustView> {
        Arc::clone(&self.snapshot.load().trust)
    }

    /// The chain that we show, leaf first.
    #[must_use]
    pub fn leaf_chain(&self) -> Vec<CertificateDer<'static>> {
        self.snapshot.load().certified.cert.clone()
    }

    /// Counts the leaves that were shown here: connections of an older one take no new streams.
    #[must_use]
    pub fn leaf_number(&self) -> u64 {
        self.snapshot.load().number
    }

    /// When the leaf that we show ends.
    #[must_use]
    pub fn leaf_not_after(&self) -> UnixTime {
        self.snapshot.load().not_after
    }

    /// Refused handshakes by reason since start, every reason listed.
    #[must_use]
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.refusals.counts().collect()
    }

    /// Revoked nodes whose handshakes were refused since the last call, with the number of their attempts; at most 64.
    #[must_use]
    pub fn take_revoked_attempts(&self) -> BTreeMap<NodeName, u64> {
        self.refusals.take_revoked()
    }

    /// Which key exchange was negotiated with whom.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.snapshot.load().certified)
    }

    pub(crate) fn refusal_log(&self) -> &Refusals {
        &self.refusals
    }
}
