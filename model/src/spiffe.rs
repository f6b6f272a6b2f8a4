//! SPIFFE identities (SPIFFE-ID standard), reduced to the two forms a mesh uses.
//!
//! Certificates hold the node form only, bound one to one to a DNS name; the workload form is derived by a receiver
//! from a proven node and a granted source service.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::TRUST_DOMAIN_BYTES_MAX;
use crate::names::{NodeName, ServiceKey, is_label};

/// Why a text is no trust domain or no SPIFFE id of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeInvalid {
    /// Not labels joined by dots, too long, or an all-digit last label.
    #[error(
        "trust domain {0:?} is not a name like prod.internal (labels of a-z, 0-9, '-' joined by dots, at most 56 bytes, last label not all digits)"
    )]
    TrustDomain(String),
    /// Not `spiffe://TD/node/NAME`.
    #[error("{0:?} is not the SPIFFE id of a node")]
    NotANode(String),
}

/// The name under which a mesh issues identities, e.g. `prod.internal`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses labels joined by dots, at most 56 bytes, last label not all digits.
    ///
    /// # Errors
    /// [`SpiffeInvalid::TrustDomain`].
    pub fn new(text: &str) -> Result<Self, SpiffeInvalid> {
        let labels_ok = text.split('.').all(is_label);
        let last_ok = text.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()));
        if text.len() > TRUST_DOMAIN_BYTES_MAX || !labels_ok || !last_ok {
            return Err(SpiffeInvalid::TrustDomain(text.chars().take(80).collect()));
        }
        Ok(Self(Arc::from(text)))
    }

    /// The domain as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The DNS name that stands beside a node's SPIFFE id in its certificate: `<node>.node.<td>`.
    #[must_use]
    pub fn node_dns(&self, node: &NodeName) -> String {
        format!("{node}.node.{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeInvalid;
    fn from_str(text: &str) -> Result<Self, SpiffeInvalid> {
        Self::new(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who acts: a node, or a service on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// The mesh's domain.
    pub trust_domain: TrustDomain,
    /// The proven node.
    pub node: NodeName,
    /// The accepted source service; `None` is the bare node.
    pub service: Option<ServiceKey>,
}

impl SpiffeId {
    /// `spiffe://<td>/node/<node>`.
    #[must_use]
    pub fn node(trust_domain: &TrustDomain, node: &NodeName) -> Self {
        Self { trust_domain: trust_domain.clone(), node: node.clone(), service: None }
    }

    /// `spiffe://<td>/node/<node>/ns/<ns>/svc/<svc>`.
    #[must_use]
    pub fn workload(trust_domain: &TrustDomain, node: &NodeName, service: &ServiceKey) -> Self {
        Self { trust_domain: trust_domain.clone(), node: node.clone(), service: Some(service.clone()) }
    }

    /// Reads a node's id; nothing else, no query, no fragment, no case folding.
    ///
    /// # Errors
    /// [`SpiffeInvalid`] for every other text.
    pub fn parse_node(text: &str) -> Result<Self, SpiffeInvalid> {
        let refuse = || SpiffeInvalid::NotANode(text.chars().take(80).collect());
        let rest = text.strip_prefix("spiffe://").ok_or_else(refuse)?;
        let (domain, path) = rest.split_once('/').ok_or_else(refuse)?;
        let node = path.strip_prefix("node/").ok_or_else(refuse)?;
        Ok(Self::node(&TrustDomain::new(domain)?, &NodeName::new(node).map_err(|_| refuse())?))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/node/{}", self.trust_domain, self.node)?;
        match &self.service {
            Some(key) => write!(f, "/ns/{}/svc/{}", key.namespace, key.name),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_form_parses() {
        let check = |text: &str, good: bool| assert_eq!(SpiffeId::parse_node(text).is_ok(), good, "{text:?}");
        check("spiffe://prod.internal/node/vm-1", true);
        check("spiffe://prod.internal/node/vm-1/ns/default/svc/web", false);
        check("spiffe://prod.internal/node/vm-1/", false);
        check("spiffe://prod.internal/node/vm-1\0", false);
        check("spiffe://prod.internal/node/", false);
        check("SPIFFE://prod.internal/node/vm-1", false);
        check("spiffe://Prod.internal/node/vm-1", false);
        check("spiffe://prod.internal:443/node/vm-1", false);
        check("spiffe://10.0.0.1/node/vm-1", false);
        check("https://prod.internal/node/vm-1", false);
    }

    #[test]
    fn ids_print_as_the_standard_writes_them() {
        let td = TrustDomain::new("prod.internal").unwrap();
        let node = NodeName::new("vm-1").unwrap();
        let key = ServiceKey::parse("web", &crate::names::Namespace::default()).unwrap();
        assert_eq!(SpiffeId::node(&td, &node).to_string(), "spiffe://prod.internal/node/vm-1");
        assert_eq!(
            SpiffeId::workload(&td, &node, &key).to_string(),
            "spiffe://prod.internal/node/vm-1/ns/default/svc/web"
        );
        assert_eq!(td.node_dns(&node), "vm-1.node.prod.internal");
    }
}
