//! `starling apply`, `get`, `diff` and `delete` with three real agents: what an operator types, what is then in use
//! everywhere, and what is refused.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::{Host, Mesh, binary, eventually, starling_in, three};

/// A route of the manual, with the weights of its two backends.
fn route(name: &str, weights: (u32, u32)) -> String {
    format!(
        "# {name}: as its owner wrote it\napiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  \
         parentRefs: [{{kind: Service, name: orders}}]\n  rules:\n    - name: default\n      backendRefs:\n        \
         - {{name: orders, subset: stable, weight: {}}}\n        - {{name: orders, subset: canary, weight: {}}}\n",
        weights.0, weights.1
    )
}

/// An operator's desk: a folder with files, a key, and an agent to ask.
pub(crate) struct Desk<'a> {
    mesh: &'a Mesh,
    key: String,
}

/// Exit code, standard output, standard error.
pub(crate) type Told = (i32, String, String);

impl<'a> Desk<'a> {
    pub(crate) fn of(mesh: &'a Mesh, operator: &str) -> Self {
        let key = mesh.path(&format!("op/operator/{operator}.key")).display().to_string();
        Self { mesh, key }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.mesh.path(&format!("op/{name}")), text).unwrap();
    }

    /// Without a key.
    pub(crate) fn run(&self, host: &Host, args: &[&str]) -> Told {
        let output = starling_in(&self.mesh.path("op"), &[&["--address", &host.socket()], args].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    pub(crate) fn signed(&self, host: &Host, args: &[&str]) -> Told {
        self.run(host, &[args, &["--key", &self.key]].concat())
    }

    /// `starling apply -f -` with this text as standard input.
    fn apply_text(&self, host: &Host, text: &str) -> Told {
        let mut command = Command::new(binary());
        command.args(["--address", &host.socket(), "apply", "-f", "-", "--wait", "--key", &self.key]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STARLING_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}

fn generation(host: &Host, name: &str) -> Option<u64> {
    host.api(&format!("/v1/config/httproute/default/{name}"))?["generation"].as_u64()
}

fn documents(host: &Host) -> usize {
    host.api("/v1/config").and_then(|page| page["items"].as_array().map(Vec::len)).unwrap_or(usize::MAX)
}

/// The text without the figure of seconds in it.
fn without_seconds(text: &str) -> String {
    let Some((before, rest)) = text.split_once(" after ") else { return text.to_owned() };
    let seconds: f64 = rest.split(' ').next().unwrap().parse().unwrap();
    assert!(seconds < 10.0, "{text}");
    format!("{before} after N s{}", rest.split_once(" s").unwrap().1)
}

#[test]
fn a_document_is_applied_shown_changed_rolled_back_and_deleted() {
    let mesh = Mesh::new(84);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    alice.write("canary.yaml", &route("orders-canary", (90, 10)));

    // A dry run says it and leaves everything as it is; it needs no key.
    let (exit, out, error) = alice.run(&hosts[0], &["apply", "-f", "canary.yaml", "--dry-run"]);
    assert_eq!((exit, out.as_str()), (0, "HTTPRoute/orders-canary   generation 1 (new)\n"), "{error}");
    assert!(error.contains("nothing was signed or sent") && documents(&hosts[0]) == 0, "{error}");

    let (exit, out, error) = alice.signed(&hosts[0], &["apply", "-f", "canary.yaml", "--wait"]);
    let want = "HTTPRoute/orders-canary   generation 1 (new)   signed by k1 \"alice\"\n\
        accepted by vm-1; in use on 3/3 alive members after N s\n";
    assert_eq!((exit, without_seconds(&out).as_str()), (0, want), "{error}");
    println!("apply: {out}");
    assert!(hosts.iter().all(|host| generation(host, "orders-canary") == Some(1)), "--wait means all");

    // The same again is not signed again, by any agent and without a key.
    let (exit, out, error) = alice.run(&hosts[1], &["apply", "-f", "canary.yaml", "--wait"]);
    assert_eq!(exit, 0, "{error}");
    let want = "HTTPRoute/orders-canary   generation 1   unchanged, not signed again\n\
        in use on 3/3 alive members after N s\n";
    assert_eq!(without_seconds(&out), want);
    assert_eq!(generation(&hosts[0], "orders-canary"), Some(1));

    // A change is shown by field, before and when it is made.
    alice.write("canary.yaml", &route("orders-canary", (50, 50)));
    let changes = "  spec.rules[0].backendRefs[0].weight   90 → 50\n  spec.rules[0].backendRefs[1].weight   10 → 50\n";
    let (exit, out, _) = alice.run(&hosts[2], &["diff", "-f", "canary.yaml"]);
    let want = format!("HTTPRoute/orders-canary   generation 1 by k1 \"alice\" → this file\n{changes}");
    assert_eq!((exit, out), (1, want));
    let (exit, out, error) = alice.signed(&hosts[1], &["apply", "-f", "canary.yaml", "--wait"]);
    let want = format!(
        "HTTPRoute/orders-canary   generation 1 → 2   signed by k1 \"alice\"\n{changes}\
         accepted by vm-2; in use on 3/3 alive members after N s\n"
    );
    assert_eq!((exit, without_seconds(&out)), (0, want), "{error}");
    let (exit, out, _) = alice.run(&hosts[2], &["diff", "-f", "canary.yaml"]);
    assert_eq!((exit, out.as_str()), (0, ""));

    // It comes back as it was written, and the former generation with it.
    let (exit, out, _) = alice.run(&hosts[2], &["get", "httproutes", "orders-canary", "-o", "yaml"]);
    assert_eq!((exit, out), (0, route("orders-canary", (50, 50))));
    let (_, table, _) = alice.run(&hosts[2], &["get"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows[0], "KIND        NAME            GENERATION   SIGNER   AGE   IN USE   DIGEST", "{table}");
    assert!(rows[1].starts_with("HTTPRoute   orders-canary            2   alice "), "{table}");
    assert!(rows[1].contains("   3/3      "), "{table}");
    let (exit, first, _) =
        alice.run(&hosts[0], &["get", "httproute", "orders-canary", "--generation", "1", "-o", "yaml"]);
    assert_eq!((exit, first.as_str()), (0, route("orders-canary", (90, 10)).as_str()));
    let (exit, out, error) = alice.apply_text(&hosts[0], &first);
    assert!(exit == 0 && out.contains("generation 2 → 3") && out.contains("50 → 90"), "{out}{error}");
    assert_eq!(hosts[2].api("/v1/config/httproute/default/orders-canary").unwrap()["source"], first.trim_end());

    // Deleted by name, only on purpose; what is not there has a nearest name; what is gone can come back.
    let (exit, _, error) = alice.signed(&hosts[0], &["delete", "httproute", "orders-canary"]);
    assert!(exit == 2 && error.contains("--yes"), "{error}");
    let (exit, _, error) = alice.signed(&hosts[0], &["delete", "httproute", "orders-canry", "--yes"]);
    assert!(exit == 4 && error.contains("ST0101") && error.contains("did you mean default/orders-canary?"), "{error}");
    let (exit, out, error) = alice.signed(&hosts[0], &["delete", "httproute", "orders-canary", "--yes", "--wait"]);
    let want = "HTTPRoute/orders-canary   generation 3 → 4 (deleted)   signed by k1 \"alice\"\n\
        accepted by vm-1; in use on 3/3 alive members after N s\n";
    assert_eq!((exit, without_seconds(&out).as_str()), (0, want), "{error}");
    assert!(hosts.iter().all(|host| documents(host) == 0));
    assert_eq!(alice.run(&hosts[0], &["get", "httproute", "orders-canary"]).0, 4);
    let (exit, out, error) = alice.signed(&hosts[2], &["apply", "-f", "canary.yaml", "--wait"]);
    assert!(exit == 0 && out.starts_with("HTTPRoute/orders-canary   generation 4 (deleted) → 5   "), "{out}{error}");
}

#[test]
fn several_documents_are_one_batch_and_a_bad_one_keeps_all_of_them_back() {
    let mesh = Mesh::new(85);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    let files = |weights| {
        for name in ["a", "b", "c"] {
            alice.write(&format!("mesh/{name}.yaml"), &route(name, weights));
        }
    };
    fs::create_dir(mesh.path("op/mesh")).unwrap();
    files((90, 10));

    // One word wrong in one file: everything that is wrong is told, and nothing is sent.
    alice.write("mesh/b.yaml", &route("b", (90, 10)).replacen("weight", "wieght", 1));
    alice.write("mesh/c.yaml", &route("c", (90, 10)).replace("subset: canary", "subset: 7"));
    let (exit, out, error) = alice.signed(&hosts[0], &["apply", "-f", "mesh", "--wait"]);
    assert_eq!((exit, out.as_str()), (5, ""), "{error}");
    for part in ["error[ST0401]: unknown field `wieght`", "mesh/b.yaml:10:", "mesh/c.yaml:11:", "nothing was sent"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert!(hosts.iter().all(|host| documents(host) == 0));

    // Right, they are one batch, in use at once: nobody ever sees a part of them.
    files((90, 10));
    let done = std::sync::atomic::AtomicBool::new(false);
    let (exit, out, error) = std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                seen.extend(hosts[1..].iter().map(documents));
            }
            seen
        });
        let told = alice.signed(&hosts[0], &["apply", "-f", "mesh", "--wait"]);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let seen = looks.join().unwrap();
        assert!(seen.iter().all(|count| [0, 3, usize::MAX].contains(count)), "{seen:?}");
        told
    });
    assert!(exit == 0 && out.matches("generation 1 (new)").count() == 3, "{out}{error}");
    println!("apply: {out}");
    for host in &hosts {
        let page = host.api("/v1/config").unwrap();
        let batch = &page["items"][0]["batch"];
        assert_eq!(batch["count"], 3, "{page}");
        assert!((0..3).all(|at| &page["items"][at]["batch"] == batch), "{page}");
        let events = host.api("/v1/events?kind=config").unwrap();
        let times: Vec<_> = events["items"].as_array().unwrap().iter().map(|event| event["at"].clone()).collect();
        assert!(times.len() >= 3, "{events}");
    }

    // Of a folder where one file changed, that one alone is signed, and it is no batch.
    alice.write("mesh/b.yaml", &route("b", (80, 20)));
    let (exit, out, error) = alice.signed(&hosts[1], &["apply", "-f", "mesh", "--wait"]);
    assert_eq!(exit, 0, "{error}");
    assert_eq!(out.matches("unchanged, not signed again").count(), 2, "{out}");
    assert!(out.contains("HTTPRoute/b   generation 1 → 2   signed by"), "{out}");
    let held = hosts[2].api("/v1/config/httproute/default/b").unwrap();
    assert_eq!((&held["generation"], &held["batch"]), (&2.into(), &serde_json::Value::Null));

    // Signed here, handed over elsewhere without a key, whole or not at all.
    files((70, 30));
    let (exit, out, error) = alice.signed(&hosts[0], &["apply", "-f", "mesh", "--sign-only", "signed.json"]);
    assert!(exit == 0 && out.contains("wrote signed.json"), "{out}{error}");
    assert_eq!(generation(&hosts[0], "a"), Some(1), "nothing was sent");
    let (exit, out, error) = alice.run(&hosts[2], &["apply", "-f", "signed.json", "--wait"]);
    assert!(exit == 0 && out.contains("HTTPRoute/b   generation 3   signed by k1\n"), "{out}{error}");
    assert!(hosts.iter().all(|host| generation(host, "c") == Some(2)));

    // The whole folder goes as it came.
    let (exit, out, error) = alice.signed(&hosts[1], &["delete", "-f", "mesh", "--yes", "--wait"]);
    assert!(exit == 0 && out.matches("(deleted)").count() == 3, "{out}{error}");
    assert!(hosts.iter().all(|host| documents(host) == 0));
}

#[test]
fn who_may_not_sign_who_comes_too_late_and_who_is_behind_is_told() {
    let mesh = Mesh::new(86);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    alice.write("canary.yaml", &route("orders-canary", (90, 10)));

    // A key without the role, a key of nobody, an unsafe key, none.
    let op = mesh.path("op");
    for (name, roles) in [("bob", "revoke"), ("carol", "config")] {
        let output = starling_in(&op, &["trust", "issue", "operator", name, "--roles", roles]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (exit, _, error) = alice.run(&hosts[0], &["trust", "update", "--wait"]);
    assert_eq!(exit, 0, "{error}");
    let apply = ["apply", "-f", "canary.yaml", "--wait"];
    let (exit, _, error) = Desk::of(&mesh, "bob").signed(&hosts[0], &apply);
    assert!(exit == 5 && error.contains("ST0606") && error.contains("k2 \"bob\" has no role config"), "{error}");
    let other = Mesh::new(87);
    let (exit, _, error) = Desk { mesh: &mesh, ..Desk::of(&other, "alice") }.signed(&hosts[0], &apply);
    assert!(exit == 5 && error.contains("ST0204"), "{error}");
    fs::copy(op.join("operator/alice.key"), op.join("copied.key")).unwrap();
    Command::new("chmod").arg("644").arg(op.join("copied.key")).status().unwrap();
    let (exit, _, error) = alice.run(&hosts[0], &[&apply[..], &["--key", "copied.key"]].concat());
    assert!(exit == 5 && error.contains("ST0610"), "{error}");
    let (exit, _, error) = alice.run(&hosts[0], &[&apply[..], &["--key", "nowhere.key"]].concat());
    assert!(exit == 4 && error.contains("--key FILE"), "{error}");
    assert_eq!(documents(&hosts[0]), 0, "nothing of this was sent");

    // Two operators sign the same generation; the first one that an agent takes wins there, the other is told.
    let carol = Desk::of(&mesh, "carol");
    let sign = |desk: &Desk<'_>, weights, file: &str| {
        desk.write("canary.yaml", &route("orders-canary", weights));
        let (exit, _, error) = desk.signed(&hosts[0], &["apply", "-f", "canary.yaml", "--sign-only", file]);
        assert_eq!(exit, 0, "{error}");
    };
    sign(&alice, (90, 10), "alice.json");
    sign(&carol, (10, 90), "carol.json");
    assert_eq!(alice.run(&hosts[0], &["apply", "-f", "alice.json", "--wait"]).0, 0);
    let (exit, _, error) = carol.run(&hosts[1], &["apply", "-f", "carol.json", "--wait"]);
    assert!(exit == 5 && error.contains("ST0413") && error.contains("k1 \"alice\""), "{error}");

    // A generation that is behind what is in use.
    alice.write("canary.yaml", &route("orders-canary", (80, 20)));
    assert_eq!(alice.signed(&hosts[0], &apply).0, 0);
    let (exit, _, error) = carol.run(&hosts[2], &["apply", "-f", "carol.json"]);
    assert!(
        exit == 5 && error.contains("error[ST0412]") && error.contains("a later generation, 2, is in use"),
        "{error}"
    );
    assert!(error.contains("starling get httproute orders-canary -o yaml > r.yaml"), "{error}");

    // One agent is stopped: it is named, and the document is in use on the others.
    let stopped = Pid::from_raw(i32::try_from(hosts[2].pid()).unwrap());
    kill(stopped, Signal::SIGSTOP).unwrap();
    alice.write("canary.yaml", &route("orders-canary", (70, 30)));
    let (exit, out, error) = alice.signed(&hosts[0], &[&apply[..], &["--timeout", "2s"]].concat());
    kill(stopped, Signal::SIGCONT).unwrap();
    assert_eq!(exit, 6, "{out}{error}");
    assert!(out.ends_with("accepted by vm-1\n") && error.contains("error[ST0421]"), "{out}{error}");
    assert!(error.contains("generation 3 is not in use everywhere after 2s") && error.contains("vm-3 "), "{error}");
    assert!(!error.contains("vm-2 "), "{error}");
    println!("apply: {error}");
    eventually("who was stopped uses it, too", Duration::from_secs(30), || {
        (generation(&hosts[2], "orders-canary") == Some(3)).then_some(())
    });
    let (exit, out, error) = alice.run(&hosts[0], &apply);
    assert!(exit == 0 && out.contains("in use on 3/3"), "{out}{error}");
}

/// Each of two halves of a mesh takes another content of one generation: one of them is in use everywhere, and all say so.
#[test]
fn two_contents_of_one_generation_end_in_one_and_are_marked() {
    let mesh = Mesh::new(88);
    let (alice, op) = (Desk::of(&mesh, "alice"), mesh.path("op"));
    let mut hosts = three(&mesh, "fast", |_| String::new());
    assert!(starling_in(&op, &["trust", "issue", "operator", "bob", "--roles", "config"]).status.success());
    assert_eq!(alice.run(&hosts[0], &["trust", "update", "--wait"]).0, 0);
    let bob = Desk::of(&mesh, "bob");
    hosts[1].kill();
    hosts[2].kill();
    alice.write("canary.yaml", &route("orders-canary", (90, 10)));
    assert_eq!(alice.signed(&hosts[0], &["apply", "-f", "canary.yaml"]).0, 0);
    hosts[0].kill();
    // Nobody whom it remembers answers; it serves alone after a second.
    fs::create_dir_all(hosts[1].config.join("conf.d")).unwrap();
    fs::write(hosts[1].config.join("conf.d/alone.toml"), "[mesh]\nready_timeout = \"1s\"\n").unwrap();
    hosts[1].start(None);
    bob.write("canary.yaml", &route("orders-canary", (10, 90)));
    eventually("bob's is taken", Duration::from_secs(20), || {
        (bob.signed(&hosts[1], &["apply", "-f", "canary.yaml"]).0 == 0).then_some(())
    });
    hosts[0].start(Some(mesh.address(2, 7740)));
    hosts[2].start(Some(mesh.address(2, 7740)));
    let marked = |host: &Host| {
        let (_, table, _) = alice.run(host, &["get"]);
        (table.contains("‼ 1   bob") && table.contains("(ST0413)")).then_some(table)
    };
    let (table, _) = eventually("all mark it", Duration::from_secs(30), || {
        let all: Option<Vec<String>> = hosts.iter().map(marked).collect();
        all.map(|tables| tables[0].clone())
    });
    println!("apply: {table}");
    // The next generation ends it, even with the source that is in use.
    let (exit, out, error) = bob.signed(&hosts[0], &["apply", "-f", "canary.yaml", "--wait"]);
    assert!(exit == 0 && out.contains("generation 1 → 2") && out.contains("the same source again"), "{out}{error}");
    assert!(!alice.run(&hosts[2], &["get"]).1.contains('‼'));
}
