//! Which chain wins, whoever is met first.
#![expect(clippy::arithmetic_side_effects, reason = "tests bend bytes of their own")]

use super::*;
use crate::fixtures::Mesh;
use crate::keys::{EcKey, EdKey};
use crate::limits::REQUEST_HASHES_MAX;
use crate::signature::domain_message;

/// An update on `before`; the name of the operator ends with `mark`.
fn update(mesh: &Mesh, before: &TrustBundle, mark: u8, root: bool) -> TrustBundle {
    let raw = before.raw();
    let len = u32::from_le_bytes(raw[4..8].try_into().unwrap()) as usize;
    let mut out = raw[..8 + len].to_vec();
    out[40..48].copy_from_slice(&(before.sequence + 1).to_le_bytes());
    out[48..80].copy_from_slice(&before.hash());
    out[7 + len] = mark;
    let message = domain_message("bundle", &before.mesh_id, &out[8..]);
    let (head, signature) = if root {
        ([1, 0, 0, 0, 0, 0], EcKey::from_pem(&mesh.made.root_key_pem).unwrap().sign(&message).unwrap())
    } else {
        let pkcs8 = crate::armor::decode_one(mesh.made.operator_key_pem.as_bytes(), crate::armor::PRIVATE_KEY).unwrap();
        ([1, 1, 1, 0, 0, 0], EdKey::from_pkcs8(&pkcs8).unwrap().sign(&message).to_vec())
    };
    out.extend(head);
    out.extend(u16::try_from(signature.len()).unwrap().to_le_bytes());
    out.extend(signature);
    TrustBundle::read_unjudged(&out).unwrap()
}

/// A chain of these updates: `r` is signed by the root, other marks by an admin.
fn chain(mesh: &Mesh, marks: &str) -> BundleChain {
    let mut chain = BundleChain::new(mesh.made.bundle.clone());
    for mark in marks.bytes() {
        let next = update(mesh, chain.newest(), mark, mark == b'r');
        assert_eq!(chain.merge(&[next.raw()]), Ok(Merged::Extended));
    }
    chain
}

fn meet(one: &mut BundleChain, other: &BundleChain) -> Option<Merged> {
    let request = missing(one, &other.head())?;
    let request = Request::decode(&request.encode().unwrap()).unwrap();
    let bytes = answer(other, &request).encode().unwrap();
    Some(one.merge(&Answer::decode(&bytes).unwrap().0).unwrap())
}

#[test]
fn root_then_length_wins_on_both_sides_and_the_fork_names_both() {
    let mesh = Mesh::new("prod.internal");
    for (winner, loser) in [("r", "aaaa"), ("ab", "c"), ("xar", "xbbb"), ("rr", "rabc")] {
        let (win, lose) = (chain(&mesh, winner), chain(&mesh, loser));
        let (mut a, mut b) = (win.clone(), lose.clone());
        assert!(matches!(meet(&mut a, &lose), Some(Merged::Kept(_))), "{winner} {loser}");
        let Some(Merged::Switched(fork)) = meet(&mut b, &win) else { panic!("{winner} {loser}") };
        assert_eq!(fork.code().to_string(), "ST0605");
        assert!(fork.to_string().contains("left that by k1 \"alic"), "{fork}");
        assert_eq!((a.head(), b.head()), (win.head(), win.head()));
        assert_eq!(meet(&mut b, &win), None, "again changes nothing");
    }
}

#[test]
fn any_order_of_meetings_ends_with_the_same_chain() {
    let mesh = Mesh::new("prod.internal");
    let all = ["a", "b", "ab", "abcd", "ba", "xr", "xra", "xrb"].map(|marks| chain(&mesh, marks));
    let mut heads = Vec::new();
    for turn in 0..all.len() {
        let mut one = chain(&mesh, "");
        for at in (0..all.len() * 2).map(|at| (at * 3 + turn) % all.len()) {
            meet(&mut one, &all[at]);
        }
        heads.push(one.head());
    }
    assert!(heads.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn one_past_each_limit_is_refused() {
    let mesh = Mesh::new("prod.internal");
    let mut long = chain(&mesh, &"a".repeat(ANCESTORS_MAX + 1));
    assert_eq!(long.len(), ANCESTORS_MAX + 1);
    let many = vec![&[][..]; UPDATES_MAX + 1];
    assert_eq!(long.merge(&many), Err(UpdateRefused::TooMany(UPDATES_MAX + 1)));
    assert!(Answer(many).encode().is_err());
    let large = vec![0; UPDATE_BYTES_MAX + 1];
    assert_eq!(long.merge(&[&large]), Err(UpdateRefused::TooLarge(UPDATE_BYTES_MAX + 1)));
    assert!(Answer(vec![&large]).encode().is_err());
    let held = vec![[0; 32]; REQUEST_HASHES_MAX + 1];
    assert!(Request { mesh_id: mesh.made.bundle.mesh_id, held }.encode().is_err());
    assert!(Request::decode(&[0; crate::limits::REQUEST_BYTES_MAX + 1]).is_err());
    assert!(Answer::decode(&vec![0; crate::limits::ANSWER_BYTES_MAX + 1]).is_err());
}
