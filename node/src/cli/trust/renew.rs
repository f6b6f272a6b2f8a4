//! `trust sign --renew`: new certificates for the keys that nodes hold already. They are public and travel in the lists that
//! the trust bundle names, so nobody logs in anywhere, and no key moves.

use std::collections::{BTreeMap, BTreeSet};

use starling_identity::rotate::{NodeCertificate, node_of, renew_beside};
use starling_identity::{CertificateList, IssuingCa, TrustBundle, update_by_root};
use starling_model::mesh::hex;
use starling_model::{NodeName, codes};

use super::issued_log::IssuedLog;
use super::operator::{Hand, RootDesk, dir_flag, hand_over, lists};
use super::revoke::not_understood;
use super::{PUBLIC_FILE_MODE, SECRET_DIR_MODE, issue_error, now, rotate};
use crate::api::views::{Envelope, Trust};
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::output;
use crate::files;

/// What of a node's keys may be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is revoked.
    Out,
    /// All but this one are revoked.
    Only([u8; 32]),
}

/// Renews the certificates of these nodes, or of all when none is named, and hands them over.
pub(super) fn run(
    client: &Client,
    ca: &IssuingCa,
    desk: &RootDesk,
    hand: &Hand,
    names: &[NodeName],
) -> Result<Exit, CliError> {
    let (before, root) = desk.open_beside(client)?;
    let standing = standing(client, desk)?;
    let mut chosen: Vec<NodeCertificate> = Vec::new();
    let mut keys: Vec<[u8; 32]> = Vec::new();
    let mut found: Vec<String> = Vec::new();
    let mut revoked: BTreeSet<String> = BTreeSet::new();
    for (name, certificate) in rotate::issued(&desk.dir, &before)? {
        let Some((_, key)) = node_of(&before, &certificate) else { continue };
        let stands = match standing.get(&name) {
            None => true,
            Some(Standing::Out) => false,
            Some(Standing::Only(kept)) => *kept == key,
        };
        if !stands && names.is_empty() {
            revoked.insert(name.clone());
        }
        if stands && (names.is_empty() || names.iter().any(|wanted| wanted.as_str() == name)) {
            chosen.push(certificate);
            keys.push(key);
            found.push(name);
        }
    }
    let is_lacking = |wanted: &&NodeName| !found.iter().any(|name| name == wanted.as_str());
    if let Some(wanted) = names.iter().find(is_lacking) {
        return Err(not_renewed(wanted, standing.contains_key(wanted.as_str())));
    }
    if chosen.is_empty() {
        return Err(CliError::plain(Exit::NotFound, "no certificate was issued from this folder"));
    }
    let kept = held_lists(desk, &before)?
        .into_iter()
        .filter(|certificate| node_of(&before, certificate).is_some_and(|(_, key)| !keys.contains(&key)))
        .collect::<Vec<_>>();
    let made = renew_beside(&before, ca, &chosen, &kept, now()).map_err(|error| issue_error(&error))?;
    let hashes: Vec<[u8; 32]> = made.iter().map(CertificateList::hash).collect();
    let bundle = update_by_root(&before, &root, |bundle| bundle.lists = hashes).map_err(|error| issue_error(&error))?;
    files::make_dir(&lists(&desk.dir), SECRET_DIR_MODE)?;
    for list in &made {
        files::replace(&lists(&desk.dir).join(hex(&list.hash())), list.raw(), PUBLIC_FILE_MODE)?;
    }
    desk.replace(&bundle)?;
    found.sort();
    revoked.retain(|name| !found.contains(name));
    if !revoked.is_empty() {
        // Only the agent says so: somebody should see it before these certificates end.
        let names = revoked.into_iter().collect::<Vec<_>>().join(", ");
        output::message(&format!("left out, as the agent says that they are revoked: {names}\n"));
    }
    found.dedup();
    output::message(&format!("renewed {} certificates, of {}; no node key changed\n", chosen.len(), found.join(", ")));
    let text = hand_over(client, hand, &desk.dir, &bundle).map_err(|error| {
        let again = format!("starling trust update{} --wait", dir_flag(&desk.dir));
        error.help([format!("they are in this folder; hand them over again:  {again}")])
    })?;
    output::print(&text)
}

/// Why a node that was named is not among those that are renewed.
fn not_renewed(wanted: &NodeName, is_revoked: bool) -> CliError {
    if is_revoked {
        return CliError::coded(Exit::Refused, codes::REVOKED, format!("{wanted} is revoked: nothing is renewed"));
    }
    CliError::plain(Exit::NotFound, format!("no certificate of {wanted} was issued from this folder"))
        .help(["copy identity/chain.pem from the node's state folder to operator/issued/NAME.pem; it is public"])
}

/// Revoked nodes, by what the agent knows. Which key is kept it does not tell: the newest one of this folder.
fn standing(client: &Client, desk: &RootDesk) -> Result<BTreeMap<String, Standing>, CliError> {
    let answer = client.ask(Ask::get("/v1/trust"))?;
    let trust: Envelope<Trust> = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
    let (log, mut all) = (IssuedLog::read(&desk.dir)?, BTreeMap::new());
    for revocation in trust.body.revocations {
        let name = NodeName::new(&revocation.node).ok();
        let newest = name.filter(|_| revocation.kept > 0).and_then(|name| log.newest_key(&name));
        all.insert(revocation.node, newest.map_or(Standing::Out, Standing::Only));
    }
    Ok(all)
}

/// What the lists of this bundle hold.
fn held_lists(desk: &RootDesk, bundle: &TrustBundle) -> Result<Vec<NodeCertificate>, CliError> {
    let mut all = Vec::new();
    for hash in &bundle.lists {
        let path = lists(&desk.dir).join(hex(hash));
        let list = CertificateList::decode(&files::read_public(&path)?).map_err(|error| {
            CliError::plain(Exit::Refused, format!("{} cannot be used", path.display())).cause(error.to_string())
        })?;
        all.extend(list.certificates().iter().cloned());
    }
    Ok(all)
}
