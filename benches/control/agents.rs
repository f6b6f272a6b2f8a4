//! A server, agent B in front of it, agent A in front of the clients: A ═mutual TLS═> B, each with a folder of its own; and,
//! where it is asked for, a third one that only belongs to the mesh.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Done;
use crate::figures::sum;

/// Where clients come in at A.
pub(crate) const FRONT: &str = "127.0.0.1:18210";

const LOOPBACK_A: &str = "127.0.0.21";
const LOOPBACK_B: &str = "127.0.0.22";
const LOOPBACK_C: &str = "127.0.0.24";

/// The name of a data thread begins so.
const DATA_THREAD: &str = "starling-data-";

/// Longest wait for an agent to serve.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where a profiler executes the agent, which takes fifty times as long.
const PATIENCE_PROFILED: Duration = Duration::from_secs(180);

/// What serves one answer to every request, a thread for each connection.
pub(crate) fn serve() -> Done<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(&stream));
        }
    });
    Ok(address)
}

/// Requests of the load and of probes have no body: an empty line ends each one.
fn answer(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let body = "y".repeat(128);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 128\r\n\r\n";
    let (answer, mut line) = (format!("{head}{body}"), String::new());
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    while reader.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            writer.write_all(answer.as_bytes())?;
        }
        line.clear();
    }
    Ok(())
}

/// A process that is ended with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One agent.
pub(crate) struct Agent {
    process: Process,
    api: SocketAddr,
}

impl Agent {
    /// Starts it; `under` is the command of a profiler, or empty.
    fn start(binary: &Path, under: &[String], folder: &Path, loopback: &str) -> Done<Self> {
        let log = std::fs::File::create(folder.join("agent.log"))?;
        let mut command = match under.split_first() {
            Some((profiler, options)) => {
                let mut command = Command::new(profiler);
                command.args(options).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        let child = command
            .args(["agent", "--config-dir"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { process: Process(child), api: format!("{loopback}:17741").parse()? })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// What Prometheus would read.
    pub(crate) fn metrics(&self) -> Done<String> {
        self.get("/metrics")
    }

    /// An answer of its API, head and body.
    pub(crate) fn get(&self, path: &str) -> Done<String> {
        let mut stream = TcpStream::connect_timeout(&self.api, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.api)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        if text.starts_with("HTTP/1.1 200") { Ok(text) } else { Err(format!("no answer to {path}").into()) }
    }

    /// CPU time of the data threads, to the nanosecond, and of the whole process with its threads that have ended, in ticks.
    pub(crate) fn cpu(&self) -> Done<(Duration, Duration)> {
        let (process, mut data) = (format!("/proc/{}", self.pid()), Duration::ZERO);
        for task in std::fs::read_dir(format!("{process}/task"))? {
            let task = task?.path();
            // A thread may end meanwhile, but no data thread does.
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            if name.starts_with(DATA_THREAD) {
                let text = std::fs::read_to_string(task.join("schedstat"))?;
                data += Duration::from_nanos(text.split(' ').next().unwrap_or("").parse()?);
            }
        }
        if data.is_zero() {
            return Err("the kernel tells no thread's CPU time, or no thread is a data thread".into());
        }
        let stat = std::fs::read_to_string(format!("{process}/stat"))?;
        // Behind the name in parentheses: the state, and as 12th and 13th word user and system time.
        let words = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
        let ticks: u64 = words.map(|word| word.parse::<u64>().unwrap_or(0)).sum();
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
        Ok((data, Duration::from_secs_f64(ticks as f64 / per_second as f64)))
    }
}

/// True while a compiler or linker runs on this host: what is measured beside one is no measurement.
pub(crate) fn compiling() -> bool {
    const NAMES: [&str; 8] = ["rustc", "cc1", "cc1plus", "clang", "ld", "lld", "ld.lld", "clippy-driver"];
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let names = processes.flatten().filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok());
    names.into_iter().any(|name| NAMES.contains(&name.trim()))
}

/// How a pair is started.
pub(crate) struct Launch<'a> {
    pub(crate) binary: &'a Path,
    /// Where clients come in at A.
    pub(crate) fronts: &'a [&'a str],
    /// The command of a profiler for A, or empty.
    pub(crate) under: &'a [String],
}

/// Both agents, in a trust domain of their own.
pub(crate) struct Pair {
    pub(crate) a: Agent,
    pub(crate) b: Agent,
    binary: PathBuf,
    folder: PathBuf,
}

impl Pair {
    /// Starts both in an empty folder, with the configuration of `benches/peers/bench.sh`, and waits until a request passes.
    pub(crate) fn start(launch: &Launch<'_>, folder: &Path, backend: SocketAddr) -> Done<Self> {
        let (binary, domain) = (launch.binary, folder.join("domain"));
        let made = Command::new(binary)
            .args([
                "trust",
                "init",
                "--trust-domain",
                "bench.internal",
                "--operator",
                "bench",
                "--shared-issuer",
                "--out",
            ])
            .arg(&domain)
            .stdout(Stdio::null())
            .status()?;
        if !made.success() {
            return Err("starling trust init failed".into());
        }
        let upstream = |front: &&str| format!("[[upstream]]\nservice = \"backend\"\nlisten = \"{front}\"\n");
        configure(folder, "a", (LOOPBACK_A, LOOPBACK_B), &launch.fronts.iter().map(upstream).collect::<String>())?;
        configure(folder, "b", (LOOPBACK_B, LOOPBACK_A), "")?;
        let instance = |service: &str| {
            format!("[[instance]]\nservice = \"{service}\"\nprotocol = \"http\"\naddress = \"{backend}\"\n")
        };
        std::fs::write(folder.join("b/services.d/backend.toml"), instance("backend") + &instance("backend-next"))?;
        let b = Agent::start(binary, &[], &folder.join("b"), LOOPBACK_B)?;
        let a = Agent::start(binary, launch.under, &folder.join("a"), LOOPBACK_A)?;
        let pair = Self { a, b, binary: binary.to_owned(), folder: folder.to_owned() };
        let patience = if launch.under.is_empty() { PATIENCE } else { PATIENCE_PROFILED };
        until("a route in use", patience, || pair.apply(90).is_ok())?;
        until("an answer through both agents", patience, || pair.passes())?;
        Ok(pair)
    }

    /// One more member, which offers nothing and asks for nothing.
    pub(crate) fn third(&self) -> Done<Agent> {
        configure(&self.folder, "c", (LOOPBACK_C, LOOPBACK_A), "")?;
        let agent = Agent::start(&self.binary, &[], &self.folder.join("c"), LOOPBACK_C)?;
        let all = [&self.a, &self.b, &agent];
        let knows_all = |one: &Agent| one.metrics().is_ok_and(|text| there(&text) >= 3.0);
        until("a third member", PATIENCE, || all.into_iter().all(knows_all))?;
        Ok(agent)
    }

    /// The trust folder, with the issuing key.
    pub(crate) fn trust(&self) -> PathBuf {
        self.folder.join("domain/trust")
    }

    /// Where A takes gossip and traffic of peers.
    pub(crate) fn port_a() -> String {
        format!("{LOOPBACK_A}:17740")
    }

    /// The one route, with this weight of its first backend; an operator's command, as a low priority of this host.
    pub(crate) fn apply(&self, weight: u32) -> Done<()> {
        let file = self.folder.join("route.yaml");
        std::fs::write(
            &file,
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: backend }}\nspec:\n  parentRefs: [{{ group: \"\", kind: Service, name: backend }}]\n  rules:\n    - backendRefs: [{{ name: backend, weight: {weight} }}, {{ name: backend-next, weight: 10 }}]\n"
            ),
        )?;
        let told = Command::new("nice")
            .args(["-n", "19"])
            .arg(&self.binary)
            .args(["apply", "-f"])
            .arg(&file)
            .env("STARLING_OPERATOR_KEY", self.folder.join("domain/operator/bench.key"))
            .env("STARLING_ADDRESS", format!("unix://{}", self.folder.join("a/api.sock").display()))
            .stdin(Stdio::null())
            .output()?;
        if told.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&told.stderr).into_owned().into()) }
    }

    fn passes(&self) -> bool {
        let ask = || -> Done<bool> {
            let mut stream = TcpStream::connect_timeout(&FRONT.parse()?, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }
}

/// Writes the folder of agent `vm-name`; of both addresses the first is its own, the second that of whom it joins.
fn configure(folder: &Path, name: &str, (own, other): (&str, &str), upstreams: &str) -> Done<()> {
    let at = folder.join(name);
    std::fs::create_dir_all(at.join("services.d"))?;
    copy(&folder.join("domain/trust"), &at.join("trust"))?;
    let text = format!(
        "node_name = \"vm-{name}\"\n[mesh]\nlisten = \"{own}:17740\"\nadvertise = \"{own}:17740\"\nseeds = [\"{other}:17740\"]\n[api]\nlisten = \"{own}:17741\"\n[outbound]\nhttp = \"{own}:17780\"\n[log]\nfilter = \"warn\"\n{upstreams}"
    );
    std::fs::write(at.join("agent.toml"), text)?;
    Ok(())
}

/// Members that an agent holds alive or only doubts, by the text of its metrics.
pub(crate) fn there(text: &str) -> f64 {
    ["state=\"alive\"", "state=\"suspect\""].iter().map(|state| sum(text, "starling_gossip_members", state)).sum()
}

fn copy(from: &Path, to: &Path) -> Done<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        // With its permissions: an agent refuses a key that others may read.
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    Ok(())
}

/// Waits until `condition` holds, no longer than `patience`.
fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> Done<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > patience {
            return Err(format!("waited in vain for {what}").into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
