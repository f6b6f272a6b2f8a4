//! Bodies as they are written.

use super::*;

#[test]
fn a_body_is_as_long_as_it_says() {
    let mut out = Vec::new();
    let mut framing = Framing::Length(5);
    framing.write_data(&mut out, b"hel").unwrap();
    assert_eq!(framing.write_end(&mut out, None), Err(Malformed::Length));
    assert_eq!(framing.write_data(&mut out, b"loo"), Err(Malformed::Length));
    framing.write_data(&mut out, b"lo").unwrap();
    assert!(framing.is_full());
    framing.write_end(&mut out, None).unwrap();
    assert_eq!(out, b"hello");
}

#[test]
fn chunks_end_with_their_trailers() {
    let mut out = Vec::new();
    let mut framing = Framing::Chunked;
    for data in [&b"hello"[..], b"", &[b'x'; 26]] {
        framing.write_data(&mut out, data).unwrap();
    }
    let trailers = [("x-sum".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    framing.write_end(&mut out, Some(&trailers)).unwrap();
    assert_eq!(out, b"5\r\nhello\r\n1A\r\nxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n0\r\nx-sum: 1\r\n\r\n");
}
