//! What this node holds about the mesh, as one immutable snapshot: written by the gossip task after a turn, read by
//! everybody else.

pub mod roots;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use starling_gossip::{DocumentView, MemberView, RevocationView, Stats};
use starling_model::{BootEpoch, DocumentKey, MemberState, NodeName};

use self::roots::Roots;
use crate::api::views::{Agreement, BEHIND_NAMES_MAX, MemberCounts};
use crate::tasks::routes::Applied;

/// Where the newest snapshot is.
pub type MeshViewCell = Arc<ArcSwap<MeshView>>;

/// One snapshot.
#[derive(Clone, Debug)]
pub struct MeshView {
    /// Whose view.
    pub node: NodeName,
    /// This start of the agent.
    pub epoch: BootEpoch,
    /// Counts changes of the view since that start.
    pub revision: u64,
    /// When it was taken.
    pub at: Instant,
    /// Every member by name, this node included.
    pub members: Vec<MemberView>,
    /// Counters of the membership machine.
    pub stats: Stats,
    /// Lifeguard's local health score; 0 is good.
    pub health_score: u8,
    /// True while this node believes that it is cut off.
    pub isolated: bool,
    /// True once the first exchange with a peer is done, or there is nobody to ask.
    pub synced: bool,
    /// Two agents carry our name, and we are the one that stays silent (ST0626).
    pub duplicate: bool,
    /// Which documents are in use here: what the route table is made of.
    pub applied: Arc<Applied>,
    /// Hash over the documents and trust that this node holds: the root that its acks carry.
    pub documents_root: u64,
    /// Documents in use, without deleted ones, by key.
    pub documents: Vec<DocumentView>,
    /// Documents whose newest generation was written in more than one way: its contents, the winner first.
    pub conflicts: BTreeMap<DocumentKey, Vec<DocumentView>>,
    /// What roots stand for.
    pub roots: Roots,
    /// Revocations in force, by node.
    pub revocations: Vec<RevocationView>,
    /// The seed that let us in.
    pub via: Option<String>,
    /// Questions about signatures that were dropped because too many waited.
    pub judge_dropped: u64,
}

impl MeshView {
    /// Before the first turn.
    #[must_use]
    pub fn empty(node: NodeName, epoch: BootEpoch, at: Instant) -> Self {
        Self {
            node,
            epoch,
            revision: 0,
            at,
            members: Vec::new(),
            stats: Stats::default(),
            health_score: 0,
            isolated: false,
            synced: false,
            duplicate: false,
            applied: Arc::default(),
            documents_root: 0,
            documents: Vec::new(),
            conflicts: BTreeMap::new(),
            roots: Roots::default(),
            revocations: Vec::new(),
            via: None,
            judge_dropped: 0,
        }
    }

    /// One member.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&MemberView> {
        let at = self.members.binary_search_by(|member| member.name.as_str().cmp(name)).ok()?;
        self.members.get(at)
    }

    /// Members by state.
    #[must_use]
    pub fn counts(&self) -> MemberCounts {
        let mut counts = MemberCounts::default();
        for member in &self.members {
            let count = match member.state {
                MemberState::Joining => &mut counts.joining,
                MemberState::Alive => &mut counts.alive,
                MemberState::Suspect => &mut counts.suspect,
                MemberState::Dead => &mut counts.failed,
                MemberState::Left => &mut counts.left,
            };
            *count += 1;
        }
        counts
    }

    /// Live members, this node first among equals.
    pub fn alive(&self) -> impl Iterator<Item = &MemberView> {
        self.members.iter().filter(|member| member.state == MemberState::Alive)
    }

    /// True when this member uses the same documents and holds the same trust as this node: see [`Self::agreement`].
    #[must_use]
    pub fn agrees(&self, member: &MemberView) -> bool {
        if member.name == self.node {
            return true;
        }
        match member.documents_root {
            // What it holds and what it uses: it may hold a document back (ST0414).
            Some(root) => root == self.documents_root && self.uses_ours(member),
            // It will tell with its first ack; its status says nothing about trust.
            None if member.connected => false,
            None => self.uses_ours(member),
        }
    }

    fn uses_ours(&self, member: &MemberView) -> bool {
        member.status.as_ref().is_some_and(|status| status.digest == self.applied.digest)
    }

    /// Who uses the same documents as this node and holds the same trust. A member says what it uses by the digest in its
    /// status, and counts as behind until it has published one. One with a link also tells a root over all that it holds
    /// with each ack, and counts as behind until its first; of the others nothing is known about trust.
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        self.alive_that(|member| self.agrees(member))
    }

    /// Who holds what this node holds, used or not: a revocation and a deletion are in force wherever they are held.
    #[must_use]
    pub fn holding(&self) -> Agreement {
        self.alive_that(|member| match member.documents_root {
            _ if member.name == self.node => true,
            Some(root) => root == self.documents_root,
            None => self.agrees(member),
        })
    }

    fn alive_that(&self, agrees: impl Fn(&MemberView) -> bool) -> Agreement {
        let mut agreement = Agreement::default();
        for member in self.alive() {
            agreement.alive += 1;
            if agrees(member) {
                agreement.same += 1;
                continue;
            }
            agreement.behind_count += 1;
            if agreement.behind.len() < BEHIND_NAMES_MAX {
                agreement.behind.push(member.name.to_string());
            }
        }
        agreement
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use starling_model::{Digest, DocumentVersion, Generation, Incarnation, KeyId, Life, StatusRecord};

    use super::*;

    /// `HTTPRoute default/NAME`, signed by k1.
    pub(crate) fn document(name: &str, generation: u64) -> DocumentView {
        let generation = Generation::new(generation).unwrap();
        DocumentView {
            key: DocumentKey::parse("HTTPRoute", "default", name).unwrap(),
            version: DocumentVersion { generation, signer: KeyId(1), hash: hash(name, generation.get()) },
            schema: 1,
            signed_at: 1_795_014_000_000,
            deleted: false,
            batch: None,
            text: Bytes::from_static(b"kind: HTTPRoute\n"),
            envelope: Bytes::from_static(&[0; 80]),
        }
    }

    /// Of every content its own.
    fn hash(name: &str, generation: u64) -> Digest {
        let text = format!("{name} {generation}");
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        Digest(hash.as_ref().try_into().unwrap())
    }

    /// A member with a status of digest zero.
    pub(crate) fn member(name: &str, state: MemberState, at: Instant) -> MemberView {
        MemberView {
            name: NodeName::new(name).unwrap(),
            state,
            life: Life { epoch: BootEpoch(1_795_014_117), incarnation: Incarnation(3) },
            addresses: vec!["10.0.0.12:7740".parse().unwrap()],
            rtt: Some(Duration::from_micros(410)),
            jitter: Some(Duration::from_micros(50)),
            documents_root: None,
            since: at,
            last_seen: Some(at),
            release: "0.1.0".to_owned(),
            region: String::new(),
            protocol: (1, 1),
            services: None,
            status: Some(StatusRecord::default()),
            suspicion: None,
            connected: true,
        }
    }

    #[test]
    fn agreement_counts_live_members_only() {
        let now = Instant::now();
        let mut view = MeshView::empty(NodeName::new("vm-1").unwrap(), BootEpoch(1), now);
        let mut behind = member("vm-3", MemberState::Alive, now);
        behind.status = Some(StatusRecord { digest: Digest([7; 32]), ..StatusRecord::default() });
        view.members = vec![
            member("vm-1", MemberState::Alive, now),
            member("vm-2", MemberState::Alive, now),
            behind,
            member("vm-9", MemberState::Left, now),
        ];
        // Without links the digest in the status has to do.
        view.members.iter_mut().for_each(|member| member.connected = false);
        let agreement = view.agreement();
        assert_eq!((agreement.alive, agreement.same, agreement.behind_count), (3, 2, 1));
        assert_eq!(agreement.behind, vec!["vm-3".to_owned()]);
        assert_eq!((view.counts().alive, view.counts().left), (3, 1));
        // On a link both must be ours: what it holds and what it uses.
        view.documents_root = 7;
        view.members[1].documents_root = Some(6);
        view.members[2].documents_root = Some(7);
        let agreement = view.agreement();
        assert_eq!((agreement.same, agreement.behind), (1, vec!["vm-2".to_owned(), "vm-3".to_owned()]));
        assert_eq!(view.holding().behind, vec!["vm-2".to_owned()], "vm-3 holds it all and uses something else");
        view.members[2].status = Some(StatusRecord::default());
        let agreement = view.agreement();
        assert_eq!((agreement.same, agreement.behind), (2, vec!["vm-2".to_owned()]));
        // Linked, and no ack yet.
        (view.members[1].documents_root, view.members[1].connected) = (None, true);
        assert_eq!(view.agreement().behind, vec!["vm-2".to_owned()]);
        assert!(view.member("vm-9").is_some() && view.member("vm-4").is_none());
    }
}
