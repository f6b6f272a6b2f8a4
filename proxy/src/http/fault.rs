//! Why streams to peers end. An HTTP/2 stream remembers it: hyper's own errors do not say whether the peer refused it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use starling_transport::data::fault_of;
use starling_transport::mux::Fault;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::through::writes_through;

/// The wrapper.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    inner: T,
    fault: Rc<Cell<Option<Fault>>>,
}

impl<T> Watched<T> {
    pub(crate) fn new(inner: T, fault: Rc<Cell<Option<Fault>>>) -> Self {
        Self { inner, fault }
    }

    fn note<R>(&self, polled: Poll<io::Result<R>>, _: &mut Context<'_>) -> Poll<io::Result<R>> {
        if let Poll::Ready(Err(error)) = &polled
            && let Some(fault) = fault_of(error)
        {
            self.fault.set(Some(fault));
        }
        polled
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        this.note(polled, cx)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    writes_through!(inner, note);

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.note(polled, cx)
    }
}
