//! One mesh of real agents: its operator folder, its hosts, and their ends.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The binary under test, built once; `STARLING_BIN` names another one.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Ok(path) = std::env::var("STARLING_BIN") {
            return PathBuf::from(path);
        }
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("Cargo.toml");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bin", "starling", "--manifest-path"])
            .arg(manifest)
            .status()
            .unwrap();
        assert!(status.success(), "the agent does not build");
        // This test stands in target/PROFILE/deps; the agent two doors further up, in the development profile.
        let exe = std::env::current_exe().unwrap();
        exe.ancestors().nth(3).unwrap().join("debug").join("starling")
    })
}

/// Runs the command line without any inherited Starling setting.
pub(crate) fn starling(args: &[&str]) -> Output {
    starling_in(Path::new("/"), args)
}

/// The same in a folder.
pub(crate) fn starling_in(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STARLING_")) {
        command.env_remove(name);
    }
    command.output().unwrap()
}

/// Runs it, expects success, and returns what it printed.
pub(crate) fn starling_ok(dir: &Path, args: &[&str]) -> String {
    let output = starling_in(dir, args);
    assert!(
        output.status.success(),
        "starling {args:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `done` gives a value; panics with `what` after `limit`. Returns the value and the time it took.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> (T, Duration) {
    let started = Instant::now();
    loop {
        if let Some(value) = done() {
            return (value, started.elapsed());
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One operator folder and a family of loopback addresses `127.NET.0.x`.
pub(crate) struct Mesh {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) net: u8,
}

impl Mesh {
    /// `trust init` in a folder of its own.
    pub(crate) fn new(net: u8) -> Self {
        Self::with_domain(net, "lab.internal")
    }

    pub(crate) fn with_domain(net: u8, trust_domain: &str) -> Self {
        // Two tests on the same addresses would end each other's agents.
        static TAKEN: Mutex<BTreeSet<u8>> = Mutex::new(BTreeSet::new());
        assert!(TAKEN.lock().unwrap().insert(net), "127.{net}.0.0 is another test's: take a number of your own");
        let dir = tempfile::tempdir().unwrap();
        starling_ok(
            dir.path(),
            &["trust", "init", "--trust-domain", trust_domain, "--operator", "alice", "--out", "op"],
        );
        Self { dir, net }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn address(&self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([127, self.net, 0, host], port))
    }

    /// `issue node` and `join`: a host with an identity and settings, not started. Its settings name a fixed preset.
    pub(crate) fn host(&self, number: u8, preset: &str, extra: &str) -> Host {
        let name = format!("vm-{number}");
        let op = self.path("op");
        starling_ok(&op, &["trust", "issue", "node", &name, "--dir", "."]);
        let host = self.bare_host(number, preset, extra);
        let file = op.join(format!("{name}.join"));
        let config = host.config.display().to_string();
        starling_ok(&op, &["join", file.to_str().unwrap(), "--config-dir", &config, "--no-start"]);
        host
    }

    /// Settings without an identity.
    pub(crate) fn bare_host(&self, number: u8, preset: &str, extra: &str) -> Host {
        let config = self.path(&format!("vm-{number}"));
        fs::create_dir_all(config.join("services.d")).unwrap();
        let ip = format!("127.{}.0.{number}", self.net);
        // `extra` comes last: it may open tables of its own.
        let text = format!(
            "node_name = \"vm-{number}\"\n[mesh]\nlisten = \"{ip}:7740\"\nadvertise = \"{ip}:7740\"\npreset = \"{preset}\"\n\
             [api]\nlisten = \"{ip}:7741\"\n[outbound]\nhttp = \"{ip}:7780\"\n{extra}"
        );
        fs::write(config.join("agent.toml"), text).unwrap();
        Host { number, net: self.net, config, child: None }
    }
}

/// One host's folder, and its agent while it runs.
pub(crate) struct Host {
    pub(crate) number: u8,
    net: u8,
    pub(crate) config: PathBuf,
    child: Option<Child>,
}

impl Host {
    pub(crate) fn name(&self) -> String {
        format!("vm-{}", self.number)
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from(([127, self.net, 0, self.number], port))
    }

    /// Starts the agent with one seed, or alone.
    pub(crate) fn start(&mut self, seed: Option<SocketAddr>) {
        self.start_with(seed, &[]);
    }

    /// The same with further flags.
    pub(crate) fn start_with(&mut self, seed: Option<SocketAddr>, flags: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(self.config.join("agent.log")).unwrap();
        let mut command = Command::new(binary());
        command.arg("agent").arg("--config-dir").arg(&self.config);
        if let Some(seed) = seed {
            command.args(["--seed", &seed.to_string()]);
        }
        command.args(flags);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STARLING_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent was started").id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.config.join("agent.log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and the exit code within `limit`.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        self.wait(limit)
    }

    /// Waits for the agent to end by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<i32> {
        let log = self.config.join("agent.log");
        let child = self.child.as_mut().expect("the agent was started");
        let (status, _) =
            eventually(&format!("the agent ends; its log is {}", log.display()), limit, || child.try_wait().unwrap());
        self.child = None;
        status.code()
    }

    pub(crate) fn running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Writes `services.d/NAME.toml` whole, as an editor would: beside it first, then renamed.
    pub(crate) fn announce(&self, name: &str, service: &str, protocol: &str, address: SocketAddr, extra: &str) {
        let text = format!(
            "[[instance]]\nservice = \"{service}\"\nname = \"{name}\"\nport = \"main\"\nprotocol = \"{protocol}\"\naddress = \"{address}\"\n{extra}"
        );
        let path = self.config.join("services.d").join(format!("{name}.toml"));
        let beside = path.with_extension("tmp");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }

    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.config.join("api.sock").display())
    }

    /// Runs a command against this host's agent.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        let socket = self.socket();
        starling(&[&["--address", &socket], args].concat())
    }

    /// `GET path` from the loopback API, as JSON; `None` while it does not answer 200.
    pub(crate) fn api(&self, path: &str) -> Option<Value> {
        let address = self.at(7741);
        let answer = crate::http::get(address, &address.to_string(), path).ok()?;
        (answer.status == 200).then(|| serde_json::from_str(&answer.body).ok()).flatten()
    }

    /// Names of the members in `state`, as this host sees them.
    pub(crate) fn members(&self, state: &str) -> Vec<String> {
        let list = self.api("/v1/members").unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().filter(|m| m["state"] == state).filter_map(|m| m["name"].as_str().map(str::to_owned)).collect()
    }

    pub(crate) fn sees_alive(&self, count: usize) -> bool {
        self.members("alive").len() == count
    }

    /// One request to a service through this host's HTTP outbound.
    pub(crate) fn request(&self, service: &str, path: &str) -> std::io::Result<crate::http::Answer> {
        crate::http::get(self.at(7780), &format!("{service}.mesh.internal"), path)
    }

    pub(crate) fn ready(&self) -> bool {
        let address = self.at(7741);
        crate::http::get(address, &address.to_string(), "/readyz").is_ok_and(|answer| answer.status == 200)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of {}\n{}", self.name(), self.log());
        }
        self.kill();
    }
}

/// Three hosts, started through the first, all alive to each other.
pub(crate) fn three(mesh: &Mesh, preset: &str, extra: impl Fn(u8) -> String) -> [Host; 3] {
    let mut hosts = [1, 2, 3].map(|n| mesh.host(n, preset, &extra(n)));
    start_all(mesh, &mut hosts);
    hosts
}

/// Starts hosts with the first as seed of the others, and waits until each sees all.
pub(crate) fn start_all(mesh: &Mesh, hosts: &mut [Host]) {
    start_all_with(mesh, hosts, &[]);
}

/// The same with further flags for each agent.
pub(crate) fn start_all_with(mesh: &Mesh, hosts: &mut [Host], flags: &[&str]) {
    let count = hosts.len();
    for host in hosts.iter_mut() {
        let seed = (host.number != 1).then(|| mesh.address(1, 7740));
        host.start_with(seed, flags);
    }
    eventually("all hosts see each other", Duration::from_secs(20), || {
        hosts.iter().all(|host| host.sees_alive(count)).then_some(())
    });
}
