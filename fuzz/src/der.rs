//! As much DER as is needed to make certificates that no tool would make.

/// One element: tag, length, content.
#[must_use]
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length @ 0x80..=0xff => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

/// The whole first element of `bytes` (header and content), its content, and what follows.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (header, length) = match *bytes.get(1)? {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(*bytes.get(2)?)),
        0x82 => (4, usize::from(*bytes.get(2)?) << 8 | usize::from(*bytes.get(3)?)),
        _ => return None,
    };
    let end = header + length;
    Some((bytes.get(..end)?, bytes.get(header..end)?, &bytes[end..]))
}

/// The elements in a sequence's content, each with its header.
#[must_use]
pub fn elements(mut content: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((whole, _, rest)) = first(content) {
        found.push(whole);
        content = rest;
    }
    found
}

/// What is inside an element.
#[must_use]
pub fn content(element: &[u8]) -> &[u8] {
    first(element).map_or(&[], |(_, content, _)| content)
}

/// A certificate of a body, its algorithm and a signature.
#[must_use]
pub fn certificate(tbs: &[u8], algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    let bits = element(0x03, &[&[0], signature].concat());
    element(0x30, &[tbs, algorithm, &bits].concat())
}
