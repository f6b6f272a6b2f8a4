//! Where connections from outside the mesh come in: the listeners of Gateways, and which route a server name leads to.
//!
//! A name finds its listener first and a route of that listener then (the isolation of listeners of the Gateway API): an
//! exact name before the longest wildcard that holds, before what names nothing. `*.example.com` holds for any number of
//! labels before the rest, and not for the rest alone.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use starling_config::documents::grant::NodePattern;
use starling_model::{DocumentKey, DocumentVersion, NodeName};

use crate::rules::Rule;

/// One listener of a Gateway, with the routes that are attached to it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The Gateway.
    pub gateway: DocumentKey,
    /// Which version of it.
    pub version: DocumentVersion,
    /// Its name in the Gateway.
    pub name: String,
    /// Where clients connect to.
    pub port: NonZeroU16,
    /// For which server names; `None`: all, and clients that name none.
    pub hostname: Option<String>,
    /// Whose agents listen.
    pub(crate) nodes: Arc<[NodePattern]>,
    pub(crate) routes: ByName<Arc<Rule>>,
}

impl Listener {
    /// Does the agent of this node listen?
    #[must_use]
    pub fn is_of(&self, node: &NodeName) -> bool {
        self.nodes.iter().any(|pattern| pattern.holds(node))
    }

    /// Host names and the rule that each leads to, the exact ones first; `None` is every name, and none.
    pub fn routes(&self) -> impl Iterator<Item = (Option<String>, &Arc<Rule>)> {
        self.routes.iter()
    }
}

/// What server names lead to.
#[derive(Clone, Debug)]
pub(crate) struct ByName<T> {
    exact: BTreeMap<String, T>,
    /// By what follows `*.`.
    wild: BTreeMap<String, T>,
    any: Option<T>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), wild: BTreeMap::new(), any: None }
    }
}

impl<T> ByName<T> {
    /// Adds one; of two for the same name the first counts, which is returned.
    pub(crate) fn add(&mut self, hostname: Option<&str>, value: T) -> Option<&T> {
        let (map, name) = match hostname {
            None if self.any.is_some() => return self.any.as_ref(),
            None => {
                self.any = Some(value);
                return None;
            }
            Some(name) => match name.strip_prefix("*.") {
                Some(rest) => (&mut self.wild, rest),
                None => (&mut self.exact, name),
            },
        };
        if map.contains_key(name) {
            return map.get(name);
        }
        map.insert(name.to_owned(), value);
        None
    }

    /// What a server name leads to, in lower case and without a final dot; `None`: the client named none. The work is bound
    /// by the labels of the name.
    pub(crate) fn get(&self, name: Option<&str>) -> Option<&T> {
        let Some(name) = name else { return self.any.as_ref() };
        if let Some(found) = self.exact.get(name) {
            return Some(found);
        }
        let mut rest = name;
        while let Some((_, behind)) = rest.split_once('.') {
            if let Some(found) = self.wild.get(behind) {
                return Some(found);
            }
            rest = behind;
        }
        self.any.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Option<String>, &T)> {
        let exact = self.exact.iter().map(|(name, value)| (Some(name.clone()), value));
        let wild = self.wild.iter().map(|(name, value)| (Some(format!("*.{name}")), value));
        exact.chain(wild).chain(self.any.iter().map(|value| (None, value)))
    }
}

/// All listeners of all Gateways, by port.
#[derive(Clone, Debug, Default)]
pub struct Gateways {
    by_port: BTreeMap<NonZeroU16, Vec<Arc<Listener>>>,
}

impl Gateways {
    /// In any order; of two of one port that a name cannot tell apart, the first given counts where both listen.
    pub(crate) fn new(listeners: impl IntoIterator<Item = Listener>) -> Self {
        let mut by_port: BTreeMap<NonZeroU16, Vec<Arc<Listener>>> = BTreeMap::new();
        for one in listeners {
            by_port.entry(one.port).or_default().push(Arc::new(one));
        }
        for listeners in by_port.values_mut() {
            // A stable sort: the first given stays first among equals.
            listeners.sort_by_key(|one| std::cmp::Reverse(specificity(one.hostname.as_deref())));
        }
        Self { by_port }
    }

    /// The ports at which the agent of a node listens, in order.
    pub fn ports(&self, node: &NodeName) -> impl Iterator<Item = NonZeroU16> {
        self.by_port.iter().filter(|(_, all)| all.iter().any(|one| one.is_of(node))).map(|(port, _)| *port)
    }

    /// The listener of a node that takes a server name, in lower case and without a final dot.
    #[must_use]
    pub fn listener(&self, node: &NodeName, port: NonZeroU16, name: Option<&str>) -> Option<&Arc<Listener>> {
        self.by_port.get(&port)?.iter().find(|one| one.is_of(node) && holds(one.hostname.as_deref(), name))
    }

    /// All of them, by port; of one port those for more special names first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.by_port.values().flatten()
    }
}

/// How special a host name of a document is: exact ones come first, then the longest.
pub(crate) fn specificity(hostname: Option<&str>) -> (bool, usize) {
    hostname.map_or((false, 0), |name| (!name.starts_with("*."), name.len()))
}

/// Does a host name of a document hold for a server name?
pub(crate) fn holds(hostname: Option<&str>, name: Option<&str>) -> bool {
    match (hostname, name) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(hostname), Some(name)) => match hostname.strip_prefix("*.") {
            Some(rest) => name.strip_suffix(rest).is_some_and(|before| before.ends_with('.')),
            None => hostname == name,
        },
    }
}

/// For which names a listener and a route both hold, as a host name; `None`: for none.
pub(crate) fn common<'a>(listener: Option<&'a str>, route: Option<&'a str>) -> Option<Option<&'a str>> {
    let (Some(one), Some(two)) = (listener, route) else { return Some(listener.or(route)) };
    // A wildcard holds for a narrower one as for any name.
    if one == two || holds(Some(one), Some(two)) {
        return Some(Some(two));
    }
    holds(Some(two), Some(one)).then_some(Some(one))
}

/// What a client says as its server name in the form that is compared: lower case, without a final dot.
#[must_use]
pub fn server_name(said: &str) -> String {
    said.strip_suffix('.').unwrap_or(said).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wildcard_holds_for_any_labels_before_it_and_not_for_none() {
        let check = |hostname: &str, name: &str, want: bool| {
            assert_eq!(holds(Some(hostname), Some(name)), want, "{hostname} {name}");
            let mut one = ByName::default();
            one.add(Some(hostname), ());
            assert_eq!(one.get(Some(name)).is_some(), want, "{hostname} {name}");
        };
        check("a.example.com", "a.example.com", true);
        check("a.example.com", "b.example.com", false);
        check("*.example.com", "a.example.com", true);
        check("*.example.com", "a.b.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", "xexample.com", false);
        check("*.com", "example.com", true);
        check("*.com", "com", false);
    }

    #[test]
    fn the_exact_name_comes_before_the_longest_wildcard_before_what_names_nothing() {
        let mut all = ByName::default();
        for name in ["*.com", "*.example.com", "a.example.com"] {
            assert_eq!(all.add(Some(name), name), None);
        }
        assert_eq!(all.get(None), None);
        assert_eq!(all.add(None, "any"), None);
        assert_eq!(all.add(Some("*.com"), "again"), Some(&"*.com"), "the first counts");
        assert_eq!(all.add(None, "again"), Some(&"any"));
        let found = |name| *all.get(name).unwrap();
        assert_eq!(found(Some("a.example.com")), "a.example.com");
        assert_eq!(found(Some("b.example.com")), "*.example.com");
        assert_eq!(found(Some("x.a.example.com")), "*.example.com");
        assert_eq!(found(Some("example.com")), "*.com");
        assert_eq!(found(Some("example.org")), "any");
        assert_eq!(found(None), "any");
        assert_eq!(all.iter().count(), 4);
    }

    #[test]
    fn listener_and_route_hold_for_what_both_name() {
        let check = |listener, route, want| assert_eq!(common(listener, route), want, "{listener:?} {route:?}");
        check(None, None, Some(None));
        check(Some("a.com"), None, Some(Some("a.com")));
        check(None, Some("*.com"), Some(Some("*.com")));
        check(Some("*.com"), Some("a.com"), Some(Some("a.com")));
        check(Some("a.com"), Some("*.com"), Some(Some("a.com")));
        check(Some("*.a.com"), Some("*.com"), Some(Some("*.a.com")));
        check(Some("*.com"), Some("*.com"), Some(Some("*.com")));
        check(Some("a.com"), Some("b.com"), None);
        check(Some("*.a.com"), Some("*.b.com"), None);
        check(Some("*.a.com"), Some("a.com"), None);
    }

    #[test]
    fn a_server_name_is_compared_in_lower_case_without_its_final_dot() {
        assert_eq!(server_name("Shop.Example.COM."), "shop.example.com");
    }

    fn hostname() -> impl Strategy<Value = String> {
        "(\\*\\.)?[ab](\\.[ab]){0,3}"
    }

    proptest! {
        /// Whatever both of two host names hold for, their common one holds for, and the other way round.
        #[test]
        fn what_is_common_is_what_both_hold_for(
            one in hostname(), two in hostname(), name in "[ab](\\.[ab]){0,5}",
        ) {
            let both = holds(Some(&one), Some(&name)) && holds(Some(&two), Some(&name));
            let common = common(Some(&one), Some(&two)).is_some_and(|common| holds(common, Some(&name)));
            prop_assert_eq!(both, common, "{} {} {}", one, two, name);
        }

        /// The index finds what a slow search by specificity finds.
        #[test]
        fn the_index_finds_the_most_special_name(
            names in prop::collection::vec(hostname(), 0..8), name in "[ab](\\.[ab]){0,5}",
        ) {
            let mut index = ByName::default();
            for one in &names {
                index.add(Some(one), one.clone());
            }
            let slow = names.iter().filter(|one| holds(Some(one), Some(&name)));
            let slow = slow.max_by_key(|one| specificity(Some(one)));
            prop_assert_eq!(index.get(Some(&name)), slow);
        }
    }
}
