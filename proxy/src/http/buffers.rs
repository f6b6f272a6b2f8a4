//! Room to read into and to write from. A thread keeps a little of it, so that a connection holds some only while bytes are
//! on their way, and a request costs no allocation for it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Room for one read; a usual message fits.
const READ_BYTES: usize = 4 * 1024;
/// Room that is too little for one.
const READ_BYTES_MIN: usize = 1024;
/// Room for one within a long body: two TLS records.
const READ_BYTES_MAX: usize = 32 * 1024;
/// Room of which many small messages are read.
const BLOCK_BYTES: usize = 16 * 1024;
/// Bytes that are gathered before they are written.
pub(crate) const WRITE_BYTES: usize = 16 * 1024;
/// Buffers for writing that a thread keeps.
const SPARE_BUFFERS_MAX: usize = 4;

thread_local! {
    static SPARE_ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static SPARE_BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Reads once to the end of `input`; 0 at the end of `from`. So many bytes are still to come as `left` says, if anybody
/// knows. While nothing comes, an empty `input` holds no room.
pub(crate) fn poll_read(
    from: Pin<&mut impl AsyncRead>,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
    left: Option<u64>,
) -> Poll<io::Result<usize>> {
    let wanted = left.map_or(READ_BYTES, |left| {
        usize::try_from(left).map_or(READ_BYTES_MAX, |left| left.clamp(READ_BYTES, READ_BYTES_MAX))
    });
    if !input.is_empty() {
        if input.capacity() - input.len() < READ_BYTES_MIN {
            input.reserve(wanted);
        }
        return poll_read_buf(from, cx, input);
    }
    // What is left of a block that was read from would keep all of it.
    *input = BytesMut::new();
    SPARE_ROOM.with_borrow_mut(|room| {
        if room.capacity() < READ_BYTES {
            *room = BytesMut::with_capacity(BLOCK_BYTES.max(wanted));
        }
        let read = poll_read_buf(from, cx, room);
        if !room.is_empty() {
            // What is left of the room is for the next one.
            *input = room.split();
        }
        read
    })
}

/// An empty buffer to write into.
pub(crate) fn take_buffer() -> Vec<u8> {
    SPARE_BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(READ_BYTES))
}

/// Gives one back.
pub(crate) fn return_buffer(mut buffer: Vec<u8>) {
    buffer.clear();
    SPARE_BUFFERS.with_borrow_mut(|spare| {
        // One that a large head or body has grown goes.
        if spare.len() < SPARE_BUFFERS_MAX && (1..=2 * WRITE_BYTES).contains(&buffer.capacity()) {
            spare.push(buffer);
        }
    });
}
