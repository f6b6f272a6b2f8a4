//! `/v1/config/convergence`: which live members use the documents in use here, and who does not.
//!
//! What a member tells is a digest of the documents that it uses, what of the mesh's it holds back and why, and a root
//! over all that it holds ([`crate::mesh_view::roots`]). A digest of ours, of now or of before, names each document; one
//! that differs from it by what is held back does so, too; of any other only what it names itself is known, and its member
//! is named as such rather than counted in. This node is one of them: what it holds back is told like everybody's.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_gossip::{DocumentView, MemberView};
use starling_model::{Digest, DocumentKey, Generation, HeldWhy};

use super::Shared;
use super::answer::{self, read};
use super::config::Page;
use super::problem::Refusal;
use super::query::Query;
use super::views::{BEHIND_NAMES_MAX, Convergence, DocumentConvergence, InUse, MemberConvergence, kind};
use crate::mesh_view::MeshView;
use crate::mesh_view::roots::Used;
use crate::tasks::routes::HeldBack;
use crate::telemetry::time::rfc3339_millis;

/// Members that hold documents back and are searched for in vain, in one answer: a search reads all sets of ours.
const SEARCHES_MAX: usize = 16;

/// Convergence of the whole mesh, and of each document in use here.
///
/// # Errors
/// 400 for unknown parameters, and for a cursor that is none.
pub async fn get(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let page = Page::read(&Query::read(query.as_deref(), &["limit", "cursor"])?)?;
    let view = state.view.load();
    let (documents, next) = page.of(&view.documents);
    let link = next.as_ref().map(|cursor| page.link("/v1/config/convergence", cursor));
    let body = Convergence { next, ..whole(&view, documents) };
    Ok(answer::linked(read(&state, &headers, kind::CONVERGENCE, body), link.as_deref()))
}

/// A live member that does not hold what we hold, and what it uses as far as it tells.
struct Laggard {
    node: String,
    used: Option<Arc<Used>>,
    /// What it names as held back, with what it uses in its place, and why.
    held_back: BTreeMap<DocumentKey, (Option<Generation>, HeldWhy)>,
    since: Option<String>,
}

impl Laggard {
    /// The generation of a document that it uses; `None` while that is unknown.
    fn generation(&self, key: &DocumentKey) -> Option<Option<Generation>> {
        let named = self.held_back.get(key).map(|(used, _)| *used);
        self.used.as_ref().map(|used| used.generation(key)).or(named)
    }
}

/// All of them.
pub(super) struct Laggards {
    alive: u64,
    all: Vec<Laggard>,
}

impl Laggards {
    pub(super) fn of(view: &MeshView) -> Self {
        // Members that are behind are so in few ways, and some of them take long to find out.
        let mut known: BTreeMap<(Digest, Option<u64>), Option<Arc<Used>>> = BTreeMap::new();
        let mut used = |member: &MemberView| {
            let digest = member.status.as_ref()?.digest;
            let key = (digest, member.documents_root);
            known.entry(key).or_insert_with(|| view.roots.used(digest, member.documents_root)).clone()
        };
        let mut names = None;
        // A set that was found is right for its digest, whoever told it; what is made up costs a search each time.
        let (mut by_held, mut misses): (BTreeMap<Digest, Arc<Used>>, usize) = (BTreeMap::new(), 0);
        let others = view.alive().filter(|member| !view.agrees(member)).map(|member| {
            let held = member.status.as_ref().map(|status| status.held_back.as_slice()).unwrap_or_default();
            let mut of_held = || {
                let digest = member.status.as_ref()?.digest;
                if let Some(found) = by_held.get(&digest) {
                    return Some(Arc::clone(found));
                }
                let found = if misses < SEARCHES_MAX { view.roots.used_but(digest, held) } else { None };
                match &found {
                    Some(found) => drop(by_held.insert(digest, Arc::clone(found))),
                    None => misses += 1,
                }
                found
            };
            let mut named = BTreeMap::new();
            if !held.is_empty() {
                let names = names.get_or_insert_with(|| view.roots.names());
                for one in held {
                    let Some((key, _)) = names.get(&one.hash) else { continue };
                    named.insert((*key).clone(), (one.used.map(|used| used.generation), one.why));
                }
            }
            Laggard {
                node: member.name.to_string(),
                used: if held.is_empty() { used(member) } else { of_held() },
                held_back: named,
                since: view.roots.since(&member.name).map(rfc3339_millis),
            }
        });
        Self { all: own(view).into_iter().chain(others).collect(), alive: view.agreement().alive }
    }

    /// Those that are not known to use this generation of a document or a later one, with the one that they use.
    fn behind(
        &self,
        key: &DocumentKey,
        ours: Generation,
    ) -> impl Iterator<Item = (&Laggard, Option<Option<Generation>>)> {
        self.all.iter().filter_map(move |laggard| {
            let theirs = laggard.generation(key);
            // It lacks another document, or a revocation.
            let is_there = theirs.flatten().is_some_and(|theirs| theirs >= ours);
            (!is_there).then_some((laggard, theirs))
        })
    }

    /// How many live members use this generation of a document or a later one.
    pub(super) fn in_use(&self, key: &DocumentKey, ours: Generation) -> InUse {
        let behind = u64::try_from(self.behind(key, ours).count()).unwrap_or(u64::MAX);
        InUse { alive: self.alive, same: self.alive.saturating_sub(behind) }
    }
}

/// This node, while its table is not made of the newest of what it holds: for a moment, or since it holds something back.
fn own(view: &MeshView) -> Option<Laggard> {
    let newest = view.roots.newest().filter(|newest| newest.digest() != view.applied.digest)?;
    let held_back = view.applied.held_back.iter();
    let known = held_back.fold((**newest).clone(), |used, (key, held)| used.but(key, held.used));
    let used = if known.digest() == view.applied.digest {
        Some(Arc::new(known))
    } else {
        view.roots.used(view.applied.digest, Some(view.documents_root))
    };
    let named = |(key, held): (&DocumentKey, &HeldBack)| {
        (key.clone(), (held.used.map(|used| used.generation), held.why.told()))
    };
    let held_back = view.applied.held_back.iter().map(named).collect();
    Some(Laggard { node: view.node.to_string(), used, held_back, since: None })
}

fn whole(view: &MeshView, documents: &[DocumentView]) -> Convergence {
    let agreement = view.agreement();
    let laggards = Laggards::of(view);
    Convergence {
        documents_root: format!("{:016x}", view.documents_root),
        share: agreement.share(),
        in_use: InUse { alive: agreement.alive, same: agreement.same },
        behind: agreement.behind,
        behind_count: agreement.behind_count,
        holding: Some(view.holding()),
        items: documents.iter().map(|document| one(document, &laggards)).collect(),
        next: None,
    }
}

fn one(document: &DocumentView, laggards: &Laggards) -> DocumentConvergence {
    let (key, ours) = (&document.key, document.version.generation);
    let tell = |(laggard, theirs): (&Laggard, Option<Option<Generation>>)| MemberConvergence {
        node: laggard.node.clone(),
        state: if theirs.is_some() { "behind" } else { "unknown" }.to_owned(),
        generation: theirs.flatten().map(Generation::get),
        since: laggard.since.clone(),
        held_back: laggard.held_back.get(key).map(|(_, why)| why.as_str().to_owned()),
    };
    let in_use = laggards.in_use(key, ours);
    DocumentConvergence {
        document_kind: key.kind.to_string(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        generation: ours.get(),
        digest: document.version.hash.to_string(),
        in_use,
        behind: laggards.behind(key, ours).take(BEHIND_NAMES_MAX).map(tell).collect(),
        behind_count: in_use.alive.saturating_sub(in_use.same),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use starling_model::{BootEpoch, HeldDocument, MemberState, NodeName, StatusRecord};
    use starling_routing::documents::digest_of;

    use super::*;
    use crate::mesh_view::tests::{document, member};
    use crate::tasks::routes::{Applied, Why};

    fn digest(documents: &[DocumentView]) -> Digest {
        digest_of(documents.iter().map(|one| &one.version.hash))
    }

    /// Five members; we use orders 2 and web 1, root 3. Root 2 was ours before web came, root 1 before orders 2 did.
    fn view() -> MeshView {
        let now = Instant::now();
        let mut view = MeshView::empty(NodeName::new("vm-1").unwrap(), BootEpoch(1), now);
        view.documents = vec![document("orders", 2), document("web", 1)];
        view.roots.note_own(1, [&document("orders", 1)]);
        view.roots.note_own(2, [&document("orders", 2)]);
        view.roots.note_own(3, &view.documents);
        view.documents_root = 3;
        let of = |root: Option<u64>| match root {
            Some(1) => digest(&[document("orders", 1)]),
            Some(2) => digest(&[document("orders", 2)]),
            Some(3) => digest(&view.documents),
            _ => Digest([9; 32]),
        };
        let told = |name: &str, root| {
            let mut told = member(name, MemberState::Alive, now);
            told.documents_root = root;
            told.status = Some(StatusRecord { digest: of(root), ..StatusRecord::default() });
            told
        };
        let applied = Applied { digest: of(Some(3)), documents: 2, ..Applied::default() };
        view.members = vec![
            told("vm-1", Some(3)),
            told("vm-2", Some(3)),
            told("vm-3", Some(2)),
            told("vm-4", Some(1)),
            told("vm-5", Some(99)),
            MemberView { state: MemberState::Dead, ..told("vm-6", Some(1)) },
        ];
        view.roots.note_members(&view.members, SystemTime::UNIX_EPOCH);
        view.applied = Arc::new(applied);
        view
    }

    fn behind(document: &DocumentConvergence) -> Vec<(&str, &str, Option<u64>)> {
        document.behind.iter().map(|one| (one.node.as_str(), one.state.as_str(), one.generation)).collect()
    }

    #[test]
    fn each_document_names_who_is_behind_and_of_whom_nothing_is_known() {
        let view = view();
        let told = whole(&view, &view.documents);
        let [orders, web] = &told.items[..] else { panic!("{told:?}") };
        assert_eq!(behind(orders), [("vm-4", "behind", Some(1)), ("vm-5", "unknown", None)]);
        assert_eq!(orders.in_use, InUse { alive: 5, same: 3 }, "vm-3 lacks another document");
        assert_eq!(behind(web), [("vm-3", "behind", None), ("vm-4", "behind", None), ("vm-5", "unknown", None)]);
        assert_eq!((web.in_use.same, web.behind_count), (2, 3));
        assert_eq!(web.behind[0].since.as_deref(), Some("1970-01-01T00:00:00.000Z"));
    }

    /// F40: who holds what we hold and cannot use one of it is behind with that one only, this node included.
    #[test]
    fn a_document_that_is_held_back_is_behind_where_it_is() {
        let mut view = view();
        let (orders, web) = (document("orders", 1), document("web", 1));
        view.members[1].status =
            Some(StatusRecord { digest: digest(&[orders.clone(), web]), ..StatusRecord::default() });
        assert!(view.agreement().behind.contains(&"vm-2".to_owned()), "it says that it uses something else");
        let told = whole(&view, &view.documents);
        assert_eq!(behind(&told.items[0])[0], ("vm-2", "behind", Some(1)));
        assert!(told.items[1].behind.iter().all(|one| one.node != "vm-2"), "it uses web as we do");
        // We cannot use orders 2 either, and never had another.
        let applied = Applied {
            digest: digest(&view.documents[1..]),
            documents: 1,
            held_back: [(orders.key, HeldBack { meant: None, used: None, why: Why::Panicked })].into(),
        };
        view.applied = Arc::new(applied);
        let told = whole(&view, &view.documents);
        assert_eq!(behind(&told.items[0])[0], ("vm-1", "behind", None));
        assert_eq!(told.items[0].in_use, InUse { alive: 5, same: 1 }, "vm-3 alone");
        assert_eq!(told.items[0].behind[0].held_back.as_deref(), Some("panicked"));
        assert!(told.items[1].behind.iter().all(|one| one.node != "vm-1"), "it uses web");
    }

    /// Two of them, which no search finds: it says itself which, and why.
    #[test]
    fn who_holds_back_several_documents_is_known_by_what_it_says() {
        let mut view = view();
        let held = |document: DocumentView, used: Option<DocumentView>, why| HeldDocument {
            hash: document.version.hash,
            used: used.map(|used| used.version),
            why,
        };
        let says = vec![
            held(document("orders", 2), Some(document("orders", 1)), HeldWhy::TimedOut),
            held(document("web", 1), None, HeldWhy::Panicked),
        ];
        let status = |documents: &[DocumentView], held_back: Vec<HeldDocument>| {
            Some(StatusRecord { digest: digest(documents), held_back_count: 2, held_back, ..StatusRecord::default() })
        };
        view.members[1].status = status(&[document("orders", 1)], says.clone());
        let named = |view: &MeshView| {
            let told = whole(view, &view.documents);
            let of = |at: usize| {
                let one = told.items[at].behind.iter().find(|one| one.node == "vm-2")?;
                Some((one.state.clone(), one.generation, one.held_back.clone()))
            };
            [of(0), of(1)]
        };
        let behind = |generation, why: &str| Some(("behind".to_owned(), generation, Some(why.to_owned())));
        assert_eq!(named(&view), [behind(Some(1), "timed_out"), behind(None, "panicked")]);
        // It says one of them only: that one is known, of the other nothing.
        view.members[1].status = status(&[], says[..1].to_vec());
        assert_eq!(named(&view), [behind(Some(1), "timed_out"), Some(("unknown".to_owned(), None, None))]);
    }

    #[test]
    fn this_node_is_behind_until_its_table_follows() {
        let mut view = view();
        view.applied = Arc::new(Applied { digest: digest(&[document("orders", 2)]), ..Applied::default() });
        let told = whole(&view, &view.documents);
        assert!(told.items[0].behind.iter().all(|one| one.node != "vm-1"), "orders 2 is in its table");
        assert_eq!(behind(&told.items[1])[0], ("vm-1", "behind", None));
    }

    #[test]
    fn the_whole_agrees_with_what_every_answer_says() {
        let view = view();
        let (told, agreement) = (whole(&view, &view.documents), view.agreement());
        assert_eq!((told.in_use.alive, told.in_use.same), (agreement.alive, agreement.same));
        assert_eq!((told.behind, told.behind_count), (agreement.behind, agreement.behind_count));
        assert!((told.share - 0.4).abs() < 1e-9 && told.documents_root == "0000000000000003");
        let fewest = told.items.iter().map(|one| one.in_use.same).min();
        assert!(fewest >= Some(agreement.same), "who holds all holds each");
    }

    #[test]
    fn one_name_more_than_are_listed_is_counted() {
        let mut view = view();
        let now = Instant::now();
        for n in 0..=BEHIND_NAMES_MAX {
            let mut more = member(&format!("x-{n:02}"), MemberState::Alive, now);
            more.documents_root = Some(1);
            view.members.push(more);
        }
        let told = whole(&view, &view.documents[..1]);
        assert_eq!(told.items[0].behind.len(), BEHIND_NAMES_MAX);
        assert_eq!(told.items[0].behind_count, 2 + BEHIND_NAMES_MAX as u64 + 1);
    }
}
