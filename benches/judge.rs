//! What stands between machine, keys and network in the benches that run real ones; the agent has its own.

use std::time::SystemTime;

use starling_gossip::{ClaimKind, DownReason, SignedClaim, Verdict};
use starling_identity::{CurrentIdentity, SignatureKind, UnixTime, verify_credential, verify_ed25519};

/// The clock of certificates.
#[must_use]
pub fn wall_clock() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

/// What identity calls a kind of claim.
#[must_use]
pub fn signature_kind(kind: ClaimKind) -> SignatureKind {
    match kind {
        ClaimKind::Life => SignatureKind::Life,
        ClaimKind::Record => SignatureKind::Record,
    }
}

/// As the agent judges, but within the turn.
#[must_use]
pub fn judge(claim: &SignedClaim, current: &CurrentIdentity) -> Verdict {
    let trust = current.trust();
    match claim {
        SignedClaim::Credential { owner, bytes } => {
            verify_credential(bytes, owner, &trust, wall_clock()).map_or(Verdict::Refused, |verified| {
                Verdict::Credential { record_key: verified.record_key, epoch: verified.epoch }
            })
        }
        SignedClaim::Owned { owner: _, record_key, kind, body, signature } => {
            let mesh = &trust.bundle().mesh_id;
            let holds = verify_ed25519(signature_kind(*kind), mesh, record_key, body, signature);
            if holds { Verdict::Valid } else { Verdict::Refused }
        }
        SignedClaim::Operator { .. } => Verdict::Refused,
    }
}

/// Why a connection ended, in the words of the machine.
#[must_use]
pub fn down_reason(reason: starling_transport::quic::DownReason) -> DownReason {
    use starling_transport::quic::DownReason as Net;
    match reason {
        Net::Left => DownReason::Left,
        Net::Evicted => DownReason::Evicted,
        Net::Reset => DownReason::Reset,
        Net::TimedOut => DownReason::TimedOut,
        Net::Refused => DownReason::Refused,
        Net::Foreign => DownReason::Foreign,
        Net::Local => DownReason::Local,
        Net::Other => DownReason::Other,
    }
}
