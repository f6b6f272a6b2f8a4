//! The member table, and [`supersedes`]: which claim about a member wins (SWIM 4.2, with lives).

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::Instant;

use starling_model::{BootEpoch, Incarnation, Life, MemberState, NodeName};

use crate::action::Roots;
use crate::announced::Announced;
use crate::anti_entropy::Holding;
use crate::by_name::{ByName, Marks, Slot};
use crate::digest;
use crate::rtt::Rtt;
use crate::suspicion::Suspicion;
use crate::wire::{MemberDigest, SignedLife};

/// A life and what is said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) life: Life,
    pub(crate) state: MemberState,
}

/// SWIM 4.2, with lives: only its owner can raise a life, and within one life only worse news wins.
pub(crate) fn supersedes(new: Claim, held: Claim) -> bool {
    match new.life.cmp(&held.life) {
        Ordering::Less => false,
        Ordering::Equal => new.state > held.state, // Joining < Alive < Suspect < Dead < Left
        Ordering::Greater => true,
    }
}

/// What we know of a member that we deal with ourselves; most members have none of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contact {
    /// When it last proved itself to us on a path of our own.
    pub(crate) last_seen: Option<Instant>,
    pub(crate) rtt: Rtt,
    /// Where a connection last reached it, if that is none of its announced addresses.
    pub(crate) observed: Option<SocketAddr>,
    pub(crate) suspicion: Option<Suspicion>,
    /// Its signed leave, if that is the newest word.
    pub(crate) leave: Option<Announced>,
    /// Roots of its last ack.
    pub(crate) roots: Option<Roots>,
    /// Acks that its connection owes us in a row.
    pub(crate) missed: u32,
    /// The nonce of the last of them.
    pub(crate) owed: Option<u64>,
    /// When two agents last changed places under this name.
    pub(crate) switched: Option<Instant>,
}

const NO_CONTACT: &Contact = &Contact {
    last_seen: None,
    rtt: Rtt::UNKNOWN,
    observed: None,
    suspicion: None,
    leave: None,
    roots: None,
    missed: 0,
    owed: None,
    switched: None,
};

/// One other member. There may be thousands, so what few of them have lies aside.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// What it last said about itself.
    announced: Announced,
    contact: Option<Box<Contact>>,
    /// Hash of what it said; accusations quote this.
    pub(crate) proof: u64,
    /// What it and its records add to the sums.
    pub(crate) summed: u64,
    pub(crate) since: Instant,
    epoch: BootEpoch,
    incarnation: Incarnation,
    pub(crate) state: MemberState,
    /// Where it counts in comparisons; the hash of its name.
    bucket: u8,
}
const _: () = assert!(size_of::<Member>() <= 72);

impl Member {
    pub(crate) fn new(name: &NodeName, life: Life, proof: u64, announced: Announced, now: Instant) -> Self {
        Self {
            bucket: digest::bucket(name),
            announced,
            contact: None,
            proof,
            summed: 0,
            since: now,
            epoch: life.epoch,
            incarnation: life.incarnation,
            state: MemberState::Alive,
        }
    }

    /// The greatest life over all proven evidence.
    pub(crate) fn life(&self) -> Life {
        Life { epoch: self.epoch, incarnation: self.incarnation }
    }

    pub(crate) fn set_life(&mut self, life: Life) {
        self.epoch = life.epoch;
        self.incarnation = life.incarnation;
    }

    pub(crate) fn bucket(&self) -> u8 {
        self.bucket
    }

    pub(crate) fn claim(&self) -> Claim {
        Claim { life: self.life(), state: self.state }
    }

    /// Its newest `alive`.
    pub(crate) fn announced(&self) -> &Announced {
        &self.announced
    }

    /// It said something newer.
    pub(crate) fn announce(&mut self, proof: u64, announced: Announced) {
        self.proof = proof;
        self.announced = announced;
    }

    /// Its newest word: `alive`, or `leave`.
    pub(crate) fn newest(&self) -> SignedLife {
        self.contact().leave.as_ref().unwrap_or(&self.announced).signed()
    }

    /// Is this, signature and body, its word that we hold?
    pub(crate) fn has_said(&self, signed: &[u8]) -> bool {
        self.announced.is_signed(signed) || self.contact().leave.as_ref().is_some_and(|leave| leave.is_signed(signed))
    }

    /// What we know from dealing with it.
    pub(crate) fn contact(&self) -> &Contact {
        self.contact.as_deref().unwrap_or(NO_CONTACT)
    }

    pub(crate) fn contact_mut(&mut self) -> &mut Contact {
        self.contact.get_or_insert_default()
    }

    pub(crate) fn suspicion(&self) -> Option<&Suspicion> {
        self.contact().suspicion.as_ref()
    }

    pub(crate) fn suspicion_mut(&mut self) -> Option<&mut Suspicion> {
        self.contact.as_mut()?.suspicion.as_mut()
    }

    pub(crate) fn take_suspicion(&mut self) -> Option<Suspicion> {
        self.contact.as_mut()?.suspicion.take()
    }

    /// Forgets what we know from dealing with it, unless something of that still matters without a link.
    pub(crate) fn part(&mut self) {
        let matters = |contact: &Contact| {
            contact.suspicion.is_some()
                || contact.leave.is_some()
                || contact.observed.is_some()
                || contact.switched.is_some()
        };
        if self.contact.as_deref().is_some_and(|contact| !matters(contact)) {
            self.contact = None;
        }
    }

    /// A connection reached it there.
    pub(crate) fn observe(&mut self, address: SocketAddr) {
        let announced = self.announced.attributes().is_some_and(|said| said.addresses.contains(&address));
        self.contact_mut().observed = (!announced).then_some(address);
    }

    /// Announced addresses, then the observed one.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses_of(self.announced.attributes().map(|said| said.addresses))
    }

    /// The same, for who has read already which addresses it announced.
    pub(crate) fn addresses_of(&self, announced: Option<Vec<SocketAddr>>) -> Vec<SocketAddr> {
        let mut addresses = announced.unwrap_or_default();
        if let Some(observed) = self.contact().observed.filter(|observed| !addresses.contains(observed)) {
            addresses.push(observed);
        }
        addresses
    }

    /// What we hold about it, to be compared.
    pub(crate) fn holding(&self) -> Holding {
        Holding { claim: self.claim(), proof: self.proof }
    }

    pub(crate) fn digest(&self, name: &NodeName) -> MemberDigest {
        MemberDigest {
            name: name.clone(),
            life: self.life(),
            state: self.state,
            proof: self.proof,
            credential: crate::hash::short(&self.announced.credential()),
        }
    }

    /// Counts as part of the mesh: alive, or only doubted.
    pub(crate) fn is_present(&self) -> bool {
        is_present(self.state)
    }
}

/// Alive, or only doubted.
pub(crate) fn is_present(state: MemberState) -> bool {
    match state {
        MemberState::Alive | MemberState::Suspect => true,
        MemberState::Joining | MemberState::Dead | MemberState::Left => false,
    }
}

/// All other members; states change through [`Members::set_state`], so that counts cost nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    table: ByName<Member>,
    alive: usize,
    suspect: usize,
}

impl Members {
    pub(crate) fn get(&self, name: &NodeName) -> Option<&Member> {
        self.table.get(name)
    }

    /// By a name as it came.
    pub(crate) fn find(&self, name: &str) -> Option<(&NodeName, &Member)> {
        self.table.find(name)
    }

    /// For everything but the state.
    pub(crate) fn get_mut(&mut self, name: &NodeName) -> Option<&mut Member> {
        self.table.get_mut(name)
    }

    pub(crate) fn insert(&mut self, name: NodeName, member: Member) {
        self.count(member.state, true);
        if let Some(old) = self.table.insert(name, member) {
            self.count(old.state, false);
        }
    }

    pub(crate) fn remove(&mut self, name: &NodeName) -> Option<Member> {
        let member = self.table.remove(name)?;
        self.count(member.state, false);
        Some(member)
    }

    /// Changes a member's state; returns the former one if it was another.
    pub(crate) fn set_state(&mut self, name: &NodeName, state: MemberState, now: Instant) -> Option<MemberState> {
        let member = self.table.get_mut(name)?;
        let old = std::mem::replace(&mut member.state, state);
        if old == state {
            return None;
        }
        member.since = now;
        self.count(old, false);
        self.count(state, true);
        Some(old)
    }

    fn count(&mut self, state: MemberState, more: bool) {
        let counter = match state {
            MemberState::Alive => &mut self.alive,
            MemberState::Suspect => &mut self.suspect,
            MemberState::Joining | MemberState::Dead | MemberState::Left => return,
        };
        *counter = if more { *counter + 1 } else { *counter - 1 };
    }

    /// All, in an order that is the same in each run.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Member)> {
        self.table.iter()
    }

    /// A member, and its place for [`Members::unmarked`].
    pub(crate) fn place(&self, name: &NodeName) -> Option<(Slot, &Member)> {
        self.table.place(name)
    }

    /// All that are not marked.
    pub(crate) fn unmarked(&self, marks: &Marks) -> impl Iterator<Item = (&NodeName, &Member)> {
        self.table.unmarked(marks)
    }

    /// All others, tombstones included.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Others that are alive or only doubted.
    pub(crate) fn present(&self) -> usize {
        self.alive + self.suspect
    }

    /// Others that are alive.
    pub(crate) fn alive(&self) -> usize {
        self.alive
    }

    pub(crate) fn is_present(&self, name: &NodeName) -> bool {
        self.get(name).is_some_and(Member::is_present)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(text: &str) -> Claim {
        let (state, life) = text.split_once('@').unwrap();
        let (epoch, incarnation) = life.split_once('.').unwrap();
        let life =
            Life { epoch: BootEpoch(epoch.parse().unwrap()), incarnation: Incarnation(incarnation.parse().unwrap()) };
        let state = MemberState::ALL.into_iter().find(|one| one.as_str() == state).unwrap();
        Claim { life, state }
    }

    /// SWIM 4.2. Left of the arrow what we hold, right of it what arrives, then what we hold afterwards.
    fn check(arrow: &str, want: &str) {
        let (held, new) = arrow.split_once(" <- ").unwrap();
        let after = if supersedes(claim(new), claim(held)) { new } else { held };
        assert_eq!(after, want, "{arrow}");
    }

    #[test]
    fn within_one_life_only_worse_news_wins() {
        for state in ["alive", "suspect", "failed", "left"] {
            check(&format!("{state}@7.3 <- {state}@7.3"), &format!("{state}@7.3"));
        }
        check("alive@7.3 <- suspect@7.3", "suspect@7.3");
        check("alive@7.3 <- failed@7.3", "failed@7.3");
        check("alive@7.3 <- left@7.3", "left@7.3");
        check("suspect@7.3 <- alive@7.3", "suspect@7.3");
        check("suspect@7.3 <- failed@7.3", "failed@7.3");
        check("suspect@7.3 <- left@7.3", "left@7.3");
        check("failed@7.3 <- alive@7.3", "failed@7.3");
        check("failed@7.3 <- suspect@7.3", "failed@7.3");
        check("failed@7.3 <- left@7.3", "left@7.3");
        check("left@7.3 <- alive@7.3", "left@7.3");
        check("left@7.3 <- suspect@7.3", "left@7.3");
        check("left@7.3 <- failed@7.3", "left@7.3");
    }

    #[test]
    fn a_higher_life_wins_whatever_it_says() {
        for held in ["alive", "suspect", "failed", "left"] {
            for new in ["alive", "suspect", "failed", "left"] {
                check(&format!("{held}@7.3 <- {new}@7.4"), &format!("{new}@7.4"));
                check(&format!("{held}@7.9 <- {new}@8.0"), &format!("{new}@8.0"));
                check(&format!("{held}@8.0 <- {new}@7.9"), &format!("{held}@8.0"));
            }
        }
    }

    fn any_claim() -> impl Strategy<Value = Claim> {
        (0..3_u64, 0..3_u32, 0..4_usize).prop_map(|(epoch, incarnation, state)| Claim {
            life: Life { epoch: BootEpoch(epoch), incarnation: Incarnation(incarnation) },
            state: [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left][state],
        })
    }

    proptest! {
        /// The order in which claims arrive, and how often, does not matter.
        #[test]
        fn merging_converges(claims in prop::collection::vec(any_claim(), 1..8), turn in 0..8_usize) {
            let fold = |claims: &[Claim]| claims.iter().copied().reduce(|held, new| if supersedes(new, held) { new } else { held });
            let mut other = claims.clone();
            other.reverse();
            let len = other.len();
            other.rotate_left(turn % len);
            other.extend_from_slice(&claims);
            prop_assert_eq!(fold(&claims), fold(&other));
        }

        #[test]
        fn no_claim_supersedes_itself_or_both_ways(a in any_claim(), b in any_claim()) {
            prop_assert!(!supersedes(a, a));
            prop_assert!(!(supersedes(a, b) && supersedes(b, a)));
            prop_assert!(a == b || supersedes(a, b) || supersedes(b, a));
        }
    }
}
