//! A join file survives its text; a damaged or mixed-up one is refused.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{Mesh, NOW, name};
use crate::inspect::{Inspected, inspect};
use crate::issue::IssuedNode;

fn join(mesh: &Mesh, issued: &IssuedNode) -> JoinFile {
    JoinFile {
        bundle_file: mesh.made.bundle_file.clone(),
        node: issued.node.clone(),
        seeds: vec!["10.0.0.11:7740".into(), "[fd00::1]:7740".into(), "vm-1.example.org:7740".into()],
        chain_pem: issued.chain_pem.clone(),
        issuing_key_pem: Some(issued.issuing_key_pem.clone()),
    }
}

#[test]
fn a_join_file_survives_its_text() {
    let mesh = Mesh::new("prod.internal");
    let issued = mesh.issue("web-1");
    for key in [Some(issued.issuing_key_pem.clone()), None] {
        let file = JoinFile { issuing_key_pem: key.clone(), ..join(&mesh, &issued) };
        let text = file.encode();
        assert_eq!(text.contains("SECRET"), key.is_some());
        let read = JoinFile::parse(&text).unwrap();
        assert_eq!(read.bundle_file, file.bundle_file);
        assert_eq!(read.node, file.node);
        assert_eq!(read.seeds, file.seeds);
        assert_eq!(read.chain_pem, file.chain_pem);
        assert_eq!(read.issuing_key_pem, key);
        assert_eq!(read.encode(), text, "and again");
    }
}

#[test]
fn what_a_join_file_holds_makes_an_identity() {
    let mesh = Mesh::new("prod.internal");
    let read = JoinFile::parse(&join(&mesh, &mesh.issue("web-1")).encode()).unwrap();
    let bundle = TrustBundle::parse(&read.bundle_file).unwrap();
    let key = read.issuing_key_pem.unwrap();
    let node = crate::NodeIdentity::load(&bundle, &read.chain_pem, &key, &crate::new_record_key(), NOW).unwrap();
    assert_eq!(node.node(), &name("web-1"));
}

#[test]
fn a_mixed_up_join_file_is_refused_with_its_cause() {
    let (mesh, other) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    let (issued, neighbour) = (mesh.issue("web-1"), mesh.issue("web-2"));
    let check = |what: &str, bend: &dyn Fn(&mut JoinFile), want: &dyn Fn(&JoinInvalid) -> bool| {
        let mut file = join(&mesh, &issued);
        bend(&mut file);
        let refused = JoinFile::parse(&file.encode()).unwrap_err();
        assert!(want(&refused), "{what}: {refused:?}");
        assert_eq!(refused.code(), codes::JOIN_FILE_INVALID);
    };
    check("another node's name", &|file| file.node = name("web-2"), &|e| matches!(e, JoinInvalid::OtherNode { .. }));
    check("another node's key", &|file| file.issuing_key_pem = Some(neighbour.issuing_key_pem.clone()), &|e| {
        matches!(e, JoinInvalid::KeyMismatch)
    });
    check("another mesh's bundle", &|file| file.bundle_file.clone_from(&other.made.bundle_file), &|e| {
        matches!(e, JoinInvalid::Chain(PeerRefused::NotChained))
    });
    check("an operator's key", &|file| file.issuing_key_pem = Some(mesh.made.operator_key_pem.clone()), &|e| {
        matches!(e, JoinInvalid::Key(KeyInvalid::Kind("P-256")))
    });
    check("no chain", &|file| file.chain_pem.clear(), &|e| matches!(e, JoinInvalid::Chain(_)));
    check("no bundle", &|file| file.bundle_file.clear(), &|e| matches!(e, JoinInvalid::Format));
    check("a key in the chain", &|file| file.chain_pem.push_str(&mesh.made.root_key_pem), &|e| {
        matches!(e, JoinInvalid::Format)
    });
}

#[test]
fn blocks_cannot_be_cut_off_swapped_or_replaced() {
    let mesh = Mesh::new("prod.internal");
    let text = join(&mesh, &mesh.issue("web-1")).encode();
    let blocks: Vec<&str> = text.split_inclusive("-----END").collect();
    for drop in 0..blocks.len() {
        let rest: String = blocks.iter().enumerate().filter(|(at, _)| *at != drop).map(|(_, part)| *part).collect();
        assert!(JoinFile::parse(&rest).is_err(), "without part {drop}");
    }
    let lines: Vec<&str> = text.lines().collect();
    for end in 0..lines.len() {
        let cut = lines[..end].join("\n");
        assert!(JoinFile::parse(&cut).is_err(), "cut at line {end}");
    }
    let other = join(&mesh, &mesh.issue("web-1")).encode();
    let swapped: String = text.lines().take(10).chain(other.lines().skip(10)).map(|line| format!("{line}\n")).collect();
    assert!(JoinFile::parse(&swapped).is_err());
}

#[test]
fn seeds_are_addresses_with_a_port() {
    for good in ["10.0.0.1:7740", "[::1]:1", "host:65535", "a.b.c:7740"] {
        assert!(is_seed(good), "{good}");
    }
    for bad in
        ["", "host", ":7740", "host:0", "host:65536", "host:x", "a b:1", "host:1\n", "h\u{e9}:1", &"x".repeat(300)]
    {
        assert!(!is_seed(bad), "{bad:?}");
    }
}

#[test]
fn a_newer_format_says_so() {
    let mut text = Zeroizing::new(String::new());
    text.push_str(&armor::encode(LABEL, &[9, 0, 0]));
    assert_eq!(JoinFile::parse(&text).err(), Some(JoinInvalid::Version(9)));
}

#[test]
fn no_debug_output_holds_the_key() {
    let mesh = Mesh::new("prod.internal");
    let file = join(&mesh, &mesh.issue("web-1"));
    let output = format!("{file:?}");
    assert!(output.contains("has_key: true") && !output.contains("PRIVATE"), "{output}");
}

#[test]
fn files_are_shown_by_what_they_are() {
    let mesh = Mesh::new("prod.internal");
    let issued = mesh.issue("web-1");
    let whats = |file: &[u8]| inspect(file).unwrap().rows().iter().map(|row| row.what).collect::<Vec<_>>();
    assert_eq!(whats(&mesh.made.bundle_file), ["root CA", "issuing CA"]);
    let text = join(&mesh, &issued).encode();
    assert_eq!(whats(text.as_bytes()), ["root CA", "issuing CA", "node CA"]);
    assert_eq!(whats(issued.chain_pem.as_bytes()), ["issuing CA", "node CA"]);
    let rows = inspect(text.as_bytes()).unwrap().rows();
    let node = rows.last().unwrap();
    assert_eq!(node.subject, "web-1.node.prod.internal");
    assert_eq!((node.serial.as_str(), node.not_after, node.key.as_str()), (&*issued.serial, issued.not_after, "P-256"));
    let leaf = Inspected::Chain(mesh.node("web-1").mint_leaf(NOW).unwrap().chain).rows();
    assert_eq!(leaf.last().map(|row| row.subject.as_str()), Some("spiffe://prod.internal/node/web-1"));
    for bad in [&b""[..], b"hello", issued.issuing_key_pem.as_bytes()] {
        assert!(inspect(bad).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = JoinFile::parse(&text);
        let _ = inspect(text.as_bytes());
    }

    #[test]
    fn no_header_panics(header in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = JoinFile::parse(&armor::encode(LABEL, &header));
        let _ = JoinFile::parse(&armor::encode(LABEL, &[&[VERSION][..], &header].concat()));
    }

    #[test]
    fn no_bent_byte_is_taken_for_another_file(at in 0_usize..4_000, bit in 0_u8..7) {
        thread_local!(static TEXT: Zeroizing<String> = {
            let mesh = Mesh::new("prod.internal");
            join(&mesh, &mesh.issue("web-1")).encode()
        });
        TEXT.with(|text| {
            let mut bytes = text.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let Ok(bent) = String::from_utf8(bytes) else { return Ok(()) };
            if let Ok(read) = JoinFile::parse(&bent) {
                // The title line and line ends are not part of what is read.
                let encoded = read.encode();
                prop_assert_eq!(encoded.as_str(), text.as_str());
            }
            Ok(())
        })?;
    }
}
