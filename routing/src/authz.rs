//! Who a caller is: a proven node, and the source service that its stream named and this node accepted.

use starling_model::{NodeName, ServiceKey, SpiffeId, TrustDomain};

/// A proven node, with the service it acts as where that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// By its certificate.
    pub node: NodeName,
    /// By its stream's claim, as far as that is granted.
    pub service: Option<ServiceKey>,
}

impl Caller {
    /// The identity that logs, metrics and `x-forwarded-client-cert` show.
    #[must_use]
    pub fn spiffe_id(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId { trust_domain: trust_domain.clone(), node: self.node.clone(), service: self.service.clone() }
    }
}
