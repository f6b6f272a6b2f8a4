//! What operators do in a run, what each agent was told of it, and what must hold: versions in use only rise, and of a
//! batch all documents are in use or none.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use starling_gossip::{Command, DocumentView, DocumentsEvent, OperatorClaim, SubmitId, Submitted};
use starling_model::envelope::SCHEMA;
use starling_model::{
    Batch, BatchId, Document, DocumentKey, DocumentVersion, Generation, MeshId, NodeName, Revocation,
};

use crate::cluster::{HostId, Sim};
use crate::keys::OperatorKey;

/// The mesh whose operators these are.
const MESH: MeshId = MeshId([7; 32]);

/// What one agent was told of operators' words since its start.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Documents in use.
    pub used: BTreeMap<DocumentKey, DocumentVersion>,
    /// The newest that is known of each.
    pub known: BTreeMap<DocumentKey, DocumentVersion>,
    /// Signed forms of what is in use.
    pub envelopes: BTreeMap<DocumentKey, Bytes>,
    /// Contents of each conflict that was shown and has not ended.
    pub conflicts: BTreeMap<DocumentKey, Vec<DocumentVersion>>,
    /// Conflicts that ended.
    pub conflicts_ended: usize,
    /// Batches that were reported incomplete.
    pub incomplete: Vec<Batch>,
    /// Nodes that were revoked, with the number.
    pub revoked: BTreeMap<NodeName, u64>,
    /// What became of submissions here.
    pub outcomes: BTreeMap<SubmitId, Submitted>,
}

/// Documents that were signed as one batch, in whichever run.
pub type Batches = BTreeMap<Batch, BTreeMap<DocumentKey, DocumentVersion>>;

/// Of a batch either every document is in use, in its version or a later one, or none is in the batch's.
#[must_use]
pub fn used_in_part(used: &BTreeMap<DocumentKey, DocumentVersion>, batches: &Batches) -> Option<String> {
    batches.iter().find_map(|(batch, members)| {
        let inside = members.iter().find(|(key, version)| used.get(key) == Some(version))?.0;
        let missing = members.iter().find(|(key, version)| used.get(key).is_none_or(|used| used < version))?.0;
        Some(format!("batch {} is in use in part: {inside} is, {missing} is not", batch.id))
    })
}

impl Words {
    /// Takes in what an agent was told; what is wrong with it.
    pub fn told(&mut self, event: &DocumentsEvent, batches: &Batches) -> Option<String> {
        match event {
            DocumentsEvent::Activated { documents } => {
                let fell = documents.iter().find(|new| self.used.get(&new.key).is_some_and(|old| *old >= new.version));
                let fell = fell.map(|new| format!("{} fell to {}", new.key, new.version));
                for DocumentView { key, version, envelope, .. } in documents {
                    self.used.insert(key.clone(), *version);
                    self.envelopes.insert(key.clone(), envelope.clone());
                }
                fell.or_else(|| used_in_part(&self.used, batches))
            }
            DocumentsEvent::Known { document } => {
                let old = self.known.insert(document.key.clone(), document.version);
                let fell = old.is_some_and(|old| old >= document.version);
                fell.then(|| format!("the newest {} fell to {}", document.key, document.version))
            }
            DocumentsEvent::Conflict { key, versions } => {
                self.conflicts.insert(key.clone(), versions.clone());
                let right = versions.len() > 1
                    && versions.windows(2).all(|pair| pair[0] > pair[1])
                    && versions.iter().all(|version| version.generation == versions[0].generation);
                (!right).then(|| format!("a conflict about {key} that is none: {versions:?}"))
            }
            DocumentsEvent::ConflictEnded { key, .. } => {
                self.conflicts_ended += 1;
                self.conflicts.remove(key).is_none().then(|| format!("a conflict about {key} ended that was not shown"))
            }
            DocumentsEvent::Voided { document, was_used } => {
                if *was_used && self.used.get(&document.key) == Some(&document.version) {
                    self.used.remove(&document.key);
                    self.envelopes.remove(&document.key);
                }
                None
            }
            DocumentsEvent::Incomplete { batch, .. } => {
                let again = self.incomplete.contains(batch);
                self.incomplete.push(*batch);
                again.then(|| format!("batch {} is reported again", batch.id))
            }
        }
    }
}

/// One line of a run's story.
#[must_use]
pub fn line(event: &DocumentsEvent) -> String {
    match event {
        DocumentsEvent::Activated { documents } => {
            let all: Vec<String> =
                documents.iter().map(|one| format!("{} {}", one.key, one.version.generation)).collect();
            format!("in use: {}", all.join(", "))
        }
        DocumentsEvent::Known { document } => format!("newest: {} {}", document.key, document.version),
        DocumentsEvent::Conflict { key, versions } => format!("conflict: {key}, {} contents", versions.len()),
        DocumentsEvent::ConflictEnded { key, version } => format!("no conflict any more: {key} {version}"),
        DocumentsEvent::Voided { document, .. } => format!("void: {} {}", document.key, document.version),
        DocumentsEvent::Incomplete { batch, present } => {
            format!("batch {} of {} is incomplete: {} are here", batch.id, batch.count, present.len())
        }
    }
}

/// What an operator writes down, before it is signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The document's name; all are routes.
    pub name: String,
    /// Which write of it.
    pub generation: u64,
    /// With which others.
    pub batch: Option<Batch>,
    /// Its text.
    pub text: String,
    /// By the operator's clock.
    pub signed_at: i64,
    /// Schema, and bytes that follow what schema 1 knows.
    pub newer: Option<(u16, &'static [u8])>,
}

impl Draft {
    /// A plain write of one document.
    #[must_use]
    pub fn new(name: &str, generation: u64) -> Self {
        let text = format!("name: {name} # {generation}");
        Self { name: name.to_owned(), generation, batch: None, text, signed_at: 0, newer: None }
    }

    /// The key that it writes.
    ///
    /// # Panics
    /// When the name is no name: scenarios are code.
    #[must_use]
    pub fn key(&self) -> DocumentKey {
        DocumentKey::parse("HTTPRoute", "default", &self.name).expect("invariant: scenarios use names")
    }

    /// The signed form.
    ///
    /// # Panics
    /// When it breaks a limit: scenarios are code.
    #[must_use]
    pub fn sign(&self, operator: &OperatorKey) -> Bytes {
        let (schema, more) = self.newer.unwrap_or((SCHEMA, b""));
        let head = Document {
            schema,
            key: self.key(),
            signer: operator.id,
            generation: Generation::new(self.generation).expect("invariant: scenarios count from one"),
            signed_at: self.signed_at,
            deleted: false,
            batch: self.batch,
        };
        let mut body = head.to_body(&self.text).expect("invariant: scenarios write small texts");
        body.extend_from_slice(more);
        operator.seal(&MESH, OperatorClaim::Document, &body)
    }
}

/// A batch of this many documents.
///
/// # Panics
/// When `count` is no count: scenarios are code.
#[must_use]
pub fn batch(id: u8, count: usize) -> Batch {
    let count = u16::try_from(count).ok().and_then(NonZeroU16::new).expect("invariant: scenarios use small batches");
    Batch { id: BatchId([id; 32]), count }
}

/// A signed revocation of a node with all its keys.
///
/// # Panics
/// Never: all its fields are small.
#[must_use]
pub fn revocation(operator: &OperatorKey, node: &NodeName, number: u64) -> Bytes {
    let said = Revocation {
        schema: SCHEMA,
        node: node.clone(),
        signer: operator.id,
        number,
        signed_at: 0,
        kept: Vec::new(),
        reason: "stolen".to_owned(),
    };
    operator.seal(&MESH, OperatorClaim::Revocation, &said.to_body().expect("invariant: a small revocation"))
}

/// The version that a signed form is.
#[must_use]
pub fn version_of(envelope: &Bytes) -> Option<DocumentVersion> {
    starling_gossip::golden::read_document(envelope).ok().map(|(_, version, _)| version)
}

impl Sim {
    /// A new operator of this run who may sign these.
    pub fn operator(&mut self, roles: &[OperatorClaim]) -> OperatorKey {
        Arc::make_mut(&mut self.trust).new_operator(roles)
    }

    /// Says which documents are a batch, wherever they turn up.
    pub fn expect_batch(&mut self, documents: &[Bytes]) {
        for envelope in documents {
            let Some((body, _)) = starling_model::envelope::split_signature(envelope) else { continue };
            let Ok((head, _)) = Document::read(body) else { continue };
            if let (Some(batch), Some(version)) = (head.batch, version_of(envelope)) {
                self.checker.batches.entry(batch).or_default().insert(head.key, version);
            }
        }
    }

    /// Hands documents of one `apply` to a host's agent; the answer is in its [`Words`].
    pub fn submit(&mut self, at: HostId, documents: Vec<Bytes>) -> SubmitId {
        self.expect_batch(&documents);
        self.next_id += 1;
        let submit = SubmitId(self.next_id);
        self.command(at, Command::SubmitDocuments { submit, documents });
        submit
    }

    /// Hands a revocation to a host's agent.
    pub fn submit_revocation(&mut self, at: HostId, revocation: Bytes) -> SubmitId {
        self.next_id += 1;
        let submit = SubmitId(self.next_id);
        self.command(at, Command::SubmitRevocation { submit, revocation });
        submit
    }

    /// True when a submission was taken.
    #[must_use]
    pub fn accepted(&self, at: HostId, submit: SubmitId) -> bool {
        let outcome = self.view(at).and_then(|view| view.words.outcomes.get(&submit));
        matches!(outcome, Some(Submitted::Accepted { .. }))
    }
}

/// All these agents hold the same documents and revocations, and were told what their machines answer.
///
/// # Errors
/// The first difference.
pub fn agree(sim: &Sim, running: &[HostId]) -> Result<(), String> {
    let mut roots: BTreeMap<MeshId, (u64, HostId)> = BTreeMap::new();
    for id in running {
        let (host, Some(view), Some(swim)) = (sim.host(*id), sim.view(*id), sim.swim(*id)) else { continue };
        let root = swim.roots().documents;
        let (first, whose) = roots.entry(host.mesh).or_insert((root, *id));
        if *first != root {
            return Err(format!("{} and {} hold other documents", host.name, sim.host(*whose).name));
        }
        let answered = swim.documents().map(|one| (one.key, one.version));
        if !answered.eq(view.words.used.iter().map(|(key, version)| (key.clone(), *version))) {
            return Err(format!("{} was told of other documents than its machine uses", host.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Trust;

    fn view(operator: &OperatorKey, draft: &Draft) -> DocumentView {
        let envelope = draft.sign(operator);
        DocumentView {
            key: draft.key(),
            version: version_of(&envelope).unwrap(),
            schema: 1,
            signed_at: 0,
            deleted: false,
            batch: draft.batch,
            text: Bytes::new(),
            envelope,
        }
    }

    #[test]
    fn a_batch_in_part_and_a_version_that_falls_are_found() {
        let operator = Trust::new(1).new_operator(&[OperatorClaim::Document]);
        let of = Some(batch(1, 2));
        let (a, b) = (Draft { batch: of, ..Draft::new("a", 2) }, Draft { batch: of, ..Draft::new("b", 2) });
        let (a, b) = (view(&operator, &a), view(&operator, &b));
        let batches: Batches = [(batch(1, 2), [(a.key.clone(), a.version), (b.key.clone(), b.version)].into())].into();
        let use_of = |documents: &[DocumentView]| DocumentsEvent::Activated { documents: documents.to_vec() };

        let mut words = Words::default();
        assert!(words.told(&use_of(std::slice::from_ref(&a)), &batches).is_some_and(|what| what.contains("in part")));
        let mut words = Words::default();
        assert_eq!(words.told(&use_of(&[a.clone(), b.clone()]), &batches), None);
        let old = view(&operator, &Draft::new("a", 1));
        assert!(words.told(&use_of(std::slice::from_ref(&old)), &batches).is_some_and(|what| what.contains("fell")));
        // A later version beside the rest of the batch is no part of one.
        let later = view(&operator, &Draft::new("a", 3));
        assert_eq!(Words::default().told(&use_of(&[later, b]), &batches), None);

        let mut words = Words::default();
        assert_eq!(words.told(&DocumentsEvent::Known { document: a.clone() }, &batches), None);
        assert!(words.told(&DocumentsEvent::Known { document: old }, &batches).is_some());
        let ended = DocumentsEvent::ConflictEnded { key: a.key.clone(), version: a.version };
        assert!(words.told(&ended, &batches).is_some());
        let conflict = DocumentsEvent::Conflict { key: a.key.clone(), versions: vec![a.version] };
        assert!(words.told(&conflict, &batches).is_some());
        let incomplete = DocumentsEvent::Incomplete { batch: batch(1, 2), present: Vec::new() };
        assert_eq!(words.told(&incomplete, &batches), None);
        assert!(words.told(&incomplete, &batches).is_some(), "told twice");
    }

    #[test]
    fn agents_with_other_documents_do_not_agree() {
        let mut sim = Sim::new(crate::cluster::Setup::lan(1));
        let hosts = sim.add_hosts(2);
        hosts.iter().for_each(|host| sim.start(*host, &[]));
        sim.run_for(std::time::Duration::from_secs(1));
        assert_eq!(agree(&sim, &hosts), Ok(()));
        let operator = sim.operator(&[OperatorClaim::Document]);
        let submit = sim.submit(hosts[0], vec![Draft::new("a", 1).sign(&operator)]);
        sim.run_for(std::time::Duration::from_secs(1));
        assert!(sim.accepted(hosts[0], submit));
        assert!(agree(&sim, &hosts).is_err(), "they never met");
    }
}
