//! Ping-pong of small messages over long connections: one thread, one event loop, however many connections.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::Done;
use crate::arguments::Arguments;
use crate::figures::Figures;
use crate::sockets;

/// Answers still on the way when the time is over may take this long.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

struct Connection {
    stream: TcpStream,
    /// Bytes of the current answer that have come.
    held: usize,
    sent_at: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Finished,
    Broken,
}

pub(crate) fn run(arguments: &Arguments) -> Done {
    let target = arguments.address("target")?;
    let count: usize = arguments.get("conns", 1)?;
    let size: usize = arguments.get("size", 64)?;
    let period = Duration::from_secs(arguments.get("secs", 3)?);
    let message = vec![7_u8; size];
    let mut buffer = vec![0_u8; size.max(1)];
    let mut figures = Figures::new()?;

    let mut poll = Poll::new()?;
    let mut connections = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = sockets::connect_for_loop(target)?;
        poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
        stream.write_all(&message)?;
        connections.push(Connection { stream, held: 0, sent_at: Instant::now(), state: State::Waiting });
    }

    let start = Instant::now();
    let mut events = Events::with_capacity(1_024);
    while connections.iter().any(|connection| connection.state == State::Waiting)
        && start.elapsed() < period + DRAIN_DEADLINE
    {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        let more = start.elapsed() < period;
        for event in &events {
            if let Some(connection) = connections.get_mut(event.token().0) {
                connection.turn(&message, &mut buffer, &mut figures, more);
            }
        }
    }
    let lost = connections.iter().filter(|connection| connection.state != State::Finished).count();
    figures.errors += u64::try_from(lost)?;
    println!("ping {}", figures.line(period));
    Ok(())
}

impl Connection {
    /// Reads what is there; a whole answer is timed and, while the time lasts, followed by the next message.
    fn turn(&mut self, message: &[u8], buffer: &mut [u8], figures: &mut Figures, more: bool) {
        while self.state == State::Waiting {
            match self.stream.read(buffer.get_mut(self.held..).unwrap_or_default()) {
                Ok(0) => self.state = State::Broken,
                Ok(read) => self.held += read,
                Err(error) if sockets::would_block(&error) => return,
                Err(_) => self.state = State::Broken,
            }
            if self.held < message.len() {
                continue;
            }
            figures.record(self.sent_at.elapsed());
            self.held = 0;
            self.sent_at = Instant::now();
            if !more {
                self.state = State::Finished;
            } else if self.stream.write_all(message).is_err() {
                self.state = State::Broken;
            } else {
                // The answer cannot be there yet; the next event says when it is.
                return;
            }
        }
    }
}
