//! A new root in place of the old one, in three signed steps; between them nobody refuses anybody.
//!
//! | Step | The bundle holds | Members show |
//! |---|---|---|
//! | [`begin`] | both roots, both issuing CAs, and a new certificate for each node's key | the old chain |
//! | [`switch`] | the same, and says that the new issuing CA's chain is shown | the new chain |
//! | [`finish`] | the new root alone | the new chain |
//!
//! No node's key changes. Each step is signed by a root, the last one by the root that stays.

use std::fmt;

use rustls_pki_types::CertificateDer;
use starling_model::NodeName;
use zeroize::Zeroizing;

use crate::armor;
use crate::bundle::TrustBundle;
use crate::certificates::CertificateList;
use crate::issue::{Authority, IssueError, IssuingCa, update_by_root};
use crate::keys::{self, EcKey};
use crate::limits::LISTS_MAX;
use crate::path;
use crate::time::UnixTime;
use crate::trust::TrustView;
use crate::x509::Facts;

/// What [`begin`] makes.
pub struct Begun {
    /// Of the new root: keep offline.
    pub root_key_pem: Zeroizing<String>,
    /// Of the new issuing CA.
    pub issuer_key_pem: Zeroizing<String>,
    /// Holds both roots.
    pub bundle: TrustBundle,
    /// The nodes' new certificates, which the bundle names.
    pub lists: Vec<CertificateList>,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").field("bundle", &self.bundle).field("lists", &self.lists).finish_non_exhaustive()
    }
}

/// Makes a new root and a new issuing CA beside those of `before`, and renews these node certificates under it.
///
/// # Errors
/// [`IssueError::Rotation`] when a rotation is under way or the issuer is shared, [`IssueError::ForeignNode`] for a
/// certificate that is no node's of this mesh, and what [`update_by_root`] refuses.
pub fn begin(
    before: &TrustBundle,
    root_key_pem: &str,
    nodes: &[CertificateDer<'static>],
    now: UnixTime,
) -> Result<Begun, IssueError> {
    if before.shared_issuer {
        return Err(IssueError::Rotation("the issuer is shared: its hosts make their certificates themselves"));
    }
    if before.roots.len() > 1 {
        return Err(IssueError::Rotation("a rotation is under way"));
    }
    let made = Authority::create(&before.trust_domain, now)?;
    let both = update_by_root(before, root_key_pem, |bundle| {
        bundle.roots.push(made.root.clone());
        bundle.issuers.push(made.issuer.clone());
    })?;
    let lists = renew(&both, &made.issuer_key.to_pem(), nodes, now)?;
    let bundle = update_by_root(before, root_key_pem, |bundle| {
        bundle.roots.push(made.root.clone());
        bundle.issuers.push(made.issuer.clone());
        bundle.lists = lists.iter().map(CertificateList::hash).collect();
    })?;
    Ok(Begun { root_key_pem: made.root_key.to_pem(), issuer_key_pem: made.issuer_key.to_pem(), bundle, lists })
}

/// New certificates for the keys of these, by the issuing CA of `bundle` whose key this is.
///
/// # Errors
/// [`IssueError::ForeignNode`] for a certificate that is no node's of this mesh, [`IssueError::TooManyNodes`], and what
/// [`IssuingCa::load`] refuses.
pub fn renew(
    bundle: &TrustBundle,
    issuer_key_pem: &str,
    nodes: &[CertificateDer<'static>],
    now: UnixTime,
) -> Result<Vec<CertificateList>, IssueError> {
    renew_beside(bundle, &IssuingCa::load(bundle, issuer_key_pem)?, nodes, &[], now)
}

/// The same while no rotation is under way, or in the middle of one: new certificates for the keys of `nodes`, and `kept`,
/// which the bundle names already, as they are.
///
/// # Errors
/// As [`renew`].
pub fn renew_beside(
    bundle: &TrustBundle,
    issuer: &IssuingCa,
    nodes: &[NodeCertificate],
    kept: &[NodeCertificate],
    now: UnixTime,
) -> Result<Vec<CertificateList>, IssueError> {
    let view = TrustView::new(bundle.clone());
    let mut all = nodes.iter().map(|node| issuer.renew(&view, node, now)).collect::<Result<Vec<_>, _>>()?;
    all.extend(kept.iter().cloned());
    let lists = CertificateList::pack(&all).map_err(|_| IssueError::ForeignNode)?;
    if lists.len() > LISTS_MAX { Err(IssueError::TooManyNodes(all.len())) } else { Ok(lists) }
}

/// Members show the chain of the newest issuing CA from now on.
///
/// # Errors
/// [`IssueError::Rotation`] when there is nothing to switch to, and what [`update_by_root`] refuses.
pub fn switch(before: &TrustBundle, root_key_pem: &str) -> Result<TrustBundle, IssueError> {
    let newest = newest(before)?;
    if before.present == newest {
        return Err(IssueError::Rotation("members show the new chain already"));
    }
    update_by_root(before, root_key_pem, |bundle| bundle.present = newest)
}

/// Drops all roots but the newest. `root_key_pem` is that one's, so that what follows is judged by what stays.
///
/// # Errors
/// [`IssueError::Rotation`] when no rotation is under way, [`IssueError::ForeignRoot`] with the key of a root that goes,
/// and what [`update_by_root`] refuses.
pub fn finish(before: &TrustBundle, root_key_pem: &str) -> Result<TrustBundle, IssueError> {
    newest(before)?;
    let bundle = update_by_root(before, root_key_pem, |bundle| {
        bundle.roots.drain(..bundle.roots.len().saturating_sub(1));
        let roots: Vec<Facts<'_>> = bundle.roots.iter().filter_map(|der| Facts::read(der)).collect();
        let is_under = |issuer: &Facts<'_>| roots.iter().any(|root| issuer.is_signed_by(root));
        let stays = |der: &CertificateDer<'_>| Facts::read(der).is_some_and(|issuer| is_under(&issuer));
        let issuers: Vec<CertificateDer<'static>> = bundle.issuers.iter().filter(|der| stays(der)).cloned().collect();
        bundle.present = issuers.len().saturating_sub(1);
        bundle.issuers = issuers;
    })?;
    // A file that only a root which is gone has signed could not be read alone.
    TrustBundle::parse(&bundle.to_file()).map_err(|_| IssueError::ForeignRoot)
}

/// A node's certificate in DER.
pub type NodeCertificate = CertificateDer<'static>;

/// The node certificate of a file that `trust issue node` or a node keeps; nothing when it is none.
#[must_use]
pub fn read_issued(file: &[u8]) -> Option<NodeCertificate> {
    armor::decode_certificates(file)?.into_iter().next()
}

/// Node and issuing key of a certificate by an issuing CA of this bundle, whatever its dates.
#[must_use]
pub fn node_of(bundle: &TrustBundle, certificate: &NodeCertificate) -> Option<(NodeName, [u8; 32])> {
    let issuer = bundle.issuer_of(&Facts::read(certificate)?)?.clone();
    let chain = [certificate.clone(), issuer];
    let ca = path::verify_issuers(&chain, &TrustView::new(bundle.clone()), path::When::Whenever).ok()?;
    Some((ca.node, ca.facts.key_hash()))
}

/// The first bytes of the key hash of a root whose key this is; `None` when it is no key.
#[must_use]
pub fn root_short(root_key_pem: &str) -> Option<[u8; 4]> {
    let key = EcKey::from_pem(root_key_pem).ok()?;
    Some(keys::short(&keys::sha256(&key.spki())))
}

/// The place of the newest issuing CA, while a rotation is under way.
fn newest(bundle: &TrustBundle) -> Result<usize, IssueError> {
    match bundle.issuers.len().checked_sub(1) {
        Some(last) if bundle.roots.len() > 1 => Ok(last),
        Some(_) | None => Err(IssueError::Rotation("no rotation is under way")),
    }
}

#[cfg(test)]
mod tests;
