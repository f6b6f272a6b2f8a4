//! `Gateway` of `starling/v1`: ports at which named nodes take connections from outside the mesh.
//!
//! Its listeners are those of the Gateway API, but for where they are: a cluster has a class of gateways and provisions one;
//! here nodes are named, and their agents listen. TLS that passes through is all that a listener does in this release.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::num::NonZeroU16;

use super::fields::Fields;
use super::grant::{self, NodePattern};
use super::limits::{GATEWAY_LISTENERS_MAX, GRANT_NODES_MAX};
use super::text;
use crate::schema::Bad;
use crate::tree::Node;
use crate::values::{self, one_of};

/// The `spec` of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Whose agents listen; at least one.
    pub nodes: Vec<NodePattern>,
    /// Where, each name once, and each port with a host name once; at least one.
    pub listeners: Vec<Listener>,
}

/// One listener: a port, or the part of it that a host name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Routes name it so (`sectionName`).
    pub name: String,
    /// Where clients connect to.
    pub port: NonZeroU16,
    /// Only for server names that it holds for, `*.example.com` say; `None`: for all, and for clients that name none.
    pub hostname: Option<String>,
    /// Of which namespaces routes may be attached.
    pub routes_from: RoutesFrom,
}

/// Whose routes a listener takes (`allowedRoutes.namespaces.from`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutesFrom {
    /// Those of the Gateway's own namespace, as the standard has it.
    #[default]
    Same,
    /// Those of any.
    All,
}

/// What the standard lets listeners speak.
const LATER_PROTOCOLS: &[&str] = &["HTTP", "HTTPS", "TCP", "UDP"];

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<Gateway> {
    fields.demand("nodes");
    let nodes = fields.tables("nodes", GRANT_NODES_MAX, grant::node);
    fields.unique("nodes", "node");
    for key in ["gatewayClassName", "addresses", "infrastructure", "allowedListeners"] {
        fields.later(key);
    }
    fields.demand("listeners");
    let listeners = fields.tables("listeners", GATEWAY_LISTENERS_MAX, listener);
    fields.unique("listeners", "name");
    let is_again = |(at, one): &(usize, &Listener)| {
        listeners.iter().take(*at).any(|held| held.port == one.port && held.hostname == one.hostname)
    };
    // Places are those of the document only while each of its listeners could be read.
    if listeners.len() == fields.len("listeners")
        && let Some((at, _)) = listeners.iter().enumerate().find(is_again)
    {
        let bad = Bad::new("has the port and the host name of an earlier listener");
        fields.bad("listeners", Bad { part: Some(at.to_string()), ..bad });
    }
    (!nodes.is_empty() && !listeners.is_empty()).then_some(Gateway { nodes, listeners })
}

fn listener(fields: &mut Fields<'_, '_>) -> Option<Listener> {
    const MODES: &[(&str, Mode)] = &[("Passthrough", Mode::Passthrough), ("Terminate", Mode::Terminate)];
    let name = fields.required("name", text::rule_name);
    let port = fields.required("port", text::port);
    let protocol = fields.required("protocol", protocol);
    let hostname = fields.optional("hostname", text::hostname);
    fields.demand("tls");
    let mode = fields.table("tls", |fields| {
        let mode = fields.optional("mode", one_of(MODES));
        if !fields.has("mode") || mode == Some(Mode::Terminate) {
            // The standard's default terminates.
            let bad = Bad::new("would end TLS here, which this release does not do");
            fields.bad("mode", bad.note("write mode: Passthrough"));
        }
        for key in ["certificateRefs", "options", "frontendValidation"] {
            fields.later(key);
        }
        mode
    });
    let routes_from = fields.table("allowedRoutes", allowed).unwrap_or_default();
    (protocol? == Tls && mode? == Mode::Passthrough).then_some(Listener {
        name: name?,
        port: port?,
        hostname,
        routes_from,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Passthrough,
    Terminate,
}

/// The only protocol of listeners.
#[derive(PartialEq, Eq)]
struct Tls;

fn protocol(node: &Node) -> Result<Tls, Bad> {
    match values::text(node)? {
        "TLS" => Ok(Tls),
        later if LATER_PROTOCOLS.contains(&later) => {
            Err(Bad::new("is a protocol that listeners of this release do not have").note("there is TLS"))
        }
        _ => Err(Bad::new("is no protocol of listeners").note("there is TLS")),
    }
}

fn allowed(fields: &mut Fields<'_, '_>) -> Option<RoutesFrom> {
    const FROM: &[(&str, From)] =
        &[("Same", From::Known(RoutesFrom::Same)), ("All", From::Known(RoutesFrom::All)), ("Selector", From::Selector)];
    fields.later("kinds");
    fields.table("namespaces", |fields| {
        fields.later("selector");
        match fields.optional("from", one_of(FROM)) {
            Some(From::Known(from)) => Some(from),
            Some(From::Selector) => {
                let bad = Bad::new("chooses namespaces by label, which this release does not do");
                fields.bad("from", bad.note("write Same or All"));
                None
            }
            None => None,
        }
    })
}

#[derive(Clone, Copy)]
enum From {
    Known(RoutesFrom),
    Selector,
}
