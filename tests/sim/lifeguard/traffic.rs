//! What agents send, by what it is for: a load that is too high is found here.

/// What a datagram or a frame on a stream is for. News ride on whatever goes to the same peer, so the first question or
/// answer in it decides; one without is gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A ping, for ourselves or for another.
    Ping,
    /// Its answer.
    Ack,
    /// Another is asked to ping.
    PingReq,
    /// A relay has no answer yet.
    Nack,
    /// A relay has one.
    RelayedAck,
    /// News that went out at first receipt or at a tick.
    Gossip,
    /// A ping on a stream, and its answer.
    StreamPing,
    /// Comparisons, fetches and pushes on streams.
    Stream,
    /// Nothing: a stream is ended, or given up.
    StreamEnd,
}

/// All causes, in the order of tables.
pub const CAUSES: [(Cause, &str); 9] = [
    (Cause::Ping, "pings"),
    (Cause::Ack, "acks"),
    (Cause::PingReq, "ping-reqs"),
    (Cause::Nack, "nacks"),
    (Cause::RelayedAck, "relayed acks"),
    (Cause::Gossip, "gossip"),
    (Cause::StreamPing, "pings on streams"),
    (Cause::Stream, "other frames"),
    (Cause::StreamEnd, "ends of streams"),
];

/// Where the messages of an envelope begin, and the layout of one: kind, length in two bytes, payload (the layout is that
/// of `starling_gossip`'s wire).
const MESSAGES_AT: usize = 16;
const HEAD: usize = 3;

/// Kinds of the messages in a datagram.
fn kinds(datagram: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut at = MESSAGES_AT;
    std::iter::from_fn(move || {
        let head = datagram.get(at..at + HEAD)?;
        at += HEAD + usize::from(u16::from_le_bytes([head[1], head[2]]));
        Some(head[0])
    })
}

fn question(kind: u8) -> Option<Cause> {
    match kind {
        1 => Some(Cause::Ping),
        2 => Some(Cause::Ack),
        3 => Some(Cause::PingReq),
        4 => Some(Cause::Nack),
        5 => Some(Cause::RelayedAck),
        _ => None,
    }
}

/// How much was sent for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic([u64; CAUSES.len()]);

impl Traffic {
    /// One more datagram.
    pub fn datagram(&mut self, payload: &[u8]) {
        self.add(kinds(payload).find_map(question).unwrap_or(Cause::Gossip));
    }

    /// One more frame on a stream.
    pub fn frame(&mut self, frame: &[u8]) {
        let asks = kinds(frame).find_map(question).is_some();
        self.add(match frame {
            [] => Cause::StreamEnd,
            _ if asks => Cause::StreamPing,
            _ => Cause::Stream,
        });
    }

    fn add(&mut self, cause: Cause) {
        self.0[cause as usize] += 1;
    }

    /// How many were sent for this.
    #[must_use]
    pub fn of(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
        self
    }
}
