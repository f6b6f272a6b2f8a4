//! What a document refers to, resolved as far as documents say it: backends, mirrors, subsets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use starling_config::documents::Spec;
use starling_config::documents::filter::Filters;
use starling_config::documents::route::{BackendRef, BackendTarget, ServiceTarget, Subset};
use starling_config::documents::rule_policy::SessionPersistence;
use starling_model::{DocumentKey, Labels, Protocol, ServiceKey, SubsetName, Weight, codes};

use super::services::both_keep;
use crate::documents::Documents;
use crate::filters::FilterChain;
use crate::matching::PathPrefix;
use crate::problem::{Finding, Reason};
use crate::rules::{Reference, RouteKind, Rules, Sessions, SubsetSpec};
use crate::session::Session;
use crate::split::{Backend, Split, SubsetAt, Target};

/// Resolves references and remembers which services and subsets documents speak of.
#[derive(Debug)]
pub(super) struct Resolver<'a> {
    rules: &'a mut Rules,
    /// Subsets by the names of Service documents.
    named: BTreeMap<ServiceKey, &'a BTreeMap<SubsetName, Labels>>,
    subsets: BTreeMap<ServiceKey, Vec<SubsetSpec>>,
}

/// Where in which route a reference stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) document: &'a DocumentKey,
    pub(super) kind: RouteKind,
    pub(super) rule: usize,
}

/// Whose a rule's sessions are: by its name, else by its place, so that naming a rule keeps its sessions when others come
/// before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    pub(super) route: &'a DocumentKey,
    pub(super) name: Option<&'a str>,
    pub(super) place: usize,
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{} rule {name}", self.route),
            None => write!(f, "{} rule #{}", self.route, self.place),
        }
    }
}

impl<'a> Resolver<'a> {
    /// After the Service documents: their subsets come first, in the order of their names.
    pub(super) fn new(documents: &'a Documents, rules: &'a mut Rules) -> Self {
        let mut named = BTreeMap::new();
        let mut subsets = BTreeMap::new();
        for one in documents.iter() {
            let Spec::StarlingService(service) = &one.document.spec else { continue };
            let Some(key) = super::services::key_of(&one.document.key) else { continue };
            if !service.subsets.is_empty() {
                let spec = |(name, labels): (&SubsetName, &Labels)| SubsetSpec {
                    name: Arc::from(name.as_str()),
                    labels: labels.clone(),
                };
                subsets.insert(key.clone(), service.subsets.iter().map(spec).collect());
            }
            named.insert(key, &service.subsets);
        }
        Self { rules, named, subsets }
    }

    /// Gives the subsets to the rules.
    pub(super) fn finish(self) {
        self.rules.subsets = self.subsets.into_iter().map(|(key, subsets)| (key, Arc::from(subsets))).collect();
    }

    /// The backends of a rule, each with the filters of its own.
    pub(super) fn split<'b>(
        &mut self,
        at: At<'_>,
        backends: impl IntoIterator<Item = (&'b BackendRef, Option<&'b Filters>)>,
        prefix: &PathPrefix,
    ) -> Split {
        let mut all: Vec<(Backend, Weight)> = Vec::new();
        for (place, (backend, filters)) in backends.into_iter().enumerate() {
            let pointer = format!("/spec/rules/{}/backendRefs/{place}", at.rule);
            let resolved = self.target(at, &backend.target, &pointer);
            // Its mirrors are looked at even if nothing comes to it, so that all that is wrong is told.
            let filters = filters.map(|filters| self.chain(at, filters, prefix, &pointer));
            let to = resolved
                .map(|target| Backend::To { target, filters: filters.filter(|chain| !chain.is_empty()).map(Box::new) });
            all.push((to.unwrap_or_else(Backend::Invalid), backend.weight));
        }
        Split::new(all)
    }

    /// The same for callers from outside: to another namespace they come only where its owner says so, which nothing that
    /// is read here can.
    pub(super) fn at_gateways(&mut self, at: At<'_>, split: &Split) -> Split {
        split.map(|place, backend| match backend {
            Backend::To { target, .. } if target.service.namespace != at.document.namespace => {
                let message =
                    format!("a route at a Gateway leads to its own namespace only, not to {}", target.service);
                let why = (Reason::RefNotPermitted, codes::UNKNOWN_REFERENCE);
                let pointer = format!("/spec/rules/{}/backendRefs/{place}", at.rule);
                self.rules.findings.push(Finding::new(at.document, why, pointer, message));
                Backend::Invalid(Reason::RefNotPermitted)
            }
            Backend::To { .. } | Backend::Invalid(_) => backend.clone(),
        })
    }

    /// How sessions of a rule with these backends are kept.
    pub(super) fn sessions(
        &mut self,
        owner: &Owner<'_>,
        wanted: Option<&SessionPersistence>,
        split: &Split,
    ) -> Sessions {
        // Those of weight 0 too: an existing session comes before weights.
        let services = || {
            split.backends().filter_map(|backend| match backend {
                Backend::To { target, .. } => Some(&target.service),
                Backend::Invalid(_) => None,
            })
        };
        let Some(wanted) = wanted else {
            let policy = |service| self.rules.policies.get(service);
            let of_services = services().filter_map(policy).any(|policy| policy.session.is_some());
            return if of_services { Sessions::OfServices } else { Sessions::None };
        };
        let affine: BTreeSet<&ServiceKey> = services().filter(|service| self.rules.affine.contains(*service)).collect();
        if affine.is_empty() {
            self.rules.sessions.extend(services().cloned());
            return Sessions::OfRule(Box::new(Session::new(&owner.to_string(), wanted)));
        }
        let pointer = || format!("/spec/rules/{}/sessionPersistence", owner.place);
        self.rules.findings.extend(affine.into_iter().map(|service| both_keep(owner.route, pointer(), service)));
        Sessions::None
    }

    /// The filters that stand at `pointer`.
    pub(super) fn chain(&mut self, at: At<'_>, filters: &Filters, prefix: &PathPrefix, pointer: &str) -> FilterChain {
        let mut targets = Vec::with_capacity(filters.mirrors.len());
        for mirror in &filters.mirrors {
            let pointer = format!("{pointer}/filters");
            targets.push(self.target(at, &mirror.target, &pointer).ok());
        }
        FilterChain::new(filters, prefix.clone(), targets)
    }

    fn target(&mut self, at: At<'_>, target: &BackendTarget, pointer: &str) -> Result<Target, Reason> {
        let refused = |reason: Reason, message: String| {
            Finding::new(at.document, (reason, codes::UNKNOWN_REFERENCE), pointer, message)
        };
        let found = match target {
            BackendTarget::Unknown { kind, name, .. } => {
                Err(refused(Reason::InvalidKind, format!("{kind} {name} is of a kind that is not known here")))
            }
            BackendTarget::Service(target) => {
                self.rules.references.push(Reference {
                    document: at.document.clone(),
                    service: target.service.clone(),
                    reason: Reason::BackendNotFound,
                    pointer: pointer.to_owned(),
                });
                self.service(at.kind, target).map_err(|(reason, message)| refused(reason, message))
            }
        };
        found.map_err(|finding| {
            let reason = finding.reason;
            self.rules.findings.push(finding);
            reason
        })
    }

    fn service(&mut self, kind: RouteKind, target: &ServiceTarget) -> Result<Target, (Reason, String)> {
        let ServiceTarget { service, port, subset } = target;
        let spec = self.rules.specs.get(service).filter(|spec| !spec.ports.is_empty());
        if let Some(spec) = spec {
            let found = match port {
                Some(number) => spec.ports.iter().find(|one| one.number == *number),
                None => spec.ports.first().filter(|_| spec.ports.len() == 1),
            };
            if let (None, Some(number)) = (found, port) {
                return Err((Reason::BackendNotFound, format!("Service {service} has no port {number}")));
            }
            let speaks_bytes = found.is_some_and(|found| found.protocol == Some(Protocol::Tcp));
            if speaks_bytes && kind.reads_requests() {
                let message = format!("the port of Service {service} speaks tcp, which {} cannot use", kind.as_str());
                return Err((Reason::UnsupportedProtocol, message));
            }
        }
        let subset = match subset {
            None => None,
            Some(subset) => Some(self.subset(service, subset)?),
        };
        Ok(Target { service: service.clone(), port: *port, subset })
    }

    fn subset(&mut self, service: &ServiceKey, subset: &Subset) -> Result<SubsetAt, (Reason, String)> {
        let (name, labels) = match subset {
            Subset::Labels(labels) => (Arc::from(labels.to_string()), labels.clone()),
            Subset::Named(name) => {
                let labels = self.named.get(service).and_then(|subsets| subsets.get(name));
                let labels = labels.ok_or_else(|| {
                    (Reason::BackendNotFound, format!("no Service document of {service} has a subset {name}"))
                })?;
                (Arc::from(name.as_str()), labels.clone())
            }
        };
        let known = self.subsets.entry(service.clone()).or_default();
        let at = known.iter().position(|held| held.labels == labels && held.name == name).unwrap_or_else(|| {
            known.push(SubsetSpec { name: Arc::clone(&name), labels });
            known.len() - 1
        });
        let at = u16::try_from(at).map_err(|_| {
            (Reason::UnsupportedValue, format!("routes speak of over {} subsets of {service}", u16::MAX))
        })?;
        Ok(SubsetAt { at, name })
    }
}
