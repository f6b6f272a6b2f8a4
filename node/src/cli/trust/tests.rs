use std::os::unix::fs::PermissionsExt as _;

use starling_identity::inspect::InspectRow;
use starling_identity::{JoinFile, OperatorKey};
use starling_model::Code;

use super::inspect::{Serials, certificates, of_file};
use super::issue::{HowArgs, days, seed};
use super::issued_log::IssuedLog;
use super::*;
use crate::cli::install::{self, BundleThere, Places, Present, Trust};
use crate::cli::operator_key::KeyArgs;

fn init_args(out: &Path) -> InitArgs {
    InitArgs {
        trust_domain: TrustDomain::new("prod.internal").unwrap(),
        operator: "alice".to_owned(),
        out: out.to_owned(),
        shared_issuer: false,
        passphrase_file: None,
    }
}

fn how(dir: &Path, replace: bool) -> HowArgs {
    HowArgs {
        seed: vec!["10.0.0.11:7740".to_owned()],
        ttl: "365d".to_owned(),
        replace,
        key: KeyArgs::default(),
        dir: dir.to_owned(),
    }
}

fn issue_args(dir: &Path, names: &str, replace: bool) -> IssueNodeArgs {
    let names = names.split(' ').map(|name| NodeName::new(name).unwrap()).collect();
    IssueNodeArgs { names, how: how(dir, replace) }
}

fn issue_node(args: &IssueNodeArgs) -> Result<Exit, CliError> {
    issue::nodes(args)
}

fn init(args: &InitArgs, look: &Look) -> Result<Exit, CliError> {
    super::init(args, look)
}

fn refused<T>(result: Result<T, CliError>) -> (Exit, Option<Code>) {
    result.map(drop).map_err(|error| (error.exit(), error.code())).unwrap_err()
}

fn join_file(path: &Path) -> JoinFile {
    JoinFile::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn places(root: &Path) -> Places {
    Places { config: root.to_owned(), trust: root.join("trust"), state: root.join("state") }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_operator_folder_is_made_once_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("op");
    init(&init_args(&out), &Look::plain()).unwrap();
    for (file, want) in [
        ("operator/root.key", 0o600),
        ("operator/issuer.key", 0o600),
        ("operator/alice.key", 0o600),
        ("operator/issued.log", 0o600),
        ("trust/bundle.trust", 0o644),
    ] {
        assert_eq!(mode(&out.join(file)), want, "{file}");
    }
    assert!(!out.join("trust/issuer.key").exists());
    let again = init(&init_args(&out), &Look::plain()).unwrap_err();
    assert_eq!((again.exit(), again.code()), (Exit::Refused, Some(codes::TRUST_EXISTS)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn init_looks_as_documented() {
    let args = init_args(Path::new("/srv/prod"));
    let made = create_trust_domain(&args.trust_domain, "alice", false, now()).unwrap();
    let fingerprint = made.bundle.mesh_id.fingerprint();
    assert_eq!(
        fingerprint.bytes().filter(u8::is_ascii_hexdigit).count(),
        64 + 4,
        "whole, and the digits of SHA256 itself"
    );
    let want = format!(
        "created trust domain prod.internal in /srv/prod
  root CA        operator/root.key      valid 10 years         KEEP OFFLINE
  issuing CA     operator/issuer.key    valid 5 years          signs node certificates
  operator key   operator/alice.key     k1 \"alice\"             roles admin, config, issue, revoke
  trust bundle   trust/bundle.trust     public, sequence 1     goes to every node
  fingerprint    {fingerprint}
                 compare it by voice or ticket when a host joins
next:  cd /srv/prod && starling trust issue node vm-1
"
    );
    assert_eq!(init_text(&args, &made, &Look::plain()), want);
    let shared = InitArgs { shared_issuer: true, ..args };
    let text = init_text(&shared, &made, &Look::plain());
    assert!(
        text.contains("‼ trust/issuer.key is included: whoever reads it can pose as any node (ST0604)\n"),
        "{text}"
    );
    assert!(text.contains("next:  copy /srv/prod/trust to /etc/starling/trust on every host; there:"), "{text}");
}

#[test]
fn a_name_is_issued_once_unless_it_is_to_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("op");
    init(&init_args(&out), &Look::plain()).unwrap();
    issue_node(&issue_args(&out, "vm-2", false)).unwrap();
    let file = out.join("vm-2.join");
    assert_eq!(mode(&file), 0o600);
    assert_eq!(join_file(&file).seeds, ["10.0.0.11:7740"]);
    // The file may be gone, the log remembers.
    std::fs::remove_file(&file).unwrap();
    let again = issue_node(&issue_args(&out, "vm-2", false)).unwrap_err();
    assert_eq!((again.exit(), again.code()), (Exit::Refused, Some(codes::TRUST_EXISTS)));
    issue_node(&issue_args(&out, "vm-2", true)).unwrap();
    issue_node(&issue_args(&out, "vm-20", false)).unwrap();
    let log = std::fs::read_to_string(out.join("operator/issued.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.starts_with("node vm-2 key ")).count(), 2, "{log}");
    assert_eq!(mode(&out.join("operator/issued.log")), 0o600);
    let elsewhere = issue_node(&issue_args(folder.path(), "vm-3", false)).unwrap_err();
    assert_eq!(elsewhere.exit(), Exit::NotFound);
}

#[test]
fn an_identity_is_installed_once_and_only_under_its_own_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    for out in [&ours, &theirs] {
        init(&init_args(out), &Look::plain()).unwrap();
        issue_node(&issue_args(out, "vm-2", false)).unwrap();
    }
    let join = join_file(&ours.join("vm-2.join"));
    let bundle = TrustBundle::parse(&join.bundle_file).unwrap();
    let places = places(&folder.path().join("host"));
    let ready = install::check(&join, &bundle, &places, Present::Keep, Trust::Proven).unwrap();
    assert_eq!(ready.bundle, BundleThere::None);
    install::install(&join, &places, &ready).unwrap();
    assert!(install::agent_toml(&join, &places).unwrap());
    assert!(!install::agent_toml(&join, &places).unwrap(), "settings that are there stay");
    assert_eq!((mode(&places.issuing_key()), mode(&places.identity())), (0o600, 0o700));
    assert_eq!((mode(&places.bundle()), mode(&places.chain())), (0o644, 0o644));
    let text = std::fs::read_to_string(places.agent_toml()).unwrap();
    assert!(text.contains("node_name = \"vm-2\"") && text.contains("seeds = [\"10.0.0.11:7740\"]"), "{text}");

    let again = refused(install::check(&join, &bundle, &places, Present::Keep, Trust::Proven));

    assert_eq!(again, (Exit::Refused, Some(codes::IDENTITY_EXISTS)));
    assert_eq!(
        install::check(&join, &bundle, &places, Present::Replace, Trust::Proven).unwrap().bundle,
        BundleThere::Newer
    );
    let foreign = join_file(&theirs.join("vm-2.join"));
    let foreign_bundle = TrustBundle::parse(&foreign.bundle_file).unwrap();
    for present in [Present::Keep, Present::Replace] {
        let refused = refused(install::check(&foreign, &foreign_bundle, &places, present, Trust::Proven));
        assert_eq!(refused, (Exit::Refused, Some(codes::OTHER_MESH)));
    }
}

#[test]
fn inspecting_looks_as_documented_and_shows_no_key() {
    let row = |what, subject: &str, serial: &str, before: u64, after: u64| InspectRow {
        what,
        subject: subject.to_owned(),
        serial: serial.to_owned(),
        not_before: UnixTime(before),
        not_after: UnixTime(after),
        key: "P-256".to_owned(),
    };
    // 2026-11-22T15:31:59Z
    let now = UnixTime(1_795_361_519);
    let days = |count: u64| now.0 + count * 86_400 + 3_600;
    let rows = [
        row("root CA", "starling root b7e103c8", "41c9aa", 1_795_000_000, days(3_646)),
        row("issuing CA", "starling issuer 5d2a77f0", "0b6ebb", 1_795_000_000, days(1_821)),
        row("node CA", "vm-2.node.prod.internal", "7f31cc", 1_795_000_000, days(361)),
        row("leaf", "spiffe://prod.internal/node/vm-2", "99", 1_795_000_000, now.0),
    ];
    let text = certificates(&rows, now, Serials::Short, &Look::plain());
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("WHAT         SUBJECT "), "{text}");
    assert!(lines[0].ends_with("SERIAL   NOT BEFORE   NOT AFTER     LEFT   KEY"), "{text}");
    assert!(lines[1].ends_with("41c9…    2026-11-18   2036-11-15   3646d   P-256"), "{text}");
    assert!(lines[4].contains("ended"), "{text}");
    assert!(certificates(&rows, now, Serials::Full, &Look::plain()).contains("41c9aa"));

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("op");
    init(&init_args(&out), &Look::plain()).unwrap();
    issue_node(&issue_args(&out, "vm-2", false)).unwrap();
    let found = of_file(&out.join("vm-2.join")).unwrap();
    assert!(found.remarks[0].contains("SECRET") && !found.remarks.concat().contains("PRIVATE"), "{:?}", found.remarks);
    let whole = operator_bundle(&out).unwrap().0;
    let told = found.remarks.join("\n");
    assert!(told.contains(&whole.fingerprint()) && told.contains(&whole.mesh_id.fingerprint()), "{told}");
    let rows = found.rows;
    assert_eq!(rows.iter().map(|row| row.what).collect::<Vec<_>>(), ["root CA", "issuing CA", "node CA"]);
    let bundle = of_file(&out.join("trust/bundle.trust")).unwrap();
    assert_eq!(bundle.rows.len(), 2);
    assert!(
        bundle.remarks.concat().contains("operator k1 \"alice\"   roles admin, config, issue, revoke"),
        "{:?}",
        bundle.remarks
    );
    assert_eq!(refused(of_file(&out.join("operator/issuer.key"))).0, Exit::Refused);
}

#[test]
fn seeds_and_lives_are_checked() {
    let check = |text: &str, want: Option<&str>| assert_eq!(seed(text).ok().as_deref(), want, "{text}");
    check("10.0.0.11:7740", Some("10.0.0.11:7740"));
    check("vm-1", Some("vm-1:7740"));
    check("vm-1.example.net:1", Some("vm-1.example.net:1"));
    check("[fd00::1]:7740", Some("[fd00::1]:7740"));
    check("[fd00::1]", Some("[fd00::1]:7740"));
    check("fd00::1", Some("[fd00::1]:7740"));
    for bad in ["", ":7740", "vm-1:0", "vm-1:70000", "vm-1:x", "a b", "http://x:1", "a\"b:1"] {
        check(bad, None);
    }
    assert_eq!((days("365d").unwrap(), days("30").unwrap()), (365, 30));
    assert_eq!(days("1y").unwrap_err().exit(), Exit::Usage);
}

/// The private key is made on the host and never leaves its folder.
#[test]
fn a_request_is_signed_and_joined_without_the_key_moving() {
    let folder = tempfile::tempdir().unwrap();
    let (out, host) = (folder.path().join("op"), folder.path().join("host"));
    init(&init_args(&out), &Look::plain()).unwrap();
    let asked = CsrArgs {
        node: NodeName::new("vm-2").unwrap(),
        out: Some(folder.path().join("vm-2.csr")),
        config_dir: host.clone(),
        state_dir: None,
    };
    csr::run(&asked).unwrap();
    let (stranger, places) = (places(&folder.path().join("stranger")), places(&host));
    let key = std::fs::read_to_string(places.pending_key()).unwrap();
    let request = folder.path().join("vm-2.csr");
    assert_eq!((mode(&places.pending_key()), mode(&places.identity()), mode(&request)), (0o600, 0o700, 0o644));
    assert!(!std::fs::read_to_string(&request).unwrap().contains("PRIVATE"));
    csr::run(&asked).unwrap();
    assert_eq!(std::fs::read_to_string(places.pending_key()).unwrap(), key, "asked again, the key stays");
    let told = of_file(&request).unwrap();
    assert!(told.rows.is_empty() && told.remarks[0].starts_with("request of vm-2   key SHA256:"), "{:?}", told.remarks);

    let hash = starling_identity::NodeRequest::parse(&std::fs::read(&request).unwrap()).unwrap().key_hash();
    let sign_with = |file: &Path, replace: bool, request_key: Option<[u8; 32]>, answer: Option<&str>| {
        let hand =
            operator::Hand { wait: false, timeout: std::time::Duration::ZERO, place: AgentPlace { config_dir: None } };
        let how = how(&out, replace);
        let file = Some(file.to_owned());
        let args = SignArgs {
            file,
            request_key,
            renew: Vec::new(),
            renew_all: false,
            root_key: None,
            own_head: false,
            how,
            hand,
        };
        let mut typed = answer.map(str::as_bytes);
        let terminal = typed.as_mut().map(|typed| typed as &mut dyn std::io::BufRead);
        issue::sign_at(&|_| panic!("no agent is asked"), &args, terminal)
    };
    // The hash is compared before anything is signed: by the flag, or by a person.
    let mut other = hash;
    other[31] ^= 1;
    for (wanted, answer) in [
        (Some(other), None),
        (Some(other), Some("yes\n")),
        (None, None),
        (None, Some("")),
        (None, Some("\n")),
        (None, Some("y\n")),
        (None, Some("no\n")),
        (None, Some("yes, I think\n")),
    ] {
        let refused = refused(sign_with(&request, false, wanted, answer));
        assert_eq!(refused, (Exit::Refused, Some(codes::REQUEST_UNCONFIRMED)), "{wanted:?} {answer:?}");
        let log = std::fs::read_to_string(out.join("operator/issued.log")).unwrap();
        assert!(!out.join("vm-2.join").exists() && log.is_empty(), "nothing was signed");
    }
    let sign = |file: &Path, replace: bool| sign_with(file, replace, Some(hash), None);
    sign(&request, false).unwrap();
    let file = std::fs::read_to_string(out.join("vm-2.join")).unwrap();
    assert!(!file.contains("PRIVATE"), "{file}");
    assert_eq!(refused(sign(&request, false)), (Exit::Refused, Some(codes::TRUST_EXISTS)));
    sign_with(&request, true, None, Some("yes\n")).unwrap();
    for (what, bad) in [("another kind of file", "trust/bundle.trust"), ("a key", "operator/alice.key")] {
        let refused = refused(sign(&out.join(bad), false));
        assert_eq!(refused, (Exit::Refused, Some(codes::REQUEST_INVALID)), "{what}");
    }

    // Another host holds another key, or none.
    let join = join_file(&out.join("vm-2.join"));
    let bundle = TrustBundle::parse(&join.bundle_file).unwrap();
    assert_eq!(
        refused(install::check(&join, &bundle, &stranger, Present::Keep, Trust::Proven)),
        (Exit::Refused, Some(codes::JOIN_FILE_INVALID))
    );
    install::pending_key(&stranger).unwrap();
    assert_eq!(
        refused(install::check(&join, &bundle, &stranger, Present::Keep, Trust::Proven)),
        (Exit::Refused, Some(codes::JOIN_FILE_INVALID))
    );
    let ready = install::check(&join, &bundle, &places, Present::Keep, Trust::Proven).unwrap();
    install::install(&join, &places, &ready).unwrap();
    assert_eq!(std::fs::read_to_string(places.issuing_key()).unwrap(), key);
    assert_eq!(mode(&places.issuing_key()), 0o600);
    assert!(!places.pending_key().exists() && places.chain().exists());
    // A fresh file for the same key is a renewal.
    let ready = install::check(&join, &bundle, &places, Present::Replace, Trust::Proven).unwrap();
    install::install(&join, &places, &ready).unwrap();
    assert_eq!(std::fs::read_to_string(places.issuing_key()).unwrap(), key);
}

#[test]
fn a_list_of_names_is_issued_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("op");
    init(&init_args(&out), &Look::plain()).unwrap();
    issue_node(&issue_args(&out, "vm-1 vm-2 vm-3", false)).unwrap();
    for name in ["vm-1", "vm-2", "vm-3"] {
        let file = out.join(format!("{name}.join"));
        assert_eq!((join_file(&file).node.as_str(), mode(&file)), (name, 0o600));
    }
    assert_eq!(
        refused(issue_node(&issue_args(&out, "vm-4 vm-3 vm-5", false))),
        (Exit::Refused, Some(codes::TRUST_EXISTS))
    );
    assert_eq!(refused(issue_node(&issue_args(&out, "vm-4 vm-4", false))).0, Exit::Usage);
    assert!(!out.join("vm-4.join").exists() && !out.join("vm-5.join").exists(), "nothing half done");
    let log = std::fs::read_to_string(out.join("operator/issued.log")).unwrap();
    assert_eq!((log.lines().count(), log.matches(" by k1").count()), (3, 3), "{log}");
    let newest = |name: &str| IssuedLog::read(&out).unwrap().newest_key(&NodeName::new(name).unwrap());
    let key = || newest("vm-2").unwrap();
    let before = key();
    issue_node(&issue_args(&out, "vm-2", true)).unwrap();
    assert_ne!(key(), before, "the last line counts");
    assert_eq!(newest("vm-9"), None);
}

/// Who holds the issuer's key still needs an operator's key with the role.
#[test]
fn issuing_takes_an_operator_with_the_role_issue() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("op");
    init(&init_args(&out), &Look::plain()).unwrap();
    let bob = IssueOperatorArgs {
        name: "bob".to_owned(),
        roles: vec![starling_identity::Role::Config],
        passphrase_file: None,
        desk: operator::RootDesk { root_key: None, dir: out.clone(), own_head: false },
        place: AgentPlace { config_dir: None },
    };
    let nobody = crate::cli::Address::Unix(folder.path().join("none.sock"));
    operator::issue(&Client::new(nobody).unwrap(), &bob).unwrap();
    let as_bob = |replace| {
        let mut args = issue_args(&out, "vm-1", replace);
        args.how.key.key = Some(out.join("operator/bob.key"));
        refused(issue_node(&args))
    };
    assert_eq!(as_bob(false), (Exit::Refused, Some(codes::ROLE_MISSING)));
    std::fs::remove_file(out.join("operator/alice.key")).unwrap();
    assert_eq!(refused(issue_node(&issue_args(&out, "vm-1", false))), (Exit::Refused, Some(codes::ROLE_MISSING)));
    std::fs::remove_file(out.join("operator/bob.key")).unwrap();
    assert_eq!(refused(issue_node(&issue_args(&out, "vm-1", false))).0, Exit::NotFound);
    assert!(!out.join("vm-1.join").exists());
}

#[test]
fn an_operators_key_is_written_under_a_passphrase_when_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (out, secret) = (folder.path().join("op"), folder.path().join("passphrase"));
    files::create_secret(&secret, b"correct horse\n").unwrap();
    let args = InitArgs { passphrase_file: Some(secret.clone()), ..init_args(&out) };
    init(&args, &Look::plain()).unwrap();
    let text = std::fs::read_to_string(out.join("operator/alice.key")).unwrap();
    assert!(text.contains("BEGIN ENCRYPTED PRIVATE KEY") && OperatorKey::from_pem(&text).is_err(), "{text}");
    let mut args = issue_args(&out, "vm-1", false);
    assert_eq!(refused(issue_node(&args)), (Exit::Refused, Some(codes::KEY_LOCKED)));
    args.how.key.passphrase_file = Some(secret);
    issue_node(&args).unwrap();
}
