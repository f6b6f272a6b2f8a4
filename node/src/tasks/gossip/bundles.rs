//! The chain of trust bundles of this node: what it stored, what peers tell of theirs, what an operator hands in here, and
//! what becomes of it all. Members carry updates among themselves; here they are judged and put in force.
//!
//! The chain lies in `trust/chain` under the state folder, beside the revocations and for the same reason: a damaged store
//! never brings an old bundle back. Renewed certificates that the newest bundle names are held beside it (`lists.rs`).
//!
//! ```text
//! chain := { len u32le | bundle without its armour }*          the oldest first; what is damaged ends it
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::limits::{UPDATES_BYTES_MAX, UPDATES_REQUEST_BYTES_MAX};
use starling_gossip::{BundleCommand, BundleEvent, BundleHead};
use starling_identity::chain::{
    Answer, BundleChain, Head, Merged, Question, Request, Standing, UpdateRefused, answer, missing, read_key_answer,
    read_list_answer, reply, whatever_follows,
};
use starling_identity::limits::{ANCESTORS_MAX, ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, UPDATE_BYTES_MAX, UPDATES_MAX};
use starling_identity::{CertificateList, TrustBundle, TrustView};
use starling_transport::quic::TrustAnswers;
use tracing::{debug, error, warn};

use super::lists::Lists;
use crate::files;
use crate::store::Durability;

/// Its folder, under the state folder.
pub(crate) const FOLDER: &str = "trust";
/// Its name there.
pub(crate) const FILE: &str = "chain";
/// Time between two words about refused updates.
const WARN_PAUSE: Duration = Duration::from_secs(60);

// What one of the two crates writes, the other carries.
const _: () = assert!(REQUEST_BYTES_MAX <= UPDATES_REQUEST_BYTES_MAX);
const _: () = assert!(4 + 1 + UPDATES_MAX * (2 + UPDATE_BYTES_MAX) <= UPDATES_BYTES_MAX);
const _: () = assert!(UPDATES_BYTES_MAX <= ANSWER_BYTES_MAX);
const _: () = assert!(((1 + ANCESTORS_MAX) * (4 + UPDATE_BYTES_MAX)) as u64 <= files::PUBLIC_BYTES_MAX);

/// The trust in force: the newest bundle of the chain that this state folder holds, unless the installed one is newer, with
/// its renewed certificates. Revocations are read beside it.
#[must_use]
pub fn in_force(state: &Path, installed: &TrustBundle) -> TrustView {
    TrustChain::open(state, installed).view()
}

/// The chain that a state folder holds, the oldest bundle first; nothing of it is judged.
#[must_use]
pub fn stored(state: &Path) -> Vec<Vec<u8>> {
    read(&state.join(FOLDER).join(FILE))
}

/// What a word about bundles led to.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing to do.
    Nothing,
    /// The machine is to say this.
    Say(BundleCommand),
    /// A peer's updates were judged.
    Judged(String, Result<Merged, UpdateRefused>),
    /// Renewed certificates came.
    Certificates,
}

/// The chain with its file.
#[derive(Debug)]
pub(super) struct TrustChain {
    chain: BundleChain,
    path: PathBuf,
    /// The chain as the file holds it.
    written: Vec<Vec<u8>>,
    lists: Lists,
    warned: Option<Instant>,
}

impl TrustChain {
    /// The chain of a state folder.
    pub(super) fn open(state: &Path, installed: &TrustBundle) -> Self {
        let path = state.join(FOLDER).join(FILE);
        let written = read(&path);
        let (chain, wrong) = BundleChain::restore(installed.clone(), &written);
        if let Some(refused) = wrong {
            let sequence = chain.newest().sequence;
            error!(%refused, file = %path.display(), sequence, "the stored trust bundles are damaged; what is before that counts, and peers tell the rest");
        }
        let was = BundleChain::of_stored(&written);
        if was.is_some_and(|was| was.standing(installed) == Standing::Unproven) && chain.newest() == installed {
            // Root put it there, and nothing that was in force speaks for it: a person should know.
            let (sequence, fingerprint) = (installed.sequence, installed.fingerprint());
            warn!(sequence, %fingerprint, "the installed trust bundle does not follow from the one that was in force, and takes its place");
        }
        let lists = Lists::open(state, chain.newest());
        Self { chain, path, written, lists, warned: None }
    }

    /// What is believed by the newest bundle, but for revocations.
    pub(super) fn view(&mut self) -> TrustView {
        let bundle = self.chain.newest();
        TrustView::new(bundle.clone()).with_certificates(self.lists.certificates(bundle))
    }

    /// The lists that the newest bundle names and nobody has brought yet.
    pub(super) fn lacking(&self) -> Vec<[u8; 32]> {
        self.lists.lacking(self.newest()).copied().collect()
    }

    /// Keeps what the lists of the newest bundle say of this node's own key.
    pub(super) fn keep_own(&mut self, own_key: &[u8; 32]) {
        self.lists.keep_own(self.chain.newest(), own_key);
    }

    /// The newest bundle is in force: what only earlier ones named is over.
    pub(super) fn settle(&mut self) {
        self.lists.settle(self.chain.newest());
    }

    /// Questions of anybody are answered by this, as things stand now.
    pub(super) fn answers(&mut self) -> TrustAnswers {
        let (chain, held) = (self.chain.clone(), self.lists.certificates(self.chain.newest()));
        Arc::new(move |question| reply(&chain, &held, question).ok().map(Bytes::from))
    }

    /// Takes the answer to a question of ours.
    pub(super) fn answered(&mut self, question: &Question, answer: &[u8], by: SocketAddr) -> Heard {
        let is_taken = match question {
            Question::Updates(_) => {
                return Answer::decode(answer).map_or(Heard::Nothing, |Answer(updates)| {
                    Heard::Judged(format!("the agent at {by}"), self.chain.merge(&updates))
                });
            }
            Question::Key { hash, .. } => {
                let list = read_key_answer(answer).ok().flatten();
                list.is_some_and(|list| self.lists.take_own(&list, self.chain.newest(), hash))
            }
            Question::List { hash, .. } => {
                let list = read_list_answer(answer).ok().flatten().filter(|list| list.hash() == *hash);
                list.is_some_and(|list| self.lists.take(list, self.chain.newest()))
            }
        };
        if is_taken { Heard::Certificates } else { Heard::Nothing }
    }

    /// What to ask of somebody who may know more.
    pub(super) fn whatever_follows(&self) -> Question {
        Question::Updates(whatever_follows(&self.chain))
    }

    /// The bundle in force.
    pub(super) fn newest(&self) -> &TrustBundle {
        self.chain.newest()
    }

    /// What the machine tells of it.
    pub(super) fn head(&self) -> BundleHead {
        let Head { sequence, hash } = self.chain.head();
        BundleHead { sequence, hash }
    }

    /// The machine heard something about bundles.
    pub(super) fn hears(&mut self, event: BundleEvent) -> Heard {
        match event {
            BundleEvent::Differs { peer, head } => {
                let head = Head { sequence: head.sequence, hash: head.hash };
                let request = missing(&self.chain, &head).and_then(|request| request.encode().ok());
                request.map_or(Heard::Nothing, |request| {
                    debug!(%peer, sequence = head.sequence, "a peer uses a trust bundle that is not known here; asking");
                    Heard::Say(BundleCommand::Ask { peer, request: request.into() })
                })
            }
            BundleEvent::Asked { peer, exchange, request } => {
                // An empty answer ends the stream of who asks nonsense.
                let updates = Request::decode(&request).and_then(|request| answer(&self.chain, &request).encode());
                let updates = updates.map_or_else(|_| Bytes::new(), Bytes::from);
                Heard::Say(BundleCommand::Answer { peer, exchange, updates })
            }
            BundleEvent::Updates { peer, updates } => match Answer::decode(&updates) {
                Ok(Answer(updates)) => Heard::Judged(peer.to_string(), self.chain.merge(&updates)),
                Err(invalid) => {
                    debug!(%peer, %invalid, "an answer about trust bundles");
                    Heard::Nothing
                }
            },
        }
    }

    /// An operator hands in an update, the file as the tools write it.
    ///
    /// # Errors
    /// Why it changes nothing.
    pub(super) fn take(&mut self, file: &[u8]) -> Result<Merged, UpdateRefused> {
        let mut chain = self.chain.clone();
        let merged = chain.merge_file(file)?;
        let newest = chain.newest();
        let missing = self.lists.lacking(newest).count();
        // Those of a bundle that is known already are on their way.
        if missing > 0 && newest.hash() != self.newest().hash() {
            return Err(UpdateRefused::Lists { sequence: newest.sequence, missing });
        }
        self.chain = chain;
        Ok(merged)
    }

    /// An operator hands in a list of renewed certificates for a bundle that follows.
    pub(super) fn take_list(&mut self, list: CertificateList) {
        self.lists.take(list, self.chain.newest());
    }

    /// Refusals and forks that change nothing are told now and then: a peer may bring the same ever again.
    pub(super) fn may_warn(&mut self, now: Instant) -> bool {
        let due = self.warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_PAUSE);
        if due {
            self.warned = Some(now);
        }
        due
    }

    /// Writes the chain unless the file holds it: a new file beside, synchronised, in the place of the old one.
    pub(super) fn flush(&mut self) -> Durability {
        // A bundle on disk never names what is not: new lists are there before it, old ones go after it came.
        let (lists, chain) = (self.lists.flush(), self.flush_chain());
        if lists == Durability::Durable && chain == Durability::Durable {
            self.lists.prune(self.chain.newest());
            return Durability::Durable;
        }
        Durability::Memory
    }

    fn flush_chain(&mut self) -> Durability {
        let stored = self.chain.to_stored();
        if stored == self.written || (self.written.is_empty() && stored.len() == 1) {
            return Durability::Durable;
        }
        let framed = stored.iter().flat_map(|raw| {
            let len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
            [&len.to_le_bytes()[..], raw].concat()
        });
        let framed: Vec<u8> = framed.collect();
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let written = files::make_dir(folder, 0o700).and_then(|()| files::replace(&self.path, &framed, 0o644));
        match written {
            Ok(()) => {
                self.written = stored;
                Durability::Durable
            }
            Err(refused) => {
                error!(%refused, "the trust bundle cannot be stored: after a restart peers have to bring it again");
                Durability::Memory
            }
        }
    }
}

/// What the file holds; what makes no sense is left to the chain, which refuses it.
fn read(path: &Path) -> Vec<Vec<u8>> {
    match files::read_public(path) {
        Ok(bytes) => {
            let (mut rest, mut stored) = (&bytes[..], Vec::new());
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
                let (raw, tail) = tail.split_at(len.min(tail.len()));
                stored.push(raw.to_vec());
                rest = tail;
            }
            stored
        }
        Err(refused) if refused.is_missing() => Vec::new(),
        Err(refused) => {
            error!(%refused, "the stored trust bundles cannot be read; the installed one is in force until peers tell");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use starling_gossip::ExchangeId;
    use starling_identity::rotate::read_issued;
    use starling_identity::{
        IssuedNode, IssuingCa, NewTrustDomain, NodeCertificates, OperatorKey, create_trust_domain,
    };
    use starling_model::NodeName;

    use super::*;

    fn made() -> NewTrustDomain {
        let domain = starling_model::TrustDomain::new("prod.internal").unwrap();
        create_trust_domain(&domain, "alice", false, crate::crypto::wall_clock()).unwrap()
    }

    fn renamed(made: &NewTrustDomain, before: &TrustBundle, name: &str) -> TrustBundle {
        let key = OperatorKey::from_pem(&made.operator_key_pem).unwrap();
        key.update(before, |bundle| name.clone_into(&mut bundle.operators[0].name)).unwrap()
    }

    /// Two agents: what one is handed, the other asks for, gets, and has after a restart.
    #[test]
    fn an_update_goes_from_agent_to_agent_and_survives_a_restart() {
        let (made, a, b) = (made(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut ours, mut theirs) =
            (TrustChain::open(a.path(), &made.bundle), TrustChain::open(b.path(), &made.bundle));
        let mut newest = made.bundle.clone();
        for name in ["bob", "carol"] {
            newest = renamed(&made, &newest, name);
            assert_eq!(ours.take(&newest.to_file()), Ok(Merged::Extended));
        }
        assert_eq!(ours.take(&newest.to_file()), Ok(Merged::Known));
        let peer = NodeName::new("vm-1").unwrap();
        let differs = BundleEvent::Differs { peer: peer.clone(), head: ours.head() };
        let Heard::Say(BundleCommand::Ask { request, .. }) = theirs.hears(differs) else { panic!("it asks") };
        let asked = BundleEvent::Asked { peer: peer.clone(), exchange: ExchangeId(1), request };
        let Heard::Say(BundleCommand::Answer { updates, .. }) = ours.hears(asked) else { panic!("it answers") };
        let heard = theirs.hears(BundleEvent::Updates { peer: peer.clone(), updates });
        assert!(matches!(heard, Heard::Judged(_, Ok(Merged::Extended))), "{heard:?}");
        assert_eq!((theirs.head(), theirs.newest().operators[0].name.as_str()), (ours.head(), "carol"));
        let behind = BundleEvent::Differs { peer, head: BundleHead { sequence: 1, hash: made.bundle.hash() } };
        assert!(matches!(theirs.hears(behind), Heard::Nothing), "who is behind asks us");
        // What cannot be written is not said to be, the second time neither; it is written when it can be.
        let blocked = b.path().join(FOLDER);
        std::fs::write(&blocked, "no folder").unwrap();
        assert_eq!([theirs.flush(), theirs.flush()], [Durability::Memory; 2]);
        std::fs::remove_file(&blocked).unwrap();
        assert_eq!([theirs.flush(), theirs.flush()], [Durability::Durable; 2]);
        assert_eq!(in_force(b.path(), &made.bundle).bundle().hash(), newest.hash());
        assert_eq!(in_force(a.path(), &made.bundle).bundle().hash(), made.bundle.hash(), "it was not written");
    }

    /// Anybody can answer a question about our key: what proves nothing is dropped, and the same again is no news.
    #[test]
    fn only_proven_certificates_of_our_key_are_taken() {
        let (ours, foreign, folder) = (made(), made(), tempfile::tempdir().unwrap());
        let issued = |made: &NewTrustDomain| {
            let issuer = IssuingCa::load(&made.bundle, &made.issuer_key_pem).unwrap();
            issuer.issue_node(&NodeName::new("vm-1").unwrap(), 30, crate::crypto::wall_clock()).unwrap()
        };
        let (own, other) = (issued(&ours), issued(&foreign));
        let mut chain = TrustChain::open(folder.path(), &ours.bundle);
        let mut told = |of: &IssuedNode, asked: [u8; 32]| {
            let der = read_issued(of.chain_pem.as_bytes()).unwrap();
            let held = NodeCertificates::new(CertificateList::pack(&[der]).unwrap());
            let question = |hash| Question::Key { mesh_id: ours.bundle.mesh_id, hash };
            let bytes = question(of.key_hash).encode().unwrap();
            let answer = reply(&BundleChain::new(ours.bundle.clone()), &held, &bytes).unwrap();
            chain.answered(&question(asked), &answer, "127.0.0.1:1".parse().unwrap())
        };
        assert!(matches!(told(&other, own.key_hash), Heard::Nothing), "another key");
        assert!(matches!(told(&other, other.key_hash), Heard::Nothing), "another mesh's issuer");
        assert!(matches!(told(&own, own.key_hash), Heard::Certificates));
        assert!(matches!(told(&own, own.key_hash), Heard::Nothing), "it is held");
    }

    #[test]
    fn nonsense_changes_nothing() {
        let (made, foreign, folder) = (made(), made(), tempfile::tempdir().unwrap());
        let mut chain = TrustChain::open(folder.path(), &made.bundle);
        let head = chain.head();
        let peer = || NodeName::new("vm-1").unwrap();
        let asked = BundleEvent::Asked { peer: peer(), exchange: ExchangeId(1), request: Bytes::from_static(b"??") };
        let Heard::Say(BundleCommand::Answer { updates, .. }) = chain.hears(asked) else { panic!("it answers") };
        assert!(updates.is_empty());
        let nonsense = BundleEvent::Updates { peer: peer(), updates: Bytes::from_static(b"??") };
        assert!(matches!(chain.hears(nonsense), Heard::Nothing));
        assert!(matches!(chain.take(b"no bundle"), Err(UpdateRefused::Invalid(_))));
        assert!(chain.take(&renamed(&foreign, &foreign.bundle, "mallory").to_file()).is_err());
        assert_eq!(chain.head(), head);
        let path = folder.path().join(FOLDER).join(FILE);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        for damage in [&b"damaged"[..], b"\xff\xff\xff\xff", b"\0\0\0\0\0\0\0\0", b"\x01", b""] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(in_force(folder.path(), &made.bundle).bundle().hash(), made.bundle.hash(), "{damage:?}");
        }
    }
}
