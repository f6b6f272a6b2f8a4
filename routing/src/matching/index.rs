//! Which matches of a group can hold for a request, best first, without looking at the others: told apart by their path,
//! and where many share one, by a header that they ask for.

use std::collections::{BTreeMap, HashMap};

use http::header::{HeaderMap, HeaderName};
use starling_config::documents::http_route::TextMatch;

use super::{Conditions, HttpFacts, PathCondition, grpc_call, value_of};

/// Fewer matches than this that ask for a header are faster tried one by one.
const HEADERS_INDEXED_FROM: usize = 8;

/// Places in the group's sorted list, by what their path condition asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathIndex {
    exact: HashMap<String, Places>,
    prefixes: HashMap<String, Places>,
    /// Lengths in bytes of all prefixes, longest first.
    prefix_lens: Vec<usize>,
    services: HashMap<String, Places>,
    /// Patterns, and gRPC matches without an exact service: each is tried.
    others: Places,
}

/// Places of equal path conditions. Each list rises.
#[derive(Clone, Debug, Default)]
struct Places {
    by_header: Vec<ByHeader>,
    rest: Vec<u32>,
}

/// Places by the value that a header must have.
#[derive(Clone, Debug)]
struct ByHeader {
    name: HeaderName,
    by_value: HashMap<Vec<u8>, Vec<u32>>,
}

impl Places {
    fn new(places: Vec<u32>, sorted: &[&Conditions]) -> Self {
        let header = |at: &u32| {
            let conditions = sorted.get(*at as usize)?;
            conditions.headers.iter().find_map(|want| match &want.value {
                TextMatch::Exact(value) => Some((&want.name, value)),
                TextMatch::Pattern(_) => None,
            })
        };
        if places.iter().filter_map(header).count() < HEADERS_INDEXED_FROM {
            return Self { by_header: Vec::new(), rest: places };
        }
        let mut by_name: BTreeMap<&str, ByHeader> = BTreeMap::new();
        let mut rest = Vec::new();
        for at in places {
            match header(&at) {
                Some((name, value)) => {
                    let new = || ByHeader { name: name.clone(), by_value: HashMap::new() };
                    let held = by_name.entry(name.as_str()).or_insert_with(new);
                    held.by_value.entry(value.clone().into_bytes()).or_default().push(at);
                }
                None => rest.push(at),
            }
        }
        Self { by_header: by_name.into_values().collect(), rest }
    }

    /// The first place before `end` for which `holds` is true.
    fn first(&self, headers: &HeaderMap, end: Option<u32>, holds: &impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = end;
        let by_value = self.by_header.iter().filter_map(|one| one.by_value.get(&*value_of(headers, &one.name)?));
        for list in by_value.chain([&self.rest]) {
            let before = list.iter().copied().take_while(|at| best.is_none_or(|best| *at < best));
            best = before.into_iter().find(|at| holds(*at)).or(best);
        }
        best
    }
}

impl PathIndex {
    /// Takes the conditions in the order of their precedence.
    pub(crate) fn new(sorted: &[&Conditions]) -> Self {
        let mut lists = [const { BTreeMap::<&str, Vec<u32>>::new() }; 3];
        let mut others = Vec::new();
        let mut prefix_lens = Vec::new();
        {
            let [exact, prefixes, services] = &mut lists;
            for (at, conditions) in (0u32..).zip(sorted) {
                match &conditions.path {
                    PathCondition::Exact(path) => exact.entry(path).or_default().push(at),
                    PathCondition::Prefix(prefix) => {
                        prefixes.entry(prefix.as_str()).or_default().push(at);
                        prefix_lens.push(prefix.as_str().len());
                    }
                    PathCondition::Grpc { service: Some(TextMatch::Exact(service)), .. } => {
                        services.entry(service).or_default().push(at);
                    }
                    PathCondition::Pattern(_) | PathCondition::Grpc { .. } => others.push(at),
                }
            }
        }
        prefix_lens.sort_unstable_by(|a, b| b.cmp(a));
        prefix_lens.dedup();
        let places = |lists: BTreeMap<&str, Vec<u32>>| -> HashMap<String, Places> {
            lists.into_iter().map(|(key, places)| (key.to_owned(), Places::new(places, sorted))).collect()
        };
        let [exact, prefixes, services] = lists.map(places);
        Self { exact, prefixes, prefix_lens, services, others: Places::new(others, sorted) }
    }

    /// The first place, in order of precedence, for which `holds` is true.
    pub(crate) fn first(&self, request: &HttpFacts<'_>, holds: impl Fn(u32) -> bool) -> Option<u32> {
        let HttpFacts { path, headers, .. } = *request;
        if let Some(at) = self.exact.get(path).and_then(|places| places.first(headers, None, &holds)) {
            return Some(at);
        }
        let service = grpc_call(path).filter(|_| !self.services.is_empty());
        let services = service.and_then(|(service, _)| self.services.get(service));
        let of_service = services.and_then(|places| places.first(headers, None, &holds));
        if let Some(at) = self.others.first(headers, of_service, &holds) {
            return Some(at);
        }
        self.prefix_lens.iter().find_map(|len| {
            let (head, rest) = path.split_at_checked(*len)?;
            if *len > 0 && !rest.is_empty() && !rest.starts_with('/') {
                return None;
            }
            self.prefixes.get(head)?.first(headers, None, &holds)
        })
    }
}
