//! Documents of the mesh on their way into the table: each text is read once, and what comes of it is kept by its hash.
//!
//! A text that cannot be read here leaves the last good version of its document in use (ST0414). One whose trial took a
//! thread down, or did not end in time, is quarantined: nothing is tried with its hash again while this agent runs, or
//! until the step ends after all. Whose documents do that often is left alone for a while ([`Penalties`]).
//!
//! A ServiceGrant is the exception: it has no last good version, and denies what it names until it can be used. A
//! MeshConfig without a good version denies whatever no grant names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use starling_config::documents::grant::{self, Targets};
use starling_config::documents::{self, Document, Spec};
use starling_gossip::DocumentView;
use starling_model::{Digest, DocumentKey, DocumentVersion, KeyId, codes};
use starling_routing::{Denial, Denied, Documents, InUse};
use tracing::{info, warn};

use super::applied::Why;
use super::penalties::Penalties;
use super::trial::Judged;
use super::worker::{Failure, Late, Worker};

const SERVICE_GRANT: &str = "ServiceGrant";
const MESH_CONFIG: &str = "MeshConfig";

/// What permits denies when it cannot be used.
pub(super) fn is_grant(key: &DocumentKey) -> bool {
    key.kind.as_str() == SERVICE_GRANT
}

/// Hashes that are remembered as quarantined although the mesh does not use them any more.
const QUARANTINED_OLD_MAX: usize = 1_024;
/// Threads that may hang with what one operator's key signed: with others' documents, and with two alone. It leaves one
/// of all that documents may have to the other operators.
pub(super) const HANGING_PER_SIGNER_MAX: usize = 3;
const _: () = assert!(HANGING_PER_SIGNER_MAX < super::trial::LEFT_BEHIND_BY_DOCUMENTS_MAX);

/// How a text becomes a document.
pub(super) type Parse = fn(&DocumentKey, &[u8]) -> Result<Document, String>;

/// What is known of texts, by hash.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) parse: Parse,
    read: BTreeMap<Digest, Arc<Document>>,
    refused: BTreeMap<Digest, Refusal>,
    /// Those whose step ended after all: each is tried alone.
    slow: BTreeSet<Digest>,
    /// Whose documents hung a step.
    pub(super) penalties: Penalties<KeyId>,
    /// Steps with several documents that were given up in this trial; the next one that is found at fault hung them.
    loose: Vec<Late>,
    /// The last good version of each grant: what it named is nobody's until the next one can be used.
    grants: BTreeMap<DocumentKey, InUse>,
}

/// Why nothing comes of a hash.
#[derive(Debug)]
struct Refusal {
    why: Why,
    /// Steps with it that were given up.
    late: Vec<Late>,
}

impl Shelf {
    /// Whoever hangs a step is left alone for `delay_first` at first.
    pub(super) fn new(delay_first: Duration) -> Self {
        Self {
            parse,
            read: BTreeMap::new(),
            refused: BTreeMap::new(),
            slow: BTreeSet::new(),
            penalties: Penalties::new(HANGING_PER_SIGNER_MAX, delay_first),
            loose: Vec::new(),
            grants: BTreeMap::new(),
        }
    }

    /// Forgets what the mesh does not use, but for what is quarantined.
    pub(super) fn keep(&mut self, meant: &[DocumentView]) {
        let hashes: BTreeSet<Digest> = meant.iter().map(|view| view.version.hash).collect();
        self.read.retain(|hash, _| hashes.contains(hash));
        self.slow.retain(|hash| hashes.contains(hash));
        let keys: BTreeSet<&DocumentKey> = meant.iter().map(|view| &view.key).collect();
        self.grants.retain(|key, _| keys.contains(key));
        let mut old = 0;
        self.refused.retain(|hash, Refusal { why, .. }| {
            let is_old = !hashes.contains(hash);
            old += usize::from(is_old && why.is_quarantine());
            !is_old || (why.is_quarantine() && old <= QUARANTINED_OLD_MAX)
        });
    }

    /// Why nothing comes of this hash, if that is known.
    pub(super) fn refusal(&self, hash: &Digest) -> Option<&Why> {
        self.refused.get(hash).map(|refusal| &refusal.why)
    }

    /// Nothing is tried with this hash again.
    pub(super) fn refuse(&mut self, hash: Digest, why: Why) {
        self.read.remove(&hash);
        self.refused.insert(hash, Refusal { why, late: Vec::new() });
    }

    /// A step with this one was given up, after those with others that were.
    pub(super) fn hangs(&mut self, version: &DocumentVersion, late: Late) {
        let mut late = vec![late];
        late.append(&mut self.loose);
        self.penalties.blame(&version.signer, late.iter().cloned(), Instant::now());
        self.read.remove(&version.hash);
        self.refused.insert(version.hash, Refusal { why: Why::TimedOut, late });
    }

    /// A step with several was given up.
    pub(super) fn hang_together(&mut self, late: Late) {
        self.loose.push(late);
    }

    /// True where a step that was given up has ended, so that its document may be tried again.
    pub(super) fn has_slow(&self) -> bool {
        self.refused.values().any(Refusal::is_over)
    }

    /// Begins a trial: what was only slow is not refused any more.
    pub(super) fn begin(&mut self) {
        let slow: Vec<Digest> =
            self.refused.iter().filter(|(_, refusal)| refusal.is_over()).map(|(hash, _)| *hash).collect();
        for hash in slow {
            info!(digest = %hash, "the step that a document was quarantined for has ended: it is tried again");
            self.refused.remove(&hash);
            self.slow.insert(hash);
        }
    }

    /// Ends a trial.
    pub(super) fn end(&mut self, now: Instant) {
        self.loose.clear();
        self.penalties.end_turn(now);
    }

    /// True for one that is tried alone: it, or another of its signer, hung a step.
    pub(super) fn is_suspect(&self, version: &DocumentVersion) -> bool {
        self.slow.contains(&version.hash) || self.penalties.is_suspect(&version.signer)
    }

    /// Not refused any more, if it was for this.
    pub(super) fn pardon(&mut self, hash: &Digest, why: &Why) {
        if self.refusal(hash) == Some(why) {
            self.refused.remove(hash);
        }
    }

    /// A table came about with these.
    pub(super) fn note_used(&mut self, used: &Documents) {
        let grants = used.iter().filter(|one| is_grant(&one.document.key));
        self.grants.extend(grants.map(|one| (one.document.key.clone(), one.clone())));
        for one in used.iter() {
            self.slow.remove(&one.version.hash);
        }
    }

    /// What those of these documents deny that cannot be used here, or were not tried.
    pub(super) fn denials(&self, meant: &[DocumentView], judged: &Judged) -> Vec<Denial> {
        let refused = |view: &DocumentView| self.refused.contains_key(&view.version.hash);
        let untried = |view: &DocumentView| judged.why.get(&view.key).is_some_and(Why::is_untried);
        let out = meant.iter().filter(|view| refused(view) || untried(view));
        out.filter_map(|view| self.denial(view, &judged.documents)).collect()
    }

    fn denial(&self, view: &DocumentView, used: &Documents) -> Option<Denial> {
        let what = if is_grant(&view.key) {
            let text = std::str::from_utf8(&view.text).unwrap_or_default();
            let Targets { mut services, complete } = grant::targets(text, &view.key.namespace);
            if let Some(Spec::ServiceGrant(good)) = self.grants.get(&view.key).map(|good| &good.document.spec) {
                services.extend(good.services.iter().cloned());
            }
            Denied::Services { services, all_of: (!complete).then(|| view.key.namespace.clone()) }
        } else if view.key.kind.as_str() == MESH_CONFIG && used.get(&view.key).is_none() {
            Denied::Unnamed
        } else {
            return None;
        };
        Some(Denial { document: view.key.clone(), version: view.version, what })
    }

    /// What the texts say, in the order of `views`: read together, and one by one where that fails.
    pub(super) async fn read(&mut self, views: &[&DocumentView], worker: &mut Worker) -> Vec<Result<InUse, Why>> {
        let is_new = |view: &&&DocumentView| {
            let hash = &view.version.hash;
            !self.read.contains_key(hash) && !self.refused.contains_key(hash)
        };
        let new: Vec<&DocumentView> = views.iter().filter(is_new).copied().collect();
        if new.len() > 1 {
            let texts: Vec<_> = new.iter().map(|view| (view.key.clone(), view.text.clone())).collect();
            let parse = self.parse;
            let all = move || texts.iter().map(|(key, text)| parse(key, text)).collect::<Vec<_>>();
            match worker.run(all).await {
                Ok(read) => new.iter().zip(read).for_each(|(view, read)| self.take(view, Ok(read))),
                Err(Failure::TimedOut) => self.hang_together(worker.late()),
                Err(Failure::Panicked | Failure::NoThread) => {}
            }
        }
        let mut all = Vec::with_capacity(views.len());
        for view in views {
            all.push(self.one(view, worker).await);
        }
        all
    }

    async fn one(&mut self, view: &DocumentView, worker: &mut Worker) -> Result<InUse, Why> {
        let hash = view.version.hash;
        if !self.read.contains_key(&hash) && !self.refused.contains_key(&hash) {
            if !self.penalties.has_thread(&view.version.signer) {
                return Err(Why::Delayed);
            }
            let (parse, key, text) = (self.parse, view.key.clone(), view.text.clone());
            match worker.run(move || parse(&key, &text)).await {
                Err(Failure::TimedOut) => self.hangs(&view.version, worker.late()),
                read => self.take(view, read),
            }
        }
        match (self.read.get(&hash), self.refused.get(&hash)) {
            (Some(document), _) => {
                let signer = view.version.signer.to_string().into();
                Ok(InUse { document: Arc::clone(document), version: view.version, signer })
            }
            (None, Some(refusal)) => Err(refusal.why.clone()),
            (None, None) => Err(Why::Waiting),
        }
    }

    fn take(&mut self, view: &DocumentView, read: Result<Result<Document, String>, Failure>) {
        let hash = view.version.hash;
        match read {
            Ok(Ok(document)) => drop(self.read.insert(hash, Arc::new(document))),
            Ok(Err(told)) => {
                let (document, code) = (&view.key, codes::DOCUMENT_HELD_BACK);
                warn!(%document, version = %view.version, %code, why = %told, "a document cannot be read here");
                self.refuse(hash, Why::Unreadable);
            }
            Err(Failure::Panicked) => self.refuse(hash, Why::Panicked),
            // Of one that hangs its thread has to be known.
            Err(Failure::TimedOut | Failure::NoThread) => {}
        }
    }
}

impl Refusal {
    fn is_over(&self) -> bool {
        self.why == Why::TimedOut && !self.late.is_empty() && self.late.iter().all(Late::is_over)
    }
}

pub(super) fn parse(key: &DocumentKey, text: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    match documents::parse(&key.to_string(), text) {
        Ok(mut read) if read.len() == 1 => match read.pop().filter(|document| document.key == *key) {
            Some(document) => Ok(document),
            None => Err("it is another document than its header says".to_owned()),
        },
        Ok(read) => Err(format!("it has {} documents", read.len())),
        Err(problems) => Err(problems.first().map(ToString::to_string).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh_view::tests::document;

    #[test]
    fn what_is_quarantined_stays_so_when_the_mesh_uses_it_no_more_up_to_a_bound() {
        let mut shelf = Shelf::new(Duration::ZERO);
        for at in 0..=QUARANTINED_OLD_MAX {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&(at as u64).to_be_bytes());
            shelf.refuse(Digest(hash), Why::TimedOut);
        }
        let unreadable = document("a", 1);
        shelf.refuse(unreadable.version.hash, Why::Unreadable);
        shelf.keep(&[]);
        assert_eq!(
            shelf.refused.len(),
            QUARANTINED_OLD_MAX,
            "one more is forgotten, and so is what is only unreadable"
        );
        assert_eq!(shelf.refusal(&Digest([0; 32])), Some(&Why::TimedOut));
    }
}
