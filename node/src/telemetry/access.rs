//! Writes the access log: one thread that takes records off the queue of the data plane and writes their lines.
//!
//! Nobody waits for it. It gathers for a moment before each write, so that a busy agent makes a few large writes and
//! wakes it a hundred times a second at most. Where lines cannot be written they are counted, it is said once, and the
//! destination is tried again; SIGHUP opens a file anew, as `logrotate` wants it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use starling_config::AccessLogTo;
use starling_proxy::AccessLogFigures;
use starling_proxy::access_log::Record;
use starling_proxy::access_log::format::{Formatter, Times};
use tracing::{info, warn};

use super::time::{common, rfc3339_millis};

/// How long more records are waited for once one is there.
const GATHER: Duration = Duration::from_millis(10);
/// Records of one write.
const TURN_RECORDS_MAX: usize = 1_024;
/// Without records it looks so often whether a file is to be opened anew.
const LOOK: Duration = Duration::from_secs(5);
/// After a failure the destination is opened again no sooner.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How long the last lines may take at the end of the agent.
const END: Duration = Duration::from_millis(500);
/// Others than the agent's user and group read nothing: paths may say who did what.
const FILE_MODE: u32 = 0o640;
/// Where journald takes messages (its native protocol).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The writer.
#[derive(Debug)]
pub struct AccessWriter {
    anew: Arc<AtomicBool>,
    ended: Receiver<()>,
}

impl AccessWriter {
    /// Starts it. It ends once the data plane has, which holds the other end of the queue.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        to: &AccessLogTo,
        formatter: Formatter,
        records: Receiver<Box<Record>>,
        figures: Arc<AccessLogFigures>,
    ) -> io::Result<Self> {
        let (anew, (ending, ended)) = (Arc::new(AtomicBool::new(false)), sync_channel(1));
        let log = Log::new(Destination::new(to), formatter, figures, Arc::clone(&anew));
        thread::Builder::new().name("starling-access".to_owned()).spawn(move || log.run(&records, &ending))?;
        Ok(Self { anew, ended })
    }

    /// Opens the file anew, before the next line and within [`LOOK`].
    pub fn reopen(&self) {
        self.anew.store(true, Ordering::Relaxed);
    }

    /// Waits until what was told is written, at most [`END`]; call it when the data plane has ended.
    pub fn finish(&self) {
        if self.ended.recv_timeout(END).is_err_and(|error| error == RecvTimeoutError::Timeout) {
            warn!("the last lines of the access log could not be written in time");
        }
    }
}

#[derive(Clone, Debug)]
enum Destination {
    Journal(PathBuf),
    Stdout,
    File(PathBuf),
}

impl Destination {
    fn new(to: &AccessLogTo) -> Self {
        match to {
            AccessLogTo::Journald => Self::Journal(PathBuf::from(JOURNAL)),
            AccessLogTo::Stdout => Self::Stdout,
            AccessLogTo::File(path) => Self::File(path.clone()),
        }
    }

    fn open(&self) -> io::Result<Sink> {
        match self {
            Self::Journal(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Sink::Journal(socket))
            }
            Self::Stdout => Ok(Sink::Stdout),
            Self::File(path) => open_file(path).map(Sink::File),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal(_) => f.write_str("the journal"),
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

enum Sink {
    Journal(UnixDatagram),
    Stdout,
    File(File),
}

struct Log {
    to: Destination,
    sink: Option<Sink>,
    next_try: Instant,
    /// The failure that lasts was told.
    told: bool,
    /// The last write may have ended within a line.
    torn: bool,
    formatter: Formatter,
    figures: Arc<AccessLogFigures>,
    anew: Arc<AtomicBool>,
}

impl Log {
    fn new(to: Destination, formatter: Formatter, figures: Arc<AccessLogFigures>, anew: Arc<AtomicBool>) -> Self {
        Self { to, sink: None, next_try: Instant::now(), told: false, torn: false, formatter, figures, anew }
    }

    fn run(mut self, records: &Receiver<Box<Record>>, ending: &SyncSender<()>) {
        // A destination that cannot be had is told at the start, not with the first error.
        self.open();
        let mut batch = Vec::new();
        loop {
            match records.recv_timeout(LOOK) {
                Ok(first) => batch.push(first),
                Err(RecvTimeoutError::Timeout) => {
                    self.open();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            thread::sleep(GATHER);
            batch.extend(records.try_iter().take(TURN_RECORDS_MAX - 1));
            self.write(&batch);
            batch.clear();
        }
        let _ = ending.try_send(());
    }

    /// Sees to it that the destination is open, if it can be.
    fn open(&mut self) {
        if self.anew.swap(false, Ordering::Relaxed) && matches!(self.to, Destination::File(_)) {
            (self.sink, self.torn, self.next_try) = (None, false, Instant::now());
        }
        if self.sink.is_some() || Instant::now() < self.next_try {
            return;
        }
        match self.to.open() {
            Ok(sink) => self.sink = Some(sink),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        (self.sink, self.next_try) = (None, Instant::now() + TRY_AGAIN);
        if !std::mem::replace(&mut self.told, true) {
            let to = &self.to;
            match &self.to {
                // The built-in destination, and many a container has none.
                Destination::Journal(_) => info!(%error, "no access log: {to} of this host cannot be reached"),
                Destination::Stdout | Destination::File(_) => warn!(%error, "no access log: {to} cannot be written"),
            }
        }
    }

    fn write(&mut self, batch: &[Box<Record>]) {
        self.open();
        let count = batch.len() as u64;
        let written = match &mut self.sink {
            None => 0,
            Some(Sink::Journal(socket)) => {
                let mut written = 0;
                let mut outcome = Ok(());
                for record in batch {
                    let message = journal_message(&line(&self.formatter, record), record.is_error());
                    outcome = socket.send(message.as_bytes()).map(drop);
                    if outcome.is_err() {
                        break;
                    }
                    written += 1;
                }
                self.settle(outcome);
                written
            }
            Some(sink @ (Sink::Stdout | Sink::File(_))) => {
                let mut text = String::new();
                if self.torn {
                    text.push('\n');
                }
                batch.iter().for_each(|record| text.push_str(&line(&self.formatter, record)));
                let outcome = match sink {
                    Sink::File(file) => file.write_all(text.as_bytes()),
                    Sink::Stdout | Sink::Journal(_) => {
                        let mut out = io::stdout().lock();
                        out.write_all(text.as_bytes()).and_then(|()| out.flush())
                    }
                };
                let written = if outcome.is_ok() { count } else { 0 };
                self.torn = outcome.is_err();
                self.settle(outcome);
                written
            }
        };
        self.figures.written.fetch_add(written, Ordering::Relaxed);
        self.figures.failed.fetch_add(count.saturating_sub(written), Ordering::Relaxed);
    }

    fn settle(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) if self.told => {
                self.told = false;
                info!("the access log is written again");
            }
            Ok(()) => {}
            Err(error) => self.failed(&error),
        }
    }
}

fn line(formatter: &Formatter, record: &Record) -> String {
    let mut line = String::with_capacity(1_024);
    let (rfc3339, common) = (rfc3339_millis(record.at), common(record.at));
    formatter.write(record, Times { rfc3339: &rfc3339, common: &common }, &mut line);
    line
}

/// Fields as the journal takes them: a line has no line end inside, so that the plain form serves.
fn journal_message(line: &str, is_error: bool) -> String {
    let priority = if is_error { 4 } else { 6 };
    format!("SYSLOG_IDENTIFIER=starling-access\nPRIORITY={priority}\nMESSAGE={}\n", line.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests;
