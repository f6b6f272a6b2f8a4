//! What owners say about themselves, and what others hold of it.

use std::time::Duration;

use bytes::Bytes;
use starling_gossip::{ClaimKind, OwnRecord};
use starling_model::{HealthEntry, HealthRecord, InstanceName, Readiness, RecordKind, ServicesRecord, StatusRecord};

use super::{Run, Scenario, demand, seconds, services};
use crate::checks::{converged, version_of};
use crate::cluster::Setup;

pub(super) const ANNOUNCE: Scenario = Scenario {
    name: "announce",
    about: "a record reaches all within a second, so do its changes, and what is withdrawn never comes back",
    nodes: 8,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        run.announce(hosts[1], 1, 2);
        run.agree("first reaches all", seconds(1))?;
        let first = run.time("first reaches all").unwrap_or_default();
        demand(
            first <= Duration::from_millis(300),
            format!("{first:?} for a record that is sent on at first receipt"),
        )?;
        for version in 2..6 {
            run.announce(hosts[1], version, 2);
            run.agree("change reaches all", seconds(1))?;
            run.sim.run_for(Duration::from_millis(700));
        }
        let instance = InstanceName::new("web-0").map_err(|error| error.to_string())?;
        let entries = vec![HealthEntry { instance, readiness: Readiness::Unready }];
        run.sim.put(hosts[1], OwnRecord::Health(HealthRecord { entries }));
        run.agree("health reaches all", seconds(1))?;
        let status = StatusRecord { release: "0.1.0".to_owned(), bundle_sequence: 3, ..StatusRecord::default() };
        run.sim.put(hosts[2], OwnRecord::Status(status));
        run.agree("status reaches all", seconds(1))?;
        run.sim.put(hosts[1], OwnRecord::Services(ServicesRecord::default()));
        run.agree("withdrawal reaches all", seconds(1))?;
        // Two rounds of comparison with everybody: nothing stale may come back.
        run.agree_after(seconds(70))?;
        // A newcomer gets it all from one exchange.
        let late = run.sim.add_host();
        run.announce(hosts[0], 1, 3);
        run.sim.start(late, &hosts[2..3]);
        run.agree("newcomer knows all", seconds(2))
    },
};

pub(super) const SHARDS: Scenario = Scenario {
    name: "shards",
    about: "an owner with 200 instances, far more than one packet carries, is known whole, and shrinks whole",
    nodes: 4,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        run.announce(hosts[0], 1, 200);
        run.agree("200 instances", seconds(2))?;
        run.announce(hosts[0], 2, 200);
        run.agree("200 instances changed", seconds(2))?;
        run.announce(hosts[0], 3, 1);
        run.agree("one instance", seconds(2))?;
        run.agree_after(seconds(40))
    },
};

pub(super) const QUOTA: Scenario = Scenario {
    name: "quota",
    about: "an owner that writes 1,000 versions a second is held to its rate, its last value wins, others are not hurt",
    nodes: 5,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let (noisy, other) = (run.name(hosts[1]), run.name(hosts[2]));
        let before = run.sim.checker.counts.datagrams.0 + run.sim.checker.counts.frames.0;
        let mut seen = std::collections::BTreeSet::new();
        for version in 1..=3_000_u64 {
            run.announce(hosts[1], version, 1);
            if version == 1_000 {
                run.announce(hosts[2], 7, 1);
            }
            run.sim.run_for(Duration::from_millis(1));
            if let Some(record) = run.sim.view(hosts[3]).and_then(|view| view.services.get(&noisy)) {
                seen.insert(version_of(record));
            }
            if version == 2_000 {
                let held = run.sim.view(hosts[3]).and_then(|view| view.services.get(&other)).map(version_of);
                demand(held == Some(7), format!("another owner's record did not pass within a second: {held:?}"))?;
            }
        }
        let sent = run.sim.checker.counts.datagrams.0 + run.sim.checker.counts.frames.0 - before;
        demand(seen.len() > 5, "nothing came through")?;
        // Three seconds at ten a second, and the burst.
        demand(seen.len() <= 30 + 100, format!("{} versions passed in three seconds", seen.len()))?;
        demand(sent < 10_000, format!("{sent} packets"))?;
        run.agree("last value wins", seconds(12))
    },
};

pub(super) const UNKNOWN_KIND: Scenario = Scenario {
    name: "unknown-kind",
    about: "a record of a kind that no release knows yet is relayed byte for byte, with its signature",
    nodes: 4,
    setup: Setup::lan,
    run: |run| {
        let hosts = run.settled_mesh()?;
        let (owner, kind) = (run.name(hosts[1]), RecordKind::Unknown(77));
        run.sim.put(hosts[1], OwnRecord::Status(StatusRecord { bundle_sequence: 9, ..StatusRecord::default() }));
        run.agree("a known record", seconds(1))?;
        run.sim.run_for(seconds(1));
        let known = run
            .sim
            .host(hosts[1])
            .disk
            .record(&owner, RecordKind::Status, 0)
            .cloned()
            .ok_or("no own record on disk")?;
        let record = as_kind(run, hosts[1], &known, kind)?;
        // A third node holds it, as if it had met a newer release of the owner; the others can only have it from there.
        run.sim.host_mut(hosts[2]).disk.plant_record(&owner, kind, 0, record.clone());
        run.sim.restart(hosts[2]);
        let stored = |run: &Run, host| run.sim.host(host).disk.record(&owner, kind, 0).cloned();
        run.sim.run_for(seconds(45));
        for host in [hosts[0], hosts[3]] {
            let name = run.name(host);
            let planted = run.sim.swim(hosts[2]).map(|swim| swim.stats().dropped.clone());
            let refused = run.sim.checker.counts.forgeries_refused;
            let held = stored(run, host)
                .ok_or_else(|| format!("{name} never got it; {refused} forgeries; the holder dropped {planted:?}"))?;
            demand(held == record, format!("{name} holds other bytes"))?;
        }
        converged(&run.sim)
    },
};

/// The same record under another kind, signed again by its owner: what a newer release could have written. The layout
/// is that of the wire: name length, name, kind, ..., signature.
fn as_kind(run: &Run, owner: crate::HostId, record: &Bytes, kind: RecordKind) -> Result<Bytes, String> {
    let host = run.sim.host(owner);
    let name = host.name.as_str().as_bytes();
    let Some(start) = record.windows(name.len() + 1).position(|window| {
        window.first().copied().map(usize::from) == Some(name.len()) && window.get(1..) == Some(name)
    }) else {
        return Err("the stored record does not begin with its owner".to_owned());
    };
    let mut bytes = record.to_vec();
    let at = start + 1 + name.len();
    let body_end = bytes.len().checked_sub(64).ok_or("the stored record is too short")?;
    demand(bytes.get(at) == Some(&RecordKind::Status.to_wire()), "the kind is not where it should be")?;
    bytes[at] = kind.to_wire();
    let signature = host.key.sign(&host.mesh, ClaimKind::Record, &bytes[start..body_end]);
    bytes[body_end..].copy_from_slice(&signature);
    Ok(Bytes::from(bytes))
}

/// Used by scenarios that only need something to be there.
pub(super) fn announce_everywhere(run: &mut Run, version: u64) {
    let hosts: Vec<_> = run.sim.host_ids().collect();
    for host in hosts {
        run.sim.put(host, OwnRecord::Services(services(version, 1)));
    }
}
