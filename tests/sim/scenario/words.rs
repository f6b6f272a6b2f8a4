//! What is said: replayed, forged, by a newer release, once in a small mesh, and by a process that is half dead. Rows of
//! gossip.md (S) are cited.

use std::time::Duration;

use bytes::Bytes;
use starling_gossip::stats::Drop;

use super::records::announce_everywhere;
use super::{Run, Scenario, demand, seconds, suspicion_min};
use crate::checks::converged;
use crate::cluster::{HostId, Setup, Sim};

pub(super) const REPLAY: Scenario = Scenario {
    name: "replay",
    about: "S15: everything that a member said in former lives is played again, and its leave under another's name",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let (victim, liar, framed) = (hosts[1], hosts[2], hosts[3]);
        run.sim.host_mut(victim).tape = Some(Vec::new());
        run.sim.restart(victim);
        run.agree("restarted", seconds(5))?;
        announce_everywhere(run, 1);
        run.sim.run_for(seconds(5));
        run.sim.leave(victim);
        run.within("gone", seconds(3), |sim| sim.swim(victim).is_none())?;
        let tape = run.sim.host_mut(victim).tape.take().unwrap_or_default();
        run.sim.run_for(seconds(5));
        run.sim.restart(victim);
        announce_everywhere(run, 2);
        run.agree("back", seconds(5))?;
        run.sim.run_for(seconds(5));
        // Whatever was on a datagram: news of lives, the leave, records, answers.
        let (stale, forged) = (old_news(&run.sim, &hosts), run.sim.checker.counts.forgeries_refused);
        play(run, liar, &hosts, &tape);
        converged(&run.sim).map_err(|what| format!("after a replay: {what}"))?;
        demand(old_news(&run.sim, &hosts) > stale + 10, "nothing of it was old news")?;
        demand(run.sim.checker.counts.forgeries_refused == forged, "a true word was refused")?;
        // The same under another name: that has a credential of its own, with which none of it holds.
        let (from, to) = (run.name(victim), run.name(framed));
        let changed: Vec<Bytes> = tape.iter().map(|bytes| renamed(bytes, from.as_str(), to.as_str())).collect();
        demand(changed != tape, "the test is void: the name is nowhere on the tape")?;
        play(run, liar, &hosts, &changed);
        // And with a higher life under its own name, so that it would be news.
        let raised: Vec<Bytes> = tape.iter().map(|bytes| raised(bytes, from.as_str())).collect();
        demand(raised != tape, "the test is void: no life is on the tape")?;
        play(run, liar, &hosts, &raised);
        run.sim.run_for(seconds(15));
        let refused = run.sim.checker.counts.forgeries_refused;
        demand(refused > forged, "no forged word was refused")?;
        run.agree("as before", seconds(1))?;
        run.agree_after(seconds(30))?;
        run.nobody_buried()
    },
};

/// Words that were dropped because they were not new.
fn old_news(sim: &Sim, hosts: &[HostId]) -> u64 {
    let machines = hosts.iter().filter_map(|id| sim.swim(*id));
    machines.map(|swim| [Drop::Stale, Drop::Duplicate].map(|why| swim.stats().dropped(why)).iter().sum::<u64>()).sum()
}

/// One member sends all of it to all others.
fn play(run: &mut Run, from: HostId, hosts: &[HostId], tape: &[Bytes]) {
    let name = run.name(from);
    for bytes in tape {
        for to in hosts.iter().filter(|id| **id != from) {
            run.sim.inject_datagram(*to, &name, bytes.clone());
        }
        run.sim.run_for(Duration::from_millis(5));
    }
}

/// The same bytes with another name of the same length in each place.
fn renamed(bytes: &Bytes, from: &str, to: &str) -> Bytes {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut copy = bytes.to_vec();
    let places: Vec<usize> = (0..copy.len()).filter(|at| copy[*at..].starts_with(from)).collect();
    for at in places {
        copy[at..at + from.len()].copy_from_slice(to);
    }
    Bytes::from(copy)
}

/// Bytes of an `alive` or `leave` between its form and the name's length, and behind the name, as in the wire's layout:
/// form, schema, length, name, epoch.
fn raised(bytes: &Bytes, name: &str) -> Bytes {
    let mut copy = bytes.to_vec();
    let head = [&[u8::try_from(name.len()).unwrap_or(u8::MAX)], name.as_bytes()].concat();
    let is_life = |at: &usize| {
        matches!(copy.get(at.wrapping_sub(2)), Some(1 | 2))
            && copy.get(*at..).is_some_and(|rest| rest.starts_with(&head))
    };
    let places: Vec<usize> = (2..copy.len()).filter(is_life).collect();
    for at in places {
        // The third byte of the epoch: 18 hours ahead.
        if let Some(byte) = copy.get_mut(at + head.len() + 2) {
            *byte = byte.wrapping_add(1);
        }
    }
    Bytes::from(copy)
}

pub(super) const TWO_ROUNDS: Scenario = Scenario {
    name: "two-rounds",
    about: "S16: among three to five, each broadcast reaches all within two rounds of gossip",
    nodes: 4,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let rounds = run.sim.setup.config.gossip_interval * 2;
        for (version, host) in (1..).zip(hosts.iter().cycle().take(10)) {
            run.announce(*host, version, 1);
            run.agree("broadcast", rounds)?;
            run.sim.run_for(Duration::from_millis(1_730));
        }
        Ok(())
    },
};

pub(super) const NEWER: Scenario = Scenario {
    name: "newer",
    about: "S28: half of the mesh is of a newer release that says more in every packet; the others skip that and all works",
    nodes: 6,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.sim.add_hosts(run.nodes);
        for id in hosts.iter().step_by(2) {
            run.sim.host_mut(*id).is_newer = true;
        }
        run.start_all(&hosts, seconds(5))?;
        announce_everywhere(run, 1);
        run.agree("announced", seconds(2))?;
        for victim in [hosts[1], hosts[2]] {
            run.sim.restart(victim);
            run.agree("restarted", seconds(5))?;
            run.crash(&[victim], seconds(11))?;
            run.sim.restart(victim);
            run.agree("back", seconds(10))?;
        }
        let skipped: u64 =
            hosts.iter().filter_map(|id| run.sim.swim(*id)).map(|swim| swim.stats().dropped(Drop::UnknownKind)).sum();
        demand(run.sim.checker.counts.news_sent > 200 && skipped > 50, format!("{skipped} messages were skipped"))?;
        let rejected = &run.sim.checker.counts.rejected;
        demand(rejected.is_empty(), format!("packets were refused as a whole: {rejected:?}"))?;
        run.no_false_death()
    },
};

pub(super) const HALF_DEAD: Scenario = Scenario {
    name: "half-dead",
    about: "S26: a stopped process is found by probes long before its connections end; one killed and restarted, by resets",
    nodes: 6,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        run.sim.pause(hosts[2], seconds(20));
        let limit = suspicion_min(&run.sim.setup.config, run.nodes) + seconds(11);
        run.missed(&hosts[2..3], limit.min(seconds(19)))?;
        let timed_out =
            |run: &Run| run.sim.checker.counts.downs.get(&starling_gossip::DownReason::TimedOut).copied().unwrap_or(0);
        demand(timed_out(run) == 0, "a connection ended before a probe told")?;
        run.sim.run_for(seconds(20));
        run.sim.restart(hosts[2]);
        run.agree("back", seconds(5))?;
        run.sim.run_for(seconds(10));
        let resets = run.sim.checker.counts.resets;
        run.sim.crash(hosts[3]);
        run.sim.run_for(seconds(1));
        run.sim.restart(hosts[3]);
        run.within("reset", Duration::from_millis(500), |sim| sim.checker.counts.resets > resets)?;
        run.agree("restarted", seconds(3))
    },
};
