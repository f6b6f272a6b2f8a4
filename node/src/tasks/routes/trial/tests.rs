//! F40: one document that cannot be compiled takes nothing else with it.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};

use starling_model::{
    DocumentVersion, Generation, HealthRecord, KeyId, MeshId, Namespace, Readiness, ServiceKey, ServicesRecord,
};
use starling_routing::MemberFact;

use starling_config::documents::Document;

use super::super::documents::{HANGING_PER_SIGNER_MAX, parse};
use super::super::tests::{health, member, node, services};
use super::*;
use crate::store;

const SETTINGS: &str = "mesh.internal";
/// Ports of documents that a compiler of these tests cannot stand.
const PANICS: u16 = 66;
const HANGS: u16 = 77;

/// A Service with one port, numbered as its generation, and a selector if there is one.
fn view(name: &str, generation: u16, selector: &str) -> DocumentView {
    let mut hash = [u8::try_from(generation).unwrap(); 32];
    hash[..name.len()].copy_from_slice(name.as_bytes());
    let version = DocumentVersion {
        generation: Generation::new(generation.into()).unwrap(),
        signer: KeyId(1),
        hash: Digest(hash),
    };
    let text = format!(
        "apiVersion: starling/v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{ports: [{{name: http, port: {generation}, protocol: http}}]{selector}}}\n"
    );
    DocumentView {
        key: DocumentKey::parse("Service", "default", name).unwrap(),
        version,
        schema: 1,
        signed_at: 0,
        deleted: false,
        batch: None,
        text: text.into(),
        envelope: bytes::Bytes::new(),
    }
}

fn plain(name: &str, generation: u16) -> DocumentView {
    view(name, generation, "")
}

fn ports(table: &RouteTable) -> impl Iterator<Item = u16> {
    table.services().flat_map(|service| &service.ports).filter_map(|port| port.number).map(NonZeroU16::get)
}

fn picky(
    documents: &Documents,
    registry: &Registry,
    settings: &TableSettings,
    previous: Option<&RouteTable>,
) -> RouteTable {
    let table = compile(documents, registry, settings, previous);
    while ports(&table).any(|port| port == HANGS) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(ports(&table).all(|port| port != PANICS), "on purpose");
    table
}

fn trial(compile: Compile) -> Trial {
    let settings = TableSettings { domain: SETTINGS.to_owned() };
    let (deadline, delay_first) = (Duration::from_millis(200), Duration::ZERO);
    let steps = Steps { compile, deadline, delay_first, ..Steps::new(settings, LeftBehind::default()) };
    Trial::new(steps, Crumbs::open(None, node("vm-1")))
}

/// What is in use, from trial to trial.
struct Bench {
    trial: Trial,
    ground: Ground,
}

impl Bench {
    fn new(trial: Trial) -> Self {
        let ground = Ground {
            documents: Documents::default(),
            registry: Arc::default(),
            table: Arc::default(),
            has_traffic: Arc::new(|_| false),
        };
        Self { trial, ground }
    }

    async fn judge(&mut self, meant: &[DocumentView]) -> BTreeMap<String, Why> {
        let meant = Meant { documents: meant.into(), settled: true };
        let judged = self.trial.judge(&meant, self.ground.clone()).await;
        if let Some(table) = judged.table {
            assert_eq!(table.digest(), judged.documents.digest());
            self.ground.table = table;
            self.ground.documents = judged.documents;
        }
        judged.why.into_iter().map(|(key, why)| (key.name.to_string(), why)).collect()
    }

    fn used(&self) -> Vec<(String, u64)> {
        let used = self.ground.documents.iter();
        used.map(|one| (one.document.key.name.to_string(), one.version.generation.get())).collect()
    }

    fn left_behind(&self) -> usize {
        self.trial.steps.left_behind.count()
    }
}

fn used(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(name, generation)| ((*name).to_owned(), *generation)).collect()
}

fn whys<const N: usize>(pairs: [(&str, Why); N]) -> BTreeMap<String, Why> {
    pairs.into_iter().map(|(name, why)| (name.to_owned(), why)).collect()
}

#[tokio::test]
async fn a_document_that_panics_is_left_out_and_its_last_good_version_stays() {
    let mut bench = Bench::new(trial(picky));
    assert_eq!(bench.judge(&[plain("a", 1), plain("b", 2), plain("c", 3)]).await, whys([]));
    let poisoned = [plain("a", 4), plain("b", PANICS), plain("c", 5)];
    assert_eq!(bench.judge(&poisoned).await, whys([("b", Why::Panicked)]));
    assert_eq!(bench.used(), used(&[("a", 4), ("b", 2), ("c", 5)]));
    // The same again is not tried again; the next version is, and one without a text is dropped.
    assert_eq!(bench.judge(&poisoned).await, whys([("b", Why::Panicked)]));
    assert_eq!(bench.judge(&[plain("a", 4), plain("b", 7)]).await, whys([]));
    assert_eq!(bench.used(), used(&[("a", 4), ("b", 7)]));
    assert_eq!(bench.left_behind(), 0);
}

#[tokio::test]
async fn a_document_that_hangs_is_left_out_at_the_cost_of_two_threads_and_never_tried_again() {
    let mut bench = Bench::new(trial(picky));
    bench.judge(&[plain("b", 2)]).await;
    let many: Vec<DocumentView> =
        (1..=40).map(|at| plain(&format!("n{at:02}"), at)).chain([plain("b", HANGS), plain("x", PANICS)]).collect();
    let began = Instant::now();
    assert_eq!(bench.judge(&many).await, whys([("b", Why::TimedOut), ("x", Why::Panicked)]));
    assert_eq!(bench.used().len(), 41, "all others, and b as it was");
    assert!(bench.used().contains(&("b".to_owned(), 2)));
    assert_eq!(bench.left_behind(), 2, "all together, and b alone");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Neither when it comes again, nor after the mesh used something else in between.
    assert_eq!(bench.judge(&[plain("b", HANGS)]).await, whys([("b", Why::TimedOut)]));
    assert_eq!(bench.judge(&[plain("b", 3)]).await, whys([]));
    assert_eq!(bench.judge(&[plain("b", HANGS)]).await, whys([("b", Why::TimedOut)]));
    assert_eq!((bench.used(), bench.left_behind()), (used(&[("b", 3)]), 2));
}

#[tokio::test]
async fn a_text_that_cannot_be_read_without_harm_takes_no_other_with_it() {
    fn picky(key: &DocumentKey, text: &[u8]) -> Result<Document, String> {
        assert!(key.name.as_str() != "panics", "on purpose");
        while key.name.as_str() == "hangs" {
            std::thread::sleep(Duration::from_millis(5));
        }
        parse(key, text)
    }
    let mut bench = Bench::new(trial(compile));
    bench.trial.shelf.parse = picky;
    let meant = [plain("a", 1), plain("hangs", 2), plain("panics", 3), plain("z", 4)];
    let want = whys([("hangs", Why::TimedOut), ("panics", Why::Panicked)]);
    assert_eq!(bench.judge(&meant).await, want);
    assert_eq!(bench.used(), used(&[("a", 1), ("z", 4)]));
    assert_eq!(bench.left_behind(), 2, "all together, and the one alone");
    assert_eq!((bench.judge(&meant).await, bench.left_behind()), (want, 2));
}

#[tokio::test]
async fn documents_that_hang_only_together_lose_the_later_one() {
    fn jealous(
        documents: &Documents,
        registry: &Registry,
        settings: &TableSettings,
        previous: Option<&RouteTable>,
    ) -> RouteTable {
        let table = compile(documents, registry, settings, previous);
        while ports(&table).filter(|port| *port > 50).count() > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        table
    }
    let mut bench = Bench::new(trial(jealous));
    let why = bench.judge(&[plain("a", 51), plain("b", 1), plain("c", 52), plain("d", 2)]).await;
    assert_eq!(why, whys([("c", Why::TimedOut)]));
    assert_eq!(bench.used(), used(&[("a", 51), ("b", 1), ("d", 2)]));
}

fn by(signer: u32, view: DocumentView) -> DocumentView {
    DocumentView { version: DocumentVersion { signer: KeyId(signer), ..view.version }, ..view }
}

static SLOW: AtomicBool = AtomicBool::new(true);

/// Takes as long as [`SLOW`] says with ports from 100.
fn slow(
    documents: &Documents,
    registry: &Registry,
    settings: &TableSettings,
    previous: Option<&RouteTable>,
) -> RouteTable {
    let table = compile(documents, registry, settings, previous);
    while ports(&table).any(|port| port >= 100) && SLOW.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    table
}

/// A key whose documents hang one after the other uses up what one key may; others' documents come into use. All of it
/// is tried again once the steps have ended after all: a host without a moment to spare is no document's fault.
#[tokio::test]
async fn one_signer_uses_up_its_own_budget_only_and_what_was_only_slow_is_tried_again() {
    let mut bench = Bench::new(trial(slow));
    bench.trial.shelf = Shelf::new(Duration::from_millis(300));
    let left_behind = bench.trial.steps.left_behind.clone();
    let mut meant = vec![by(1, plain("bad", 100)), by(2, plain("good", 1))];
    assert_eq!(bench.judge(&meant).await, whys([("bad", Why::TimedOut)]));
    assert_eq!(left_behind.delayed().signers, ["k1"]);
    for at in 0..6 {
        // New contents each time, beside others' and one more of the same key.
        meant = vec![by(1, plain("bad", 101 + at)), by(1, plain("honest", 2)), by(2, plain("good", 2 + at))];
        let why = bench.judge(&meant).await;
        assert!(bench.used().contains(&("good".to_owned(), 2 + u64::from(at))), "{why:?} {:?}", bench.used());
        assert!(why.contains_key("bad") && left_behind.of(Cause::Documents) <= HANGING_PER_SIGNER_MAX, "{why:?}");
        tokio::time::sleep(Duration::from_millis(350)).await;
    }
    assert_eq!(left_behind.of(Cause::Documents), HANGING_PER_SIGNER_MAX);
    assert_eq!(bench.judge(&meant).await.get("honest"), Some(&Why::Delayed));
    assert!(!bench.trial.has_slow());

    SLOW.store(false, Ordering::SeqCst);
    while left_behind.count() > 0 {
        tokio::time::timeout(Duration::from_secs(5), left_behind.ended()).await.unwrap();
    }
    // The delay has doubled meanwhile.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.judge(&meant).await, whys([]));
    assert_eq!(bench.used(), used(&[("bad", 106), ("good", 7), ("honest", 2)]));
    assert_eq!(left_behind.delayed().signers, Vec::<String>::new());
}

/// The same hash, not another one: what was quarantined comes into use once its own step has ended.
#[tokio::test]
async fn a_quarantine_ends_with_the_step_that_it_was_for() {
    static STARVED: AtomicBool = AtomicBool::new(true);
    fn starved(
        documents: &Documents,
        registry: &Registry,
        settings: &TableSettings,
        previous: Option<&RouteTable>,
    ) -> RouteTable {
        while documents.len() > 1 && STARVED.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        compile(documents, registry, settings, previous)
    }
    let mut bench = Bench::new(trial(starved));
    assert_eq!(bench.judge(&[plain("a", 1)]).await, whys([]));
    let meant = [plain("a", 1), plain("b", 2)];
    assert_eq!(bench.judge(&meant).await, whys([("b", Why::TimedOut)]));
    assert_eq!(bench.judge(&meant).await, whys([("b", Why::TimedOut)]), "not before");
    assert_eq!(bench.left_behind(), 1);
    STARVED.store(false, Ordering::SeqCst);
    let ended = bench.trial.steps.left_behind.clone();
    tokio::time::timeout(Duration::from_secs(5), ended.ended()).await.unwrap();
    assert!(bench.trial.has_slow());
    assert_eq!(bench.judge(&meant).await, whys([]));
    assert_eq!((bench.used(), bench.trial.has_slow()), (used(&[("a", 1), ("b", 2)]), false));
}

#[tokio::test]
async fn at_the_bound_of_threads_nothing_is_tried_and_what_is_in_use_stays() {
    let mut bench = Bench::new(trial(picky));
    bench.judge(&[plain("a", 1)]).await;
    let held = bench.trial.steps.left_behind.hold(Cause::Documents, LEFT_BEHIND_BY_DOCUMENTS_MAX);
    let meant = [plain("a", 2), plain("b", 1)];
    assert_eq!(bench.judge(&meant).await, whys([("a", Why::Waiting), ("b", Why::Waiting)]));
    assert_eq!(bench.used(), used(&[("a", 1)]));
    drop(held);
    assert_eq!(bench.judge(&meant).await, whys([]), "a thread that ended makes room");
    assert_eq!(bench.used(), used(&[("a", 2), ("b", 1)]));
}

#[tokio::test]
async fn sets_that_hang_are_remembered_up_to_a_bound() {
    let mut trial = trial(picky);
    for at in 0..=HUNG_SETS_MAX {
        let mut set = [0; 32];
        set[..8].copy_from_slice(&(at as u64).to_be_bytes());
        trial.note_hung(Digest(set), Late::default());
    }
    assert_eq!(trial.hung.len(), HUNG_SETS_MAX);
}

/// Two endpoints of `orders`, labelled by their names.
fn registry() -> Registry {
    let mut registry = Registry::new();
    let fact: MemberFact = member("vm-1", starling_model::MemberState::Alive);
    registry.member(&fact);
    let record: ServicesRecord = services(&["orders", "stock"]);
    registry.services(&node("vm-1"), &record);
    let ready: HealthRecord = health(&["orders", "stock"], Readiness::Ready);
    registry.health(&node("vm-1"), &ready);
    registry
}

/// A stand-in for what takes endpoints away as a permission: while a document of that kind is in use, nothing serves.
fn denying(
    documents: &Documents,
    registry: &Registry,
    settings: &TableSettings,
    previous: Option<&RouteTable>,
) -> RouteTable {
    let denies = documents.iter().any(|one| is_permission(&one.document.key));
    let nobody = Registry::new();
    compile(documents, if denies { &nobody } else { registry }, settings, previous.filter(|_| !denies))
}

#[tokio::test]
async fn what_says_who_may_is_never_held_back_for_the_traffic_that_it_ends() {
    let mut bench = Bench::new(trial(denying));
    bench.ground.registry = Arc::new(registry());
    bench.ground.has_traffic = Arc::new(|_| true);
    assert_eq!(bench.judge(&[plain("a", 1)]).await, whys([]));
    let key = DocumentKey::parse("AuthorizationPolicy", "default", "deny").unwrap();
    let text = "apiVersion: starling/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\nspec: {}\n";
    let deny = DocumentView { key, text: text.into(), ..plain("deny", 2) };
    assert_eq!(bench.judge(&[plain("a", 3), deny]).await, whys([]));
    assert_eq!(bench.used().len(), 2);
    assert!(bench.ground.table.services().all(|service| service.admissible_len() == 0));
}

fn signed(kind: &str, name: &str, generation: u16, spec: &str) -> DocumentView {
    let text = format!("apiVersion: starling/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    let key = DocumentKey::parse(kind, "default", name).unwrap();
    DocumentView { key, text: text.into(), ..plain(name, generation) }
}

impl Bench {
    /// How vm-1 stands to `web`, `orders` and `x/cart`.
    fn standings(&self) -> [&'static str; 3] {
        ["web", "orders", "x/cart"].map(|service| {
            let service = ServiceKey::parse(service, &Namespace::default()).unwrap();
            self.ground.table.grants().standing(&service, &node("vm-1")).as_str()
        })
    }

    async fn granted(&mut self, meant: &[DocumentView]) -> ([&'static str; 3], usize) {
        self.judge(meant).await;
        (self.standings(), self.ground.documents.len())
    }
}

/// F41: a grant that cannot be read denies what it names, and what it named, until one comes that can.
#[tokio::test]
async fn a_grant_that_cannot_be_read_is_never_absent_and_never_the_last_good_one() {
    let mut bench = Bench::new(trial(compile));
    let grant = |generation, spec: &str| signed("ServiceGrant", "g", generation, spec);
    let good = grant(1, "{nodes: [{node: vm-1}], services: [{service: web}, {namespace: x, service: cart}]}");
    assert_eq!(bench.granted(&[good]).await, (["granted", "unnamed", "granted"], 1));
    let newer = grant(2, "{nodes: [{node: vm-1}], services: [{service: orders}], except: [x]}");
    assert_eq!(bench.granted(std::slice::from_ref(&newer)).await, (["held_back"; 3], 0));
    let beside = signed("ServiceGrant", "h", 3, "{nodes: [{node: vm-1}], services: [{service: web}]}");
    assert_eq!(bench.granted(&[newer, beside]).await, (["held_back"; 3], 1));
    let good = grant(4, "{nodes: [{node: vm-2}], services: [{service: orders}]}");
    assert_eq!(bench.granted(&[good]).await, (["unnamed", "not_granted", "unnamed"], 1));
    let garbage = DocumentView { text: "\u{1}".into(), ..grant(5, "") };
    let want = (["held_back", "held_back", "unnamed"], 0);
    assert_eq!(bench.granted(std::slice::from_ref(&garbage)).await, want, "its whole namespace");
    assert_eq!(bench.granted(&[]).await, (["unnamed"; 3], 0));
    assert_eq!(bench.granted(&[garbage]).await, want);
}

#[tokio::test]
async fn a_mesh_config_that_cannot_be_read_is_the_last_good_one_or_might_be_strict() {
    let mut bench = Bench::new(trial(compile));
    let config = |generation, spec: &str| signed("MeshConfig", "mesh", generation, spec);
    for (generation, spec, want) in [
        (1, "{serviceGrants: Later}", "held_back"),
        (2, "{serviceGrants: Open}", "unnamed"),
        (3, "{serviceGrants: Later}", "unnamed"),
        (4, "{serviceGrants: Strict}", "no_grant"),
        (5, "{later: 1}", "no_grant"),
    ] {
        assert_eq!(bench.granted(&[config(generation, spec)]).await.0[0], want, "{generation}");
    }
}

/// Cannot stand a grant to vm-66, and never ends with one to vm-77.
fn picky_of_grants(
    documents: &Documents,
    registry: &Registry,
    settings: &TableSettings,
    previous: Option<&RouteTable>,
) -> RouteTable {
    let table = compile(documents, registry, settings, previous);
    let service = ServiceKey::parse("web", &Namespace::default()).unwrap();
    assert!(table.grants().by(&service, &node("vm-66")).is_none(), "on purpose");
    while table.grants().by(&service, &node("vm-77")).is_some() {
        std::thread::sleep(Duration::from_millis(5));
    }
    table
}

#[tokio::test]
async fn a_poison_grant_denies_too() {
    let mut bench = Bench::new(trial(picky_of_grants));
    let grant = |generation, node: &str| {
        let spec = format!("{{nodes: [{{node: {node}}}], services: [{{service: web}}]}}");
        signed("ServiceGrant", "g", generation, &spec)
    };
    let first = bench.granted(&[grant(1, "vm-1"), plain("a", 2)]).await;
    assert_eq!(first, (["granted", "unnamed", "unnamed"], 2));
    let poisoned = bench.granted(&[grant(3, "vm-66"), plain("a", 4)]).await;
    assert_eq!(poisoned, (["held_back", "unnamed", "unnamed"], 1));
    let next = bench.granted(&[grant(5, "vm-2"), plain("a", 4)]).await;
    assert_eq!(next, (["not_granted", "unnamed", "unnamed"], 2));
    let hung = bench.granted(&[grant(7, "vm-77"), plain("a", 4)]).await;
    assert_eq!(hung, (["held_back", "unnamed", "unnamed"], 1));
}

/// A node that has just started does not know who is granted what: nobody is accepted until it does, and then for good.
#[tokio::test]
async fn nobody_is_accepted_before_all_documents_are_known() {
    let mut bench = Bench::new(trial(compile));
    let none = Documents::default().partial();
    bench.ground.table = Arc::new(compile(&none, &Registry::new(), &bench.trial.steps.settings, None));
    bench.ground.documents = none;
    let grant = signed("ServiceGrant", "g", 1, "{nodes: [{node: vm-1}], services: [{service: web}]}");
    for (settled, meant, want) in [
        (false, vec![], ["not_known"; 3]),
        (false, vec![grant.clone()], ["not_known"; 3]),
        (true, vec![grant.clone()], ["granted", "unnamed", "unnamed"]),
        (true, vec![], ["unnamed"; 3]),
        // The task that says so began anew.
        (false, vec![grant], ["granted", "unnamed", "unnamed"]),
    ] {
        let meant = Meant { documents: meant.into(), settled };
        let judged = bench.trial.judge(&meant, bench.ground.clone()).await;
        if let Some(table) = judged.table {
            (bench.ground.table, bench.ground.documents) = (table, judged.documents);
        }
        assert_eq!(bench.standings(), want, "{meant:?}");
    }
    assert!(!bench.ground.documents.is_partial());
}

/// Where no thread is left to try a grant, what it names is denied: it might take something away.
#[tokio::test]
async fn a_grant_that_waits_for_a_thread_denies_what_it_names_and_named() {
    let mut bench = Bench::new(trial(compile));
    let grant = |generation, service: &str| {
        let spec = format!("{{nodes: [{{node: vm-1}}], services: [{{service: {service}}}]}}");
        signed("ServiceGrant", "g", generation, &spec)
    };
    assert_eq!(bench.granted(&[grant(1, "web")]).await.0, ["granted", "unnamed", "unnamed"]);
    let hanging = bench.trial.steps.left_behind.hold(Cause::Documents, LEFT_BEHIND_BY_DOCUMENTS_MAX);
    let meant = Meant { documents: vec![grant(2, "orders")].into(), settled: true };
    let judged = bench.trial.judge(&meant, bench.ground.clone()).await;
    assert_eq!(judged.why.into_values().collect::<Vec<_>>(), [Why::Waiting]);
    assert!(judged.table.is_none(), "there is no thread for one");
    bench.ground.table = Arc::new(compile(&judged.documents, &Registry::new(), &bench.trial.steps.settings, None));
    assert_eq!(bench.standings(), ["held_back", "held_back", "unnamed"]);
    bench.ground.documents = judged.documents;
    drop(hanging);
    assert_eq!(bench.granted(&[grant(2, "orders")]).await.0, ["unnamed", "granted", "unnamed"]);
}

#[tokio::test]
async fn a_deleted_grant_permits_nothing_even_where_no_thread_is_left() {
    let mut bench = Bench::new(trial(compile));
    let grant = |name: &str, service: &str| {
        let spec = format!("{{nodes: [{{node: vm-1}}], services: [{{service: {service}}}]}}");
        signed("ServiceGrant", name, 1, &spec)
    };
    let (web, orders) = (grant("g", "web"), grant("h", "orders"));
    let other = signed("ServiceGrant", "other", 1, "{nodes: [{node: vm-9}], services: [{service: web}]}");
    bench.granted(&[web, orders.clone(), other.clone()]).await;
    assert_eq!(bench.standings()[..2], ["granted", "granted"]);
    let hanging = bench.trial.steps.left_behind.hold(Cause::Documents, LEFT_BEHIND_BY_DOCUMENTS_MAX);
    let meant = Meant { documents: vec![orders, other].into(), settled: true };
    let judged = bench.trial.judge(&meant, bench.ground.clone()).await;
    assert!(judged.table.is_none(), "there is no thread for one");
    bench.ground.table = Arc::new(compile(&judged.documents, &Registry::new(), &bench.trial.steps.settings, None));
    assert_eq!(bench.standings()[0], "not_granted", "{:?}", bench.standings());
    assert_eq!(bench.standings()[1], "granted");
    drop(hanging);
}

static TRAFFIC: AtomicBool = AtomicBool::new(true);

#[tokio::test]
async fn a_selector_that_empties_a_service_with_traffic_waits_for_the_traffic_to_end() {
    let mut bench = Bench::new(trial(picky));
    bench.ground.registry = Arc::new(registry());
    bench.ground.has_traffic = Arc::new(|_| TRAFFIC.load(Ordering::SeqCst));
    let selecting =
        |name: &str, generation, label: &str| view(name, generation, &format!(", selector: {{service: {label}}}"));
    let good = [selecting("front", 1, "orders"), plain("other", 1)];
    assert_eq!(bench.judge(&good).await, whys([]), "what has no endpoint before loses none");
    let slip = [selecting("front", 2, "odrers"), plain("other", 2)];
    let front = ServiceKey::parse("front", &Namespace::default()).unwrap();
    let want = whys([("front", Why::Empties(front.clone()))]);
    assert_eq!(bench.judge(&slip).await, want);
    assert_eq!(bench.used(), used(&[("front", 1), ("other", 2)]), "the other one is used");
    assert_eq!(bench.judge(&[plain("other", 2)]).await, want, "deleting it is no better");
    assert_eq!(bench.judge(&[selecting("front", 3, "stock"), plain("other", 2)]).await, whys([]), "others serve it");
    // A lost member is no document's fault, and does not stand in the way of one.
    let mut lost = registry();
    lost.forget(&node("vm-1"));
    bench.ground.registry = Arc::new(lost);
    assert_eq!(bench.judge(&[selecting("front", 4, "stock"), plain("other", 3)]).await, whys([]));
    bench.ground.registry = Arc::new(registry());
    assert_eq!(bench.judge(&[selecting("front", 5, "odrers")]).await, want);
    TRAFFIC.store(false, Ordering::SeqCst);
    assert_eq!(bench.judge(&[selecting("front", 5, "odrers")]).await, whys([]), "the traffic has ended");
}

/// A document that ends the process is found by its trace: tried alone after the first end, left out after the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_ended_the_agent_twice_is_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let open = || store::open(folder.path(), MeshId([7; 32])).unwrap();
    let started = |store: &store::StoreHandle| {
        let mut bench = Bench::new(trial(compile));
        bench.trial.crumbs = Crumbs::open(Some(store.clone()), node("vm-1"));
        bench
    };
    let meant = [plain("a", 1), plain("b", 2)];
    let hashes = [meant[0].version.hash, meant[1].version.hash];
    for (end, tried) in [(0, vec![hashes[0], hashes[1]]), (1, vec![hashes[1]])] {
        let store = open();
        let bench = started(&store);
        assert_eq!(bench.trial.crumbs.ends(&hashes[1]), end);
        // The agent ends here.
        bench.trial.crumbs.lay(&tried);
        store.close();
    }
    let store = open();
    let mut bench = started(&store);
    assert_eq!(bench.judge(&meant).await, whys([("b", Why::Crashed)]));
    assert_eq!(bench.used(), used(&[("a", 1)]));
    assert_eq!(bench.judge(&[plain("a", 1), plain("b", 3)]).await, whys([]), "the next text counts");
    assert_eq!(bench.trial.crumbs.ends(&hashes[0]), 0, "a was tried alone and is cleared");
    store.close();
    drop((bench, store));
    let store = open();
    assert_eq!(started(&store).trial.crumbs.ends(&hashes[0]), 0);
    assert!(!folder.path().join("trying").exists(), "the trial is over");
    store.close();
}
