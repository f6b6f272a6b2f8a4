//! The floor: bytes from one socket to another and back, one thread, no parsing, no encryption. A pair of these shows
//! what the two additional hops cost in the kernel alone, whatever a proxy does between them.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::Done;
use crate::arguments::Arguments;
use crate::sockets;

const LISTENER: Token = Token(usize::MAX - 1);
/// One read; the same order of magnitude as proxies use.
const READ_BYTES: usize = 64 << 10;

/// Two connected sockets and what is on the way between them.
struct Pair {
    near: TcpStream,
    far: TcpStream,
    outward: Direction,
    inward: Direction,
}

#[derive(Default)]
struct Direction {
    /// What the receiving socket did not take.
    pending: Vec<u8>,
    /// The sending socket has announced its end, once and for all, though bytes before it may still be unread.
    closing: bool,
    ended: bool,
    done: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Done {
    let peer = arguments.address("peer")?;
    let mut listener = sockets::listen(arguments.address("listen")?)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut pairs: Slab<Pair> = Slab::new();
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if !sockets::would_block(&error) => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    // A peer that does not answer costs this connection only.
                    let _ = open(&poll, &mut pairs, stream, peer);
                }
                continue;
            }
            let number = event.token().0 / 2;
            let Some(pair) = pairs.get_mut(number) else { continue };
            let Pair { near, far, outward, inward } = pair;
            let is_near = event.token().0 % 2 == 0;
            let (here, there, from_here, to_here) =
                if is_near { (near, far, outward, inward) } else { (far, near, inward, outward) };
            let mut result = Ok(());
            from_here.closing |= event.is_read_closed();
            if event.is_readable() || from_here.closing {
                result = from_here.pump(here, there, &mut buffer);
            }
            if event.is_writable() && !to_here.pending.is_empty() {
                result = result.and(to_here.pump(there, here, &mut buffer));
            }
            if result.is_err() || (from_here.done && to_here.done) {
                pairs.remove(number);
            }
        }
    }
}

fn open(poll: &Poll, pairs: &mut Slab<Pair>, mut near: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let mut far = sockets::connect_for_loop(peer)?;
    near.set_nodelay(true)?;
    let entry = pairs.vacant_entry();
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut near, Token(entry.key() * 2), interest)?;
    poll.registry().register(&mut far, Token(entry.key() * 2 + 1), interest)?;
    entry.insert(Pair { near, far, outward: Direction::default(), inward: Direction::default() });
    Ok(())
}

impl Direction {
    /// Moves bytes until one side has no more or takes no more.
    fn pump(&mut self, from: &mut TcpStream, to: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        while !self.done {
            if !self.pending.is_empty() {
                match to.write(&self.pending) {
                    Ok(written) => drop(self.pending.drain(..written)),
                    Err(error) if sockets::would_block(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
                continue;
            }
            if self.ended {
                to.shutdown(Shutdown::Write)?;
                self.done = true;
                return Ok(());
            }
            let read = match from.read(buffer) {
                Ok(0) => {
                    self.ended = true;
                    continue;
                }
                Ok(read) => read,
                Err(error) if sockets::would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let whole = buffer.get(..read).unwrap_or_default();
            let written = match to.write(whole) {
                Ok(written) => written,
                Err(error) if sockets::would_block(&error) => 0,
                Err(error) => return Err(error),
            };
            self.pending.extend_from_slice(whole.get(written..).unwrap_or_default());
            // A short read has emptied the socket: asking again would only spend a system call. But an announced end is
            // not announced again, so then the reading goes on to it.
            if self.pending.is_empty() && read < buffer.len() && !self.closing {
                return Ok(());
            }
        }
        Ok(())
    }
}
