//! A client stays at one endpoint by a cookie (GEP-1619).
//!
//! The cookie holds when the session began and a *mark* of its endpoint, both bound to the rule that began it: whoever
//! decides hashes the candidates that it has and looks which one is meant, so agents need no shared table. No name and no
//! address stands in it, and it grants nothing: it can only choose among endpoints that the rule leads to, and the receiver
//! authorizes as ever. Agents that share a key seal it, so that nobody else can make one. Everything about it that is not as an agent wrote it makes it no cookie of ours, and is passed over.
//!
//! An existing session comes before weights, even weight 0; a new one follows them. When its endpoint is gone, may not be
//! used, or was tried for this request already, another is picked and the session begins anew.

use std::fmt;
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use starling_config::documents::rule_policy::{CookieLifetime, SessionPersistence};
use starling_model::EndpointId;
use starling_model::mesh::hex;

use crate::limits::{SESSION_AHEAD_MAX, SESSION_COOKIES_MAX, SESSION_VALUE_BYTES};

/// What of an endpoint its hash is made of, cut.
pub(crate) const MARK_BYTES: usize = 16;
/// How much of the check is kept: 80 bits.
const CHECK_BYTES: usize = 10;
const BEGAN_BYTES: usize = 5;
/// The first byte: what follows is laid out as here.
const LAYOUT: u8 = 1;
const TOKEN_BYTES: usize = 1 + BEGAN_BYTES + MARK_BYTES + CHECK_BYTES;
const _: () = assert!(SESSION_VALUE_BYTES == 2 * TOKEN_BYTES);

/// A moment by the wall clock, whole seconds since 1970. Agents agree about it as well as their clocks do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(pub u64);

/// An endpoint in a cookie: the hash of its name, the same at every agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mark(pub(crate) [u8; MARK_BYTES]);

impl Mark {
    pub(crate) fn of(endpoint: &EndpointId) -> Self {
        let digest = Sha256::new()
            .chain_update(b"starling endpoint ")
            .chain_update(endpoint.node.as_str())
            .chain_update(b"/")
            .chain_update(endpoint.namespace.as_str())
            .chain_update(b"/")
            .chain_update(endpoint.instance.as_str())
            .finalize();
        Self(cut(&digest))
    }
}

/// The first bytes of a digest.
fn cut<const LEN: usize>(digest: &[u8]) -> [u8; LEN] {
    let mut kept = [0; LEN];
    kept.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    kept
}

/// What agents seal cookies with: who has it not can make none, whatever names it knows.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    /// Reads 64 hex digits, as `openssl rand -hex 32` writes them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.trim().to_ascii_lowercase();
        unhex::<32>(lower.as_bytes()).map(Self)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// Sessions as a rule, or a policy of a service, wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    cookie: String,
    absolute_timeout: Option<Duration>,
    lifetime: CookieLifetime,
    /// Hash of whose sessions these are: those of another rule are not known here.
    scope: [u8; 32],
}

/// Why a session begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Began {
    /// The request shows no cookie of this name.
    NoCookie,
    /// What it shows was not written by an agent for this rule.
    Foreign,
    /// It began longer ago than it may last.
    Expired,
    /// Its endpoint is not among those that the rule leads to, or may not be used now.
    Gone,
}

impl fmt::Display for Began {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCookie => "the request has no such cookie",
            Self::Foreign => "its cookie was not given by this rule",
            Self::Expired => "its session is over",
            Self::Gone => "its endpoint may not be used now",
        })
    }
}

/// What becomes of a request's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It goes where its session is.
    Yes,
    /// A session begins, and the answer sets the cookie.
    New {
        /// When.
        at: UnixSeconds,
        /// Why none is kept.
        why: Began,
    },
}

impl Session {
    /// Those of `owner`, which no two rules have in common: `HTTPRoute default/orders rule 2`.
    pub(crate) fn new(owner: &str, wanted: &SessionPersistence) -> Self {
        let scope: [u8; 32] = Sha256::new().chain_update(b"starling session of ").chain_update(owner).finalize().into();
        let derived = || format!("starling-{}", hex(&cut::<8>(&scope)));
        Self {
            cookie: wanted.session_name.clone().unwrap_or_else(derived),
            absolute_timeout: wanted.absolute_timeout,
            lifetime: wanted.lifetime,
            scope,
        }
    }

    /// The cookie's name.
    #[must_use]
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// How long a session lasts, used or not; `None`: as long as the client keeps its cookie.
    #[must_use]
    pub fn absolute_timeout(&self) -> Option<Duration> {
        self.absolute_timeout
    }

    /// When the client forgets the cookie.
    #[must_use]
    pub fn lifetime(&self) -> CookieLifetime {
        self.lifetime
    }

    /// The first session of the request that `leads` somewhere, or why there is none.
    pub(crate) fn find<T>(
        &self,
        headers: &HeaderMap,
        (now, key): (UnixSeconds, Option<&SessionKey>),
        mut leads: impl FnMut(Mark) -> Option<T>,
    ) -> Result<T, Began> {
        let mut why = Began::NoCookie;
        for value in cookies(headers, &self.cookie).take(SESSION_COOKIES_MAX) {
            let found = self.read(value, now, key).and_then(|mark| leads(mark).ok_or(Began::Gone));
            match found {
                Ok(found) => return Ok(found),
                // The nearest to a session is told.
                Err(not) => why = why.max(not),
            }
        }
        Err(why)
    }

    fn read(&self, value: &[u8], now: UnixSeconds, key: Option<&SessionKey>) -> Result<Mark, Began> {
        let token = unhex::<TOKEN_BYTES>(value).ok_or(Began::Foreign)?;
        let (layout, rest) = token.split_first().ok_or(Began::Foreign)?;
        let (began, rest) = rest.split_first_chunk::<BEGAN_BYTES>().ok_or(Began::Foreign)?;
        let (hidden, check) = rest.split_first_chunk::<MARK_BYTES>().ok_or(Began::Foreign)?;
        let mark = Mark(self.hidden(key, *began, *hidden));
        if *layout != LAYOUT || check != self.check(key, *began, mark) {
            return Err(Began::Foreign);
        }
        let began = began.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        if began > now.0.saturating_add(SESSION_AHEAD_MAX.as_secs()) {
            return Err(Began::Foreign);
        }
        let age = Duration::from_secs(now.0.saturating_sub(began));
        if self.absolute_timeout.is_some_and(|most| age >= most) {
            return Err(Began::Expired);
        }
        Ok(mark)
    }

    /// The header that makes a client come back to the endpoint of `mark`.
    pub(crate) fn set_cookie(&self, key: Option<&SessionKey>, mark: Mark, began: UnixSeconds) -> Option<HeaderValue> {
        let began = cut::<BEGAN_BYTES>(began.0.to_be_bytes().get(8 - BEGAN_BYTES..)?);
        let mut token = Vec::with_capacity(TOKEN_BYTES);
        token.push(LAYOUT);
        token.extend(began);
        token.extend(self.hidden(key, began, mark.0));
        token.extend(self.check(key, began, mark));
        // Not `Secure`: applications call the mesh by http://, and the mesh encrypts.
        let mut text = format!("{}={}; Path=/; HttpOnly", self.cookie, hex(&token));
        if let (CookieLifetime::Permanent, Some(most)) = (self.lifetime, self.absolute_timeout) {
            // A part of a second is none, and 0 would take the cookie away at once.
            text.push_str(&format!("; Max-Age={}", most.as_secs().max(1)));
        }
        HeaderValue::try_from(text).ok()
    }

    /// A mark covered, or uncovered: two cookies of one endpoint do not look alike.
    fn hidden(
        &self,
        key: Option<&SessionKey>,
        began: [u8; BEGAN_BYTES],
        mut mark: [u8; MARK_BYTES],
    ) -> [u8; MARK_BYTES] {
        let cover = self.digest((key, b"cover"), began, &[]);
        mark.iter_mut().zip(cover).for_each(|(byte, cover)| *byte ^= cover);
        mark
    }

    fn check(&self, key: Option<&SessionKey>, began: [u8; BEGAN_BYTES], mark: Mark) -> [u8; CHECK_BYTES] {
        cut(&self.digest((key, b"check"), began, &mark.0))
    }

    /// The key comes first and all else has one length for each purpose, and only a part of a digest is ever shown: what
    /// is shown cannot be lengthened to the digest of something else.
    fn digest(
        &self,
        (key, purpose): (Option<&SessionKey>, &[u8; 5]),
        began: [u8; BEGAN_BYTES],
        mark: &[u8],
    ) -> [u8; 32] {
        let all = match key {
            Some(SessionKey(key)) => Sha256::new().chain_update(key),
            None => Sha256::new(),
        };
        let all = all.chain_update(self.scope).chain_update(purpose).chain_update(began);
        all.chain_update(mark).finalize().into()
    }
}

/// Values of the cookies of this name, in the order of the request (RFC 6265, 4.2).
pub(crate) fn cookies<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
        Some(value.strip_prefix(b"=")?.trim_ascii_end())
    })
}

/// Lower-case digits, and exactly as many as `LEN` bytes have.
fn unhex<const LEN: usize>(text: &[u8]) -> Option<[u8; LEN]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; LEN];
    if text.len() != 2 * LEN {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = *pair else { return None };
        *byte = (digit(high)? << 4) | digit(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
