//! Whose a TCP socket of this host is, asked of the kernel by the socket's addresses (sock_diag(7), `SOCK_DIAG_BY_FAMILY`).
//!
//! The question names one connection, and the answer is used only if it is of that very connection, which somebody still
//! holds: the kernel falls back to a listener on the port, and of a closed socket it says user 0.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::cell::{Cell, RefCell};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::Owner;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_NETLINK: i32 = 16;
/// `NETLINK_SOCK_DIAG`
const SOCK_DIAG: i32 = 4;
const IPPROTO_TCP: u8 = 6;
/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// `INET_DIAG_CGROUP_ID`
const ATTR_CGROUP: u16 = 21;
/// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT: somebody may still hold it.
const STATES: [u8; 4] = [1, 4, 5, 8];
/// Header of the message, then the request of 56 bytes.
const QUESTION_BYTES: usize = 16 + 56;
/// An answer without attributes: header and 72 bytes.
const ANSWER_BYTES: usize = 4_096;
/// Answers to earlier questions that are skipped.
const STALE_MAX: usize = 16;

/// One thread's socket to the kernel, opened when it is needed.
#[derive(Debug, Default)]
pub(crate) struct Asker {
    socket: RefCell<Option<Socket>>,
    sequence: Cell<u32>,
}

impl Asker {
    /// The owner of the socket that has `own` as its address and is connected to `far`; `None`: there is none here.
    ///
    /// # Errors
    /// The system's, where the kernel cannot be asked.
    pub(crate) fn owner(&self, own: SocketAddr, far: SocketAddr) -> io::Result<Option<Owner>> {
        let mut held = self.socket.borrow_mut();
        let socket = match held.take() {
            Some(socket) => socket,
            None => open()?,
        };
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let answer = ask(&socket, sequence, own, far)?;
        // After an error a new one is opened: what waits in the old one is not known.
        *held = Some(socket);
        Ok(answer)
    }
}

fn open() -> io::Result<Socket> {
    if !cfg!(target_os = "linux") {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let socket = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(SOCK_DIAG)))?;
    // The answer is there when the question has been sent.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn ask(mut socket: &Socket, sequence: u32, own: SocketAddr, far: SocketAddr) -> io::Result<Option<Owner>> {
    socket.write_all(&question(sequence, own, far))?;
    let mut space = [0; ANSWER_BYTES];
    for _ in 0..STALE_MAX {
        let length = socket.read(&mut space)?;
        match read(space.get(..length).unwrap_or_default(), sequence, own, far) {
            Answer::Stale => {}
            Answer::Nobody => return Ok(None),
            Answer::Owner(owner) => return Ok(Some(owner)),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn address(address: IpAddr) -> (u8, [u8; 16]) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            for (byte, octet) in bytes.iter_mut().zip(v4.octets()) {
                *byte = octet;
            }
            (AF_INET, bytes)
        }
        IpAddr::V6(v6) => (AF_INET6, v6.octets()),
    }
}

/// `nlmsghdr`, then `inet_diag_req_v2`.
fn question(sequence: u32, own: SocketAddr, far: SocketAddr) -> Vec<u8> {
    let ((family, source), (_, target)) = (address(own.ip()), address(far.ip()));
    let mut out = Vec::with_capacity(QUESTION_BYTES);
    out.extend(u32::try_from(QUESTION_BYTES).unwrap_or_default().to_ne_bytes());
    out.extend(BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes());
    // No attributes are asked for: that of the control group comes by itself. All states.
    out.extend([family, IPPROTO_TCP, 0, 0]);
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(own.port().to_be_bytes());
    out.extend(far.port().to_be_bytes());
    out.extend(source);
    out.extend(target);
    // Any interface, no cookie.
    out.extend(0_u32.to_ne_bytes());
    out.extend([u8::MAX; 8]);
    out
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// To another question.
    Stale,
    Nobody,
    Owner(Owner),
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_ne_bytes)
    }

    fn port(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.0 = self.0.get(length..)?;
        Some(())
    }
}

fn read(bytes: &[u8], sequence: u32, own: SocketAddr, far: SocketAddr) -> Answer {
    let mut rest = Rest(bytes);
    let header = (|| {
        rest.u32()?;
        let kind = rest.u16()?;
        rest.u16()?;
        let told = rest.u32()?;
        rest.u32()?;
        Some((kind, told))
    })();
    match header {
        Some((_, told)) if told != sequence => Answer::Stale,
        Some((BY_FAMILY, _)) => socket(rest, own, far).map_or(Answer::Nobody, Answer::Owner),
        // No such socket, or no answer at all.
        Some((NLMSG_ERROR, _)) | Some(_) | None => Answer::Nobody,
    }
}

/// `inet_diag_msg` of the connection that was asked for, if somebody holds it.
fn socket(mut rest: Rest<'_>, own: SocketAddr, far: SocketAddr) -> Option<Owner> {
    let [family, state, _timer, _retransmissions] = rest.bytes()?;
    let (own_port, far_port) = (rest.port()?, rest.port()?);
    let (source, target) = (ip(family, rest.bytes()?)?, ip(family, rest.bytes()?)?);
    // Interface, cookie, expiry, queues.
    rest.skip(4 + 8 + 4 + 4 + 4)?;
    let (uid, inode) = (rest.u32()?, rest.u32()?);
    let same = (own_port, far_port) == (own.port(), far.port())
        && (source, target) == (own.ip().to_canonical(), far.ip().to_canonical());
    (same && STATES.contains(&state) && inode != 0).then(|| Owner { uid, cgroup: cgroup(rest) })
}

fn ip(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()),
        _ => None,
    }
}

/// Of the attributes that follow (`rtattr`: length, type, value, padded to four bytes).
fn cgroup(mut rest: Rest<'_>) -> Option<u64> {
    loop {
        let (length, kind) = (usize::from(rest.u16()?), rest.u16()?);
        let value = length.checked_sub(4)?;
        if kind == ATTR_CGROUP && value == 8 {
            return rest.bytes().map(u64::from_ne_bytes);
        }
        rest.skip(value.next_multiple_of(4).min(rest.0.len()))?;
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of tests are small")]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// As Linux 6.18 answers about 127.0.0.1:34370, connected to 127.0.0.1:37961, of user 1000 in the root group.
    const ANSWER: &str = "7c000000 1400 0000 07000000 69730000 02010000 8642 9449\
        7f000001000000000000000000000000 7f000001000000000000000000000000 00000000 0100000000000000 00000000 00000000 00000000\
        e8030000 9a040b00 0500080000000000 08000f0000000000 0c0015000100000000000000 0600160052000000";

    fn answer() -> Vec<u8> {
        let digits: Vec<u32> = ANSWER.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    }

    const OWN: &str = "127.0.0.1:34370";
    const FAR: &str = "127.0.0.1:37961";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_known_answer_is_read_and_only_as_that_to_this_question() {
        let owner = Answer::Owner(Owner { uid: 1000, cgroup: Some(1) });
        let check = |bytes: &[u8], sequence, own: &str, far: &str| read(bytes, sequence, at(own), at(far));
        assert_eq!(check(&answer(), 7, OWN, FAR), owner);
        assert_eq!(check(&answer(), 8, OWN, FAR), Answer::Stale);
        assert_eq!(check(&answer(), 7, "127.0.0.1:34371", FAR), Answer::Nobody);
        assert_eq!(check(&answer(), 7, OWN, "127.0.0.2:37961"), Answer::Nobody);
        assert_eq!(
            check(&answer(), 7, &OWN.replace("127.0.0.1", "[::ffff:127.0.0.1]"), FAR),
            owner,
            "the same address"
        );
        let with = |at: usize, byte: u8| {
            let mut bytes = answer();
            bytes[at] = byte;
            check(&bytes, 7, OWN, FAR)
        };
        assert_eq!(with(17, 10), Answer::Nobody, "a listener");
        assert_eq!(with(17, 6), Answer::Nobody, "TIME_WAIT, whose user is 0 whoever it was");
        assert_eq!(with(16, 99), Answer::Nobody, "another family");
        assert_eq!(with(4, 2), Answer::Nobody, "no such socket");
        assert_eq!(with(104, 9), Answer::Owner(Owner { uid: 1000, cgroup: None }), "no control group is told");
        let mut orphan = answer();
        orphan[84..88].fill(0);
        assert_eq!(check(&orphan, 7, OWN, FAR), Answer::Nobody, "nobody holds it");
        for length in 0..88 {
            assert!(matches!(check(&answer()[..length], 7, OWN, FAR), Answer::Nobody), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(at_byte in 0_usize..124, bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..200) {
            let mut all = answer();
            all.splice(at_byte..(at_byte + bytes.len()).min(124), bytes);
            all.truncate(cut);
            let _ = read(&all, 7, at(OWN), at(FAR));
        }
    }

    /// The real kernel about real sockets of this process.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_tells_whose_a_socket_is_while_it_is_held() {
        let asker = Asker::default();
        let uid = std::fs::metadata("/proc/self").unwrap().uid();
        for listen in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else {
                println!("skipped: no {listen} here");
                continue;
            };
            let application = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            let local = accepted.local_addr().unwrap();
            let owner = asker.owner(peer, local).unwrap().unwrap();
            assert_eq!(owner.uid, uid, "{listen}");
            application.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(asker.owner(peer, local).unwrap(), Some(owner), "half-closed is held");
            drop(application);
            assert_eq!(
                asker.owner(peer, local).unwrap(),
                None,
                "{listen}: closed, and then root's for all that is known"
            );
            let stranger = SocketAddr::new(local.ip(), 9);
            assert_eq!(asker.owner(local, stranger).unwrap(), None, "a listener on the port is not the caller");
        }
    }
}
