//! How a host becomes a node, as it is typed: a list of names, a request whose key stays, and every file that must not be
//! used, each with its code, its cause, its help and its exit code.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use starling_identity::{IssuingCa, JoinFile, UnixTime, create_trust_domain};
use starling_model::{NodeName, TrustDomain};

use crate::agent::{Host, Mesh, eventually, starling, starling_in, starling_ok, start_all};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Refused with this code and exit code, with a cause or a particular and with help.
fn refused(what: &str, output: &Output, exit: i32, code: &str) -> String {
    let text = said(output);
    assert_eq!(output.status.code(), Some(exit), "{what}: {text}");
    assert!(text.starts_with(&format!("error[{code}]: ")), "{what}: {text}");
    assert!(text.contains("\n  help:  "), "{what}: {text}");
    text
}

/// Everything in a folder with its content: what must not change when something is refused.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path)
            } else {
                all.push((path.display().to_string(), fs::read(&path).unwrap_or_default()))
            }
        }
    }
    all.sort();
    all
}

#[test]
fn three_nodes_of_one_list_and_one_of_a_request_form_a_mesh() {
    let mesh = Mesh::new(161);
    let op = mesh.path("op");
    let text = starling_ok(&op, &["trust", "issue", "node", "vm-1", "vm-2", "vm-3", "--ttl", "30d"]);
    assert_eq!(text.matches("wrote vm-").count(), 3, "{text}");
    let mut hosts: Vec<Host> = (1..=4).map(|n| mesh.bare_host(n, "fast", "")).collect();
    for host in &hosts[..3] {
        let file = op.join(format!("{}.join", host.name()));
        let told = starling_ok(
            &op,
            &["join", file.to_str().unwrap(), "--config-dir", host.config.to_str().unwrap(), "--no-start"],
        );
        assert!(told.contains("identity   spiffe://lab.internal/node/vm-") && !file.exists(), "{told}");
        let whole = starling_ok(&op, &["trust", "inspect", "trust/bundle.trust"]);
        for line in ["trust      SHA256:", "bundle     SHA256:"] {
            let of = |text: &str| text.lines().find(|one| one.starts_with(line)).map(str::to_owned);
            assert!(of(&told).is_some() && of(&told) == of(&whole), "what is compared is told whole: {told}\n{whole}");
        }
        assert!(told.contains("nothing on this host proves them") && told.contains("\nvia        "), "{told}");
    }

    // The fourth makes its key itself; what leaves the host is public.
    let (config, csr) = (hosts[3].config.display().to_string(), mesh.path("vm-4.csr"));
    let told = starling_ok(mesh.dir.path(), &["trust", "csr", "--node", "vm-4", "--config-dir", &config]);
    let pending = hosts[3].config.join("state/identity/pending.key");
    assert!(told.contains("wrote vm-4.csr") && told.contains(pending.to_str().unwrap()), "{told}");
    let hash =
        |text: &str| text.split("SHA256:").nth(1).and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
    // Nobody sits at a terminal here: without the hash that was printed on the node nothing is signed, and with another one.
    let sign = |flags: &[&str]| {
        starling_in(&op, &[&["trust", "sign", csr.to_str().unwrap(), "--seed", "127.161.0.1"], flags].concat())
    };
    let key = hash(&told).expect("the hash of the key");
    let other: String = key.chars().rev().collect();
    assert_ne!(other, key);
    let text = refused("no hash", &sign(&[]), 5, "ST0627");
    assert!(text.contains("--request-key") && !text.contains(&key), "it must come from the node: {text}");
    let text = refused("another hash", &sign(&["--request-key", &format!("SHA256:{other}")]), 5, "ST0627");
    assert!(text.contains(&key) && text.contains(&other), "both are told: {text}");
    assert!(
        !op.join("vm-4.join").exists() && !fs::read_to_string(op.join("operator/issued.log")).unwrap().contains("vm-4")
    );
    let signed = said(&sign(&["--request-key", &format!("SHA256:{key}")]));
    assert!(
        signed.contains("wrote vm-4.join (no key inside)   spiffe://lab.internal/node/vm-4   valid 365 days"),
        "{signed}"
    );
    assert_eq!(hash(&told), hash(&signed), "both print the same hash of the key");
    let (key, file) = (fs::read_to_string(&pending).unwrap(), op.join("vm-4.join"));
    for public in [&csr, &file] {
        assert!(!fs::read_to_string(public).unwrap().contains("PRIVATE"), "{}", public.display());
    }
    // Others may read it: it holds no secret.
    chmod(&file, 0o644);
    starling_ok(&op, &["join", file.to_str().unwrap(), "--config-dir", &config, "--no-start"]);
    assert!(!pending.exists());
    assert_eq!(
        fs::read_to_string(hosts[3].config.join("state/identity/issuing.key")).unwrap(),
        key,
        "the key never moved"
    );
    start_all(&mesh, &mut hosts);

    // What was promised about the key exchange is what was negotiated, and is shown.
    let host = &hosts[0];
    eventually("the key exchange is shown", Duration::from_secs(10), || {
        let list = host.api("/v1/members")?;
        let of = |name: &str| {
            list["items"].as_array()?.iter().find(|one| one["name"] == name)?["certificate"]["keyExchange"]
                .as_str()
                .map(str::to_owned)
        };
        (of("vm-2")? == "X25519MLKEM768").then_some(())
    });
    let wide = said(&host.cli(&["members", "-o", "wide"]));
    assert!(wide.contains("KEY EXCHANGE") && wide.contains("X25519MLKEM768"), "{wide}");
    let certs = host.api("/v1/certs").unwrap();
    let leaf = certs["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&leaf["what"], &leaf["keyExchange"]),
        (&"leaf".into(), &serde_json::json!(["X25519MLKEM768"])),
        "{certs}"
    );

    // What was made a moment ago is on its way.
    let check = host.cli(&["check", "--wait"]);
    let text = said(&check);
    assert_eq!(check.status.code(), Some(0), "{text}");
    for line in
        ["trust\n", "chains to the bundle", "all 4 members use trust bundle sequence 1", "each node has an identity"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn a_join_file_that_must_not_be_used_is_refused_and_changes_nothing() {
    let mesh = Mesh::new(162);
    let op = mesh.path("op");
    let host = mesh.bare_host(1, "lan", "");
    let config = host.config.display().to_string();
    starling_ok(&op, &["trust", "issue", "node", "vm-1", "vm-2"]);
    let (file, other_node) = (op.join("vm-1.join"), op.join("vm-2.join"));
    let good = fs::read_to_string(&file).unwrap();
    let before = content(&host.config);
    let join = |path: &Path| starling_in(&op, &["join", path.to_str().unwrap(), "--config-dir", &config, "--no-start"]);
    let write = |name: &str, text: &str| {
        let path = op.join(name);
        fs::write(&path, text).unwrap();
        chmod(&path, 0o600);
        path
    };
    let check = |what: &str, path: &Path, code: &str| {
        let text = refused(what, &join(path), 5, code);
        assert_eq!(content(&host.config), before, "{what}: something was written");
        assert!(path.symlink_metadata().is_ok(), "{what}: the file is still there");
        text
    };
    for mode in [0o640, 0o604, 0o644] {
        chmod(&file, mode);
        let text = check("others can read it", &file, "ST0610");
        assert!(text.contains(&format!("has mode {mode:04o}")) && text.contains("chmod 600"), "{text}");
    }
    chmod(&file, 0o600);
    let link = op.join("link.join");
    symlink(&file, &link).unwrap();
    check("a link in its place", &link, "ST0610");
    check("a folder", &op, "ST0610");
    check("cut off", &write("cut.join", &good[..good.len() / 2]), "ST0614");
    check("a letter changed", &write("bent.join", &good.replacen("MII", "MIJ", 1)), "ST0614");
    check("something else", &write("else.join", "hello\n"), "ST0614");
    check(
        "without its bundle",
        &write("bare.join", good.split("-----BEGIN STARLING TRUST BUNDLE").next().unwrap()),
        "ST0614",
    );
    let text = check("another host's", &other_node, "ST0614");
    assert!(text.contains("the file is for vm-2, this host is called vm-1"), "{text}");
    assert_eq!(join(&op.join("nowhere.join")).status.code(), Some(4));

    // Ended long ago, and not begun by this clock: made here as an operator's tool made it then, or will.
    let made_at = |shift: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let made = UnixTime(now.checked_add_signed(shift * 86_400).unwrap());
        let domain = create_trust_domain(&TrustDomain::new("lab.internal").unwrap(), "alice", false, made).unwrap();
        let ca = IssuingCa::load(&domain.bundle, &domain.issuer_key_pem).unwrap();
        let issued = ca.issue_node(&NodeName::new("vm-1").unwrap(), 30, made).unwrap();
        let file = JoinFile {
            bundle_file: domain.bundle_file,
            node: issued.node,
            seeds: Vec::new(),
            chain_pem: issued.chain_pem,
            issuing_key_pem: Some(issued.issuing_key_pem),
        };
        write("dated.join", &file.encode())
    };
    let text = check("ended", &made_at(-40), "ST0601");
    assert!(text.contains("expired at 20") && text.contains("it is 20"), "both times: {text}");
    let text = check("not begun", &made_at(3), "ST0202");
    assert!(
        text.contains("is valid from 20") && text.contains("our clock says 20") && text.contains("timedatectl"),
        "{text}"
    );

    // Keys of the operator's folder that others can read, and a link in the place of one.
    let (issuer, alice) = (op.join("operator/issuer.key"), op.join("operator/alice.key"));
    chmod(&issuer, 0o640);
    refused(
        "an issuer's key that others can read",
        &starling_in(&op, &["trust", "issue", "node", "vm-8"]),
        5,
        "ST0610",
    );
    chmod(&issuer, 0o600);
    fs::rename(&alice, op.join("operator/away")).unwrap();
    symlink(op.join("operator/away"), &alice).unwrap();
    refused("a link in the place of a key", &starling_in(&op, &["trust", "issue", "node", "vm-8"]), 5, "ST0610");
    fs::remove_file(&alice).unwrap();
    fs::rename(op.join("operator/away"), &alice).unwrap();
    assert!(!op.join("vm-8.join").exists());

    // A request that is none, and one that asks for more than it may.
    let asked = starling_in(&op, &["trust", "sign", "else.join"]);
    assert_eq!(refused("no request", &asked, 5, "ST0617").matches("cause:").count(), 1);

    // Once it is there, another mesh's file and a second one are refused.
    assert!(join(&file).status.success());
    let before = content(&host.config);
    let elsewhere = mesh.path("elsewhere");
    starling_ok(
        mesh.dir.path(),
        &["trust", "init", "--trust-domain", "other.internal", "--operator", "eve", "--out", "elsewhere"],
    );
    starling_ok(&elsewhere, &["trust", "issue", "node", "vm-1"]);
    let foreign = elsewhere.join("vm-1.join");
    let replace = |path: &Path| {
        starling_in(&op, &["join", path.to_str().unwrap(), "--config-dir", &config, "--no-start", "--replace"])
    };
    let text = refused("another mesh", &replace(&foreign), 5, "ST0204");
    assert!(text.contains("lab.internal") && text.contains("other.internal"), "both are named: {text}");
    starling_ok(&op, &["trust", "issue", "node", "vm-1", "--replace"]);
    refused("a second one", &join(&file), 5, "ST0615");
    assert_eq!(content(&host.config), before);
    assert!(replace(&file).status.success());
    assert!(!host.config.join("state/identity.old").exists() && !host.config.join("state/identity.new").exists());
}

/// The third way: the folder of a shared issuer, marked as what it is wherever one looks.
#[test]
fn a_shared_issuers_folder_joins_a_host_and_is_told_as_the_weaker_mode() {
    let mesh = Mesh::new(166);
    let lab = mesh.path("lab");
    let made = starling_ok(
        mesh.dir.path(),
        &["trust", "init", "--trust-domain", "lab.internal", "--operator", "alice", "--out", "lab", "--shared-issuer"],
    );
    assert!(made.contains("ST0604"), "{made}");
    let mut hosts = [1, 2].map(|n| mesh.bare_host(n, "fast", ""));
    let trust = lab.join("trust").display().to_string();
    for host in &hosts {
        let told = starling_ok(&lab, &["join", &trust, "--config-dir", host.config.to_str().unwrap(), "--no-start"]);
        assert!(
            told.contains("ST0604") && told.contains(&format!("spiffe://lab.internal/node/{}", host.name())),
            "{told}"
        );
    }
    assert!(lab.join("trust/issuer.key").exists(), "the folder goes to every host");
    start_all(&mesh, &mut hosts);
    for args in [&["status"][..], &["check", "--wait"], &["check", "-o", "short", "--wait"]] {
        let output = hosts[0].cli(args);
        let text = said(&output);
        assert!(output.status.success() && text.contains("ST0604"), "{args:?}: {text}");
    }
    // Another mesh's folder, one without its key, and one whose nodes have identities of their own.
    let join = |folder: &Path| {
        starling_in(
            &lab,
            &["join", folder.to_str().unwrap(), "--config-dir", hosts[0].config.to_str().unwrap(), "--no-start"],
        )
    };
    refused("no shared issuer", &join(&mesh.path("op/trust")), 5, "ST0614");
    chmod(&lab.join("trust/issuer.key"), 0o644);
    refused("a key that others can read", &join(&lab.join("trust")), 5, "ST0610");
}

/// Bundles that agents and operators must not use, and what an agent says that cannot start.
#[test]
fn a_truncated_or_older_bundle_and_a_wrong_clock_are_told() {
    let mesh = Mesh::new(163);
    let mut host = mesh.host(1, "lan", "");
    let bundle = host.config.join("trust/bundle.trust");
    let whole = fs::read(&bundle).unwrap();
    fs::write(&bundle, &whole[..whole.len() / 2]).unwrap();
    let agent = |host: &Host| starling(&["agent", "--config-dir", host.config.to_str().unwrap()]);
    refused("a truncated bundle", &agent(&host), 1, "ST0613");
    let check = starling(&["check", "--config-dir", host.config.to_str().unwrap()]);
    let text = said(&check);
    assert!(check.status.code() == Some(3) && text.contains("ST0613") && text.contains("ST0301"), "{text}");
    let json = starling(&["check", "-o", "json", "--config-dir", host.config.to_str().unwrap()]);
    let text = said(&json);
    assert!(
        json.status.code() == Some(3) && text.contains("\"CheckReport\"") && text.contains("\"apiVersion\""),
        "{text}"
    );
    // An agent elsewhere is asked for: files of this host say nothing of it.
    let nowhere = ["check", "--address", "unix:///nowhere/api.sock", "--config-dir", host.config.to_str().unwrap()];
    let text = refused("an agent that is named", &starling(&nowhere), 3, "ST0301");
    assert!(!text.contains("ST0613"), "{text}");
    let pre = starling(&["check", "--pre", "-o", "short", "--config-dir", host.config.to_str().unwrap()]);
    assert!(matches!(pre.status.code(), Some(0 | 1)) && !said(&pre).contains("ST0301"), "{}", said(&pre));
    fs::write(&bundle, &whole).unwrap();

    // An older bundle never takes the place of a newer one: not by a file, not by the API.
    host.start(None);
    eventually("it is ready", Duration::from_secs(20), || host.ready().then_some(()));
    let (op, config) = (mesh.path("op"), host.config.display().to_string());
    let older = fs::read(op.join("trust/bundle.trust")).unwrap();
    starling_ok(&op, &["trust", "issue", "operator", "bob", "--roles", "config"]);
    starling_ok(&op, &["trust", "update", "--config-dir", &config]);
    let sequence = |host: &Host| host.api("/v1/trust").and_then(|trust| trust["bundleSequence"].as_u64());
    eventually("the newer one is in force", Duration::from_secs(10), || (sequence(&host) == Some(2)).then_some(()));
    fs::write(op.join("trust/bundle.trust"), &older).unwrap();
    let told = refused(
        "a bundle that goes back",
        &starling_in(&op, &["trust", "update", "--config-dir", &config]),
        5,
        "ST0609",
    );
    assert!(told.contains("uses trust bundle 2, and this folder's is 1: nothing changed"), "{told}");
    // Nothing is signed on top of it either, unless that is insisted on.
    for sign in [
        &["trust", "issue", "operator", "carol", "--roles", "config"][..],
        &["trust", "revoke", "operator", "k1"],
        &["trust", "rotate", "--begin"],
        &["trust", "sign", "--renew-all"],
    ] {
        let told = refused(sign[1], &starling_in(&op, &[sign, &["--config-dir", &config]].concat()), 5, "ST0609");
        assert!(told.contains("nothing was signed") && told.contains("--own-head"), "{told}");
        assert_eq!(fs::read(op.join("trust/bundle.trust")).unwrap(), older, "{sign:?}");
    }
    let own = ["trust", "issue", "operator", "carol", "--roles", "config", "--own-head", "--config-dir", &config];
    starling_ok(&op, &own);
    fs::write(op.join("trust/bundle.trust"), &older).unwrap();
    assert_eq!(sequence(&host), Some(2));
    host.terminate(Duration::from_secs(10));
    fs::write(&bundle, &older).unwrap();
    host.start(None);
    eventually("it is ready again", Duration::from_secs(20), || host.ready().then_some(()));
    assert_eq!(sequence(&host), Some(2), "what was in force stays in force over a restart with an older file");
}
