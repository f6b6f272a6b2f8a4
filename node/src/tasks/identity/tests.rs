//! Every way in which a host's identity can be missing, foreign, ended or unsafe.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use starling_config::{ConfigDir, SourceFile, SourceKind, Sources};
use starling_identity::{NewTrustDomain, create_trust_domain};
use starling_model::TrustDomain;

use super::*;

const DAY: u64 = 86_400;

/// Settings of a node whose folders lie in `folder`.
pub(crate) fn config(folder: &Path, node: &str) -> AgentConfig {
    let text = format!("node_name = {node:?}\n[mesh]\nlisten = \"127.0.0.1:7740\"\n");
    let path = folder.join("agent.toml").display().to_string();
    let sources = Sources {
        files: vec![SourceFile { path, text, kind: SourceKind::AgentToml }],
        environment: Vec::new(),
        flags: Vec::new(),
        dir: ConfigDir::new(folder),
        hostname: "host".to_owned(),
    };
    starling_config::load(sources).unwrap().config
}

fn ago(days: u64) -> UnixTime {
    wall_clock().minus(days * DAY)
}

fn domain(shared: bool, made: UnixTime) -> NewTrustDomain {
    create_trust_domain(&TrustDomain::new("prod.internal").unwrap(), "alice", shared, made).unwrap()
}

fn install_bundle(folder: &Path, domain: &NewTrustDomain) {
    let trust = folder.join("trust");
    fs::create_dir_all(&trust).unwrap();
    files::replace(&trust.join("bundle.trust"), &domain.bundle_file, 0o644).unwrap();
}

/// A folder of a host in a mesh with a shared issuer.
pub(crate) fn shared_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let domain = domain(true, ago(0));
    install_bundle(folder.path(), &domain);
    files::replace_secret(&folder.path().join("trust/issuer.key"), domain.issuer_key_pem.as_bytes()).unwrap();
    folder
}

fn install_node(folder: &Path, domain: &NewTrustDomain, node: &str, days: u32, now: UnixTime) {
    let ca = IssuingCa::load(&domain.bundle, &domain.issuer_key_pem).unwrap();
    let issued = ca.issue_node(&NodeName::new(node).unwrap(), days, now).unwrap();
    let identity = folder.join("state/identity");
    fs::create_dir_all(&identity).unwrap();
    files::replace_secret(&identity.join("issuing.key"), issued.issuing_key_pem.as_bytes()).unwrap();
    files::replace(&identity.join("chain.pem"), issued.chain_pem.as_bytes(), 0o644).unwrap();
}

fn refused(folder: &Path) -> AgentError {
    match load(&config(folder, "vm-1")) {
        Ok(identity) => panic!("{identity:?} was accepted"),
        Err(error) => error,
    }
}

#[test]
fn an_issued_identity_loads_and_makes_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let domain = domain(false, ago(0));
    install_bundle(folder.path(), &domain);
    install_node(folder.path(), &domain, "vm-1", 365, ago(0));
    let identity = load(&config(folder.path(), "vm-1")).unwrap();
    assert_eq!(identity.node.node().as_str(), "vm-1");
    assert!(!identity.bundle().shared_issuer && !identity.is_ending(wall_clock()));
    for secret in ["record.key", "quic.key", "issuing.key"] {
        let mode = fs::metadata(folder.path().join("state/identity").join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{secret}");
    }
    let again = load(&config(folder.path(), "vm-1")).unwrap();
    assert_eq!(again.node.record_public_key(), identity.node.record_public_key(), "the record key stays");
    assert_eq!(*again.quic.reset, *identity.quic.reset, "the reset key stays");
}

#[test]
fn a_host_without_an_identity_is_told_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(folder.path());
    assert_eq!(error.code, codes::IDENTITY_MISSING);
    assert!(error.what.contains("no trust bundle") && error.help.contains("starling join"), "{error:?}");
    install_bundle(folder.path(), &domain(false, ago(0)));
    let error = refused(folder.path());
    assert_eq!((error.code, error.what.as_str()), (codes::IDENTITY_MISSING, "no identity on this host"));
}

#[test]
fn damaged_bundles_and_keys_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let domain = domain(false, ago(0));
    install_bundle(folder.path(), &domain);
    install_node(folder.path(), &domain, "vm-1", 365, ago(0));
    files::replace_secret(&folder.path().join("state/identity/issuing.key"), b"garbage").unwrap();
    assert_eq!(refused(folder.path()).code, codes::IDENTITY_MISSING);
    files::replace(&folder.path().join("trust/bundle.trust"), b"garbage", 0o644).unwrap();
    assert_eq!(refused(folder.path()).code, codes::BUNDLE_INVALID);
}

#[test]
fn an_identity_of_another_mesh_is_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (domain(false, ago(0)), domain(false, ago(0)));
    install_bundle(folder.path(), &ours);
    install_node(folder.path(), &theirs, "vm-1", 365, ago(0));
    let error = refused(folder.path());
    assert_eq!(error.code, codes::OTHER_MESH, "{error:?}");
}

#[test]
fn an_ended_identity_is_told_and_one_that_ends_soon_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let domain = domain(false, ago(30));
    install_bundle(folder.path(), &domain);
    install_node(folder.path(), &domain, "vm-1", 5, ago(20));
    let error = refused(folder.path());
    assert_eq!(error.code, codes::CERTIFICATE_EXPIRED, "{error:?}");
    install_node(folder.path(), &domain, "vm-1", 21, ago(20));
    assert!(load(&config(folder.path(), "vm-1")).unwrap().is_ending(wall_clock()));
}

#[test]
fn an_identity_of_another_name_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let domain = domain(false, ago(0));
    install_bundle(folder.path(), &domain);
    install_node(folder.path(), &domain, "vm-2", 365, ago(0));
    let error = refused(folder.path());
    assert!(error.what.contains("vm-2") && error.help.contains("node_name"), "{error:?}");
}

#[test]
fn a_secret_that_others_can_read_is_refused_with_the_command_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let domain = domain(false, ago(0));
    install_bundle(folder.path(), &domain);
    install_node(folder.path(), &domain, "vm-1", 365, ago(0));
    let key = folder.path().join("state/identity/issuing.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = refused(folder.path());
    assert_eq!((error.code, error.help), (codes::SECRET_UNSAFE, format!("chmod 600 {}", key.display())));
    assert!(!error.what.contains("ST0610"), "the code is told once: {}", error.what);
}

#[test]
fn with_a_shared_issuer_a_host_makes_its_own_identity_and_keeps_it() {
    let folder = shared_folder();
    let first = load(&config(folder.path(), "vm-1")).unwrap();
    assert!(first.bundle().shared_issuer);
    let second = load(&config(folder.path(), "vm-1")).unwrap();
    assert_eq!(second.node.issuing_key_hash(), first.node.issuing_key_hash());
    let renamed = load(&config(folder.path(), "vm-9")).unwrap();
    assert_eq!(renamed.node.node().as_str(), "vm-9");
    // Another mesh's folder is copied over: the identity follows.
    let other = domain(true, ago(0));
    install_bundle(folder.path(), &other);
    files::replace_secret(&folder.path().join("trust/issuer.key"), other.issuer_key_pem.as_bytes()).unwrap();
    let moved = load(&config(folder.path(), "vm-9")).unwrap();
    assert_eq!(moved.node.mesh_id(), other.bundle.mesh_id);
}

#[test]
fn a_foreign_or_open_issuer_key_is_refused() {
    let folder = shared_folder();
    let key = folder.path().join("trust/issuer.key");
    files::replace_secret(&key, domain(true, ago(0)).issuer_key_pem.as_bytes()).unwrap();
    assert_eq!(refused(folder.path()).code, codes::BUNDLE_INVALID);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(refused(folder.path()).code, codes::SECRET_UNSAFE);
}

#[test]
fn a_new_leaf_is_made_and_published() {
    let folder = shared_folder();
    let identity = load(&config(folder.path(), "vm-1")).unwrap();
    let before = identity.current.leaf_chain();
    assert!(identity.shows_its_chain());
    assert!(identity.rekey(wall_clock().plus(60)));
    assert!(identity.shows_its_chain());
    assert_ne!(identity.current.leaf_chain()[0], before[0]);
    assert_eq!(identity.refreshes(), (2, 0));
    // Beyond the issuing certificate's life nothing can be made; the leaf in use stays.
    let kept = identity.current.leaf_chain();
    assert!(!identity.rekey(wall_clock().plus(3_000 * DAY)));
    assert_eq!((identity.current.leaf_chain(), identity.refreshes()), (kept, (2, 1)));
    let own = OwnRecords::default();
    identity.publish(&own);
    assert_eq!(own.take_changed().len(), 1);
}
