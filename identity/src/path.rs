//! The part of a chain that a node does not make itself: node CA, issuing CA, root.
//!
//! A node statement is signed with the node CA's key and travels without a leaf, so its path is checked here, in the one
//! shape that is allowed, while leaves go through webpki ([`crate::verify`]). Both share [`check_node_ca`].
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use rustls_pki_types::CertificateDer;
use starling_model::{NodeName, TrustDomain};

use crate::time::UnixTime;
use crate::trust::{RootFacts, TrustView};
use crate::verify::PeerRefused;
use crate::x509::{Constraint, Facts};

/// Node CA and issuing CA; a root may sign a node CA directly.
pub(crate) const ISSUERS_MAX: usize = 2;

/// When a path must be valid.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// At this moment.
    At(UnixTime),
    /// Dates are judged elsewhere: a join file is read before its host's clock is asked.
    Whenever,
}

/// A node CA that chains to a root of the bundle.
#[derive(Debug)]
pub(crate) struct NodeCa<'a> {
    pub(crate) node: NodeName,
    pub(crate) facts: Facts<'a>,
    pub(crate) root: [u8; 4],
    /// The least of the whole path.
    pub(crate) not_after: UnixTime,
}

/// Checks `[node CA]` or `[node CA, issuing CA]` under the bundle.
pub(crate) fn verify_issuers<'a>(
    issuers: &'a [CertificateDer<'_>],
    trust: &TrustView,
    when: When,
) -> Result<NodeCa<'a>, PeerRefused> {
    let (node_ca, issuing_ca) = match issuers {
        [node_ca] => (node_ca, None),
        [node_ca, issuing_ca] => (node_ca, Some(issuing_ca)),
        _ => return Err(PeerRefused::ChainSize { found: issuers.len() }),
    };
    let facts = Facts::read(node_ca).ok_or(PeerRefused::Malformed)?;
    let issuing = issuing_ca.map(|der| Facts::read(der).ok_or(PeerRefused::Malformed)).transpose()?;

    let node = constrained_node(&facts, &trust.bundle().trust_domain)?;
    check_node_ca(&facts, &trust.bundle().trust_domain.node_dns(&node))?;
    if let Some(issuing) = &issuing {
        check_issuing_ca(issuing, &trust.bundle().trust_domain)?;
        if !facts.is_signed_by(issuing) {
            return Err(PeerRefused::NotChained);
        }
    }
    let last = issuing.as_ref().unwrap_or(&facts);
    let root = trust.root_that_signed(last).ok_or(PeerRefused::NotChained)?;
    if let When::At(now) = when {
        for checked in [Some(&facts), issuing.as_ref()].into_iter().flatten() {
            check_dates(checked.not_before, checked.not_after, now)?;
        }
        check_root_dates(root, now)?;
    }
    let issuing_end = issuing.as_ref().map_or(facts.not_after, |issuing| issuing.not_after);
    let not_after = facts.not_after.min(issuing_end).min(root.not_after);
    Ok(NodeCa { node, root: root.short, not_after, facts })
}

/// The node that a node CA may speak for, read from its constraint.
fn constrained_node(facts: &Facts<'_>, trust_domain: &TrustDomain) -> Result<NodeName, PeerRefused> {
    let Constraint::One(dns) = facts.constraint else {
        return Err(PeerRefused::PathShape("the node CA is not constrained to one DNS name"));
    };
    let foreign = || PeerRefused::OtherMesh { named: dns.chars().take(80).collect() };
    let labels = dns.strip_suffix(trust_domain.as_str()).ok_or_else(foreign)?;
    if !labels.is_empty() && !labels.ends_with('.') {
        return Err(foreign());
    }
    let label = labels.strip_suffix(".node.").and_then(|label| NodeName::new(label).ok());
    label.ok_or(PeerRefused::PathShape("the node CA's constraint names no node"))
}

/// Step 7 of [`crate::verify::verify_peer`]: the leaf's issuer may sign leaves of exactly this DNS name.
pub(crate) fn check_node_ca(facts: &Facts<'_>, dns: &str) -> Result<(), PeerRefused> {
    check_ca(facts)?;
    if facts.path_len != Some(0) {
        return Err(PeerRefused::PathShape("the node CA has no path length of 0"));
    }
    match facts.constraint {
        Constraint::One(name) if name == dns => Ok(()),
        Constraint::One(_) => Err(PeerRefused::PathShape("the node CA is constrained to another name")),
        Constraint::Absent | Constraint::Other => {
            Err(PeerRefused::PathShape("the node CA is not constrained to one DNS name"))
        }
    }
}

/// An issuing CA, or a root used as one, is constrained to the trust domain.
pub(crate) fn check_issuing_ca(facts: &Facts<'_>, trust_domain: &TrustDomain) -> Result<(), PeerRefused> {
    check_ca(facts)?;
    if facts.path_len == Some(0) {
        return Err(PeerRefused::PathShape("the issuing CA's path length leaves no room for a node CA"));
    }
    if facts.constraint != Constraint::One(trust_domain.as_str()) {
        return Err(PeerRefused::PathShape("the issuing CA is not constrained to the trust domain"));
    }
    Ok(())
}

/// What every CA certificate of ours is: webpki does not look at keyUsage.
pub(crate) fn check_ca(facts: &Facts<'_>) -> Result<(), PeerRefused> {
    if facts.names.is_some() {
        return Err(PeerRefused::SanCount);
    }
    if !facts.ca || !facts.usage.is_some_and(|usage| usage.key_cert_sign) {
        return Err(PeerRefused::PathShape("an issuer is no CA that may sign certificates"));
    }
    if facts.extended.is_some() {
        return Err(PeerRefused::PathShape("an issuer has extended key usages"));
    }
    Ok(())
}

pub(crate) fn check_root_dates(root: &RootFacts, now: UnixTime) -> Result<(), PeerRefused> {
    check_dates(root.not_before, root.not_after, now)
}

fn check_dates(not_before: UnixTime, not_after: UnixTime, now: UnixTime) -> Result<(), PeerRefused> {
    if now < not_before {
        return Err(PeerRefused::NotYetValid { not_before, now });
    }
    if now > not_after {
        return Err(PeerRefused::Expired { not_after, now });
    }
    Ok(())
}
