//! The crowd as a process of its own, seen by who measures: it waits for its line before it dials agent A.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Done;
use crate::agents::{Pair, Process};
use crate::crowd::Shape;

/// Where the crowd's gossip node listens.
const CROWD: &str = "127.0.0.23:17740";

/// The process, ended with this.
pub(crate) struct Crowd(Process);

impl Crowd {
    /// Starts it, and returns when its node knows all of its members.
    pub(crate) fn start(pair: &Pair, shape: &Shape) -> Done<Self> {
        let mut child = low_priority()?
            .arg("crowd")
            .arg(format!("trust={}", pair.trust().display()))
            .args([format!("listen={CROWD}"), format!("target={}", Pair::port_a())])
            .args(shape.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let crowd = Self(Process(child));
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let ready = format!("ready others={}", shape.members);
        if line.trim() != ready {
            return Err(format!("the crowd is not ready: {line}").into());
        }
        Ok(crowd)
    }

    /// Lets its node dial A.
    pub(crate) fn go(&mut self) -> Done<()> {
        Ok(self.0.0.stdin.as_mut().ok_or("no input")?.write_all(b"go\n")?)
    }
}

/// This program once more, with what only gets the time that nobody else wants.
pub(crate) fn low_priority() -> Done<Command> {
    let own: &Path = &std::env::current_exe()?;
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(own);
    Ok(command)
}
