use proptest::prelude::*;

use super::*;
use crate::testing::{node, revocation};

fn read(envelope: &Bytes) -> SignedRevocation {
    SignedRevocation::read(envelope).unwrap()
}

fn add(held: &mut Trust, envelope: &Bytes) -> Result<Vec<[u8; 32]>, Unfit> {
    held.insert(read(envelope))
}

/// security.md, 9: per node the highest number counts, of equal numbers what both keep.
#[test]
fn the_highest_number_counts_and_equal_ones_together() {
    let mut held = Trust::default();
    let first = revocation("vm-3", 1, &[7]);
    assert_eq!(add(&mut held, &first), Ok(vec![]));
    assert_eq!(add(&mut held, &first), Err(Unfit::Held));
    assert_eq!(add(&mut held, &revocation("vm-3", 2, &[1, 2])), Ok(vec![read(&first).hash]));
    assert_eq!(add(&mut held, &revocation("vm-3", 2, &[2, 3])), Ok(vec![]));
    assert_eq!(add(&mut held, &first), Err(Unfit::Stale));
    assert_eq!((held.number(&node("vm-3")), held.len(), held.iter().count()), (Some(2), 2, 2));
    assert!(held.get(&read(&first).hash).is_none());
}

#[test]
fn one_past_each_limit_is_refused() {
    let mut held = Trust::default();
    for kept in 1..=4 {
        let keys: Vec<u8> = (0..kept).collect();
        add(&mut held, &revocation("vm-3", 1, &keys)).unwrap();
    }
    assert_eq!(held.len(), REVOCATIONS_PER_NODE_MAX);
    let loose = [0, 1, 2, 3, 4];
    assert_eq!(add(&mut held, &revocation("vm-3", 1, &loose)), Err(Unfit::Stale), "what keeps most gives way");
    assert_eq!(add(&mut held, &revocation("vm-3", 1, &[])).map(|gone| gone.len()), Ok(1));

    let mut held = Trust::default();
    for at in 0..REVOCATIONS_MAX {
        add(&mut held, &revocation(&format!("n{at}"), 1, &[])).unwrap();
    }
    assert_eq!(add(&mut held, &revocation("one-more", 1, &[])), Err(Unfit::Full));
    assert!(add(&mut held, &revocation("n0", 2, &[])).is_ok());
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(
        all in prop::collection::vec((0_u8..3, 1_u64..4, 0_u8..8), 0..30),
        seed in any::<u64>(),
    ) {
        let all: Vec<Bytes> = all
            .into_iter()
            .map(|(name, number, kept)| {
                let kept: Vec<u8> = (0..8).filter(|bit| kept & (1 << bit) != 0).collect();
                revocation(&format!("n{name}"), number, &kept)
            })
            .collect();
        let mut shuffled = all.clone();
        shuffled.sort_by_key(|one| hash::head(&[&seed.to_le_bytes(), one]));
        let (mut a, mut b) = (Trust::default(), Trust::default());
        all.iter().for_each(|one| drop(add(&mut a, one)));
        shuffled.iter().for_each(|one| drop(add(&mut b, one)));
        prop_assert_eq!(a.root(), b.root());
        prop_assert!(a.iter().eq(b.iter()));
    }
}
