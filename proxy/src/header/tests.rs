//! Propositions about the open header.

use proptest::prelude::*;

use super::*;

fn header() -> OpenHeader {
    OpenHeader {
        carry: Carry::Http1,
        source: Some(ServiceKey::parse("shop/web", &Namespace::default()).unwrap()),
        destination: ServiceKey::parse("orders", &Namespace::default()).unwrap(),
        instance: InstanceName::new("orders-v2").unwrap(),
        port: PortName::new("http").unwrap(),
    }
}

/// Golden bytes: another release must still read these.
#[test]
fn the_layout_is_as_documented() {
    let golden = b"\x01\x01\x01\x04shop\x03web\x07default\x06orders\x09orders-v2\x04http";
    assert_eq!(header().encode().as_ref(), golden);
    assert_eq!(OpenHeader::decode(golden), Ok(header()));
    let bare = OpenHeader { carry: Carry::Bytes, source: None, ..header() };
    assert_eq!(bare.encode().as_ref(), b"\x01\x02\x00\x07default\x06orders\x09orders-v2\x04http");
}

#[test]
fn every_cut_is_refused_as_short() {
    let bytes = header().encode();
    for end in 0..bytes.len() {
        assert_eq!(OpenHeader::decode(&bytes[..end]), Err(HeaderInvalid::Short), "cut at {end}");
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let check = |at: usize, byte: u8, want: HeaderInvalid| {
        let mut bytes = header().encode().to_vec();
        bytes[at] = byte;
        assert_eq!(OpenHeader::decode(&bytes), Err(want));
    };
    check(0, 2, HeaderInvalid::Version(2));
    check(1, 3, HeaderInvalid::Carry(3));
    check(1, 5, HeaderInvalid::Carry(5));
    check(1, 0, HeaderInvalid::Carry(0));
    check(2, 3, HeaderInvalid::Flags(3));
    check(4, b'S', HeaderInvalid::Name("source"));
    check(4, 0xff, HeaderInvalid::Name("source"));
    check(3, 0, HeaderInvalid::Name("source"));
}

#[test]
fn extensions_are_skipped_unless_critical() {
    let with = |tail: &[u8]| {
        let mut bytes = header().encode().to_vec();
        bytes.extend_from_slice(tail);
        OpenHeader::decode(&bytes)
    };
    assert_eq!(with(b"\x07\x03abc\x08\x00"), Ok(header()));
    assert_eq!(with(b"\x07\x03abc\x87\x00"), Err(HeaderInvalid::Extension(0x87)));
    assert_eq!(with(b"\x07\x03ab"), Err(HeaderInvalid::Short));
    assert_eq!(with(b"\x07"), Err(HeaderInvalid::Short));
    assert_eq!(with(&[0; OPEN_HEADER_BYTES_MAX]), Err(HeaderInvalid::TooLong(header().encode().len() + 1_024)));
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_filter("reserved", |s| s != "node" && s != "starling")
}

proptest! {
    #[test]
    fn a_header_survives_the_wire(
        carry in proptest::sample::select(vec![Carry::Http1, Carry::Bytes, Carry::Http2]), source in proptest::option::of((label(), label())),
        destination in (label(), label()), instance in label(), port in label(),
    ) {
        let key = |(ns, name): (String, String)| {
            ServiceKey::new(Namespace::new(&ns).unwrap(), ServiceName::new(&name).unwrap())
        };
        let header = OpenHeader {
            carry,
            source: source.map(key),
            destination: key(destination),
            instance: InstanceName::new(&instance).unwrap(),
            port: PortName::new(&port).unwrap(),
        };
        let bytes = header.encode();
        prop_assert!(bytes.len() <= OPEN_HEADER_BYTES_MAX);
        prop_assert_eq!(OpenHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = OpenHeader::decode(&bytes);
    }

    #[test]
    fn no_change_of_good_bytes_panics(at in 0usize..44, byte in any::<u8>()) {
        let mut bytes = header().encode().to_vec();
        if let Some(place) = bytes.get_mut(at) { *place = byte; }
        if let Ok(read) = OpenHeader::decode(&bytes) {
            // What was accepted is what it says: it encodes to what was read.
            let again = read.encode();
            prop_assert_eq!(&again[..], &bytes[..]);
        }
    }
}
