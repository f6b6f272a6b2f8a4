//! `MeshConfig` of `starling/v1`: what holds for the whole mesh. There is one, `mesh` in namespace `default`.
//!
//! A field that this release does not act on is read, and taken only with a value that asks for nothing it does not do: a
//! mesh must not look closed and be open.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use starling_model::codes;

use super::fields::Fields;
use super::grant;
use super::limits::GRANT_NODES_MAX;
use crate::schema::Bad;
use crate::values::one_of;

/// The name of the one MeshConfig.
pub const NAME: &str = "mesh";

/// The `spec` of the MeshConfig; what is absent is as built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    /// What becomes of services that no ServiceGrant names.
    pub service_grants: GrantMode,
}

/// What becomes of services that no ServiceGrant names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GrantMode {
    /// Any node may announce them and call as them.
    #[default]
    Open,
    /// Nobody may.
    Strict,
}

/// Of `defaultAuthorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
}

/// Of `outbound`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outside {
    Any,
    Registered,
}

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<MeshConfig> {
    const MODES: &[(&str, GrantMode)] = &[("Open", GrantMode::Open), ("Strict", GrantMode::Strict)];
    const VERDICTS: &[(&str, Verdict)] = &[("Allow", Verdict::Allow), ("Deny", Verdict::Deny)];
    const OUTSIDE: &[(&str, Outside)] = &[("any", Outside::Any), ("registered", Outside::Registered)];
    let given = fields.has("serviceGrants");
    let service_grants = fields.optional("serviceGrants", one_of(MODES));
    if fields.optional("defaultAuthorization", one_of(VERDICTS)) == Some(Verdict::Deny) {
        let bad = Bad::new("would deny nothing: this release has no authorization");
        fields.bad("defaultAuthorization", bad.note("write Allow, or leave it out"));
    }
    if fields.optional("outbound", one_of(OUTSIDE)) == Some(Outside::Any) {
        fields.warn("outbound", codes::DOCUMENT_IDLE, "outbound: this release passes nothing on to other hosts");
    }
    fields.table("remoteRead", |fields| {
        let lists = [list(fields, "api"), list(fields, "tap")];
        if lists != [0, 0] {
            fields.warn("api", codes::DOCUMENT_IDLE, "remoteRead: this release answers no other node");
        }
        Some(())
    });
    let service_grants = if given { service_grants? } else { GrantMode::default() };
    Some(MeshConfig { service_grants })
}

/// How many entries of nodes a list has.
fn list(fields: &mut Fields<'_, '_>, key: &'static str) -> usize {
    fields.tables(key, GRANT_NODES_MAX, grant::node).len()
}
