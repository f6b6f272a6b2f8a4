//! Moves bytes both ways with half-close. A waiting tunnel holds no buffer: bytes pass through one buffer per thread,
//! and only what the other side did not take is set aside.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use starling_transport::lane::LaneKind;

use crate::limits::{COPY_BULK_BYTES, COPY_BYTES, REPLAY_TUNNEL_BYTES_MAX};

/// Bytes of one direction before others on the thread get their turn.
const TURN_BYTES: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; COPY_BULK_BYTES].into_boxed_slice());
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// Read, not taken by the writer yet.
    leftover: BytesMut,
    ended: bool,
    done: bool,
    /// The writer may hold back what it took.
    unflushed: bool,
}

/// Which side broke a tunnel.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The side that opened it.
    Client(io::Error),
    /// The side that serves it.
    Server(io::Error),
}

/// Told of every byte that passes.
pub(crate) trait Tally {
    /// Towards the server.
    fn sent(&mut self, bytes: usize);
    /// From the server.
    fn received(&mut self, bytes: usize);
}

/// The state of a tunnel that outlives a server that refused it.
#[derive(Debug, Default)]
pub(crate) struct Tunnel {
    up: Flow,
    down: Flow,
    /// What the client sent, until the server has answered or it is too much: then another server may be given it.
    replay: Option<Vec<u8>>,
    step: Step,
}

/// Bytes that are read and written at once.
#[derive(Clone, Copy, Debug)]
struct Step(usize);

impl Default for Step {
    fn default() -> Self {
        Self(COPY_BYTES)
    }
}

enum End {
    Read(io::Error),
    Write(io::Error),
}

impl Flow {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        Step(step): Step,
        (reader, writer): (&mut R, &mut W),
        passed: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<(), End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURN_BYTES / step {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if !self.leftover.is_empty() {
                let taken = ready!(Pin::new(&mut *writer).poll_write(cx, &self.leftover)).map_err(End::Write)?;
                if taken == 0 {
                    return Poll::Ready(Err(End::Write(io::ErrorKind::WriteZero.into())));
                }
                self.leftover.advance(taken);
                self.unflushed = true;
                if self.leftover.is_empty() {
                    self.leftover = BytesMut::new();
                }
                continue;
            }
            if self.ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(End::Write)?;
                self.done = true;
                continue;
            }
            let passed = SCRATCH.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch.get_mut(..step).unwrap_or_default());
                ready!(Pin::new(&mut *reader).poll_read(cx, &mut buf)).map_err(End::Read)?;
                let fresh = buf.filled();
                if fresh.is_empty() {
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                passed(fresh);
                let taken = match Pin::new(&mut *writer).poll_write(cx, fresh) {
                    Poll::Ready(taken) => taken.map_err(End::Write)?,
                    Poll::Pending => 0,
                };
                self.unflushed = true;
                self.leftover.extend_from_slice(fresh.get(taken..).unwrap_or_default());
                Poll::Ready(Ok(()))
            });
            if passed?.is_pending() {
                // What is there has passed; nothing of it may stay behind in the writer.
                if self.unflushed {
                    ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(End::Write)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Tunnel {
    /// A tunnel that remembers what the client sends until the server answers.
    pub(crate) fn repeatable() -> Self {
        Self { replay: Some(Vec::new()), ..Self::default() }
    }

    /// A tunnel whose server has said this much already.
    pub(crate) fn answered(early: &[u8]) -> Self {
        let down = Flow { leftover: BytesMut::from(early), ..Flow::default() };
        Self { down, ..Self::default() }
    }

    /// Moves as much at once as pays on that lane.
    pub(crate) fn on(&mut self, lane: LaneKind) -> &mut Self {
        self.step = Step(match lane {
            LaneKind::Shared => COPY_BYTES,
            LaneKind::Dedicated => COPY_BULK_BYTES,
        });
        self
    }

    /// True while everything that the client sent can be given to another server.
    pub(crate) fn can_repeat(&self) -> bool {
        self.replay.is_some()
    }

    /// True while no byte has passed in either direction.
    pub(crate) fn is_untouched(&self) -> bool {
        self.replay.as_ref().is_some_and(Vec::is_empty)
    }

    /// Prepares for another server.
    pub(crate) fn rewind(&mut self) {
        if let Some(replay) = &self.replay {
            self.up.leftover = BytesMut::from(replay.as_slice());
            (self.up.done, self.up.unflushed) = (false, false);
            self.down = Flow::default();
        }
    }

    /// Runs until both directions have ended, or one side broke.
    pub(crate) async fn run<C, S>(
        &mut self,
        client: &mut C,
        server: &mut S,
        tally: &mut impl Tally,
    ) -> Result<(), Broken>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        poll_fn(|cx| self.poll(cx, client, server, tally)).await
    }

    fn poll<C, S>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        server: &mut S,
        tally: &mut impl Tally,
    ) -> Poll<Result<(), Broken>>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { up, down, replay, step } = self;
        // Answers first: what the server has said decides whether a repetition is still possible.
        let downwards = down.poll(cx, *step, (server, client), &mut |bytes: &[u8]| {
            *replay = None;
            tally.received(bytes.len());
        });
        if let Poll::Ready(Err(end)) = downwards {
            return Poll::Ready(Err(match end {
                End::Read(error) => Broken::Server(error),
                End::Write(error) => Broken::Client(error),
            }));
        }
        let upwards = up.poll(cx, *step, (client, server), &mut |bytes: &[u8]| {
            let fits = replay.as_ref().is_some_and(|kept| kept.len() + bytes.len() <= REPLAY_TUNNEL_BYTES_MAX);
            match replay {
                Some(kept) if fits => kept.extend_from_slice(bytes),
                Some(_) | None => *replay = None,
            }
            tally.sent(bytes.len());
        });
        if let Poll::Ready(Err(end)) = upwards {
            return Poll::Ready(Err(match end {
                End::Read(error) => Broken::Client(error),
                End::Write(error) => Broken::Server(error),
            }));
        }
        if up.done && down.done { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[derive(Default)]
    struct Count(usize, usize);

    impl Tally for Count {
        fn sent(&mut self, bytes: usize) {
            self.0 += bytes;
        }
        fn received(&mut self, bytes: usize) {
            self.1 += bytes;
        }
    }

    async fn exchange(up: Vec<u8>, down: Vec<u8>, window: usize) -> (Vec<u8>, Vec<u8>, Count) {
        let (mut client, mut near) = duplex(window);
        let (mut far, mut server) = duplex(window);
        let mut count = Count::default();
        let mut tunnel = Tunnel::default();
        let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
        let run = tunnel.run(&mut near, &mut far, &mut count);
        let (client_read, client_write) = (&mut got_down, &up);
        let client = async {
            client.write_all(client_write).await.unwrap();
            client.shutdown().await.unwrap();
            client.read_to_end(client_read).await.unwrap();
        };
        let server = async {
            // Reads to the end before it answers: half-close must pass.
            server.read_to_end(&mut got_up).await.unwrap();
            server.write_all(&down).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (ran, (), ()) = tokio::join!(run, client, server);
        ran.unwrap();
        (got_up, got_down, count)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_byte_arrives_in_order(
            up in prop::collection::vec(any::<u8>(), 0..60_000), down in prop::collection::vec(any::<u8>(), 0..60_000),
            window in 1usize..5_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (got_up, got_down, count) = runtime.block_on(exchange(up.clone(), down.clone(), window));
            prop_assert_eq!((count.0, count.1), (up.len(), down.len()));
            prop_assert_eq!(got_up, up);
            prop_assert_eq!(got_down, down);
        }
    }

    #[tokio::test]
    async fn a_server_that_never_answered_can_be_replaced() {
        let (mut client, mut near) = duplex(64);
        let (mut first, gone) = duplex(64);
        let mut tunnel = Tunnel::repeatable();
        client.write_all(b"hello").await.unwrap();
        drop(gone);
        let broken = tunnel.run(&mut near, &mut first, &mut Count::default()).await;
        // A dropped duplex reads as an end and fails writes.
        assert!(matches!(broken, Err(Broken::Server(_))), "{broken:?}");
        assert!(tunnel.can_repeat());
        tunnel.rewind();
        let (mut second, mut server) = duplex(64);
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        let server = async {
            server.read_to_end(&mut got).await.unwrap();
            drop(server);
        };
        let mut count = Count::default();
        let (ran, ()) = tokio::join!(tunnel.run(&mut near, &mut second, &mut count), server);
        ran.unwrap();
        assert_eq!(got, b"hello");
    }

    #[test]
    fn a_waiting_tunnel_is_small() {
        assert!(size_of::<Tunnel>() <= 160, "{} bytes", size_of::<Tunnel>());
    }
}
