//! What the streams do, and what it costs. The same code asks and answers in every lane.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, pending};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::{LocalSet, spawn_local};

use crate::Done;
use crate::lanes::{self, Lane, Opener};

const REQUEST_BYTES: usize = 200;
const ANSWER_BYTES: usize = 600;
const BULK_BYTES: usize = 2 * 1024 * 1024 * 1024;
const CHUNK_BYTES: usize = 16 * 1024;

/// The first byte that a stream carries says what its other end does.
const ANSWERED: u8 = b'a';
const SWALLOWED: u8 = b's';
const UNREAD: u8 = b'u';

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// So many streams stay open; on each, one request at a time.
    Held(usize),
    /// A stream for each request, 32 at a time.
    Fresh,
    /// One stream, one direction.
    Bulk,
    /// 31 streams stay open beside one that is full, since nobody reads it.
    BesideUnread,
}

impl Row {
    pub(crate) const ALL: [Self; 6] =
        [Self::Held(1), Self::Held(32), Self::Held(256), Self::Fresh, Self::Bulk, Self::BesideUnread];

    /// Units of work: requests, and MiB of bulk.
    const fn units(self) -> usize {
        match self {
            Self::Held(1) => 10_240,
            Self::Held(_) | Self::BesideUnread => 102_400,
            Self::Fresh => 51_200,
            Self::Bulk => BULK_BYTES / (1024 * 1024),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(1) => f.write_str("one stream that stays open, per request"),
            Self::Held(streams) => write!(f, "{streams} streams that stay open, per request"),
            Self::Fresh => f.write_str("a stream for each request, 32 at a time, per request"),
            Self::Bulk => f.write_str("one bulk stream, per MiB"),
            Self::BesideUnread => f.write_str("31 streams beside an unread one, per request"),
        }
    }
}

/// Of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// User and system time of both ends for a unit of work.
    pub(crate) cpu_us: f64,
    /// Time for a unit of work.
    pub(crate) wall_us: f64,
    /// Bytes that the stream which nobody reads took before its writer had to wait.
    pub(crate) unread: Option<usize>,
}

fn cpu() -> Duration {
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        let micros =
            |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0);
        Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
    })
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

/// Runs `future` on a runtime of this thread alone.
pub(crate) fn on_this_thread<T>(future: impl Future<Output = Done<T>>) -> Done<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, future)
}

/// The answering end of a stream, until its other end has no more.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut buffer = [0; CHUNK_BYTES];
    let Ok(mut length) = stream.read(&mut buffer).await else { return };
    let (kind, mut waiting) = (buffer[0], 0);
    while length > 0 {
        match kind {
            UNREAD => return pending().await,
            ANSWERED => {
                waiting += length;
                while waiting >= REQUEST_BYTES {
                    waiting -= REQUEST_BYTES;
                    if stream.write_all(&[7; ANSWER_BYTES]).await.is_err() {
                        return;
                    }
                }
            }
            _ => {}
        }
        let Ok(more) = stream.read(&mut buffer).await else { return };
        length = more;
    }
    let _ = stream.shutdown().await;
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Done<()> {
    let mut answer = [0; ANSWER_BYTES];
    stream.write_all(&[ANSWERED; REQUEST_BYTES]).await?;
    stream.read_exact(&mut answer).await?;
    if answer == [7; ANSWER_BYTES] { Ok(()) } else { Err("another answer".into()) }
}

/// So many requests on streams that stay open, in turn on each.
async fn ask_all<S: AsyncRead + AsyncWrite + Unpin + 'static>(streams: Vec<S>, requests: usize) -> Done<Vec<S>> {
    let each = requests / streams.len();
    let ask_some = |mut stream: S| async move {
        for _ in 0..each {
            ask(&mut stream).await?;
        }
        Done::Ok(stream)
    };
    let tasks: Vec<_> = streams.into_iter().map(|stream| spawn_local(ask_some(stream))).collect();
    let mut streams = Vec::with_capacity(tasks.len());
    for task in tasks {
        streams.push(task.await??);
    }
    Ok(streams)
}

async fn ask_fresh(opener: &(impl Opener + 'static), requests: usize) -> Done<()> {
    const AT_ONCE: usize = 32;
    async fn ask_some(opener: impl Opener, requests: usize) -> Done<()> {
        for _ in 0..requests {
            let mut stream = opener.open().await?;
            ask(&mut stream).await?;
            stream.shutdown().await?;
            if stream.read(&mut [0; 1]).await? != 0 {
                return Err("more than an answer".into());
            }
        }
        Ok(())
    }
    let tasks: Vec<_> = (0..AT_ONCE).map(|_| spawn_local(ask_some(opener.clone(), requests / AT_ONCE))).collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn swallow(opener: &impl Opener, bytes: usize) -> Done<()> {
    let mut stream = opener.open().await?;
    for _ in 0..bytes / CHUNK_BYTES {
        stream.write_all(&[SWALLOWED; CHUNK_BYTES]).await?;
    }
    stream.shutdown().await?;
    // The other end says its end after it has read ours.
    if stream.read(&mut [0; 1]).await? == 0 { Ok(()) } else { Err("an answer".into()) }
}

/// Writes to a stream until it takes no more, and says how much it took. The stream stays open with its task.
async fn fill(opener: &(impl Opener + 'static), write: usize) -> Done<Rc<Cell<usize>>> {
    let taken = Rc::new(Cell::new(0));
    let (mut stream, count) = (opener.open().await?, Rc::clone(&taken));
    spawn_local(async move {
        let bytes = vec![UNREAD; write];
        while let Ok(length) = stream.write(&bytes).await {
            count.set(count.get() + length);
        }
    });
    Ok(taken)
}

/// Waits until a count has not changed for some time.
async fn settle(count: impl Fn() -> usize) -> usize {
    let mut last = usize::MAX;
    while count() != last {
        last = count();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    last
}

async fn measure(opener: impl Opener + 'static, row: Row) -> Done<Figures> {
    let units = row.units();
    let warm_up = units / 10;
    let mut held = Vec::new();
    let mut unread = None;
    match row {
        Row::Held(streams) => {
            for _ in 0..streams {
                held.push(opener.open().await?);
            }
            held = ask_all(held, warm_up).await?;
        }
        Row::BesideUnread => {
            let taken = fill(&opener, CHUNK_BYTES).await?;
            unread = Some(settle(|| taken.get()).await);
            for _ in 0..31 {
                held.push(opener.open().await?);
            }
            held = ask_all(held, warm_up).await?;
        }
        Row::Fresh => ask_fresh(&opener, warm_up).await?,
        Row::Bulk => swallow(&opener, BULK_BYTES / 10).await?,
    }
    let (cpu_before, start) = (cpu(), Instant::now());
    match row {
        Row::Held(_) | Row::BesideUnread => held = ask_all(held, units).await?,
        Row::Fresh => ask_fresh(&opener, units).await?,
        Row::Bulk => swallow(&opener, BULK_BYTES).await?,
    }
    let (wall, cpu) = (start.elapsed(), cpu() - cpu_before);
    drop(held);
    let of_unit = |time: Duration| time.as_secs_f64() * 1e6 / units as f64;
    Ok(Figures { cpu_us: of_unit(cpu), wall_us: of_unit(wall), unread })
}

/// One row with one lane, on a connection of its own.
pub(crate) fn run(lane: Lane, row: Row) -> Done<Figures> {
    lanes::with_peer(lane, |peer| {
        on_this_thread(async {
            match lane {
                Lane::Mux => measure(lanes::Ours::connect(peer).await?, row).await,
                Lane::Yamux | Lane::YamuxBatched => measure(lanes::Theirs::connect(lane, peer).await?, row).await,
            }
        })
    })
}

/// Payload bytes that so many unread streams take in writes of this size, and by how much the process, which is both
/// ends, grows.
pub(crate) fn weigh(lane: Lane, streams: usize, write: usize) -> Done<(usize, usize)> {
    async fn weigh(opener: impl Opener + 'static, streams: usize, write: usize) -> Done<(usize, usize)> {
        swallow(&opener, 64 * 1024 * 1024).await?;
        let before = resident();
        let mut taken = Vec::with_capacity(streams);
        for _ in 0..streams {
            taken.push(fill(&opener, write).await?);
        }
        let taken = settle(|| taken.iter().map(|count| count.get()).sum()).await;
        Ok((taken, resident().saturating_sub(before)))
    }
    lanes::with_peer(lane, |peer| {
        on_this_thread(async {
            match lane {
                Lane::Mux => weigh(lanes::Ours::connect(peer).await?, streams, write).await,
                Lane::Yamux | Lane::YamuxBatched => {
                    weigh(lanes::Theirs::connect(lane, peer).await?, streams, write).await
                }
            }
        })
    })
}
