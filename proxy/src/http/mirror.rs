//! Copies of requests: nobody waits for them, and whatever becomes of one, the request does not notice.
//!
//! A copy goes out once the request itself has its answer, since only then its body is known to be whole. A body over
//! [`REPLAY_BYTES_MAX`](crate::limits::REPLAY_BYTES_MAX) is not kept, so such a request is not copied.

use std::rc::Rc;
use std::time::Instant;

use http::request::Parts;
use http_body_util::BodyExt as _;
use starling_model::ServiceKey;
use starling_routing::{Choice, MirrorTo};
use tokio::time::timeout;
use tracing::debug;

use crate::header::Carry;
use crate::http::attempt::open;
use crate::http::body::{RequestBody, Upload};
use crate::http::head::Head;
use crate::limits::{MIRROR_TIMEOUT, MIRRORS_MAX};
use crate::worker::Worker;

/// Sends the copies that were drawn, in tasks of their own, each of which ends within [`MIRROR_TIMEOUT`].
pub(crate) fn copy(
    worker: &Rc<Worker>,
    mirrors: &[MirrorTo],
    (choice, head, upload): (&Choice, &Head, &Upload),
    source: Option<&ServiceKey>,
) {
    for to in mirrors {
        let carry = head.carry_to(to.endpoint());
        let copy = upload.whole().and_then(|body| Some((head.copied(choice, carry)?, RequestBody::copied(body))));
        let (Some(copy), true) = (copy, worker.mirroring.get() < MIRRORS_MAX) else {
            debug!(endpoint = %to.endpoint().id, "a request is not copied: too large, or too many copies are under way");
            continue;
        };
        worker.mirroring.set(worker.mirroring.get() + 1);
        let (worker, to, source) = (worker.clone(), to.clone(), source.cloned());
        drop(tokio::task::spawn_local(async move {
            let sent = timeout(MIRROR_TIMEOUT, send(&worker, &to, source, (copy, carry))).await;
            worker.mirroring.set(worker.mirroring.get().saturating_sub(1));
            if !matches!(sent, Ok(true)) {
                debug!(endpoint = %to.endpoint().id, "a copy was not answered");
            }
        }));
    }
}

/// One copy, up to the end of its answer, which is thrown away.
async fn send(
    worker: &Rc<Worker>,
    to: &MirrorTo,
    source: Option<ServiceKey>,
    ((head, body), carry): ((Box<Parts>, RequestBody), Carry),
) -> bool {
    let Ok(mut client) = open(worker, to.endpoint(), source.as_ref(), carry).await else { return false };
    let _under_way = UnderWay::begin(worker, to);
    match client.send(head, body).await {
        Ok(answer) => {
            worker.shared.loads.reached(to.endpoint(), Instant::now());
            let mut body = answer.into_body();
            loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => break false,
                    None => break true,
                }
            }
        }
        Err(_) => false,
    }
}

/// A copy counts at its endpoint until it ends, however it ends.
struct UnderWay<'a> {
    worker: &'a Worker,
    to: &'a MirrorTo,
}

impl<'a> UnderWay<'a> {
    fn begin(worker: &'a Worker, to: &'a MirrorTo) -> Self {
        worker.shared.loads.begin(to.endpoint());
        Self { worker, to }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.worker.shared.loads.end(self.to.endpoint().index, self.to.endpoint().birth);
    }
}
