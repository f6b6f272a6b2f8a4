//! The machine's evidence in words: one event for each step, so that `starling events --node X` answers why X is what it
//! is.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use starling_gossip::{
    Alarm, DownReason, Evidence, MemberView, PathResult, ProbeTrail, Reach, RelayResult, Step, Word,
};
use starling_model::{Life, MemberState, NodeName};

use super::rulings;
use crate::events::{Kind, News};
use crate::telemetry::time::{Clocks, short};

fn news(node: &NodeName, step: &'static str, what: String, evidence: Value) -> News {
    News { kind: Kind::Membership, node: node.to_string(), subject: node.to_string(), step, what, evidence }
}

fn life(life: Life) -> Value {
    json!({"bootEpoch": life.epoch.to_string(), "incarnation": life.incarnation.0})
}

fn names(list: &[NodeName]) -> String {
    list.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

/// `by its own word`, `as vm-2 says`: how an accusation came.
fn how(word: &Word) -> String {
    match word {
        Word::Own => "own probe".to_owned(),
        Word::Direct => "its own word".to_owned(),
        Word::Relayed(through) => format!("relayed by {through}"),
    }
}

fn word(word: &Word) -> Value {
    match word {
        Word::Own => json!({"kind": "own"}),
        Word::Direct => json!({"kind": "direct"}),
        Word::Relayed(through) => json!({"kind": "relayed", "through": through.as_str()}),
    }
}

fn path(result: PathResult) -> &'static str {
    match result {
        PathResult::Unused => "unused",
        PathResult::Silent => "silent",
        PathResult::Broken(why) => match why {
            DownReason::Left => "left",
            DownReason::Evicted => "evicted",
            DownReason::Reset => "reset",
            DownReason::TimedOut => "timed out",
            DownReason::Refused => "refused",
            DownReason::Foreign => "foreign",
            DownReason::Local => "closed here",
            DownReason::Other => "broken",
        },
    }
}

fn relay(result: RelayResult) -> &'static str {
    match result {
        RelayResult::Nack => "nack",
        RelayResult::Silent => "silent",
    }
}

fn trail_in_words(trail: &ProbeTrail, now: Instant) -> String {
    let direct = [("datagram", trail.datagram), ("stream", trail.stream), ("dial", trail.dial)];
    let direct = direct.iter().filter(|(_, result)| *result != PathResult::Unused);
    let mut paths: Vec<String> = direct.map(|(name, result)| format!("{name} {}", path(*result))).collect();
    paths.extend(trail.relays.iter().map(|(name, result)| format!("via {name} {}", relay(*result))));
    let took = short(now.saturating_duration_since(trail.began));
    format!("own probe without an answer in {took}: {}", paths.join(", "))
}

fn trail(probe: &ProbeTrail, clocks: &Clocks) -> Value {
    let relays: Vec<Value> =
        probe.relays.iter().map(|(name, result)| json!({"node": name.as_str(), "result": relay(*result)})).collect();
    json!({"began": clocks.show_millis(probe.began), "datagram": path(probe.datagram), "stream": path(probe.stream),
           "dial": path(probe.dial), "relays": relays, "healthScore": probe.health_score})
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The event of one step.
pub(super) fn of_evidence(evidence: &Evidence, clocks: &Clocks) -> News {
    let Evidence { subject, life: at, step } = evidence;
    let now = clocks.now();
    let left = |until: Instant| short(until.saturating_duration_since(now));
    let (what, particulars) = match step {
        Step::Suspected { by, word: said, until } => (
            format!("alive → suspect: doubted by {by} ({}), {} to refute", how(said), left(*until)),
            json!({"by": by.as_str(), "word": word(said), "until": clocks.show_millis(*until)}),
        ),
        Step::Confirmed { by, word: said, until } => (
            format!("confirmed by {by} ({}), {} left to refute", how(said), left(*until)),
            json!({"by": by.as_str(), "word": word(said), "until": clocks.show_millis(*until)}),
        ),
        Step::ProbeFailed(probe) => (trail_in_words(probe, now), json!({"probe": trail(probe, clocks)})),
        Step::ProbeAnswered { path } => {
            let (text, path) = match path {
                Reach::Datagram => ("by datagram".to_owned(), json!({"kind": "datagram"})),
                Reach::Stream => ("on a stream".to_owned(), json!({"kind": "stream"})),
                Reach::Relay(through) => {
                    (format!("through {through}"), json!({"kind": "relay", "through": through.as_str()}))
                }
            };
            (format!("own probe answered {text}; only its own word ends the doubt"), json!({"path": path}))
        }
        Step::CalledDead { by, word: said } => (
            format!("called failed by {by} ({}); our own probe decides", how(said)),
            json!({"by": by.as_str(), "word": word(said)}),
        ),
        Step::Held => ("verdict held: too many fell silent at once".to_owned(), Value::Null),
        Step::Refuted { before, accusers, lasted } => (
            format!("suspect → alive: refuted by itself after {}, life {before} → {at}", short(*lasted)),
            json!({"before": life(*before), "accusers": accusers, "lastedMs": ms(*lasted)}),
        ),
        Step::Failed { accusers, lasted, own_failure } => {
            let own = own_failure.map(|failed| short(now.saturating_duration_since(failed)));
            let own = own.map(|ago| format!("; own probe failed {ago} before")).unwrap_or_default();
            (
                format!("suspect → failed after {}: doubted by {}{own}", short(*lasted), names(accusers)),
                json!({"accusers": accusers, "lastedMs": ms(*lasted),
                       "ownProbeFailed": own_failure.map(|failed| clocks.show_millis(failed))}),
            )
        }
        Step::Restarted { before, held } => (
            format!("{} → alive: its agent is new, epoch {before} → {}", held.as_str(), at.epoch),
            json!({"before": before.to_string(), "held": held.as_str()}),
        ),
        Step::Answered { by, word: said } => (
            format!("this node was doubted by {by} ({}) and answered by life {at}", how(said)),
            json!({"by": by.as_str(), "word": word(said)}),
        ),
    };
    let mut particulars = particulars;
    if let Value::Object(fields) = &mut particulars {
        fields.insert("life".to_owned(), life(*at));
    }
    news(subject, step.as_str(), what, particulars)
}

/// The event of a member's change that no doubt led to; `None` where evidence has told it.
pub(super) fn of_member(before: Option<(MemberState, Life)>, member: &MemberView) -> Option<News> {
    let at = json!({"life": life(member.life)});
    let held = before.map(|(state, _)| state);
    let (step, what) = match (held, member.state) {
        (None, MemberState::Alive) => ("alive", format!("joined, life {}", member.life)),
        (None, MemberState::Dead) => ("remembered", "remembered as failed from before the start".to_owned()),
        (Some(MemberState::Joining), MemberState::Alive) => ("alive", format!("joined, life {}", member.life)),
        (Some(MemberState::Dead | MemberState::Left), MemberState::Alive)
            if before.is_some_and(|(_, held)| held.epoch == member.life.epoch) =>
        {
            ("alive", format!("back, life {}", member.life))
        }
        (Some(state), MemberState::Left) if state != MemberState::Left => ("left", "left by its own word".to_owned()),
        (None, MemberState::Left) => ("left", "left by its own word".to_owned()),
        (_, MemberState::Joining | MemberState::Suspect)
        | (Some(_), MemberState::Alive | MemberState::Dead | MemberState::Left) => return None,
    };
    Some(news(&member.name, step, what, at))
}

/// The event of an alarm, where it is about a member.
pub(super) fn of_alarm(alarm: &Alarm) -> Option<News> {
    match alarm {
        Alarm::DuplicateIdentity { name, quiet } => {
            let what = match quiet {
                true => "another agent lives under our name: this one announces nothing",
                false => "one identity lives at two addresses",
            };
            Some(news(name, "duplicate_identity", what.to_owned(), json!({"quiet": quiet})))
        }
        Alarm::NameTaken { name } => {
            let what = "another agent answers under our name: this one stays outside the mesh";
            Some(news(name, "name_taken", what.to_owned(), Value::Null))
        }
        Alarm::AccuserOverCap { accuser } => {
            let what = "accuses more members than a healthy one would: not believed, and probed itself";
            Some(news(accuser, "accuser_over_cap", what.to_owned(), Value::Null))
        }
        Alarm::WordRefused { from, kind, why } => Some(rulings::of_refused_word(from, *kind, *why)),
        Alarm::TableFull | Alarm::OwnRecordTooLarge => None,
    }
}

/// The beginning or end of our own isolation.
pub(super) fn of_isolation(me: &NodeName, on: bool) -> News {
    match on {
        true => {
            let what = "too many members fell silent at once: this node assumes that it is cut off and holds verdicts";
            news(me, "isolated", what.to_owned(), Value::Null)
        }
        false => news(me, "isolation_over", "no longer cut off".to_owned(), Value::Null),
    }
}

/// A tombstone is gone.
pub(super) fn of_forgotten(name: &NodeName) -> News {
    news(name, "forgotten", "forgotten: its tombstone is too old, or there are too many".to_owned(), Value::Null)
}

#[cfg(test)]
mod tests {
    use starling_model::{BootEpoch, Incarnation};

    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn at(epoch: u64, incarnation: u32) -> Life {
        Life { epoch: BootEpoch(epoch), incarnation: Incarnation(incarnation) }
    }

    fn check(step: Step, want: &str) {
        let clocks = Clocks::read();
        let told = of_evidence(&Evidence { subject: name("vm-3"), life: at(7, 4), step }, &clocks);
        assert_eq!(told.what, want);
        assert_eq!(told.node, "vm-3");
    }

    #[test]
    fn every_step_is_a_sentence_that_names_who_and_how() {
        let clocks = Clocks::read();
        let trail = ProbeTrail {
            began: clocks.now(),
            datagram: PathResult::Silent,
            stream: PathResult::Silent,
            dial: PathResult::Unused,
            relays: vec![(name("vm-2"), RelayResult::Nack), (name("vm-4"), RelayResult::Silent)],
            health_score: 1,
        };
        let told =
            of_evidence(&Evidence { subject: name("vm-3"), life: at(7, 4), step: Step::ProbeFailed(trail) }, &clocks);
        let paths = "datagram silent, stream silent, via vm-2 nack, via vm-4 silent";
        assert_eq!(told.what, format!("own probe without an answer in 0.0ms: {paths}"));
        assert_eq!(told.evidence["probe"]["relays"][0], json!({"node": "vm-2", "result": "nack"}));
        assert_eq!(told.evidence["life"], json!({"bootEpoch": "7", "incarnation": 4}));
        let accusers = vec![name("vm-1"), name("vm-2")];
        let lasted = Duration::from_millis(4_200);
        check(
            Step::Failed { accusers: accusers.clone(), lasted, own_failure: None },
            "suspect → failed after 4200ms: doubted by vm-1, vm-2",
        );
        check(
            Step::Refuted { before: at(7, 3), accusers, lasted },
            "suspect → alive: refuted by itself after 4200ms, life 7.3 → 7.4",
        );
        check(
            Step::CalledDead { by: name("vm-1"), word: Word::Relayed(name("vm-2")) },
            "called failed by vm-1 (relayed by vm-2); our own probe decides",
        );
        check(
            Step::Restarted { before: BootEpoch(6), held: MemberState::Dead },
            "failed → alive: its agent is new, epoch 6 → 7",
        );
    }

    #[test]
    fn joins_returns_and_leaves_are_told_once_and_doubts_are_left_to_the_evidence() {
        let check = |before: Option<(MemberState, Life)>, state: MemberState, want: Option<&str>| {
            let mut member = crate::mesh_view::tests::member("vm-3", state, Instant::now());
            member.life = at(7, 4);
            assert_eq!(of_member(before, &member).map(|news| news.step), want, "{before:?} {state}");
        };
        use MemberState::{Alive, Dead, Joining, Left, Suspect};
        check(None, Joining, None);
        check(None, Alive, Some("alive"));
        check(Some((Joining, at(7, 4))), Alive, Some("alive"));
        check(Some((Alive, at(7, 4))), Alive, None);
        check(Some((Alive, at(7, 4))), Suspect, None);
        check(Some((Suspect, at(7, 3))), Alive, None);
        check(Some((Suspect, at(7, 4))), Dead, None);
        check(Some((Dead, at(7, 3))), Alive, Some("alive"));
        check(Some((Dead, at(6, 3))), Alive, None);
        check(Some((Alive, at(7, 4))), Left, Some("left"));
        check(Some((Left, at(7, 4))), Left, None);
        check(None, Dead, Some("remembered"));
    }
}
