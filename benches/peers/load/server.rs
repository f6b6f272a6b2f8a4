//! The servers behind the peers: one sends back what comes, one counts it.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::Done;
use crate::arguments::Arguments;
use crate::sockets;

const LISTENER: Token = Token(usize::MAX - 1);
const READ_BYTES: usize = 64 << 10;

/// What the server does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sends it back.
    Echo,
    /// Counts it, and sends the count as eight bytes when the client has ended its half.
    Sink,
}

struct Client {
    stream: TcpStream,
    pending: Vec<u8>,
    count: u64,
    ended: bool,
}

pub(crate) fn run(arguments: &Arguments, kind: Kind) -> Done {
    let mut listener = sockets::listen(arguments.address("listen")?)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut clients: Slab<Client> = Slab::new();
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if !sockets::would_block(&error) => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.set_nodelay(true);
                    let entry = clients.vacant_entry();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(entry.key()), interest)?;
                    entry.insert(Client { stream, pending: Vec::new(), count: 0, ended: false });
                }
                continue;
            }
            let number = event.token().0;
            let over = clients.get_mut(number).map(|client| client.turn(&mut buffer, kind).unwrap_or(true));
            if over == Some(true) {
                clients.remove(number);
            }
        }
    }
}

impl Client {
    /// True when nothing is left to do.
    fn turn(&mut self, buffer: &mut [u8], kind: Kind) -> io::Result<bool> {
        loop {
            if !self.pending.is_empty() {
                match self.stream.write(&self.pending) {
                    Ok(written) => drop(self.pending.drain(..written)),
                    Err(error) if sockets::would_block(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
                continue;
            }
            if self.ended {
                return Ok(true);
            }
            match self.stream.read(buffer) {
                Ok(0) => {
                    self.ended = true;
                    if kind == Kind::Sink {
                        self.pending.extend_from_slice(&self.count.to_be_bytes());
                    }
                }
                Ok(read) => {
                    self.count += u64::try_from(read).unwrap_or(0);
                    if kind == Kind::Echo {
                        self.pending.extend_from_slice(buffer.get(..read).unwrap_or_default());
                    }
                }
                Err(error) if sockets::would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
