//! Which chain wins, whoever is met first.
#![expect(clippy::arithmetic_side_effects, reason = "tests bend bytes of their own")]

use super::*;
use crate::bundle::{Role, Roles};
use crate::fixtures::Mesh;
use crate::issue::{IssueError, issue_operator, update_by_root};
use crate::keys::{EcKey, EdKey};
use crate::limits::REQUEST_HASHES_MAX;
use crate::operator::OperatorKey;
use crate::signature::domain_message;

/// An update on `before`; the name of the operator ends with `mark`.
pub(super) fn update(mesh: &Mesh, before: &TrustBundle, mark: u8, root: bool) -> TrustBundle {
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
        let pkcs8 = armor::decode_one(mesh.made.operator_key_pem.as_bytes(), armor::PRIVATE_KEY).unwrap();
        ([1, 1, 1, 0, 0, 0], EdKey::from_pkcs8(&pkcs8).unwrap().sign(&message).to_vec())
    };
    out.extend(head);
    out.extend(u16::try_from(signature.len()).unwrap().to_le_bytes());
    out.extend(signature);
    TrustBundle::read_unjudged(&out).unwrap()
}

/// A chain of these updates: `r` is signed by the root, other marks by an admin.
pub(super) fn chain(mesh: &Mesh, marks: &str) -> BundleChain {
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

/// What an operator's tools make is what members take.
#[test]
fn updates_are_signed_by_admins_and_roots_of_the_bundle_before() {
    let (mesh, other) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    let mut chain = BundleChain::new(mesh.made.bundle.clone());
    let key = OperatorKey::from_pem(&mesh.made.operator_key_pem).unwrap();
    let named = |name: &str| {
        let name = name.to_owned();
        move |bundle: &mut TrustBundle| bundle.operators[0].name = name
    };
    let second = key.update(chain.newest(), named("bob")).unwrap();
    assert_eq!(chain.merge(&[second.raw()]), Ok(Merged::Extended));
    let third = update_by_root(&second, &mesh.made.root_key_pem, |bundle| {
        bundle.operators[0].roles = Roles::of(&[Role::Config]);
    });
    let third = third.unwrap();
    assert_eq!(chain.merge(&[third.raw()]), Ok(Merged::Extended));
    assert_eq!((chain.newest().sequence, &chain.newest().operators[0].name[..]), (3, "bob"));
    assert!(matches!(key.update(&third, named("carol")), Err(IssueError::NotAdmin)), "it has lost the role");
    let stranger = OperatorKey::from_pem(&other.made.operator_key_pem).unwrap();
    assert!(matches!(stranger.update(&second, named("mallory")), Err(IssueError::NotAdmin)));
    let foreign = update_by_root(&second, &other.made.root_key_pem, named("mallory"));
    assert!(matches!(foreign, Err(IssueError::ForeignRoot)));
    let nobody = update_by_root(&second, &mesh.made.root_key_pem, |bundle| bundle.roots.clear());
    assert!(matches!(nobody, Err(IssueError::Bundle(_))), "it could not be read");
}

/// What is installed, what was stored, and whose newest bundle is in force then.
#[test]
fn what_was_stored_comes_back_unless_a_newer_bundle_was_installed() {
    let mesh = Mesh::new("prod.internal");
    let long = chain(&mesh, &"a".repeat(ANCESTORS_MAX + 3));
    let (short, fork) = (chain(&mesh, "ab"), chain(&mesh, "c"));
    let check = |installed: &TrustBundle, stored: &BundleChain, want: &TrustBundle| {
        let (back, wrong) = BundleChain::restore(installed.clone(), &stored.to_stored());
        assert_eq!(wrong, None);
        assert_eq!(back.newest().hash(), want.hash());
        back
    };
    let first = &mesh.made.bundle;
    let back = check(first, &short, short.newest());
    assert_eq!(back.len(), 3);
    check(short.newest(), &short, short.newest());
    // The installed one is older than all that is kept.
    assert_eq!(check(first, &long, long.newest()).len(), long.len());
    // Installed by hand: a newer one, one beside the chain, one of another mesh.
    let newer = update(&mesh, short.newest(), b'z', true);
    check(&newer, &short, &newer);
    check(fork.newest(), &short, fork.newest());
    let other = Mesh::new("prod.internal").made.bundle;
    check(&other, &short, &other);
    assert_eq!(BundleChain::restore(first.clone(), &[]).0.head(), BundleChain::new(first.clone()).head());
    // Of a damaged chain the part before the damage counts.
    let mut torn = chain(&mesh, "abcd").to_stored();
    torn.remove(3);
    let (back, wrong) = BundleChain::restore(first.clone(), &torn);
    assert_eq!((back.head(), wrong), (short.head(), Some(UpdateRefused::Unattached { sequence: 5 })));
    torn[0].pop();
    let (back, wrong) = BundleChain::restore(first.clone(), &torn);
    assert!(matches!(wrong, Some(UpdateRefused::Invalid(_))) && back.newest().sequence == 1);
}

/// Whose oldest bundle is newer than another's newest: the one hands its oldest over, too, and knows it when it is told.
#[test]
fn the_oldest_bundle_is_served_and_recognised() {
    let mesh = Mesh::new("prod.internal");
    let long = chain(&mesh, "abc");
    let installed = chain(&mesh, "a").newest().clone();
    let mut late = BundleChain::new(installed.clone());
    let mut behind = chain(&mesh, "");
    assert_eq!(meet(&mut behind, &late), Some(Merged::Extended));
    assert_eq!(behind.head(), late.head());
    assert_eq!(late.merge(&[installed.raw()]), Ok(Merged::Known));
    let updates = long.to_stored();
    let rest: Vec<&[u8]> = updates[1..].iter().map(Vec::as_slice).collect();
    assert_eq!(late.merge(&rest), Ok(Merged::Extended));
    assert_eq!(late.head(), long.head());
}

/// A revocation that a removed key signed stays in force, and must never be judged by another key of the same number.
#[test]
fn the_number_of_a_removed_operator_is_not_given_again() {
    let mesh = Mesh::new("prod.internal");
    let root = &mesh.made.root_key_pem;
    let add = |before: &TrustBundle, name: &str| issue_operator(before, root, name, Roles::all()).unwrap();
    let bob = add(&mesh.made.bundle, "bob");
    let without = update_by_root(&bob.bundle, root, |bundle| {
        bundle.operators.retain(|operator| operator.name != "bob");
    });
    let carol = add(&without.unwrap(), "carol");
    let dave = add(&carol.bundle, "dave");
    assert_eq!([bob.key_id, carol.key_id, dave.key_id], ["k2", "k4", "k5"]);
}

/// A removed admin's key disarms nothing: to drop a root takes a root.
#[test]
fn an_admin_cannot_drop_a_root_and_so_not_outlast_its_removal() {
    let (mesh, theirs) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    let key = OperatorKey::from_pem(&mesh.made.operator_key_pem).unwrap();
    let first = &mesh.made.bundle;
    let stolen = key.update(first, |bundle| {
        bundle.roots.clone_from(&theirs.made.bundle.roots);
        bundle.issuers.clone_from(&theirs.made.bundle.issuers);
    });
    let stolen = stolen.unwrap();
    let mut chain = BundleChain::new(first.clone());
    assert_eq!(chain.merge(&[stolen.raw()]), Err(UpdateRefused::Unsigned { sequence: 2 }));
    let removal = update_by_root(first, &mesh.made.root_key_pem, |bundle| bundle.operators.clear()).unwrap();
    assert_eq!(chain.merge(&[removal.raw()]), Ok(Merged::Extended));
    assert_eq!(chain.merge(&[stolen.raw()]), Err(UpdateRefused::Unsigned { sequence: 2 }));
    // A longer chain of the removed key that keeps the root loses against the root's signature.
    let second = key.update(first, |bundle| bundle.operators[0].name = "x".to_owned()).unwrap();
    let third = key.update(&second, |bundle| bundle.operators[0].name = "y".to_owned()).unwrap();
    assert!(matches!(chain.merge(&[second.raw(), third.raw()]), Ok(Merged::Kept(_))));
    assert_eq!(chain.newest().hash(), removal.hash());
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
    let request = |count: usize| {
        let head = [&b"STQ1"[..], &[7; 32], &[u8::try_from(count).unwrap()]].concat();
        Request::decode(&[head, vec![5; 32 * count]].concat()).is_ok()
    };
    assert_eq!([0, 1, REQUEST_HASHES_MAX, REQUEST_HASHES_MAX + 1].map(request), [false, true, true, false]);
    let answer = |count: usize, len: usize| {
        let update = [&u16::try_from(len).unwrap().to_le_bytes()[..], &vec![0; len]].concat();
        let head = [&b"STA1"[..], &[u8::try_from(count).unwrap()]].concat();
        Answer::decode(&[head, update.repeat(count)].concat()).is_ok()
    };
    assert!(answer(UPDATES_MAX, UPDATE_BYTES_MAX) && answer(0, 0));
    assert!(!answer(UPDATES_MAX + 1, 1) && !answer(1, UPDATE_BYTES_MAX + 1));
}

#[test]
fn what_does_not_follow_is_refused_for_its_reason_and_changes_nothing() {
    let (mesh, other) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    let mut chain = chain(&mesh, "ab");
    let newest = chain.newest().clone();
    let (third, foreign) = (update(&mesh, &newest, b'c', false), update(&other, &other.made.bundle, b'c', true));
    let fourth = update(&mesh, &third, b'd', false);
    let stranger = update(&other, &newest, b'c', false);
    let with = |at: usize, byte: u8| {
        let mut raw = third.raw().to_vec();
        raw[at] ^= byte;
        raw
    };
    let end = third.raw().len() - 1;
    type Case = (Vec<u8>, fn(&UpdateRefused) -> bool);
    let cases: [Case; 7] = [
        (third.raw()[..end].to_vec(), |refused| matches!(refused, UpdateRefused::Invalid(_))),
        (fourth.raw().to_vec(), |refused| matches!(refused, UpdateRefused::Unattached { sequence: 5 })),
        (foreign.raw().to_vec(), |refused| matches!(refused, UpdateRefused::Unattached { .. })),
        // Its sequence is not the next one.
        (with(40, 1), |refused| matches!(refused, UpdateRefused::NotNext { .. })),
        // Another mesh.
        (with(8, 1), |refused| matches!(refused, UpdateRefused::NotNext { .. })),
        // A damaged signature, and one by a stranger's key under the same number.
        (with(end, 1), |refused| matches!(refused, UpdateRefused::Unsigned { .. })),
        (stranger.raw().to_vec(), |refused| matches!(refused, UpdateRefused::Unsigned { .. })),
    ];
    let before = chain.head();
    for (raw, is_right) in cases {
        let refused = chain.merge(&[&raw]).unwrap_err();
        assert!(is_right(&refused), "{refused}");
        assert_eq!(chain.head(), before);
        // A good update before it does not get in alone.
        if !matches!(refused, UpdateRefused::Unattached { .. }) {
            assert!(chain.merge(&[third.raw(), &raw]).is_err());
            assert_eq!(chain.head(), before);
        }
    }
    assert_eq!(chain.merge(&[third.raw(), fourth.raw()]), Ok(Merged::Extended));
}

#[test]
fn a_signature_of_the_root_added_to_a_known_update_counts() {
    let mesh = Mesh::new("prod.internal");
    let (mut plain, mut raised) = (chain(&mesh, "r"), chain(&mesh, ""));
    // The same body, signed by an admin.
    let by_admin = update(&mesh, &mesh.made.bundle, b'r', false);
    assert_eq!(raised.merge(&[by_admin.raw()]), Ok(Merged::Extended));
    assert_eq!(raised.head(), plain.head(), "the signature is not part of what is hashed");
    assert_eq!(raised.merge(&[plain.newest().raw()]), Ok(Merged::Extended));
    assert_eq!(raised.merge(&[plain.newest().raw()]), Ok(Merged::Known));
    assert_eq!(plain.merge(&[by_admin.raw()]), Ok(Merged::Known), "and is not lost");
    assert!(is_by_root(plain.last()) && is_by_root(raised.last()));
}
