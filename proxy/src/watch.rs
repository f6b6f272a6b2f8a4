//! One request that somebody watches: sent through the HTTP entrance of a data thread as an application's is, and told as it
//! went. Nothing else about it is special: rules, retries, loads and metrics see a request like any other.

use std::io;
use std::os::unix::net::UnixStream as RawStream;
use std::sync::atomic::Ordering;

use starling_model::ServiceKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::access_log::Record;
use crate::limits::{WATCHED_BYTES_MAX, WATCHED_TIMEOUT};
use crate::listen::{Handover, Lane};

/// Why nothing is known of it.
#[derive(Debug, thiserror::Error)]
pub enum NotSeen {
    /// No data thread takes it.
    #[error("the data plane takes no request now")]
    Busy,
    /// The connection to the data thread.
    #[error("the request cannot be handed to the data plane")]
    Io(#[from] io::Error),
    /// It was not over in time.
    #[error("the request was not over within {} s", WATCHED_TIMEOUT.as_secs())]
    TimedOut,
    /// It was refused before it counted as one.
    #[error("the request was not taken as one")]
    NotTaken,
}

/// A watched request on its way to a data thread.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) stream: RawStream,
    /// On whose behalf.
    pub(crate) source: Option<ServiceKey>,
    pub(crate) told: oneshot::Sender<Box<Record>>,
}

/// Hands requests to data threads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    pub(crate) lanes: Vec<Lane>,
}

impl Asker {
    /// Sends the head of one request, on behalf of a local service or the bare node, reads its answer and says how it went.
    /// The answer's body is thrown away, and given up beyond [`WATCHED_BYTES_MAX`].
    ///
    /// # Errors
    /// [`NotSeen`]; the request may have been sent all the same.
    pub async fn send(&self, head: &[u8], source: Option<ServiceKey>) -> Result<Box<Record>, NotSeen> {
        let lane = self.lanes.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed)).ok_or(NotSeen::Busy)?;
        let (near, far) = RawStream::pair()?;
        for end in [&near, &far] {
            end.set_nonblocking(true)?;
        }
        let (told, mut seen) = oneshot::channel();
        let watched = Watched { stream: far, source, told };
        lane.handovers.try_send(Handover::Watched(watched)).map_err(|_| NotSeen::Busy)?;
        let mut stream = UnixStream::from_std(near)?;
        let whole = async {
            stream.write_all(head).await?;
            let mut space = [0; 4_096];
            let mut left = WATCHED_BYTES_MAX;
            // The connection may live on after the answer, so its record tells the end.
            loop {
                let read = tokio::select! {
                    told = &mut seen => return told.map_err(|_| NotSeen::NotTaken),
                    read = stream.read(&mut space) => read.unwrap_or_default(),
                };
                left = left.saturating_sub(read);
                if read == 0 || left == 0 {
                    break;
                }
            }
            drop(stream);
            seen.await.map_err(|_| NotSeen::NotTaken)
        };
        tokio::time::timeout(WATCHED_TIMEOUT, whole).await.map_err(|_| NotSeen::TimedOut)?
    }
}
