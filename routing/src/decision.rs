//! The vocabulary of one decision: what is asked, what is drawn, what comes out.

use std::sync::Arc;
use std::time::Duration;

use starling_model::{PortName, ServiceKey};

use crate::limits::{CONNECT_TIMEOUT, REQUEST_TIMEOUT, TRIES_MAX};
use crate::table::{Endpoint, EndpointIndex, Service};

/// What a decision may depend on, besides the table.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The addressed service.
    pub destination: &'a ServiceKey,
    /// Which of its ports; `None` takes any.
    pub port: Option<&'a PortName>,
    /// The local service that calls, where it is known.
    pub source: Option<&'a ServiceKey>,
    /// Endpoints that were tried for this request already.
    pub avoid: &'a [EndpointIndex],
}

/// Numbers drawn once per request and split by purpose, so that one choice never shifts another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
}

impl Draws {
    /// Expands one drawn seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self { seed }
    }

    /// The `n`th number for picking endpoints, uniform over all 64 bits.
    #[must_use]
    pub(crate) fn pick(self, n: u32) -> u64 {
        self.number(n)
    }

    /// The number for choosing a backend.
    #[must_use]
    pub(crate) fn split(self) -> u64 {
        self.purpose(1).number(0)
    }

    /// The number for the mirror at place `at`.
    #[must_use]
    pub(crate) fn mirror(self, at: u32) -> u64 {
        self.purpose(2).number(at)
    }

    /// A seed of its own for each purpose.
    fn purpose(self, purpose: u32) -> Self {
        Self { seed: Self { seed: !self.seed }.number(purpose) }
    }

    /// Maps a uniform 64-bit number to `0..total` without division (Lemire 2019).
    #[must_use]
    pub(crate) fn below(uniform: u64, total: u64) -> u64 {
        ((u128::from(uniform) * u128::from(total)) >> 64) as u64
    }

    /// SplitMix64 (Steele et al. 2014).
    fn number(self, n: u32) -> u64 {
        let mut z = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(n) + 1));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Effective deadlines and tries of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// From the request's arrival to the response head.
    pub request_timeout: Duration,
    /// One connection attempt.
    pub connect_timeout: Duration,
    /// First try included.
    pub tries_max: u32,
}

impl Policy {
    /// What holds where no document says otherwise.
    pub const BUILT_IN: Self =
        Self { request_timeout: REQUEST_TIMEOUT, connect_timeout: CONNECT_TIMEOUT, tries_max: TRIES_MAX };
}

/// Where the request goes.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The addressed service.
    pub service: Arc<Service>,
    pub(crate) endpoint: u32,
    /// Deadlines and tries.
    pub policy: Policy,
}

impl Choice {
    /// The chosen endpoint.
    ///
    /// # Panics
    /// Never: the position was taken from this very service.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "the position comes from a scan of this same vector")]
    pub fn endpoint(&self) -> &Endpoint {
        &self.service.endpoints[self.endpoint as usize]
    }
}

/// Why a request goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No node announces the service: 404.
    NoService,
    /// The service has no such port: 404.
    NoPort,
    /// No endpoint may be used now, or all were tried: 503.
    NoEndpoint,
}

impl Refusal {
    /// The error type of RFC 9209 that answers, metrics and logs carry.
    #[must_use]
    pub fn proxy_error(self) -> &'static str {
        match self {
            Self::NoService | Self::NoPort => "destination_not_found",
            Self::NoEndpoint => "destination_unavailable",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::NoService | Self::NoPort => 404,
            Self::NoEndpoint => 503,
        }
    }
}

/// The outcome of [`crate::RouteTable::decide`].
#[derive(Clone, Debug)]
pub enum Decision {
    /// Send it there.
    Forward(Choice),
    /// Answer it here.
    Refuse(Refusal),
}
