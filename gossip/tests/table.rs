//! What one member costs in memory, measured at the process: machines that share a pool hold names and statements once,
//! so what each further machine adds is its table.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::{
    Action, Command, ExchangeId, LocalMember, Pool, Signature, SignedClaim, Swim, SwimConfig, Verdict, golden,
};
use starling_model::{BootEpoch, MeshId, NodeName};

const MESH: MeshId = MeshId([7; 32]);
/// Bytes that one member may cost beside names, its signed statements and its records.
const MEMBER_BYTES_MAX: usize = 256;
const MACHINES: usize = 40;
const MEMBERS: usize = 1_000;
/// The smaller tables that are taken off, so that what a machine costs by itself does not count.
const MEMBERS_FEW: usize = 100;
/// A credential as it is: two certificates and a statement.
const CREDENTIAL_BYTES: usize = 1_600;

#[expect(clippy::disallowed_methods, reason = "a test on a host, not the machine")]
fn resident() -> usize {
    let pages: usize = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

fn name(at: usize) -> NodeName {
    NodeName::new(&format!("host-{at:04}")).unwrap()
}

fn drain(swim: &mut Swim, now: Instant) {
    while let Some(action) = swim.poll_action() {
        match action {
            Action::Verify { ticket, claim: SignedClaim::Credential { .. } } => {
                let verdict = Verdict::Credential { record_key: [1; 32], epoch: BootEpoch(1) };
                swim.handle_verdict(ticket, verdict, now);
            }
            Action::Verify { ticket, .. } => swim.handle_verdict(ticket, Verdict::Valid, now),
            Action::Sign { ticket, .. } => swim.handle_signature(ticket, Signature([3; 64]), now),
            Action::SendDatagram { .. }
            | Action::SendSync { .. }
            | Action::Dial { .. }
            | Action::Close { .. }
            | Action::Persist(_)
            | Action::Emit(_) => {}
        }
    }
}

fn machine(pool: &Pool, frames: &[Bytes], mut now: Instant) -> Swim {
    let me = LocalMember {
        mesh: MESH,
        name: NodeName::new("me").unwrap(),
        addresses: Vec::new(),
        record_key: [1; 32],
        credential: Bytes::from_static(b"own"),
        epoch: BootEpoch(1),
        instance_tag: 1,
        region: "eu-1".to_owned(),
        release: "0.1.0".to_owned(),
    };
    let mut swim = Swim::new(me, SwimConfig::lan(), [1; 32], now).sharing(pool);
    swim.handle_command(Command::Join { seeds: Vec::new() }, now);
    drain(&mut swim, now);
    for (at, frame) in frames.iter().enumerate() {
        let exchange = ExchangeId(ExchangeId::INBOUND | at as u64);
        swim.handle_sync(&name(0), exchange, frame, now).unwrap();
        drain(&mut swim, now);
        // What is to be told to nobody leaves the queue.
        now += Duration::from_millis(20);
        swim.handle_timeout(now);
        drain(&mut swim, now);
    }
    assert_eq!(swim.standings().count(), frames.len());
    swim
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test needs one instant to begin with")]
fn a_member_costs_at_most_256_bytes_beside_what_is_shared_and_what_it_signed() {
    let (pool, now) = (Pool::default(), Instant::now());
    let frame = |at: usize| {
        let credential = Bytes::from(vec![u8::try_from(at % 251).unwrap(); CREDENTIAL_BYTES - at % 7]);
        golden::introduction_frame(&MESH, &name(at), BootEpoch(1), &credential).unwrap()
    };
    let frames: Vec<Bytes> = (0..MEMBERS).map(frame).collect();
    let _shared = machine(&pool, &frames, now);
    let begin = resident();
    let few: Vec<Swim> = (0..MACHINES).map(|_| machine(&pool, &frames[..MEMBERS_FEW], now)).collect();
    let middle = resident();
    let many: Vec<Swim> = (0..MACHINES).map(|_| machine(&pool, &frames, now)).collect();
    let end = resident();
    let (few_bytes, many_bytes) = (middle - begin, end - middle);
    let per_member = many_bytes.saturating_sub(few_bytes) / (MACHINES * (MEMBERS - MEMBERS_FEW));
    println!(
        "{per_member} bytes a member, of {MEMBERS} in {MACHINES} machines; {} a machine of {MEMBERS_FEW}",
        few_bytes / MACHINES
    );
    assert!(per_member <= MEMBER_BYTES_MAX, "{per_member} bytes a member");
    assert!(per_member >= 64, "{per_member} bytes a member: this measures nothing");
    drop((few, many));
}
