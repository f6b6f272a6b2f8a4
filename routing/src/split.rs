//! Which backend of a rule takes a request: a draw in proportion to weights.
//!
//! A backend that cannot be used keeps its share and answers it with an error (Gateway API), so that a mistake in one
//! of two backends does not silently double the load of the other.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use starling_model::{ServiceKey, Weight};

use crate::decision::Draws;
use crate::filters::FilterChain;
use crate::problem::Reason;

/// Where a share or a copy goes. Which endpoints that are is looked up in the table of the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Any namespace.
    pub service: ServiceKey,
    /// By the Service's number; `None`: its only one, or the one that is named like the frontend's.
    pub port: Option<NonZeroU16>,
    /// Only a part of its endpoints; `None` takes all.
    pub subset: Option<SubsetAt>,
}

/// A subset of a service: its place among those that documents speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetAt {
    pub(crate) at: u16,
    /// Its name, or `k=v`.
    pub name: Arc<str>,
}

impl fmt::Display for Target {
    /// `default/orders:80 {canary}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match &self.subset {
            Some(subset) => write!(f, " {{{}}}", subset.name),
            None => Ok(()),
        }
    }
}

/// What stands behind one share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A service, or a subset of one.
    To {
        /// Which.
        target: Target,
        /// Of this backend alone; `None`: none.
        filters: Option<Box<FilterChain>>,
    },
    /// Of an unknown kind, missing, or of a protocol that does not fit: 500 for its share.
    Invalid(Reason),
}

/// Backends with the running sum of their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    backends: Vec<(Backend, u64)>,
}

impl Split {
    /// In the order of the document.
    #[must_use]
    pub fn new(backends: impl IntoIterator<Item = (Backend, Weight)>) -> Self {
        let mut sum = 0;
        let running = backends.into_iter().map(|(backend, weight)| {
            sum += u64::from(weight.get());
            (backend, sum)
        });
        Self { backends: running.collect() }
    }

    /// The same weights with other backends.
    #[must_use]
    pub(crate) fn map(&self, mut change: impl FnMut(usize, &Backend) -> Backend) -> Self {
        let changed = self.backends.iter().enumerate().map(|(at, (backend, sum))| (change(at, backend), *sum));
        Self { backends: changed.collect() }
    }

    /// The backend that this request's seed gives, with its place; `None` where there is none or all weights are 0,
    /// which is answered with 500.
    #[must_use]
    pub fn draw(&self, draws: Draws) -> Option<(usize, &Backend)> {
        let total = self.backends.last()?.1;
        if total == 0 {
            return None;
        }
        let point = Draws::below(draws.split(), total);
        let at = self.backends.partition_point(|(_, sum)| *sum <= point);
        self.backends.get(at).map(|(backend, _)| (at, backend))
    }

    /// The backends in the order of the document.
    pub fn backends(&self) -> impl ExactSizeIterator<Item = &Backend> {
        self.backends.iter().map(|(backend, _)| backend)
    }

    /// The backends that requests come to and that lead somewhere, each with its place.
    pub fn targets(&self) -> impl Iterator<Item = (usize, &Target)> {
        let shares = self.shares();
        self.backends.iter().zip(shares).enumerate().filter_map(|(at, ((backend, _), share))| match backend {
            Backend::To { target, .. } if share > 0.0 => Some((at, target)),
            Backend::To { .. } | Backend::Invalid(_) => None,
        })
    }

    /// Each backend's weight, in the order of the document.
    #[must_use]
    pub fn weights(&self) -> Vec<u64> {
        let mut before = 0;
        self.backends.iter().map(|(_, sum)| *sum - std::mem::replace(&mut before, *sum)).collect()
    }

    /// Each backend's share of requests, in the order of the document; sums to 1, or all are 0.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "16 weights of at most a million each are exact in 53 bits")]
    pub fn shares(&self) -> Vec<f64> {
        let total = self.backends.last().map_or(0, |(_, sum)| *sum).max(1) as f64;
        self.weights().into_iter().map(|weight| weight as f64 / total).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(weights: &[u32]) -> Split {
        Split::new(weights.iter().map(|weight| (Backend::Invalid(Reason::InvalidKind), Weight::new(*weight).unwrap())))
    }

    fn counts(split: &Split) -> Vec<u32> {
        let mut counts = vec![0; split.backends.len()];
        for seed in 0..10_000 {
            counts[split.draw(Draws::from_seed(seed)).unwrap().0] += 1;
        }
        counts
    }

    #[test]
    fn shares_over_ten_thousand_seeds_are_within_two_percent() {
        for weights in [&[90, 10][..], &[1, 1, 1], &[1_000_000, 1], &[0, 5], &[7]] {
            let split = split(weights);
            for (count, share) in counts(&split).iter().zip(split.shares()) {
                assert!((f64::from(*count) / 10_000.0 - share).abs() < 0.02, "{weights:?} {count} {share}");
            }
        }
    }

    #[test]
    fn weight_zero_gets_nothing_and_one_alone_gets_all() {
        assert_eq!(counts(&split(&[0, 3, 0])), [0, 10_000, 0]);
    }

    #[test]
    fn without_backends_or_weights_nothing_is_drawn() {
        assert_eq!(split(&[]).draw(Draws::from_seed(1)), None);
        assert_eq!(split(&[0, 0]).draw(Draws::from_seed(1)), None);
        assert_eq!(split(&[0, 0]).shares(), [0.0, 0.0]);
        assert_eq!(split(&[0, 90, 10]).weights(), [0, 90, 10]);
    }
}
