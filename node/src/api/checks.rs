//! `/v1/checks`: what is in order here, and what is not.

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use starling_identity::UnixTime;

use super::Shared;
use super::answer::read;
use super::problem::Refusal;
use super::query::Query;
use super::status;
use super::views::{CheckLine, CheckReport, kind};
use crate::checks::{self, Certificates, GROUPS, MemberTrust, good};
use crate::crypto::wall_clock;

/// The report.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn get(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    Ok(read(&state, &headers, kind::CHECK_REPORT, report(&state, wall_clock())))
}

fn report(state: &Shared, now: UnixTime) -> CheckReport {
    let (identity, view) = (&state.identity, state.view.load());
    let (node, trust) = (&identity.node, identity.current.trust());
    let bundle = trust.bundle();
    let members: Vec<MemberTrust> = view
        .alive()
        .filter_map(|member| {
            let is_self = member.name == view.node;
            let status = member.status.as_ref().filter(|status| status.certificate_not_after > 0);
            let own = is_self.then(|| MemberTrust {
                name: member.name.clone(),
                bundle_sequence: bundle.sequence,
                leaf_not_after: 0,
            });
            own.or_else(|| {
                status.map(|status| MemberTrust {
                    name: member.name.clone(),
                    bundle_sequence: status.bundle_sequence,
                    leaf_not_after: status.leaf_not_after,
                })
            })
        })
        .collect();
    let refused = identity.current.refusals();
    let mut lines = vec![checks::clocks(now, &members, &refused)];
    lines.extend(checks::certificates(&Certificates {
        now,
        not_after: node.certificate_not_after(),
        is_ending: identity.is_ending(now),
        is_chained: node.is_under(&trust),
        is_revoked: trust.revoked().holds(node.node(), &node.issuing_key_hash()),
        leaf: (identity.current.leaf_not_after(), identity.leaf_since()),
    }));
    let fingerprint: Vec<String> = node.mesh_id().fingerprint().split(' ').take(3).map(str::to_owned).collect();
    lines.push(checks::bundles(bundle.sequence, &format!("{} …", fingerprint.join(" ")), &members));
    lines.push(checks::issuer(bundle.shared_issuer));
    lines.push(checks::refusals(&refused));
    let counts = view.counts();
    if counts.suspect + counts.failed == 0 {
        lines.push(good("gossip", format!("{} alive, nobody doubted or failed", counts.alive)));
    } else if counts.failed == 0 {
        lines.push(good("gossip", format!("{} alive, {} suspect, nobody failed", counts.alive, counts.suspect)));
    }
    let agreement = view.agreement();
    if agreement.behind_count == 0 {
        let text = format!("all {} members use the same documents, digest {}", agreement.alive, view.applied.digest);
        lines.push(good("agreement", text));
    } else {
        let names = agreement.behind.join(", ");
        let text =
            format!("{names}: other documents or trust than here ({} of {})", agreement.behind_count, agreement.alive);
        lines.push(checks::differs(text));
    }
    lines.extend(checks::problems(&status::problems(state)));
    CheckReport::new(in_groups(lines))
}

/// Groups stay together, in their order; within one the order stays.
fn in_groups(mut lines: Vec<CheckLine>) -> Vec<CheckLine> {
    lines.sort_by_key(|line| GROUPS.iter().position(|group| *group == line.group));
    lines
}
