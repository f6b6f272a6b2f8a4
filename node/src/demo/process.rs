//! Children of the demo: each ends when our end of its input closes, and at the latest when we say so.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child as Process, ChildStdin, Command};

/// How long a child may take to end in order.
pub(super) const END_GRACE: Duration = Duration::from_secs(3);

/// What becomes of the child's standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// It goes to the log.
    Log,
    /// We read it.
    Read,
}

/// Runs this same program to its end, without any setting of the caller; an error has what it said.
pub(super) async fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, limit: Duration) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    forget_settings(&mut command);
    let output = tokio::time::timeout(limit, command.output()).await??;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()))
}

/// Settings of the caller are for its own agent.
fn forget_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STARLING_")) {
        command.env_remove(name);
    }
}

/// One child.
#[derive(Debug)]
pub(super) struct Child {
    process: Process,
    input: Option<ChildStdin>,
    /// Known as long as it runs; afterwards the number may be somebody else's.
    pid: Option<Pid>,
}

impl Child {
    /// Starts this same program with other arguments; its messages are appended to `log`.
    pub(super) fn start<S: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = S>,
        log: &Path,
        output: Output,
    ) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(match output {
            Output::Log => Stdio::from(log.try_clone()?),
            Output::Read => Stdio::piped(),
        });
        // A process group of its own: Ctrl-C is for us, and we end our children in order.
        command.stderr(log).process_group(0).kill_on_drop(true);
        forget_settings(&mut command);
        let mut process = command.spawn()?;
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let input = process.stdin.take();
        Ok(Self { process, input, pid })
    }

    /// The reading end of its standard output.
    pub(super) fn take_output(&mut self) -> Option<tokio::process::ChildStdout> {
        self.process.stdout.take()
    }

    /// True while it runs.
    pub(super) fn runs(&mut self) -> bool {
        let runs = matches!(self.process.try_wait(), Ok(None));
        if !runs {
            self.pid = None;
        }
        runs
    }

    /// One line to its standard input.
    pub(super) async fn tell(&mut self, line: &str) -> io::Result<()> {
        match &mut self.input {
            Some(input) => input.write_all(format!("{line}\n").as_bytes()).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    pub(super) async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await?;
        self.pid = None;
        self.input = None;
        Ok(())
    }

    /// Asks it to end: SIGTERM, and its input closes.
    pub(super) fn ask_to_end(&mut self) {
        if self.runs()
            && let Some(pid) = self.pid
        {
            // It may end in this very moment.
            let _ = kill(pid, Signal::SIGTERM);
        }
        self.input = None;
    }

    /// Waits until it has ended, by force when it takes too long. True when it is gone.
    pub(super) async fn ended(&mut self, deadline: tokio::time::Instant) -> bool {
        let gone = matches!(tokio::time::timeout_at(deadline, self.process.wait()).await, Ok(Ok(_)));
        gone || self.kill().await.is_ok()
    }
}

/// The last lines of a log, for a person who wants to know why.
pub(super) fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
