//! Gateway documents, and the routes that are attached to their listeners.

use std::collections::BTreeSet;
use std::sync::Arc;

use starling_config::documents::Spec;
use starling_config::documents::gateway::{Gateway, Listener as ListenerSpec, RoutesFrom};
use starling_config::documents::grant::NodePattern;
use starling_config::documents::route::ParentRef;
use starling_model::{DocumentKey, codes};

use crate::documents::{Documents, InUse};
use crate::gateways::{ByName, Gateways, Listener, common, specificity};
use crate::problem::{Finding, Reason};
use crate::rules::{RouteKind, Rule, Rules};

/// A route that names a Gateway as its parent.
#[derive(Debug)]
pub(super) struct Outside<'a> {
    pub(super) document: &'a DocumentKey,
    pub(super) kind: RouteKind,
    /// The parent, and its place in the document.
    pub(super) parent: &'a ParentRef,
    pub(super) place: usize,
    /// Of a TLSRoute.
    pub(super) by_name: Option<&'a ByServerName>,
}

/// What a TLSRoute is for callers from outside.
#[derive(Clone, Debug)]
pub(super) struct ByServerName {
    pub(super) hostnames: Vec<String>,
    pub(super) rule: Arc<Rule>,
}

/// A name for which a listener and a route both hold.
struct Attachment<'a> {
    listener: usize,
    common: Option<&'a str>,
    own: Option<&'a str>,
    place: Option<usize>,
    rule: &'a Arc<Rule>,
}

struct Open<'a> {
    gateway: &'a InUse,
    spec: &'a Gateway,
    listener: &'a ListenerSpec,
    nodes: Arc<[NodePattern]>,
}

/// Makes the listeners of all Gateways and attaches routes to them.
pub(super) fn compile(documents: &Documents, outside: &[Outside<'_>], rules: &mut Rules) {
    let open = listeners(documents, &mut rules.findings);
    let mut attached: Vec<Attachment<'_>> = Vec::new();
    for one in outside {
        match meant(one, &open) {
            Ok((by_name, found)) => {
                let before = attached.len();
                for listener in found {
                    attached.extend(names(listener, &open, by_name));
                }
                if attached.len() == before {
                    let message = format!("no listener of Gateway {} holds for a host name of it", one.parent.name);
                    rules.findings.push(told(one, Reason::NoMatchingListenerHostname, message));
                }
            }
            Err((reason, message)) => rules.findings.push(told(one, reason, message)),
        }
    }
    // The name that says more comes first where both mean the same part of a listener, then `namespace/name`.
    attached.sort_by_key(|one| (std::cmp::Reverse(specificity(one.own)), one.rule.id.clone()));
    let mut routes: Vec<ByName<Arc<Rule>>> = open.iter().map(|_| ByName::default()).collect();
    let mut covered: BTreeSet<(&DocumentKey, String, String)> = BTreeSet::new();
    for Attachment { listener, common, own, place, rule } in &attached {
        let Some(by_name) = routes.get_mut(*listener) else { continue };
        // A route that names its parent twice does not cover itself.
        let held = by_name.add(*common, Arc::clone(rule)).filter(|held| held.route != rule.route);
        let Some(held) = held else { continue };
        let pointer = place.map_or_else(|| "/spec/parentRefs".to_owned(), |at| format!("/spec/hostnames/{at}"));
        let name = own.map_or_else(|| "every name".to_owned(), |name| format!("`{name}`"));
        covered.insert((
            &rule.route,
            pointer,
            format!("{} has {name} at the same listener and comes before it", held.route),
        ));
    }
    rules.findings.extend(covered.into_iter().map(|(document, pointer, message)| {
        Finding::new(document, (Reason::Conflicted, codes::DOCUMENT_COVERED), pointer, message)
    }));
    let listener = |(one, routes): (&Open<'_>, ByName<Arc<Rule>>)| Listener {
        gateway: one.gateway.document.key.clone(),
        version: one.gateway.version,
        name: one.listener.name.clone(),
        port: one.listener.port,
        hostname: one.listener.hostname.clone(),
        nodes: Arc::clone(&one.nodes),
        routes,
    };
    rules.gateways = Gateways::new(open.iter().zip(routes).map(listener));
}

/// All of them in the order of their Gateways' names; of two Gateways that a node may have the same listener of, the later
/// one is told.
fn listeners<'a>(documents: &'a Documents, findings: &mut Vec<Finding>) -> Vec<Open<'a>> {
    let mut open: Vec<Open<'a>> = Vec::new();
    for gateway in documents.iter() {
        let Spec::Gateway(spec) = &gateway.document.spec else { continue };
        let nodes: Arc<[NodePattern]> = Arc::from(spec.nodes.as_slice());
        for (place, listener) in spec.listeners.iter().enumerate() {
            let same = |held: &&Open<'_>| {
                held.listener.port == listener.port
                    && held.listener.hostname == listener.hostname
                    && held.gateway.document.key != gateway.document.key
                    && held.spec.nodes.iter().any(|one| spec.nodes.iter().any(|two| meet(one, two)))
            };
            if let Some(held) = open.iter().find(same) {
                let key = &held.gateway.document.key;
                let message =
                    format!("{key} has port {} for the same names at nodes of both: it comes first", listener.port);
                let why = (Reason::Conflicted, codes::DOCUMENT_COVERED);
                findings.push(Finding::new(&gateway.document.key, why, format!("/spec/listeners/{place}"), message));
            }
            open.push(Open { gateway, spec, listener, nodes: Arc::clone(&nodes) });
        }
    }
    open
}

/// Can one node be meant by both?
fn meet(one: &NodePattern, two: &NodePattern) -> bool {
    match (one, two) {
        (NodePattern::Exactly(name), other) | (other, NodePattern::Exactly(name)) => other.holds(name),
        (NodePattern::Beginning(one), NodePattern::Beginning(two)) => one.starts_with(two) || two.starts_with(one),
    }
}

/// The listeners that a parent reference means, and may mean.
fn meant<'a>(one: &Outside<'a>, open: &[Open<'_>]) -> Result<(&'a ByServerName, Vec<usize>), (Reason, String)> {
    let ParentRef { namespace, name, port, section, .. } = one.parent;
    let of_gateway: Vec<usize> = (0..open.len())
        .filter(|at| {
            let key = open.get(*at).map(|held| &held.gateway.document.key);
            key.is_some_and(|key| key.namespace == *namespace && key.name.as_str() == name.as_str())
        })
        .collect();
    if of_gateway.is_empty() {
        return Err((Reason::NoMatchingParent, format!("no document describes a Gateway {namespace}/{name}")));
    }
    let Some(by_name) = one.by_name else {
        let message = format!(
            "Gateway {name} takes TLSRoutes: a {} at a Gateway has no effect in this release",
            one.kind.as_str()
        );
        return Err((Reason::NotAllowedByListeners, message));
    };
    let spec = |at: &usize| open.get(*at).map(|held| held.listener);
    let named: Vec<usize> = of_gateway
        .into_iter()
        .filter(|at| {
            spec(at).is_some_and(|listener| {
                port.is_none_or(|port| port == listener.port)
                    && section.as_ref().is_none_or(|section| *section == listener.name)
            })
        })
        .collect();
    if named.is_empty() {
        return Err((Reason::NoMatchingParent, format!("Gateway {name} has no listener that this names")));
    }
    let own = one.document.namespace == *namespace;
    let allowed: Vec<usize> = named
        .into_iter()
        .filter(|at| spec(at).is_some_and(|listener| own || listener.routes_from == RoutesFrom::All))
        .collect();
    if allowed.is_empty() {
        let message =
            format!("the listeners of Gateway {name} take routes of namespace {namespace} only (allowedRoutes)");
        return Err((Reason::NotAllowedByListeners, message));
    }
    Ok((by_name, allowed))
}

fn names<'a>(
    listener: usize,
    open: &'a [Open<'a>],
    by_name: &'a ByServerName,
) -> impl Iterator<Item = Attachment<'a>> + use<'a> {
    let of_listener = open.get(listener).and_then(|held| held.listener.hostname.as_deref());
    let named = by_name.hostnames.iter().enumerate().map(|(at, name)| (Some(at), Some(name.as_str())));
    let every = by_name.hostnames.is_empty().then_some((None, None));
    named.chain(every).filter_map(move |(place, own)| {
        let common = common(of_listener, own)?;
        Some(Attachment { listener, common, own, place, rule: &by_name.rule })
    })
}

fn told(one: &Outside<'_>, reason: Reason, message: String) -> Finding {
    let unknown = reason == Reason::NoMatchingParent;
    let code = if unknown { codes::UNKNOWN_REFERENCE } else { codes::DOCUMENT_IDLE };
    Finding::new(one.document, (reason, code), format!("/spec/parentRefs/{}", one.place), message)
}
