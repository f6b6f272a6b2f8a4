//! What a client's TLS ClientHello says before anybody answers: the server name (SNI, RFC 6066, 3).
//!
//! rustls reads it, in records and fragments of any size; nothing is answered, and what was read is handed on untouched.

use std::io;

use rustls::server::Acceptor;
use starling_routing::server_name;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::limits::{CLIENT_HELLO_BYTES_MAX, CLIENT_HELLO_TIMEOUT};

/// First bytes of a connection that begins with a ClientHello.
#[derive(Debug)]
pub(crate) struct Hello {
    /// In lower case and without a final dot; `None`: the client names no server, or an address.
    pub(crate) name: Option<String>,
    /// All that was read, which may be more than the ClientHello.
    pub(crate) read: Vec<u8>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHello {
    /// The connection ended, or broke, before it was complete.
    Gone,
    /// It was not complete within [`CLIENT_HELLO_TIMEOUT`].
    TimedOut,
    /// It is something else than TLS, a malformed ClientHello, or one of over [`CLIENT_HELLO_BYTES_MAX`].
    NotTls,
}

/// Waits for the ClientHello of a connection. Dropping this loses what was read.
pub(crate) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Hello, NoHello> {
    match tokio::time::timeout(CLIENT_HELLO_TIMEOUT, gather(stream)).await {
        Ok(hello) => hello,
        Err(_) => Err(NoHello::TimedOut),
    }
}

async fn gather<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Hello, NoHello> {
    let mut acceptor = Acceptor::default();
    let mut read = Vec::with_capacity(1_024);
    loop {
        let before = read.len();
        let room = CLIENT_HELLO_BYTES_MAX - before;
        if room == 0 {
            return Err(NoHello::NotTls);
        }
        match (&mut *stream).take(room as u64).read_buf(&mut read).await {
            Ok(0) | Err(_) => return Err(NoHello::Gone),
            Ok(_) => {}
        }
        let fresh = read.get(before..).unwrap_or_default();
        if let Some(name) = look(&mut acceptor, fresh).map_err(|_| NoHello::NotTls)? {
            return Ok(Hello { name, read });
        }
    }
}

/// Feeds what came; `Some` once the ClientHello is complete.
fn look(acceptor: &mut Acceptor, mut fresh: &[u8]) -> io::Result<Option<Option<String>>> {
    while !fresh.is_empty() {
        if acceptor.read_tls(&mut fresh)? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(Some(accepted.client_hello().server_name().map(server_name))),
            Err((error, _)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What a real client sends first.
    pub(crate) fn client_hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same in one TLS record for every `size` bytes of it.
    fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
        hello[5..]
            .chunks(size)
            .flat_map(|part| [&[0x16, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat())
            .collect()
    }

    async fn seen(sent: &[u8]) -> Result<Hello, NoHello> {
        let (mut client, mut near) = tokio::io::duplex(64);
        let (read, ()) = tokio::join!(read(&mut near), async {
            // The reader may have seen enough.
            let _ = client.write_all(sent).await;
            let _ = client.shutdown().await;
        });
        read
    }

    #[tokio::test]
    async fn the_name_is_found_and_every_byte_is_kept() {
        let hello = client_hello("Shop.Example.com");
        assert!(hello.len() > 1_000, "a post-quantum key share is in it");
        let mut sent = hello.clone();
        sent.extend_from_slice(b"early data");
        let found = seen(&sent).await.unwrap();
        assert_eq!(found.name.as_deref(), Some("shop.example.com"));
        assert!(sent.starts_with(&found.read) && found.read.len() >= hello.len());
    }

    #[tokio::test]
    async fn fragments_of_any_size_are_put_together() {
        let hello = client_hello("shop.example.com");
        for size in [1, 2, 7, 100, 255] {
            let found = seen(&fragmented(&hello, size)).await.unwrap();
            assert_eq!(found.name.as_deref(), Some("shop.example.com"), "{size}");
        }
    }

    #[tokio::test]
    async fn an_address_is_no_name() {
        assert_eq!(seen(&client_hello("127.0.0.1")).await.unwrap().name, None);
    }

    #[tokio::test]
    async fn what_is_not_tls_or_ends_early_is_told_apart() {
        for other in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-x\r\n", &[0x16, 9, 9, 0, 1, 0], &[0x16, 3, 1, 0, 0]] {
            assert_eq!(seen(other).await.unwrap_err(), NoHello::NotTls, "{other:?}");
        }
        assert_eq!(seen(&client_hello("a.com")[..100]).await.unwrap_err(), NoHello::Gone);
        assert_eq!(seen(b"").await.unwrap_err(), NoHello::Gone);
    }

    /// A ClientHello of this length, header and all, by a padding extension (RFC 7685).
    fn padded(len: usize) -> Vec<u8> {
        let hello = client_hello("a.com");
        // Record, handshake, version, random, session, suites, compression: the extensions' length comes after these.
        let session = 5 + 4 + 2 + 32;
        let suites = session + 1 + usize::from(hello[session]);
        let two = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
        let extensions = suites + 2 + two(suites) + 2;
        let more = len - hello.len() - 4;
        let mut out = hello.clone();
        let put = |out: &mut Vec<u8>, at: usize, value: usize| {
            out[at..at + 2].copy_from_slice(&u16::try_from(value).unwrap().to_be_bytes());
        };
        put(&mut out, 3, two(3) + more + 4);
        put(&mut out, 7, two(7) + more + 4);
        put(&mut out, extensions, two(extensions) + more + 4);
        // The post-quantum key share stays where it is; order means nothing before a pre-shared key.
        out.extend_from_slice(&[0, 21]);
        out.extend_from_slice(&u16::try_from(more).unwrap().to_be_bytes());
        out.extend(std::iter::repeat_n(0, more));
        out
    }

    #[tokio::test]
    async fn one_past_the_bound_is_not_waited_for() {
        assert_eq!(seen(&padded(CLIENT_HELLO_BYTES_MAX)).await.unwrap().name.as_deref(), Some("a.com"));
        assert_eq!(seen(&padded(CLIENT_HELLO_BYTES_MAX + 1)).await.unwrap_err(), NoHello::NotTls);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_one_is_waited_for_only_so_long() {
        let (mut client, mut near) = tokio::io::duplex(64);
        client.write_all(&client_hello("a.com")[..50]).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(read(&mut near).await.unwrap_err(), NoHello::TimedOut);
        assert_eq!(began.elapsed().as_secs(), CLIENT_HELLO_TIMEOUT.as_secs());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(cut in 0usize..2_000, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut hello = client_hello("a.example.com");
            for (at, byte) in bytes.into_iter().enumerate() {
                if let Some(place) = hello.get_mut(cut + at) {
                    *place = byte;
                }
            }
            let mut acceptor = Acceptor::default();
            let _ = look(&mut acceptor, &hello);
        }
    }
}
