//! The rules of a table as rows for people, in the order in which they are tried.

use std::fmt;
use std::sync::Arc;

use starling_model::PortName;

use crate::group::{Candidate, RouteGroup};
use crate::matching::Conditions;
use crate::rules::{Attached, PortRules, RouteKind, Rule, Side};
use crate::table::{RouteTable, Service};

/// One row: the callers that it is for, what it asks for, and the rule.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Of which port; `None` where it holds for all ports alike.
    pub port: Option<&'a PortName>,
    /// Whose routes.
    pub side: Side,
    /// From 1, among those of the same port and side.
    pub order: u32,
    /// What holds; `None`: nothing is attached, so what comes goes to the service itself.
    pub rule: Option<RowRule<'a>>,
}

/// One match of a rule, or the only rule of a route for connections.
#[derive(Clone, Copy, Debug)]
pub struct RowRule<'a> {
    /// Of which kind its route is.
    pub kind: RouteKind,
    /// The rule.
    pub rule: &'a Arc<Rule>,
    /// What it asks for; `None`: it takes every connection.
    pub conditions: Option<&'a Conditions>,
}

impl fmt::Display for RowRule<'_> {
    /// `path prefix / and x-canary = "always"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.conditions {
            Some(conditions) => conditions.fmt(f),
            None => f.write_str("every connection"),
        }
    }
}

impl RouteTable {
    /// The rules for a service: those of its own namespace, then those of each other one for its callers; port by port
    /// where ports have rules of their own. At least one row.
    #[must_use]
    pub fn rows<'a>(&'a self, service: &'a Service) -> Vec<Row<'a>> {
        let Some(front) = self.rules.fronts.get(&service.key) else {
            return vec![Row { port: None, side: Side::Producer, order: 1, rule: None }];
        };
        let count = service.ports.len();
        let mut lists: Vec<(Option<&PortName>, &PortRules)> = Vec::new();
        for port in &service.ports {
            lists.push((Some(&port.name), front.rules(Some(&port.name), count)));
        }
        match lists.first().copied() {
            None => lists.push((None, front.rules(None, count))),
            Some((_, first)) if lists.iter().all(|(_, rules)| rules.is_like(first)) => lists = vec![(None, first)],
            Some(_) => {}
        }
        lists.into_iter().flat_map(|(port, rules)| rules.rows(port)).collect()
    }
}

impl PortRules {
    fn is_like(&self, other: &Self) -> bool {
        let same = |a: &Option<Attached>, b: &Option<Attached>| match (a, b) {
            (Some(a), Some(b)) => a.is_same(b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let consumers = || self.consumers.iter().zip(&other.consumers);
        same(&self.producer, &other.producer)
            && self.consumers.len() == other.consumers.len()
            && consumers().all(|((a, one), (b, two))| a == b && one.is_same(two))
    }

    fn rows<'a>(&'a self, port: Option<&'a PortName>) -> Vec<Row<'a>> {
        let producer = match &self.producer {
            Some(attached) => attached.rows(),
            None => vec![None],
        };
        let consumers =
            self.consumers.iter().map(|(caller, attached)| (Side::Consumer(caller.clone()), attached.rows()));
        let mut all = Vec::new();
        for (side, rows) in std::iter::once((Side::Producer, producer)).chain(consumers) {
            for (order, rule) in (1..).zip(rows) {
                all.push(Row { port, side: side.clone(), order, rule });
            }
        }
        all
    }
}

impl Attached {
    /// Made of the very same routes.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Matches(_, a), Self::Matches(_, b)) => Arc::ptr_eq(a, b) || a.is_like(b),
            (Self::Only(_, a), Self::Only(_, b)) => a == b,
            (Self::Matches(..), Self::Only(..)) | (Self::Only(..), Self::Matches(..)) => false,
        }
    }

    fn rows(&self) -> Vec<Option<RowRule<'_>>> {
        match self {
            Self::Matches(kind, group) => group
                .candidates()
                .map(|Candidate { rule, conditions, .. }| {
                    Some(RowRule { kind: *kind, rule, conditions: Some(conditions) })
                })
                .collect(),
            Self::Only(kind, rule) => vec![Some(RowRule { kind: *kind, rule, conditions: None })],
        }
    }

    /// Each rule, as often as it has matches.
    pub(crate) fn rules(&self) -> Box<dyn Iterator<Item = &Arc<Rule>> + '_> {
        match self {
            Self::Matches(_, group) => Box::new(group.candidates().map(|candidate| candidate.rule)),
            Self::Only(_, rule) => Box::new(std::iter::once(rule)),
        }
    }
}

impl RouteGroup {
    /// Has it the same matches of the same rules?
    fn is_like(&self, other: &Self) -> bool {
        let places = |group: &Self| group.candidates().map(|one| (one.rule.id.clone(), one.at)).collect::<Vec<_>>();
        places(self) == places(other)
    }
}
