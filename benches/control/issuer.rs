//! Identities of a trust domain whose issuing key lies beside its bundle (`starling trust init --shared-issuer`).

use std::path::Path;

use fixtures::judge::wall_clock;
use starling_identity::{CurrentIdentity, IssuingCa, NodeIdentity, TrustBundle, TrustView, new_record_key};
use starling_model::NodeName;

use crate::Done;

/// Who can sign for any node.
pub(crate) struct Issuer {
    bundle: TrustBundle,
    ca: IssuingCa,
}

impl Issuer {
    /// Reads an agent's `trust` folder.
    pub(crate) fn load(trust: &Path) -> Done<Self> {
        let bundle = TrustBundle::parse(&std::fs::read(trust.join("bundle.trust"))?)?;
        let ca = IssuingCa::load(&bundle, &std::fs::read_to_string(trust.join("issuer.key"))?)?;
        Ok(Self { bundle, ca })
    }

    /// A node's own keys, and what it shows.
    pub(crate) fn identity(&self, name: &str) -> Done<(NodeIdentity, CurrentIdentity)> {
        let (name, now) = (NodeName::new(name)?, wall_clock());
        let issued = self.ca.issue_node(&name, 30, now)?;
        let keys = new_record_key();
        let node = NodeIdentity::load(&self.bundle, &issued.chain_pem, &issued.issuing_key_pem, &keys, now)?;
        let current = CurrentIdentity::new(node.mint_leaf(now)?, TrustView::new(self.bundle.clone()));
        Ok((node, current))
    }
}
