//! The accepting side: one stream of a proven peer, from its `open` to its end.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use starling_identity::PeerIdentity;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{DEDICATED_ACCEPTED_PER_PEER_MAX, DedicatedStream, Places, Stage, break_off, wire};
use crate::data::tcp::Tls;
use crate::data::{DIAL_DEADLINE, OpenRequest};
use crate::mux::frame::HEADER_BYTES;
use crate::mux::{ResetCode, Violation};

/// How long whoever is turned away may take to leave. A socket that is closed with bytes unread takes the answer along.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(3);

/// How serving one dedicated connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data) enum Served {
    /// Its stream is over, well or not.
    Over,
    /// There was no room for it.
    NoRoom,
    /// Its peer opened nothing in time, or went.
    NotOpened,
    /// Its peer broke the protocol.
    Violated(Violation),
    /// We cut it.
    Cut,
}

/// What new streams meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data) enum Mood {
    Open,
    /// New ones are to go elsewhere.
    Draining,
}

enum NotRead {
    Gone,
    Violated(Violation),
}

/// Serves the one stream of `io`. Dropping the future breaks it.
pub(in crate::data) async fn serve<F: Future<Output = ()>>(
    places: &Rc<Places>,
    (io, peer): (Tls, PeerIdentity),
    mood: impl Fn() -> Mood,
    handler: impl FnOnce(OpenRequest, DedicatedStream) -> F,
) -> Served {
    if mood() == Mood::Draining {
        goodbye(io, &wire::refused(ResetCode::Refused)).await;
        return Served::NotOpened;
    }
    if !places.has_room(&peer.node, DEDICATED_ACCEPTED_PER_PEER_MAX) {
        goodbye(io, &wire::no_room()).await;
        return Served::NoRoom;
    }
    let place = places.take(&io, peer);
    let held = Rc::clone(&place.held);
    // Taken for what it is until it is known to be more: dropping it now breaks the connection.
    let mut stream = DedicatedStream::new(io, Rc::clone(&place), Stage::Taken);
    let header = match tokio::time::timeout(DIAL_DEADLINE, read_open(&mut stream)).await {
        Ok(Ok(header)) => header,
        Ok(Err(NotRead::Violated(violation))) => return Served::Violated(violation),
        Ok(Err(NotRead::Gone)) | Err(_) if held.is_cut.get() => return Served::Cut,
        Ok(Err(NotRead::Gone)) | Err(_) => return Served::NotOpened,
    };
    stream.stage = Stage::Unanswered;
    if mood() == Mood::Draining {
        // Since the connection came.
        stream.reset(ResetCode::Refused);
        drop(stream);
    } else {
        handler(OpenRequest { header }, stream).await;
    }
    let unanswered = held.unanswered.take();
    if let Some((io, code)) = unanswered.filter(|_| !held.is_cut.get()) {
        goodbye(*io, &wire::refused(code)).await;
    }
    drop(place);
    if held.is_cut.get() { Served::Cut } else { Served::Over }
}

async fn read_open(stream: &mut DedicatedStream) -> Result<Bytes, NotRead> {
    let gone = |_: io::Error| NotRead::Gone;
    let mut first = [0; HEADER_BYTES];
    stream.read_exact(&mut first).await.map_err(gone)?;
    let length = wire::opened(first).map_err(NotRead::Violated)?;
    let mut header = vec![0; length];
    stream.read_exact(&mut header).await.map_err(gone)?;
    Ok(Bytes::from(header))
}

/// Says so much and waits until the peer has left.
async fn goodbye(mut io: Tls, words: &[u8]) {
    let parting = async {
        io.write_all(words).await?;
        io.shutdown().await?;
        let mut rest = [0; 1_024];
        while io.read(&mut rest).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    if !matches!(tokio::time::timeout(GOODBYE_DEADLINE, parting).await, Ok(Ok(()))) {
        break_off(&io);
    }
}
