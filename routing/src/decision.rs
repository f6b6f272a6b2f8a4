//! The vocabulary of one decision: what is asked, what is drawn, what comes out.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, StatusCode};
use starling_model::{NodeName, PortName, Protocol, ServiceKey};

use crate::filters::FilterChain;
use crate::matching::HttpFacts;
use crate::policy::{Policy, ServicePolicy};
use crate::rules::Rule;
use crate::session::{Kept, Mark, Session, SessionKey, UnixSeconds};
use crate::split::Backend;
use crate::table::{Endpoint, EndpointIndex, Part, Service};

/// What a request or a connection is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// A service of the mesh.
    Service(&'a ServiceKey),
    /// What a Gateway of the asking node leads to, which is found by the server name of a TLS connection.
    Gateway {
        /// Where the client connected to.
        port: NonZeroU16,
        /// In lower case and without a final dot; `None`: the client named none.
        name: Option<&'a str>,
    },
}

/// What a decision may depend on, besides the table.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// What it is addressed to.
    pub destination: Destination<'a>,
    /// Which of a service's ports, by name or number; `None`: its only one, else any.
    pub port: Option<&'a PortName>,
    /// The local service that calls, where it is known. Its namespace tells which consumer routes hold.
    pub source: Option<&'a ServiceKey>,
    /// What the request asks for; `None` for a connection whose bytes nobody reads.
    pub http: Option<&'a HttpFacts<'a>>,
    /// Endpoints that were tried for this request already.
    pub avoid: &'a [EndpointIndex],
    /// The node that calls; `None` where nobody asks by it.
    pub node: Option<&'a NodeName>,
    /// The time that sessions are judged by.
    pub wall: UnixSeconds,
}

impl RequestFacts<'_> {
    /// In whose words an error is answered: those of gRPC, HTTP, or none but the end of a TCP connection.
    #[must_use]
    pub fn answered_in(&self) -> Protocol {
        let grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        match self.http {
            None => Protocol::Tcp,
            Some(http) if http.headers.get(CONTENT_TYPE).is_some_and(grpc) => Protocol::Grpc,
            Some(_) => Protocol::Http,
        }
    }
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

    /// The `n`th number for picking the endpoint of the copy number `copy`.
    #[must_use]
    pub(crate) fn mirror_pick(self, copy: u32, n: u32) -> u64 {
        self.purpose(3).purpose(copy).number(n)
    }

    /// A wait of at most `most`, for what follows try number `tries`.
    #[must_use]
    pub fn jitter(self, tries: u32, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(Self::below(self.purpose(4).number(tries), nanos.saturating_add(1)))
    }

    /// The number that decides whether something is sampled.
    #[must_use]
    pub fn sample(self) -> u64 {
        self.purpose(5).number(0)
    }

    /// A seed of its own for each purpose.
    fn purpose(self, purpose: u32) -> Self {
        Self { seed: Self { seed: !self.seed }.number(purpose) }
    }

    /// The coin of the endpoint at `position`, which decides whether one that is warming up takes part.
    #[must_use]
    pub(crate) fn coin(self, position: u32) -> u64 {
        self.purpose(5).number(position)
    }

    /// The `n`th number of this seed, below `total`.
    #[must_use]
    pub(crate) fn below_nth(self, n: u32, total: u64) -> u64 {
        Self::below(self.number(n), total)
    }

    /// The first number of this seed.
    #[must_use]
    pub(crate) fn first(self) -> u64 {
        self.number(0)
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

/// Where the request goes.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The service that takes it: the addressed one, or a backend of the rule.
    pub service: Arc<Service>,
    pub(crate) endpoint: u32,
    pub(crate) part: Part,
    /// The rule that sent it there; `None`: no route is attached.
    pub rule: Option<Arc<Rule>>,
    /// The place of the backend in the rule.
    pub backend: Option<usize>,
    /// What holds for all requests to the service; `None`: what is built in.
    pub service_policy: Option<Arc<ServicePolicy>>,
    /// Where copies go; none of a further try.
    pub mirrors: Vec<MirrorTo>,
    /// What becomes of the client's session; `None`: none is kept here.
    pub session: Option<Kept>,
    pub(crate) session_key: Option<Arc<SessionKey>>,
    /// Endpoints take turns, and this one counts them; whoever acts on the decision says so to it.
    pub turn: Option<EndpointIndex>,
}

static BUILT_IN: Policy = Policy::BUILT_IN;

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

    /// Endpoints that another try could go to, the chosen one included.
    #[must_use]
    pub fn candidates_len(&self) -> usize {
        self.service.pool(self.part).map_or(0, crate::table::Pool::len)
    }

    /// Deadlines and tries.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.rule.as_ref().map_or(&BUILT_IN, |rule| &rule.policy)
    }

    /// The subset that the backend names, by its name or as `k=v`.
    #[must_use]
    pub fn subset(&self) -> Option<Arc<str>> {
        let backend = self.rule.as_deref()?.split.backends().nth(self.backend?)?;
        match backend {
            Backend::To { target, .. } => target.subset.as_ref().map(|subset| Arc::clone(&subset.name)),
            Backend::Invalid(_) => None,
        }
    }

    /// The sessions of the rule, else of the service.
    #[must_use]
    pub fn sessions(&self) -> Option<&Session> {
        let of_rule = self.rule.as_ref().and_then(|rule| rule.sessions.of_rule());
        of_rule.or_else(|| self.service_policy.as_ref()?.session.as_ref())
    }

    /// The header by which a client comes back to this endpoint; `None`: it does already, or no session is kept.
    #[must_use]
    pub fn set_cookie(&self) -> Option<HeaderValue> {
        match self.session? {
            Kept::Yes => None,
            Kept::New { at, .. } => {
                self.sessions()?.set_cookie(self.session_key.as_deref(), Mark::of(&self.endpoint().id), at)
            }
        }
    }

    /// What is done to the request and its response: the filters of the rule, then those of the backend.
    pub fn filters(&self) -> impl Iterator<Item = &FilterChain> {
        let rule = self.rule.as_deref();
        let backend = rule.zip(self.backend).and_then(|(rule, at)| rule.split.backends().nth(at));
        let own = backend.and_then(|backend| match backend {
            Backend::To { filters, .. } => filters.as_deref(),
            Backend::Invalid(_) => None,
        });
        rule.map(|rule| &rule.filters).into_iter().chain(own)
    }
}

/// Where a copy goes.
#[derive(Clone, Debug)]
pub struct MirrorTo {
    /// The service.
    pub service: Arc<Service>,
    pub(crate) endpoint: u32,
}

impl MirrorTo {
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

/// What a rule answers by itself: a redirect, or 204 to a preflight. It has no body.
#[derive(Clone, Debug)]
pub struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// The rule that answers.
    pub rule: Arc<Rule>,
}

/// Why a request goes nowhere. On TCP each of these ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No node announces the service and no document describes it: 404.
    NoService,
    /// The service has no such port: 404.
    NoPort,
    /// No listener of a Gateway of this node holds for the server name: 404.
    NoListener,
    /// Routes are attached and no rule matches: 404.
    NoRule,
    /// The rule has no backend, or only such of weight 0: 500.
    NoBackend,
    /// The share that was drawn belongs to a backend that cannot be used: 500.
    InvalidBackend,
    /// The request's own bytes make no `Location`: 400.
    NoLocation,
    /// No endpoint may be used now, or all were tried: 503.
    NoEndpoint,
}

impl Refusal {
    /// The error type of RFC 9209 that answers, metrics and logs carry.
    #[must_use]
    pub fn proxy_error(self) -> &'static str {
        match self {
            Self::NoService | Self::NoPort | Self::NoListener | Self::NoRule => "destination_not_found",
            Self::NoBackend | Self::InvalidBackend => "proxy_configuration_error",
            Self::NoLocation => "http_request_error",
            Self::NoEndpoint => "destination_unavailable",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::NoService | Self::NoPort | Self::NoListener | Self::NoRule => 404,
            Self::NoBackend | Self::InvalidBackend => 500,
            Self::NoLocation => 400,
            Self::NoEndpoint => 503,
        }
    }

    /// The gRPC status: 12 UNIMPLEMENTED, 13 INTERNAL, 14 UNAVAILABLE.
    #[must_use]
    pub fn grpc_status(self) -> u8 {
        match self {
            Self::NoService | Self::NoPort | Self::NoListener | Self::NoRule => 12,
            Self::NoLocation => 13,
            Self::NoBackend | Self::InvalidBackend | Self::NoEndpoint => 14,
        }
    }
}

/// The outcome of [`crate::RouteTable::decide`].
#[derive(Clone, Debug)]
pub enum Decision {
    /// Send it there.
    Forward(Choice),
    /// A rule answers it.
    Answer(DirectResponse),
    /// Refuse it.
    Refuse {
        /// Why.
        why: Refusal,
        /// The rule that took it, if one did.
        rule: Option<Arc<Rule>>,
    },
}

impl Decision {
    /// The rule that took the request, if one did.
    #[must_use]
    pub fn rule(&self) -> Option<&Arc<Rule>> {
        match self {
            Self::Forward(choice) => choice.rule.as_ref(),
            Self::Answer(answer) => Some(&answer.rule),
            Self::Refuse { rule, .. } => rule.as_ref(),
        }
    }
}
