//! Orders from another terminal: one line over a socket in the demo's folder, one line back.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::cli::{CliError, Exit};
use crate::demo::mesh::FOLDER_PREFIX;

/// Longest order or reply.
const LINE_BYTES_MAX: u64 = 4 * 1024;

/// How long an order may take; a service that is started again is the slowest.
const ORDER_TIMEOUT: Duration = Duration::from_secs(30);

/// How a reply begins.
const DONE: &str = "ok";
/// A name that the demo does not know.
const UNKNOWN: &str = "unknown";
/// Every other failure.
const FAILED: &str = "error";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Kill,
    Break,
    Slow,
    Restore,
}

impl Verb {
    /// Every one.
    const ALL: [Self; 4] = [Self::Kill, Self::Break, Self::Slow, Self::Restore];

    /// As it is typed.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Break => "break",
            Self::Slow => "slow",
            Self::Restore => "restore",
        }
    }

    /// What a service does after it.
    pub(super) const fn outcome(self) -> &'static str {
        match self {
            Self::Kill => "is gone",
            Self::Break => "answers 500",
            Self::Slow => "answers 300 ms later",
            Self::Restore => "answers as before",
        }
    }
}

/// One order.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) verb: Verb,
    pub(super) name: String,
    /// What was done, or why not.
    pub(super) reply: oneshot::Sender<Result<String, CliError>>,
}

fn parse(line: &str) -> Option<(Verb, String)> {
    let (word, name) = line.trim().split_once(' ')?;
    let verb = Verb::ALL.into_iter().find(|verb| verb.word() == word)?;
    (!name.is_empty()).then(|| (verb, name.to_owned()))
}

/// Takes orders until the demo ends. Each connection is one order; the folder admits only its owner.
pub(super) fn listen(path: &Path, orders: mpsc::Sender<Order>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    tokio::task::spawn_local(async move {
        // One at a time: orders change the same children.
        while let Ok((stream, _)) = listener.accept().await {
            let _ = tokio::time::timeout(ORDER_TIMEOUT, answer(stream, &orders)).await;
        }
    });
    Ok(())
}

async fn answer(stream: tokio::net::UnixStream, orders: &mpsc::Sender<Order>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let outcome = match parse(&line) {
        Some((verb, name)) => {
            let (reply, answer) = oneshot::channel();
            let gone = || Err(CliError::plain(Exit::NoAgent, "the demo is ending"));
            match orders.send(Order { verb, name, reply }).await {
                Ok(()) => answer.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            }
        }
        None => Err(CliError::plain(Exit::Usage, "this is no order")),
    };
    let text = match outcome {
        Ok(text) => format!("{DONE} {text}\n"),
        Err(error) => format!("{} {}\n", if error.exit() == Exit::NotFound { UNKNOWN } else { FAILED }, error.what()),
    };
    writer.write_all(text.as_bytes()).await
}

/// Sends one order to the demo that runs, and returns what it says.
pub(super) fn send(verb: Verb, name: &str, folder: Option<&Path>) -> Result<String, CliError> {
    let candidates = match folder {
        Some(folder) => vec![folder.join("control.sock")],
        None => sockets(&std::env::temp_dir()),
    };
    let mut reachable: Vec<(PathBuf, UnixStream)> = candidates
        .into_iter()
        .filter_map(|path| UnixStream::connect(&path).ok().map(|stream| (path, stream)))
        .collect();
    let none =
        CliError::plain(Exit::NoAgent, "no demo runs here").help(["start one in another terminal:  starling demo"]);
    let (_, mut stream) = match reachable.len() {
        0 => return Err(none),
        1 => reachable.remove(0),
        _ => {
            let folders = reachable.iter().filter_map(|(path, _)| path.parent()).map(|dir| dir.display().to_string());
            let named: Vec<String> = folders.map(|dir| format!("--demo {dir}")).collect();
            return Err(CliError::plain(Exit::Usage, "more than one demo runs: say which").help(named));
        }
    };
    if name.contains(['\n', '\r']) {
        return Err(CliError::plain(Exit::Usage, "a name has one line"));
    }
    let broken = |error: io::Error| CliError::plain(Exit::Bad, "the demo did not answer").cause(error.to_string());
    stream.set_read_timeout(Some(ORDER_TIMEOUT)).map_err(broken)?;
    stream.write_all(format!("{} {name}\n", verb.word()).as_bytes()).map_err(broken)?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).map_err(broken)?;
    match line.trim_end().split_once(' ') {
        Some((DONE, text)) => Ok(text.to_owned()),
        Some((UNKNOWN, text)) => Err(CliError::plain(Exit::NotFound, text)),
        Some((FAILED, text)) => Err(CliError::plain(Exit::Bad, text)),
        Some(_) | None => Err(CliError::plain(Exit::Bad, "the demo did not answer")),
    }
}

/// Sockets of our own demos; whether anybody answers there is found out by connecting.
pub(super) fn sockets(base: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(base) else { return Vec::new() };
    let us = geteuid().as_raw();
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX))
        .map(|entry| entry.path().join("control.sock"))
        .filter(|path| path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket() && found.uid() == us))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_verb_and_a_name() {
        assert_eq!(parse("kill vm-3\n"), Some((Verb::Kill, "vm-3".to_owned())));
        assert_eq!(parse("restore all"), Some((Verb::Restore, "all".to_owned())));
        for bad in ["", "kill", "kill ", "destroy vm-3", "KILL vm-3"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn without_a_demo_there_is_nobody_to_order() {
        let folder = tempfile::tempdir().unwrap();
        assert!(sockets(folder.path()).is_empty());
        let error = send(Verb::Kill, "vm-3", Some(folder.path())).unwrap_err();
        assert_eq!(error.exit(), Exit::NoAgent);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_order_is_answered_and_only_our_sockets_are_found() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join(format!("{FOLDER_PREFIX}1-0"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir(base.path().join(format!("{FOLDER_PREFIX}2-0"))).unwrap();
        std::fs::write(base.path().join(format!("{FOLDER_PREFIX}2-0/control.sock")), "a file").unwrap();
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (orders, mut inbox) = mpsc::channel(1);
                listen(&folder.join("control.sock"), orders).unwrap();
                assert_eq!(sockets(base.path()), [folder.join("control.sock")]);
                let asked = folder.clone();
                let sender = tokio::task::spawn_blocking(move || send(Verb::Slow, "orders-v2", Some(&asked)));
                let order = inbox.recv().await.unwrap();
                assert_eq!((order.verb, order.name.as_str()), (Verb::Slow, "orders-v2"));
                order.reply.send(Ok("done".to_owned())).unwrap();
                assert_eq!(sender.await.unwrap().unwrap(), "done");
            })
            .await;
    }
}
