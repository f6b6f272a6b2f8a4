//! `/v1/members`: everybody, as this node sees them.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_gossip::MemberView;
use starling_identity::Negotiated;
use starling_model::{
    Digest, DocumentKey, Generation, HeldDocument, MemberState, ServiceKey, SpiffeId, TrustDomain, mesh,
};
use starling_routing::Grants;

use super::Shared;
use super::answer::read;
use super::problem::Refusal;
use super::query::Query;
use super::views::{
    Items, Member, MemberCertificate, MemberConfig, MemberHeldBack, MemberTrust, ProtocolRange, Rtt, ServiceRef,
    Suspicion, kind,
};
use crate::mesh_view::MeshView;
use crate::telemetry::time::{Clocks, millis, rfc3339_seconds};

/// All members, by name.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn list(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let view = state.view.load_full();
    let (clocks, domain) = (Clocks::read(), state.identity.node.trust_domain());
    let table = state.shared.table.load();
    let of = (domain, table.grants().as_ref(), &clocks);
    let negotiated = state.identity.current.negotiated();
    let names = Names::of(&view, view.members.iter());
    let show_one = |member: &MemberView| {
        names.held_back(exchanged(show(member, member.name == view.node, of), member, negotiated), member)
    };
    let items = view.members.iter().map(show_one).collect();
    Ok(read(&state, &headers, kind::MEMBER_LIST, Items::<Member> { items }))
}

/// One member.
///
/// # Errors
/// 404 when this node knows none of that name.
pub async fn get(
    State(state): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let view = state.view.load_full();
    let Some(member) = view.member(&name) else {
        let help = "starling members lists the known names";
        return Err(Refusal::missing(format!("{} knows no member {name:?}", view.node)).with_help(help));
    };
    let table = state.shared.table.load();
    let of = (state.identity.node.trust_domain(), table.grants().as_ref(), &Clocks::read());
    let shown = exchanged(show(member, member.name == view.node, of), member, state.identity.current.negotiated());
    Ok(read(&state, &headers, kind::MEMBER, Names::of(&view, [member]).held_back(shown, member)))
}

/// Names of documents by their hashes; none where no member names any.
#[derive(Default)]
pub(super) struct Names<'a>(BTreeMap<Digest, (&'a DocumentKey, Generation)>);

impl<'a> Names<'a> {
    /// Those that these members may name.
    pub(super) fn of<'m>(view: &'a MeshView, members: impl IntoIterator<Item = &'m MemberView>) -> Self {
        let names = |member: &MemberView| member.status.as_ref().is_some_and(|status| !status.held_back.is_empty());
        if members.into_iter().any(names) { Self(view.roots.names()) } else { Self::default() }
    }

    /// One that a member holds back.
    pub(super) fn one(&self, held: &HeldDocument) -> MemberHeldBack {
        let known = self.0.get(&held.hash);
        MemberHeldBack {
            document: known.map(|(key, _)| key.to_string()),
            generation: known.map(|(_, generation)| generation.get()),
            digest: held.hash.to_string(),
            used: held.used.map(|used| used.generation.get()),
            why: held.why.as_str().to_owned(),
            quarantined: held.why.is_quarantine(),
        }
    }

    /// With what the member holds back.
    fn held_back(&self, mut shown: Member, member: &MemberView) -> Member {
        if let (Some(config), Some(status)) = (&mut shown.config, &member.status) {
            config.held_back = status.held_back.iter().map(|held| self.one(held)).collect();
        }
        shown
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// The same with the key exchange of our last handshake with it.
fn exchanged(mut shown: Member, member: &MemberView, negotiated: &Negotiated) -> Member {
    if let Some(certificate) = &mut shown.certificate {
        certificate.key_exchange = negotiated.with(&member.name).map(str::to_owned);
    }
    shown
}

fn show(member: &MemberView, is_self: bool, (domain, grants, clocks): (&TrustDomain, &Grants, &Clocks)) -> Member {
    // Who has left offers nothing, whatever is remembered of it.
    let here = member.services.as_ref().filter(|_| member.state != MemberState::Left);
    let offered: BTreeSet<&ServiceKey> =
        here.iter().flat_map(|record| &record.instances).map(|instance| &instance.service).collect();
    let service = |key: &ServiceKey| ServiceRef { namespace: key.namespace.to_string(), name: key.name.to_string() };
    let services = offered.iter().map(|key| service(key)).collect();
    let not_its = |key: &&&ServiceKey| !grants.standing(key, &member.name).is_accepted();
    let ungranted = offered.iter().filter(not_its).map(|key| service(key)).collect();
    let status = member.status.as_ref();
    let labels: BTreeMap<String, String> = status
        .map(|status| status.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
        .unwrap_or_default();
    let certified = status.filter(|status| status.certificate_not_after > 0);
    Member {
        name: member.name.to_string(),
        address: member.addresses.first().map(ToString::to_string),
        state: member.state.as_str().to_owned(),
        boot_epoch: member.life.epoch.to_string(),
        incarnation: member.life.incarnation.0,
        since: clocks.show(member.since),
        last_seen: member.last_seen.filter(|_| !is_self).map(|at| clocks.show(at)),
        is_self,
        rtt: member
            .rtt
            .filter(|_| !is_self && member.state != MemberState::Left)
            .map(|rtt| Rtt { ms: millis(rtt), jitter_ms: member.jitter.map(millis) }),
        version: text(&member.release),
        protocol: ProtocolRange { min: member.protocol.0, max: member.protocol.1 },
        labels,
        services,
        ungranted,
        config: status.map(|status| MemberConfig {
            documents: u64::from(status.documents),
            digest: Digest(status.digest.0).to_string(),
            held_back_count: u64::from(status.held_back_count),
            held_back: Vec::new(),
        }),
        trust: certified
            .map(|status| MemberTrust { bundle_sequence: status.bundle_sequence, shared_issuer: status.shared_issuer }),
        suspicion: member.suspicion.as_ref().map(|doubt| Suspicion {
            accusers: doubt.accusers.iter().map(ToString::to_string).collect(),
            until: clocks.show(doubt.deadline),
        }),
        certificate: certified.map(|status| MemberCertificate {
            spiffe_id: SpiffeId::node(domain, &member.name).to_string(),
            not_after: rfc3339_seconds(status.certificate_not_after),
            leaf_not_after: Some(status.leaf_not_after).filter(|at| *at > 0).map(rfc3339_seconds),
            root: mesh::hex(&status.root),
            key_exchange: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use starling_model::StatusRecord;

    use super::*;
    use crate::mesh_view::tests::member;

    #[test]
    fn a_member_is_shown_with_what_is_known_of_it() {
        let mut known = member("vm-2", MemberState::Alive, Instant::now());
        known.status = Some(StatusRecord {
            certificate_not_after: 1_826_496_000,
            leaf_not_after: 1_795_440_600,
            bundle_sequence: 1,
            root: [0xb7, 0xe1, 0x03, 0xc8],
            ..StatusRecord::default()
        });
        let domain = TrustDomain::new("prod.internal").unwrap();
        let (grants, clocks) = (Grants::default(), Clocks::read());
        let of = (&domain, &grants, &clocks);
        let shown = show(&known, false, of);
        let certificate = shown.certificate.unwrap();
        assert_eq!(certificate.spiffe_id, "spiffe://prod.internal/node/vm-2");
        assert_eq!((certificate.root.as_str(), shown.trust.unwrap().bundle_sequence), ("b7e103c8", 1));
        assert_eq!(
            (shown.rtt.map(|rtt| (rtt.ms, rtt.jitter_ms)).unwrap(), shown.boot_epoch.as_str(), shown.incarnation),
            ((0.41, Some(0.05)), "1795014117", 3)
        );

        known.status = None;
        let unknown = show(&known, true, of);
        assert!(unknown.certificate.is_none() && unknown.config.is_none() && unknown.rtt.is_none());
        assert!(unknown.is_self && unknown.last_seen.is_none());
    }
}
