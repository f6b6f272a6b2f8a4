//! Which matches of a group can hold for a path, best first, without looking at the others.

use std::collections::HashMap;

use starling_config::documents::http_route::TextMatch;

use super::{Conditions, PathCondition, grpc_call};

/// Places in the group's sorted list, by what their path condition asks for. Each list rises.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathIndex {
    exact: HashMap<String, Vec<u32>>,
    prefixes: HashMap<String, Vec<u32>>,
    /// Lengths in bytes of all prefixes, longest first.
    prefix_lens: Vec<usize>,
    services: HashMap<String, Vec<u32>>,
    /// Patterns, and gRPC matches without an exact service: each is tried.
    others: Vec<u32>,
}

impl PathIndex {
    /// Takes the conditions in the order of their precedence.
    pub(crate) fn new<'a>(sorted: impl Iterator<Item = &'a Conditions>) -> Self {
        let mut index = Self::default();
        for (at, conditions) in (0u32..).zip(sorted) {
            match &conditions.path {
                PathCondition::Exact(path) => index.exact.entry(path.clone()).or_default().push(at),
                PathCondition::Prefix(prefix) => {
                    index.prefixes.entry(prefix.as_str().to_owned()).or_default().push(at);
                    index.prefix_lens.push(prefix.as_str().len());
                }
                PathCondition::Grpc { service: Some(TextMatch::Exact(service)), .. } => {
                    index.services.entry(service.clone()).or_default().push(at);
                }
                PathCondition::Pattern(_) | PathCondition::Grpc { .. } => index.others.push(at),
            }
        }
        index.prefix_lens.sort_unstable_by(|a, b| b.cmp(a));
        index.prefix_lens.dedup();
        index
    }

    /// The first place, in order of precedence, for which `holds` is true.
    pub(crate) fn first(&self, path: &str, mut holds: impl FnMut(u32) -> bool) -> Option<u32> {
        let exact = self.exact.get(path).map_or(&[][..], Vec::as_slice);
        let service = grpc_call(path).filter(|_| !self.services.is_empty());
        let services = service.and_then(|(service, _)| self.services.get(service)).map_or(&[][..], Vec::as_slice);
        if let Some(at) = exact.iter().copied().find(|at| holds(*at)) {
            return Some(at);
        }
        if let Some(at) = merged(services, &self.others).find(|at| holds(*at)) {
            return Some(at);
        }
        self.prefix_lens.iter().find_map(|len| {
            let (head, rest) = path.split_at_checked(*len)?;
            if *len > 0 && !rest.is_empty() && !rest.starts_with('/') {
                return None;
            }
            self.prefixes.get(head)?.iter().copied().find(|at| holds(*at))
        })
    }
}

/// Two rising lists as one.
fn merged<'a>(mut one: &'a [u32], mut two: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
    std::iter::from_fn(move || {
        let from_one = match (one.first(), two.first()) {
            (Some(a), Some(b)) => a < b,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let taken = if from_one { &mut one } else { &mut two };
        let (first, rest) = taken.split_first()?;
        *taken = rest;
        Some(*first)
    })
}
