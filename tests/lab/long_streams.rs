//! A `psql` session, a WebSocket and a long download live through new leafs and the age limit of connections: what is under
//! way stays on its old connection, and only what is new goes to the next one.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use nix::unistd::Uid;
use rand::{Rng as _, SeedableRng as _, rngs::ChaCha8Rng};
use rustls::crypto::hash::Context;
use tokio_tungstenite::tungstenite::Message;

use crate::agent::{Host, Mesh, eventually, start_all_with};
use crate::http::Backend;
use crate::leafs::{counted, leafs_made, retired};
use crate::programs::postgres_bin;
use crate::protocols;
use crate::steady::Steady;

const DOWNLOAD_BYTES: u64 = 300 << 20;
/// Long enough for three leafs of 6 s, and for connections that are left after some 4 s each.
const DOWNLOAD_TIME: Duration = Duration::from_secs(27);
const CHUNK_BYTES: usize = 64 << 10;

type Digest = Vec<u8>;

fn sha256() -> Box<dyn Context> {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    suite.tls13().expect("a suite of TLS 1.3").common.hash_provider.start()
}

/// A server with one long file, whose bytes follow from a seed; and their hash.
fn file(address: &str) -> (SocketAddr, Digest) {
    let bytes = || {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let chunks = DOWNLOAD_BYTES / CHUNK_BYTES as u64;
        (0..chunks).map(move |_| {
            let mut chunk = vec![0; CHUNK_BYTES];
            random.fill_bytes(&mut chunk);
            chunk
        })
    };
    let mut hash = sha256();
    bytes().for_each(|chunk| hash.update(&chunk));
    let listener = TcpListener::bind(address).expect("an address");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                }
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {DOWNLOAD_BYTES}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
                bytes().all(|chunk| stream.write_all(&chunk).is_ok());
            });
        }
    });
    (address, hash.finish().as_ref().to_vec())
}

/// Reads the file as slowly as it should last: its hash, and how long it took.
fn download(entrance: SocketAddr) -> std::io::Result<(Digest, Duration)> {
    let mut stream = BufReader::new(TcpStream::connect(entrance)?);
    stream.get_ref().set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.get_mut().write_all(b"GET /long HTTP/1.1\r\nhost: files.mesh.internal\r\n\r\n")?;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line)?;
        assert!(!line.starts_with("HTTP/1.1") || line.starts_with("HTTP/1.1 200"), "{line}");
    }
    let (started, mut hash, mut read, mut chunk) = (Instant::now(), sha256(), 0_u64, vec![0; CHUNK_BYTES]);
    while read < DOWNLOAD_BYTES {
        stream.read_exact(&mut chunk)?;
        hash.update(&chunk);
        read += CHUNK_BYTES as u64;
        let due = DOWNLOAD_TIME.mul_f64(read as f64 / DOWNLOAD_BYTES as f64);
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
    Ok((hash.finish().as_ref().to_vec(), started.elapsed()))
}

/// A database of its own, which ends with the test.
struct Postgres(Child);

impl Postgres {
    /// `None` where it cannot run here.
    fn start(mesh: &Mesh, address: SocketAddr) -> Option<Self> {
        if std::env::var("STARLING_LAB").as_deref() != Ok("1") || !Uid::effective().is_root() {
            return None;
        }
        let bin = postgres_bin()?;
        // The server runs as a user of its own and must reach its folder.
        fs::set_permissions(mesh.dir.path(), fs::Permissions::from_mode(0o755)).expect("our folder");
        let data = mesh.path("pg");
        fs::create_dir_all(&data).expect("a folder");
        let owned = Command::new("chown").arg("postgres").arg(&data).status().expect("chown");
        assert!(owned.success());
        let as_postgres = |program: &str| {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(bin.join(program)).current_dir("/").stdin(Stdio::null());
            command
        };
        let made = as_postgres("initdb").args(["-A", "trust", "-D"]).arg(&data).output().expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = fs::File::create(mesh.path("postgres.log")).expect("a file");
        let mut server = as_postgres("postgres");
        server.arg("-D").arg(&data).args(["-c", "unix_socket_directories=", "-c"]);
        server.arg(format!("listen_addresses={}", address.ip())).args(["-p", &address.port().to_string()]);
        let log_too = log.try_clone().expect("a file");
        Some(Self(server.stdout(log).stderr(log_too).spawn().expect("postgres")))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGTERM reaches the server through `runuser`; it waits for nobody but open sessions, which are over.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(i32::MAX));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// One `psql`, and one session of it, for as long as it is held.
struct Psql {
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
}

impl Psql {
    fn connect(entrance: SocketAddr) -> Self {
        let (host, port) = (entrance.ip().to_string(), entrance.port().to_string());
        let mut command = Command::new(postgres_bin().expect("PostgreSQL").join("psql"));
        command.args([
            "-X",
            "-q",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            &host,
            "-p",
            &port,
            "-U",
            "postgres",
            "postgres",
        ]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("psql");
        let (say, hear) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, say, hear: BufReader::new(hear) }
    }

    /// What one row says; `None` when the session has ended.
    fn row(&mut self, sql: &str) -> Option<String> {
        writeln!(self.say, "{sql}").ok()?;
        let mut line = String::new();
        let length = self.hear.read_line(&mut line).ok()?;
        (length > 0).then(|| line.trim().to_owned())
    }

    fn end(mut self) -> String {
        drop(self.say);
        let mut told = String::new();
        let _ = self.child.stderr.take().expect("piped").read_to_string(&mut told);
        let _ = self.child.wait();
        told
    }
}

/// One transaction that goes on until it is told to end: its rows, or what went wrong.
fn transaction(entrance: SocketAddr, ends: &AtomicBool) -> Result<u64, String> {
    let mut session = Psql::connect(entrance);
    let mut rows = 0_u64;
    let begun = session.row("begin; create temp table lives (n bigint) on commit drop; select pg_backend_pid();");
    while begun.is_some() && !ends.load(Ordering::Relaxed) {
        rows += 1;
        let got = session.row(&format!("insert into lives values ({rows}); select count(*) from lives;"));
        if got.as_deref() != Some(&rows.to_string()) {
            return Err(format!("row {rows}: {got:?}; {}", session.end()));
        }
        thread::sleep(Duration::from_millis(200));
    }
    let sum = session.row("select sum(n) || ' ' || pg_backend_pid() from lives; commit;");
    let want = begun.map(|process| format!("{} {process}", rows * (rows + 1) / 2));
    let told = session.end();
    if sum.is_some() && sum == want { Ok(rows) } else { Err(format!("{sum:?} is not {want:?}; {told}")) }
}

/// A WebSocket that speaks all the while: how many of its messages came back.
fn talk(entrance: SocketAddr, ends: &AtomicBool) -> Result<u64, String> {
    protocols::with_runtime(async {
        let mut socket = protocols::websocket(entrance).await.ok_or("no WebSocket")?;
        let mut count = 0_u64;
        while !ends.load(Ordering::Relaxed) {
            let message = Message::text(format!("message {count}"));
            socket.send(message.clone()).await.map_err(|error| format!("after {count}: {error}"))?;
            let back = tokio::time::timeout(Duration::from_secs(10), socket.next()).await;
            let back =
                back.map_err(|_| format!("no answer after {count}"))?.ok_or(format!("it ended after {count}"))?;
            if back.map_err(|error| format!("after {count}: {error}"))? != message {
                return Err(format!("another answer after {count}"));
            }
            count += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        socket.close(None).await.map_err(|error| error.to_string())?;
        Ok(count)
    })
}

/// Of one host: leafs made, connections left for a leaf, for their age, and gossip connections renewed.
fn marks(host: &Host) -> [u64; 4] {
    let renewed = counted(host, "starling_gossip_network_events_total", "event=\"renewal\"");
    [leafs_made(host), retired(host, "leaf"), retired(host, "age"), renewed]
}

#[test]
fn a_psql_session_a_websocket_and_a_download_live_through_new_leafs_and_the_age_limit() {
    let mesh = Mesh::new(168);
    let upstream = "[[upstream]]\nservice = \"pg\"\nlisten = \"127.168.0.1:9002\"\n";
    let mut hosts = [1, 2, 3].map(|n| mesh.host(n, "lan", if n == 1 { upstream } else { "" }));
    start_all_with(&mesh, &mut hosts, &["--rekey-interval", "6s", "--connection-age", "4s"]);
    let database = SocketAddr::from(([127, 168, 0, 2], 5432));
    let postgres = Postgres::start(&mesh, database);
    let (long, want) = file("127.168.0.2:0");
    let web = Backend::start("127.168.0.2:0", "web");
    let chat = protocols::with_server(|| protocols::echo("127.168.0.3:0"));
    hosts[1].announce("files-1", "files", "http", long, "");
    hosts[1].announce("web-1", "web", "http", web.address, "");
    hosts[1].announce("pg-1", "pg", "tcp", database, "");
    hosts[2].announce("chat-1", "chat", "http", chat, "");
    let (entrance, to_database) = (hosts[0].at(7780), SocketAddr::from(([127, 168, 0, 1], 9002)));
    eventually("all of them answer", Duration::from_secs(20), || {
        let web = hosts[0].request("web", "/").ok()?.status == 200;
        let chat = protocols::with_runtime(protocols::websocket(entrance)).is_some();
        let files = hosts[0].api("/v1/services/default/files").is_some();
        let sql = postgres.is_none() || Psql::connect(to_database).row("select 1;").is_some();
        (web && chat && files && sql).then_some(())
    });

    let ends = Arc::new(AtomicBool::new(false));
    let during = |what: fn(SocketAddr, &AtomicBool) -> Result<u64, String>, entrance| {
        let ends = Arc::clone(&ends);
        thread::spawn(move || what(entrance, &ends))
    };
    let session = postgres.is_some().then(|| during(transaction, to_database));
    let socket = during(talk, entrance);
    // New streams, for which connections are made anew when the old ones take none.
    let load = Steady::start(entrance, "web.mesh.internal", 100, u64::MAX);
    thread::sleep(Duration::from_millis(500));
    let before = hosts.each_ref().map(marks);
    let (got, took) = download(entrance).expect("one download, from its first byte to its last");
    let after = hosts.each_ref().map(marks);
    thread::sleep(Duration::from_millis(500));
    ends.store(true, Ordering::Relaxed);
    let seen = load.finish();
    let messages = socket.join().expect("the WebSocket's thread").expect("one WebSocket");
    let rows = session.map(|session| session.join().expect("the session's thread").expect("one transaction"));

    let more: Vec<[u64; 4]> =
        after.iter().zip(&before).map(|(after, before)| std::array::from_fn(|at| after[at] - before[at])).collect();
    println!(
        "lives: {} MiB in {:.1} s with the right hash, {messages} WebSocket messages, {} beside them: {}",
        DOWNLOAD_BYTES >> 20,
        took.as_secs_f64(),
        rows.map_or("psql skipped (needs root, STARLING_LAB=1 and PostgreSQL)".to_owned(), |rows| format!(
            "one transaction of {rows} rows"
        )),
        seen.line()
    );
    println!(
        "lives: meanwhile at each host leafs made, connections left for a leaf, for their age, gossip renewals: {more:?}"
    );
    assert!(got == want, "the bytes are others");
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    assert!(messages > 100 && rows.is_none_or(|rows| rows > 50), "{messages} {rows:?}");
    assert!(more.iter().all(|[leafs, ..]| *leafs >= 3), "three leafs at each: {more:?}");
    // At the caller or at the host of two of the streams: whoever shows a new leaf first leaves their connections.
    assert!(more[0][1] + more[1][1] >= 6, "{more:?}");
    assert!(more[0][2] + more[1][2] >= 2, "two age limits between these two: {more:?}");
    assert!(more.iter().map(|[.., renewed]| renewed).sum::<u64>() >= 2, "gossip grows old too: {more:?}");
    let log: String = hosts.iter().map(Host::log).collect();
    assert!(!log.contains("peer refused") && !log.contains("panicked"), "{log}");
}
