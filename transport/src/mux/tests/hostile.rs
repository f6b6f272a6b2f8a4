//! Peers that make this side answer and never read what it says.

use super::*;
use crate::mux::limits::ANSWERS_MAX;

#[test]
fn a_peer_that_asks_and_never_listens_is_not_read_for_ever() {
    let mut mux = Mux::new(Role::Acceptor, 0, start());
    let mut pings = 0;
    while mux.wants_input() {
        mux.handle_input(&frame(Kind::Ping, 0, &[1; 8]), start()).unwrap();
        pings += 1;
    }
    assert_eq!(pings, ANSWERS_MAX / 16);
    mux.sent(mux.output().len(), start());
    assert!(mux.wants_input());
}

#[test]
fn a_peer_whose_streams_are_refused_and_who_never_listens_is_not_read_for_ever() {
    let mut mux = Mux::new(Role::Acceptor, ACCEPT_STREAMS_MAX, start());
    let mut opened = 1;
    while mux.wants_input() {
        mux.handle_input(&frame(Kind::Open, opened, b""), start()).unwrap();
        mux.reset(StreamId(opened), ResetCode::Refused);
        mux.release(StreamId(opened));
        opened += 2;
        assert!(mux.output().len() <= 2 * ANSWERS_MAX, "{} bytes wait", mux.output().len());
    }
    assert_eq!(mux.streams_len(), 0);
    mux.sent(mux.output().len() / 2, start());
    assert!(mux.wants_input(), "it reads again, if not everything");
}
