//! Tells why: turns what membership and probing decide into [`Evidence`].

use std::time::Instant;

use starling_model::{Life, MemberState, NodeName};

use super::Swim;
use crate::action::{Event, Evidence, Reach, Step, Word};
use crate::members::Member;
use crate::suspicion::Suspicion;

impl Swim {
    pub(super) fn testify(&mut self, subject: &NodeName, life: Life, step: Step) {
        self.emit(Event::Evidence(Evidence { subject: subject.clone(), life, step }));
    }

    /// How the word of `accuser` came to us, said by `from`.
    pub(super) fn word(&self, accuser: &NodeName, from: Option<&NodeName>) -> Word {
        match from {
            _ if *accuser == self.me.name => Word::Own,
            Some(from) if from != accuser => Word::Relayed(from.clone()),
            Some(_) | None => Word::Direct,
        }
    }

    /// A higher life of a member is in force: what ended by that.
    pub(super) fn testify_life(
        &mut self,
        name: &NodeName,
        life: Life,
        (held, before): (MemberState, Life),
        suspicion: Option<Suspicion>,
        now: Instant,
    ) {
        if life.epoch > before.epoch {
            return self.testify(name, life, Step::Restarted { before: before.epoch, held });
        }
        if let Some(suspicion) = suspicion {
            let lasted = now.saturating_duration_since(suspicion.start);
            self.testify(name, life, Step::Refuted { before, accusers: suspicion.accusers, lasted });
        }
    }

    /// A doubted member answered one of our probes: told once per suspicion.
    pub(super) fn testify_answer(&mut self, name: &NodeName, path: Reach) {
        let Some(suspicion) = self.members.get_mut(name).and_then(Member::suspicion_mut) else { return };
        if !std::mem::replace(&mut suspicion.answered, true) {
            let life = suspicion.life;
            self.testify(name, life, Step::ProbeAnswered { path });
        }
    }
}
