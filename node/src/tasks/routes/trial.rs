//! The trial of the documents that the mesh uses, beside the table in use: what comes out of it is safe to take.
//!
//! All that changed is tried together first. Where no table comes about, what is at fault is found and left out by its
//! hash, and its last good version stays: by halving, where compiling panics or the guard refuses; one by one, where it
//! hangs, since each hang costs the deadline and a thread. Documents that took the whole agent down before are tried
//! alone ([`super::crumbs`]), and so are those of a signer whose documents hung: after all others, and not before its
//! time ([`super::penalties`]). One that was only slow is tried again once its step has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use starling_gossip::DocumentView;
use starling_model::{Digest, DocumentKey};
use starling_routing::guard::emptied;
use starling_routing::{Denial, Documents, EndpointIndex, InUse, Registry, RouteTable, TableSettings, compile};

use super::Meant;
use super::applied::Why;
use super::crumbs::Crumbs;
use super::documents::{Shelf, is_grant};
use super::penalties::DELAY_FIRST;
use super::worker::{Cause, DEADLINE, Failure, Late, LeftBehind, Worker};

/// Threads left behind by documents at which no more of them are tried.
pub(crate) const LEFT_BEHIND_BY_DOCUMENTS_MAX: usize = 4;
/// Sets of documents that are known to hang; what is beyond is tried again.
const HUNG_SETS_MAX: usize = 1_024;

/// How a table is made of documents, a registry and the table before.
pub(crate) type Compile = fn(&Documents, &Registry, &TableSettings, Option<&RouteTable>) -> RouteTable;

/// True for an endpoint that has traffic from here.
pub(super) type HasTraffic = Arc<dyn Fn(EndpointIndex) -> bool + Send + Sync>;

/// How tables are made, and what it may cost.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    pub(super) compile: Compile,
    pub(super) settings: TableSettings,
    pub(super) deadline: Duration,
    /// How long who hangs a step is left alone at first.
    pub(super) delay_first: Duration,
    pub(super) left_behind: LeftBehind,
}

impl Steps {
    pub(super) fn new(settings: TableSettings, left_behind: LeftBehind) -> Self {
        Self { compile, settings, deadline: DEADLINE, delay_first: DELAY_FIRST, left_behind }
    }

    /// A worker for one side.
    pub(super) fn worker(&self, cause: Cause, left_behind_max: usize) -> Worker {
        Worker::new(self.left_behind.clone(), cause, left_behind_max, self.deadline)
    }

    /// A step that makes a table.
    pub(super) fn making(
        &self,
        documents: &Documents,
        registry: &Arc<Registry>,
        previous: &Arc<RouteTable>,
    ) -> impl FnOnce() -> Arc<RouteTable> + Send + 'static {
        let (compile, settings) = (self.compile, self.settings.clone());
        let (documents, registry, previous) = (documents.clone(), Arc::clone(registry), Arc::clone(previous));
        move || Arc::new(compile(&documents, &registry, &settings, Some(&previous)))
    }
}

/// What a trial starts from.
#[derive(Clone)]
pub(super) struct Ground {
    /// What is in use.
    pub(super) documents: Documents,
    /// Members of this moment.
    pub(super) registry: Arc<Registry>,
    /// The table in use.
    pub(super) table: Arc<RouteTable>,
    pub(super) has_traffic: HasTraffic,
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground").field("documents", &self.documents.digest()).finish_non_exhaustive()
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Judged {
    /// What is to be used.
    pub(super) documents: Documents,
    /// The table of these and of the ground's registry; `None`: they are those in use, or there was no thread for it.
    pub(super) table: Option<Arc<RouteTable>>,
    /// Why the others are not.
    pub(super) why: BTreeMap<DocumentKey, Why>,
    /// Attempts that brought no table.
    pub(super) failures: u64,
}

/// Whether a service with traffic keeps its last endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    On,
    Off,
}

/// Kinds that say who may: what they take is meant to go at once, also where it is the last (fail closed).
fn is_permission(document: &DocumentKey) -> bool {
    matches!(document.kind.as_str(), "AuthorizationPolicy" | "ServiceGrant" | "MeshConfig")
}

/// One difference between what is used and what is meant.
#[derive(Clone, Debug)]
enum Change {
    Use(InUse),
    Drop(DocumentKey),
}

impl Change {
    fn key(&self) -> &DocumentKey {
        match self {
            Self::Use(one) => &one.document.key,
            Self::Drop(key) => key,
        }
    }
}

/// The judge. It remembers what it found out about hashes.
#[derive(Debug)]
pub(super) struct Trial {
    steps: Steps,
    shelf: Shelf,
    worker: Worker,
    crumbs: Crumbs,
    /// Sets with which compiling hangs.
    hung: BTreeMap<Digest, Late>,
    /// Hashes that this agent outlived the trial of.
    outlived: BTreeSet<Digest>,
}

impl Trial {
    pub(super) fn new(steps: Steps, crumbs: Crumbs) -> Self {
        let worker = steps.worker(Cause::Documents, LEFT_BEHIND_BY_DOCUMENTS_MAX);
        let shelf = Shelf::new(steps.delay_first);
        Self { steps, shelf, worker, crumbs, hung: BTreeMap::new(), outlived: BTreeSet::new() }
    }

    /// True where something that hung has ended, so that another trial is worth it.
    pub(super) fn has_slow(&self) -> bool {
        self.shelf.has_slow()
    }

    /// Tries `meant`. May take some deadlines long; the table in use serves meanwhile.
    pub(super) async fn judge(&mut self, all: &Meant, ground: Ground) -> Judged {
        let (now, meant) = (Instant::now(), &all.documents[..]);
        self.shelf.keep(meant);
        self.shelf.begin();
        self.hung.retain(|_, late| !late.is_over());
        let hashes: BTreeSet<Digest> = meant.iter().map(|view| view.version.hash).collect();
        self.outlived.retain(|hash| hashes.contains(hash));
        let keys: BTreeSet<&DocumentKey> = meant.iter().map(|view| &view.key).collect();
        let dropped = ground.documents.iter().filter(|one| !keys.contains(&one.document.key));
        let mut changes: Vec<Change> = dropped.map(|one| Change::Drop(one.document.key.clone())).collect();
        let in_use =
            |view: &&DocumentView| ground.documents.get(&view.key).is_none_or(|used| used.version != view.version);
        let ended = |view: &DocumentView| self.crumbs.ends(&view.version.hash) > 0;
        let refused = |view: &DocumentView| self.shelf.refusal(&view.version.hash).is_some();
        let (admitted, delayed): (Vec<&DocumentView>, Vec<&DocumentView>) = meant
            .iter()
            .filter(in_use)
            .partition(|view| refused(view) || self.shelf.penalties.admits(&view.version.signer, now));
        let (suspects, fresh): (Vec<&DocumentView>, Vec<&DocumentView>) = admitted
            .into_iter()
            .partition(|view| ended(view) || (!refused(view) && self.shelf.is_suspect(&view.version)));
        let why = delayed.iter().map(|view| (view.key.clone(), Why::Delayed)).collect();
        let judged = Judged { documents: ground.documents.clone(), table: None, why, failures: 0 };
        // What was complete once stays so: that a task starts again makes nobody forget.
        let is_partial = !all.settled && ground.documents.is_partial();
        let mut case = Case {
            trial: self,
            meant,
            is_partial,
            denials: ground.documents.denials().to_vec(),
            ground,
            judged,
            base: None,
            late: Late::default(),
            dropped: Vec::new(),
        };
        case.guarded(&fresh, &mut changes).await;
        for suspect in suspects {
            case.suspect(suspect).await;
        }
        case.end().await;
        let judged = case.judged;
        self.shelf.note_used(&judged.documents);
        let now = Instant::now();
        self.shelf.end(now);
        let delayed: Vec<String> = self.shelf.penalties.delayed(now).map(ToString::to_string).collect();
        self.steps.left_behind.note_delayed(|all| all.signers = delayed);
        judged
    }

    fn note_hung(&mut self, set: Digest, late: Late) {
        if self.hung.len() < HUNG_SETS_MAX {
            self.hung.insert(set, late);
        }
    }
}

/// One trial under way.
struct Case<'a> {
    trial: &'a mut Trial,
    meant: &'a [DocumentView],
    /// Some documents may be missing.
    is_partial: bool,
    /// What documents deny that cannot be used.
    denials: Vec<Denial>,
    ground: Ground,
    judged: Judged,
    /// The table of `judged.documents` and the ground's registry, once it was needed.
    base: Option<Arc<RouteTable>>,
    /// The attempt that was given up last.
    late: Late,
    /// Permissions that were deleted, and no thread here made a table without.
    dropped: Vec<Change>,
}

impl Case<'_> {
    /// Tries documents that never took the agent down, with those that are dropped.
    async fn guarded(&mut self, views: &[&DocumentView], changes: &mut Vec<Change>) {
        let outlived = |hash: &Digest| self.trial.outlived.contains(hash) || self.trial.shelf.refusal(hash).is_some();
        let new: Vec<Digest> = views.iter().map(|view| view.version.hash).filter(|hash| !outlived(hash)).collect();
        self.trial.crumbs.lay(&new);
        let read = self.trial.shelf.read(views, &mut self.trial.worker).await;
        for (view, read) in views.iter().zip(read) {
            match read {
                Ok(one) => changes.push(Change::Use(one)),
                Err(why) => {
                    if is_grant(&view.key) && !why.is_untried() && self.ground.documents.get(&view.key).is_some() {
                        // It has no last good version: what it permitted is over.
                        changes.push(Change::Drop(view.key.clone()));
                    }
                    self.leave_out(view.key.clone(), why);
                }
            }
        }
        self.deny();
        self.admit(std::mem::take(changes)).await;
        if !new.is_empty() {
            self.trial.crumbs.sweep();
            self.trial.outlived.extend(new);
        }
    }

    /// Tries one that may have taken the agent down, alone.
    async fn suspect(&mut self, view: &DocumentView) {
        let hash = view.version.hash;
        if self.trial.crumbs.is_quarantined(&hash, Instant::now()) {
            self.trial.shelf.refuse(hash, Why::Crashed);
        } else {
            self.trial.shelf.pardon(&hash, &Why::Crashed);
        }
        if !self.trial.shelf.penalties.has_thread(&view.version.signer) && self.trial.shelf.refusal(&hash).is_none() {
            return self.leave_out(view.key.clone(), Why::Delayed);
        }
        self.guarded(&[view], &mut Vec::new()).await;
        if self.judged.documents.get(&view.key).is_some_and(|used| used.version == view.version) {
            self.trial.crumbs.clear(&hash);
        }
    }

    /// Looks anew what documents deny that cannot be used.
    fn deny(&mut self) {
        self.denials = self.trial.shelf.denials(self.meant, &self.judged);
    }

    fn leave_out(&mut self, key: DocumentKey, why: Why) {
        self.judged.why.insert(key, why);
    }

    /// Makes as many of the changes as a table comes about with.
    async fn admit(&mut self, changes: Vec<Change>) {
        let mut parts = vec![changes];
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let Err(mut why) = self.attempt(self.with(&part), Guard::On).await else { continue };
            let permits = matches!((&why, &part[..]), (Why::Empties(_), [one]) if is_permission(one.key()));
            if permits {
                match self.attempt(self.with(&part), Guard::Off).await {
                    Ok(()) => continue,
                    Err(second) => why = second,
                }
            }
            self.judged.failures += 1;
            match (why, part.len()) {
                (Why::Waiting, _) => {
                    for one in part {
                        match one {
                            Change::Drop(key) if is_permission(&key) => self.dropped.push(Change::Drop(key)),
                            Change::Use(_) | Change::Drop(_) => self.leave_out(one.key().clone(), Why::Waiting),
                        }
                    }
                }
                (why, 1) => {
                    for one in &part {
                        self.fault(one, &why).await;
                    }
                }
                (Why::TimedOut, len) => {
                    self.trial.shelf.hang_together(self.late.clone());
                    self.without_those_that_hang_alone(&mut part).await;
                    if part.len() < len {
                        parts.push(part);
                    } else {
                        // Only together: the one with which it begins is at fault. The first is on top.
                        parts.extend(part.into_iter().rev().map(|one| vec![one]));
                    }
                }
                (_, len) => {
                    let right = part.split_off(len / 2);
                    parts.extend([right, part]);
                }
            }
        }
    }

    /// What would be used with these changes.
    fn with(&self, part: &[Change]) -> Documents {
        let changed: BTreeSet<&DocumentKey> = part.iter().map(Change::key).collect();
        let kept = self.judged.documents.iter().filter(|one| !changed.contains(&one.document.key));
        let new = part.iter().filter_map(|change| match change {
            Change::Use(one) => Some(one),
            Change::Drop(_) => None,
        });
        let documents = Documents::new(kept.chain(new).cloned()).denying(self.denials.clone());
        if self.is_partial { documents.partial() } else { documents }
    }

    /// What is denied or deleted by now is in force, whatever became of the changes.
    async fn end(&mut self) {
        self.deny();
        let dropped = std::mem::take(&mut self.dropped);
        if self.with(&dropped).is_like(&self.judged.documents) {
            return;
        }
        self.deny_at_once(&dropped).await;
        let documents = self.with(&dropped);
        if !documents.is_like(&self.judged.documents) {
            // No thread here makes their table: that of members' news may.
            (self.judged.documents, self.judged.table) = (documents, None);
        }
    }

    /// Puts what is denied in force: permissions end at once, whatever that empties.
    async fn deny_at_once(&mut self, part: &[Change]) {
        if self.attempt(self.with(part), Guard::Off).await.is_err() {
            self.judged.failures += 1;
        }
    }

    /// No table comes about with this one alone.
    async fn fault(&mut self, change: &Change, why: &Why) {
        self.leave_out(change.key().clone(), why.clone());
        let (Change::Use(one), true) = (change, why.is_quarantine()) else { return };
        if *why == Why::TimedOut {
            self.trial.shelf.hangs(&one.version, self.late.clone());
        } else {
            self.trial.shelf.refuse(one.version.hash, why.clone());
        }
        self.deny();
        if is_grant(change.key()) {
            self.deny_at_once(&[Change::Drop(change.key().clone())]).await;
        }
    }

    /// Makes the table of `set`, and takes it if the guard agrees.
    async fn attempt(&mut self, set: Documents, guard: Guard) -> Result<(), Why> {
        let base = self.base().await?;
        let digest = set.digest();
        if let Some(late) = self.trial.hung.get(&digest) {
            self.late = late.clone();
            return Err(Why::TimedOut);
        }
        let make = self.trial.steps.making(&set, &self.ground.registry, &base);
        let has_traffic = Arc::clone(&self.ground.has_traffic);
        let step = move || {
            let table = make();
            match emptied(&base, &table, &*has_traffic) {
                Some(service) if guard == Guard::On => Err(service),
                Some(_) | None => Ok(table),
            }
        };
        match self.trial.worker.run(step).await {
            Ok(Ok(table)) => {
                self.base = Some(Arc::clone(&table));
                (self.judged.documents, self.judged.table) = (set, Some(table));
                Ok(())
            }
            Ok(Err(service)) => Err(Why::Empties(service)),
            Err(Failure::Panicked) => Err(Why::Panicked),
            Err(Failure::TimedOut) => {
                self.late = self.trial.worker.late();
                self.trial.note_hung(digest, self.late.clone());
                Err(Why::TimedOut)
            }
            Err(Failure::NoThread) => Err(Why::Waiting),
        }
    }

    /// The table of what is used so far and of the members that all attempts are made with: what a change empties is to
    /// be told from what members take away.
    async fn base(&mut self) -> Result<Arc<RouteTable>, Why> {
        if let Some(base) = &self.base {
            return Ok(Arc::clone(base));
        }
        let table = &self.ground.table;
        let is_base =
            table.revision() == self.ground.registry.revision() && table.documents().is_like(&self.ground.documents);
        let base = if is_base {
            Arc::clone(table)
        } else {
            let make = self.trial.steps.making(&self.ground.documents, &self.ground.registry, table);
            match self.trial.worker.run(make).await {
                Ok(table) => table,
                Err(Failure::NoThread) => return Err(Why::Waiting),
                // What is in use is no good with these members: the guard looks at the table in use then.
                Err(Failure::Panicked | Failure::TimedOut) => Arc::clone(table),
            }
        };
        self.base = Some(Arc::clone(&base));
        Ok(base)
    }

    /// Leaves those out with which compiling hangs even where nothing else is in use.
    async fn without_those_that_hang_alone(&mut self, part: &mut Vec<Change>) {
        let mut rest = Vec::with_capacity(part.len());
        for change in part.drain(..) {
            let hangs = match &change {
                Change::Drop(_) => false,
                Change::Use(one) if !self.trial.shelf.penalties.has_thread(&one.version.signer) => {
                    self.leave_out(change.key().clone(), Why::Delayed);
                    continue;
                }
                Change::Use(one) => {
                    let alone = Documents::new([one.clone()]);
                    let make = self.trial.steps.making(&alone, &self.ground.registry, &self.ground.table);
                    self.trial.worker.run(make).await.is_err_and(|failure| failure == Failure::TimedOut)
                }
            };
            if hangs {
                self.late = self.trial.worker.late();
                self.judged.failures += 1;
                self.fault(&change, &Why::TimedOut).await;
            } else {
                rest.push(change);
            }
        }
        *part = rest;
    }
}

#[cfg(test)]
mod tests;
