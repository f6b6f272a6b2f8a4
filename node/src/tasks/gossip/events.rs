//! What the machine tells: log lines for people, news for the routes task, and the next snapshot for everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use starling_gossip::{Alarm, DocumentView, DocumentsEvent, Event, MemberView, SubmitProblem, Swim};
use starling_model::{BootEpoch, DocumentKey, Generation, Life, MemberState, NodeName, codes};
use starling_routing::MemberFact;
use tracing::{debug, info, warn};

use super::{Context, Submission, rulings, story};
use crate::mesh_view::MeshView;
use crate::mesh_view::roots::Roots;
use crate::shutdown::{Left, Phase};
use crate::tasks::routes::{Applied, Meant};
use crate::telemetry::time::{Clocks, short};

/// Alarms that were told within this time are not told again.
const ALARM_PAUSE: Duration = Duration::from_secs(60);

/// State of the telling.
#[derive(Debug)]
pub(super) struct News {
    context: Context,
    states: BTreeMap<NodeName, (MemberState, Life)>,
    alarms: BTreeMap<Alarm, Instant>,
    started: Instant,
    revision: u64,
    synced: bool,
    /// The documents were told as all that the store held.
    settled: bool,
    /// The store held something of the mesh: what it meant then counts until peers tell more.
    pub(super) restored: bool,
    duplicate: bool,
    roots: Roots,
    applied: Arc<Applied>,
    /// Documents whose newest generation was written in more than one way.
    conflicting: BTreeSet<DocumentKey>,
    /// What was in use last, of each document.
    generations: BTreeMap<DocumentKey, Generation>,
    /// Revocations told.
    revoked: usize,
    /// Revoked nodes that were refused: attempts that were not told, and when one was. Bounded by the revocations.
    refused: BTreeMap<NodeName, (u64, Option<Instant>)>,
    /// The seed that let us in.
    pub(super) via: Option<String>,
    /// True when the snapshot is older than the news.
    pub(super) changed: bool,
    /// How late the last turn was.
    pub(super) lag: Duration,
}

impl News {
    pub(super) fn new(context: Context, now: Instant) -> Self {
        // After a restart of this task the revision goes on rising.
        let revision = context.view.load().revision;
        // The machine tells about others; what we offer ourselves is reached at our own address.
        let (node, address) = (context.identity.node.node().clone(), context.settings.addresses.first().copied());
        context.routes.merge(node.clone(), |news| {
            news.member = Some(MemberFact { node, state: MemberState::Alive, address });
        });
        Self {
            context,
            states: BTreeMap::new(),
            alarms: BTreeMap::new(),
            started: now,
            revision,
            synced: false,
            settled: false,
            restored: false,
            duplicate: false,
            roots: Roots::default(),
            applied: Arc::default(),
            conflicting: BTreeSet::new(),
            generations: BTreeMap::new(),
            revoked: 0,
            refused: BTreeMap::new(),
            via: None,
            changed: true,
            lag: Duration::ZERO,
        }
    }

    pub(super) fn tell(&mut self, event: Event, now: Instant) {
        self.changed = true;
        self.revision += 1;
        let routes = &self.context.routes;
        match event {
            Event::Member(member) => self.tell_member(&member),
            Event::MemberForgotten(name) => {
                self.states.remove(&name);
                self.record(story::of_forgotten(&name));
                info!(node = %name, "member forgotten");
                routes.merge(name, |news| {
                    *news = super::super::routes::OwnerNews { forgotten: true, ..Default::default() };
                });
            }
            Event::Services { owner, record } => routes.merge(owner, |news| news.services = Some(record.into())),
            Event::Health { owner, record } => routes.merge(owner, |news| news.health = Some(record.into())),
            Event::Status { owner, record: _ } => debug!(member = %owner, "status received"),
            Event::OwnerDropped(owner) => routes.merge(owner, |news| {
                news.services = Some(Arc::default());
                news.health = Some(Arc::default());
            }),
            Event::Synced { members } => {
                self.synced = true;
                info!(members, after = %short(now.saturating_duration_since(self.started)), "view complete");
                self.context.lifecycle.advance(Phase::Ready);
            }
            Event::Isolation(true) => {
                self.record(story::of_isolation(&self.me(), true));
                warn!("too many members fell silent at once: this node assumes that it is cut off")
            }
            Event::Isolation(false) => {
                self.record(story::of_isolation(&self.me(), false));
                info!("no longer cut off");
            }
            Event::Evidence(evidence) => self.record(story::of_evidence(&evidence, &Clocks::read())),
            // The driver has given them to the asker, and to the holder of the chain.
            Event::Pong { .. } | Event::Bundle(_) => {}
            Event::Alarm(alarm) => self.tell_alarm(alarm, now),
            Event::Revoked(view) => {
                let revocation = &view.revocation;
                let (code, reason) = (codes::REVOKED, &revocation.reason);
                warn!(node = %revocation.node, %code, signer = %revocation.signer, reason, "an operator revoked a node");
                // What the store held comes again with each start; a long list of it must not flush everything else.
                if self.synced || self.revoked < rulings::TOLD_MAX {
                    self.revoked += 1;
                    self.record(rulings::of_revoked(&view, &self.context.identity.bundle()));
                }
            }
            Event::Documents(event) => self.tell_documents(&event),
            // The driver has given it to the asker.
            Event::Submitted { .. } => {}
            Event::LeaveFinished { acknowledged } => {
                info!(acknowledged, "left the mesh");
                self.context.lifecycle.tell_left(Left { acknowledged });
            }
        }
    }

    fn tell_documents(&mut self, event: &DocumentsEvent) {
        let (me, bundle) = (self.me(), self.context.identity.bundle());
        match event {
            DocumentsEvent::Activated { documents } => {
                let (told, more) = rulings::told(documents);
                for (at, document) in documents.iter().enumerate() {
                    info!(document = %document.key, version = %document.version, "document in use");
                    let before = self.generations.insert(document.key.clone(), document.version.generation);
                    if at < told.len() {
                        self.record(rulings::of_used(&me, before, document, &bundle));
                    }
                }
                if more > 0 {
                    self.record(rulings::of_more_used(&me, more));
                }
            }
            DocumentsEvent::Known { document } => {
                debug!(document = %document.key, version = %document.version, "document known");
            }
            DocumentsEvent::Conflict { key, versions } => {
                self.conflicting.insert(key.clone());
                let (code, signers) = (codes::DOCUMENT_CONFLICT, versions.iter().map(|one| one.signer.to_string()));
                let signers = signers.collect::<Vec<_>>().join(", ");
                warn!(document = %key, %code, signers, "one generation was signed with different contents");
                self.record(rulings::of_conflict(&me, key, versions, &bundle));
            }
            DocumentsEvent::ConflictEnded { key, version } => {
                self.conflicting.remove(key);
                info!(document = %key, %version, "the conflict of this document is over");
                self.record(rulings::of_conflict_ended(&me, key, version, &bundle));
            }
            DocumentsEvent::Voided { document, was_used } => {
                let (version, signer) = (document.version, document.version.signer);
                self.generations.remove(&document.key);
                let code = codes::SIGNATURE_INVALID;
                warn!(document = %document.key, %version, %signer, %code, was_used, "a document lost its force: trust changed");
                self.record(rulings::of_voided(&me, document, *was_used, &bundle));
            }
            DocumentsEvent::Incomplete { batch, present } => {
                let (code, missing) = (codes::BATCH_INCOMPLETE, usize::from(batch.count.get()) - present.len());
                warn!(batch = %batch.id, %code, missing, "a batch of documents is incomplete, so none of it is used");
                self.record(rulings::of_incomplete(&me, batch, present));
            }
        }
    }

    /// Something that was handed in here was refused.
    pub(super) fn tell_refused(&self, what: &Submission, problems: &[SubmitProblem]) {
        let (me, bundle) = (self.me(), self.context.identity.bundle());
        for problem in rulings::told(problems).0 {
            self.record(rulings::of_refused(&me, what, problem, &bundle));
        }
    }

    /// Revoked nodes that were refused at the door, each at most once a minute.
    fn tell_refused_peers(&mut self, now: Instant) {
        for (node, attempts) in self.context.identity.current.take_revoked_attempts() {
            self.refused.entry(node).or_insert((0, None)).0 += attempts;
        }
        let due = |at: &Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= ALARM_PAUSE);
        let mut told = Vec::new();
        for (node, (attempts, at)) in &mut self.refused {
            if *attempts > 0 && due(at) {
                told.push(rulings::of_refused_peer(node, std::mem::take(attempts)));
                *at = Some(now);
            }
        }
        told.into_iter().for_each(|news| self.record(news));
        // Who does not come again is forgotten.
        self.refused.retain(|_, (attempts, at)| *attempts > 0 || !due(at));
    }

    fn me(&self) -> NodeName {
        self.context.identity.node.node().clone()
    }

    pub(super) fn record(&self, news: crate::events::News) {
        self.context.events.tell(news, SystemTime::now());
    }

    fn tell_member(&mut self, member: &MemberView) {
        let before = self.states.insert(member.name.clone(), (member.state, member.life));
        let known = before.map(|(state, _)| state);
        if member.name != *self.context.identity.node.node()
            && let Some(news) = story::of_member(before, member)
        {
            self.record(news);
        }
        self.context.routes.merge(member.name.clone(), |news| {
            let address = member.addresses.first().copied();
            news.member = Some(MemberFact { node: member.name.clone(), state: member.state, address });
        });
        if known == Some(member.state) || member.name == *self.context.identity.node.node() {
            return;
        }
        let node = &member.name;
        let rtt = member.rtt.map(short).unwrap_or_else(|| "-".to_owned());
        match member.state {
            MemberState::Joining => debug!(%node, "member joining"),
            MemberState::Alive => info!(%node, %rtt, "member alive"),
            MemberState::Suspect => {
                let accusers: Vec<&str> =
                    member.suspicion.iter().flat_map(|doubt| &doubt.accusers).map(NodeName::as_str).collect();
                info!(%node, accusers = accusers.join(","), "member suspect");
            }
            MemberState::Dead => warn!(%node, "member failed"),
            MemberState::Left => info!(%node, "member left"),
        }
    }

    fn tell_alarm(&mut self, alarm: Alarm, now: Instant) {
        match &alarm {
            Alarm::DuplicateIdentity { quiet, .. } => self.duplicate = *quiet,
            Alarm::NameTaken { .. } => self.duplicate = true,
            Alarm::TableFull | Alarm::AccuserOverCap { .. } | Alarm::WordRefused { .. } | Alarm::OwnRecordTooLarge => {}
        }
        let told = self.alarms.get(&alarm).is_some_and(|at| now.saturating_duration_since(*at) < ALARM_PAUSE);
        if told {
            return;
        }
        if let Some(news) = story::of_alarm(&alarm) {
            self.record(news);
        }
        match &alarm {
            Alarm::NameTaken { name } => {
                let code = codes::NAME_TAKEN;
                warn!(node = %name, %code, "another node is alive under our name: this one stays outside the mesh");
            }
            Alarm::DuplicateIdentity { name, quiet: true } => {
                let code = codes::DUPLICATE_IDENTITY;
                warn!(node = %name, %code, "another node is alive under our name: this one announces nothing");
            }
            Alarm::DuplicateIdentity { name, quiet: false } => {
                let code = codes::DUPLICATE_IDENTITY;
                warn!(node = %name, %code, "one identity is live at two addresses");
            }
            Alarm::TableFull => warn!("a table is full: newcomers or new state are refused"),
            Alarm::AccuserOverCap { accuser } => {
                warn!(node = %accuser, "accuses more members than a healthy one would")
            }
            Alarm::WordRefused { from, kind, why } => {
                let code = alarm.code().unwrap_or(codes::SIGNATURE_INVALID);
                warn!(member = %from, %code, ?kind, reason = ?why, "a peer brought what no operator may sign here");
            }
            Alarm::OwnRecordTooLarge => warn!("what this node announces does not fit into a record"),
        }
        // Keys come from members, whose number is capped; old entries leave with the first that is told again.
        self.alarms.retain(|_, at| now.saturating_duration_since(*at) < ALARM_PAUSE);
        self.alarms.insert(alarm, now);
    }

    /// True when the table came to be made of other documents since the last snapshot.
    pub(super) fn is_applied_anew(&self) -> bool {
        !Arc::ptr_eq(&self.applied, &self.context.applied.load())
    }

    pub(super) fn view(&mut self, swim: &Swim, epoch: BootEpoch, now: Instant) -> MeshView {
        self.tell_refused_peers(now);
        let me = swim.me();
        let node = me.name.clone();
        let mut members: BTreeMap<NodeName, MemberView> =
            swim.members().map(|member| (member.name.clone(), member)).collect();
        members.insert(node.clone(), me);
        let members: Vec<MemberView> = members.into_values().collect();
        let documents: Vec<DocumentView> = swim.documents().filter(|document| !document.deleted).collect();
        let documents_root = swim.roots().documents;
        let told = self.restored || self.synced || self.context.lifecycle.phase() >= Phase::Ready;
        // The first of several documents says nothing of the others.
        let settled = swim.documents_settled() && told;
        if self.roots.note_own(documents_root, &documents) | (settled != self.settled) {
            self.settled = settled;
            self.context.documents.send_replace(Meant { documents: documents.clone().into(), settled });
        }
        self.applied = self.context.applied.load_full();
        self.roots.note_members(&members, SystemTime::now());
        MeshView {
            node,
            epoch,
            revision: self.revision,
            at: now,
            members,
            stats: swim.stats().clone(),
            health_score: swim.health_score(),
            isolated: swim.is_isolated(),
            synced: self.synced,
            duplicate: self.duplicate,
            applied: Arc::clone(&self.applied),
            documents_root,
            documents,
            conflicts: self.conflicting.iter().map(|key| (key.clone(), contents(swim, key))).collect(),
            roots: self.roots.clone(),
            revocations: swim.revocations().collect(),
            via: self.via.clone(),
            judge_dropped: 0,
        }
    }
}

/// All contents of a document's newest generation, the winner first.
fn contents(swim: &Swim, key: &DocumentKey) -> Vec<DocumentView> {
    let versions: Vec<DocumentView> = swim.document_versions(key).collect();
    let newest = versions.first().map(|first| first.version.generation);
    versions.into_iter().filter(|one| Some(one.version.generation) == newest).collect()
}
