//! `starling demo`: the README's first command.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::agent::{binary, eventually, starling, starling_in};

/// Two demos that look for free ports at one moment find the same ones, so their tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A demo that ends with its test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_demo_is_ready_at_once_serves_and_leaves_nothing() {
    let _turn = turn();
    let output = starling(&["demo", "--exit-after", "6s", "-o", "json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    println!("{report}");
    assert_eq!(report["agents"], 3);
    assert!(report["requests"].as_u64().unwrap() > 100, "{report}");
    assert!(report["successRate"].as_f64().unwrap() > 0.999, "{report}");
    assert!(report["readySeconds"].as_f64().unwrap() < 6.0, "{report}");
    for left in ["processes", "files", "ports"] {
        assert_eq!(report["left"][left], 0, "{report}");
    }
}

/// `export STARLING_ADDRESS=…`, then `starling apply`: the demo's key lies beside its sockets.
#[test]
fn the_demo_takes_documents_without_naming_a_key() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["demo", "--no-load", "--exit-after", "10s"]).env("TMPDIR", folder.path());
    let demo = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut demo = Demo(demo);
    let socket = || -> Option<PathBuf> {
        let mut inside = std::fs::read_dir(folder.path()).ok()?.flatten();
        inside.find_map(|entry| Some(entry.path().join("vm-1/api.sock")).filter(|path| path.exists()))
    };
    let (socket, _) = eventually("the demo's first agent", Duration::from_secs(10), socket);
    let route = "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec:\n  \
        parentRefs: [{kind: Service, name: orders}]\n  rules: [{backendRefs: [{name: orders}]}]\n";
    std::fs::write(folder.path().join("route.yaml"), route).unwrap();
    let address = format!("unix://{}", socket.display());
    let apply = ["--address", &address, "apply", "-f", "route.yaml", "--wait"];
    let (text, _) = eventually("a document of the demo's operator is in use", Duration::from_secs(8), || {
        let output = starling_in(folder.path(), &apply);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    assert!(text.contains("signed by k1 \"demo\"") || text.contains("unchanged"), "{text}");
    // Its services are granted, and shown so.
    eventually("its services are granted", Duration::from_secs(8), || {
        let ask = |args: &[&str]| {
            let output = starling_in(folder.path(), &[&["--address", &address][..], args].concat());
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let granted = ask(&["get", "servicegrant"]).lines().any(|line| line.starts_with("ServiceGrant   demo "));
        (granted && !ask(&["status"]).contains("ST0612")).then_some(())
    });
    assert!(demo.0.wait().unwrap().success());
}
