//! Our credentials: loading them at the start, and a new leaf key every 6 h.
//!
//! Secrets lie in `state/identity`, each in a file of its own; the public bundle in `trust`. With a shared issuer
//! (ST0604) the node makes its own identity from the issuer's key at its first start. Leaf keys exist in memory only.
//!
//! The task sleeps a minute at a time and asks the wall clock, so a suspended host re-keys when it wakes. It holds
//! nothing across its only `.await` and may be dropped there.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use starling_config::AgentConfig;
use starling_identity::issue::NODE_DAYS;
use starling_identity::{
    CurrentIdentity, IdentityInvalid, IssuingCa, LeafTimer, NodeIdentity, PeerRefused, TrustBundle, TrustView,
    UnixTime, new_record_key,
};
use starling_model::{Code, NodeName, codes, mesh};
use tracing::{debug, error, info, warn};
use zeroize::Zeroizing;

use super::own::OwnRecords;
use crate::crypto::wall_clock;
use crate::files::{self, FileError};
use crate::run::AgentError;

/// How often the wall clock is asked.
const TICK: Duration = Duration::from_secs(60);
/// Bytes of the reset key and of the connection-id key.
pub const QUIC_KEY_BYTES: usize = 64;
/// Warn when less than this share of a certificate's life is left, in percent.
const LIFE_LEFT_PERCENT_MIN: u64 = 20;

/// Everything about who we are.
#[derive(Debug)]
pub struct Identity {
    /// Signs our records, mints our leaves.
    pub node: Arc<NodeIdentity>,
    /// The leaf in use and the trust in use.
    pub current: CurrentIdentity,
    /// Keys of the QUIC endpoint: stateless reset, connection ids.
    pub quic: QuicSecrets,
    /// One leaf is made and shown at a time, so that none of an older chain comes after one of a newer.
    rekeying: Mutex<()>,
    leaf_since: AtomicU64,
    refreshed: AtomicU64,
    refresh_failed: AtomicU64,
}

/// Keys of the QUIC endpoint. They outlive a restart, so peers notice at once that the process behind an old
/// connection is gone.
pub struct QuicSecrets {
    /// Makes stateless reset tokens.
    pub reset: Zeroizing<[u8; QUIC_KEY_BYTES]>,
    /// Makes connection ids.
    pub connection_id: Zeroizing<[u8; QUIC_KEY_BYTES]>,
}

impl std::fmt::Debug for QuicSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuicSecrets")
    }
}

impl Identity {
    /// When the leaf in use was made.
    #[must_use]
    pub fn leaf_since(&self) -> UnixTime {
        UnixTime(self.leaf_since.load(Ordering::Relaxed))
    }

    /// Leaves made since the start, and attempts that failed.
    #[must_use]
    pub fn refreshes(&self) -> (u64, u64) {
        (self.refreshed.load(Ordering::Relaxed), self.refresh_failed.load(Ordering::Relaxed))
    }

    /// The bundle in use.
    #[must_use]
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(self.current.trust().bundle())
    }

    /// True when under 20 % of the issuing certificate's life is left (ST0603).
    #[must_use]
    pub fn is_ending(&self, now: UnixTime) -> bool {
        is_chain_ending(&self.node, now)
    }

    /// Puts what others may know about our credentials into our status record.
    pub fn publish(&self, own: &OwnRecords) {
        let bundle = self.bundle();
        own.change_status(|status| {
            status.bundle_sequence = bundle.sequence;
            status.shared_issuer = bundle.shared_issuer;
            status.certificate_not_after = self.node.certificate_not_after().0;
            status.leaf_not_after = self.current.leaf_not_after().0;
            status.root = self.node.root_short();
        });
    }

    /// Judges by this trust from now on, and shows the chain that its bundle wants shown; true when that is another one
    /// than before.
    pub fn believe(&self, trust: TrustView, own: &OwnRecords) -> bool {
        let now = wall_clock();
        let shows_another = self.node.show(&trust, now);
        self.current.swap_trust(trust);
        if shows_another {
            self.rekey(now);
        }
        self.publish(own);
        shows_another
    }

    /// True when the leaf that we show hangs from the chain that is to be shown.
    fn shows_its_chain(&self) -> bool {
        self.current.leaf_chain().get(1..).is_some_and(|shown| shown == self.node.issuers())
    }

    fn rekey(&self, now: UnixTime) -> bool {
        let _one = self.rekeying.lock().unwrap_or_else(PoisonError::into_inner);
        match self.node.mint_leaf(now) {
            Ok(leaf) => {
                self.current.swap_leaf(leaf);
                self.leaf_since.store(now.0, Ordering::Relaxed);
                self.refreshed.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(failure) => {
                self.refresh_failed.fetch_add(1, Ordering::Relaxed);
                let not_after = self.current.leaf_not_after();
                error!(error = %failure, %not_after, "no new leaf key; the one in use ends then");
                false
            }
        }
    }
}

fn is_ending(not_before: UnixTime, not_after: UnixTime, now: UnixTime) -> bool {
    let life = not_before.until(not_after).as_secs();
    let left = now.until(not_after).as_secs();
    left.saturating_mul(100) < life.saturating_mul(LIFE_LEFT_PERCENT_MIN)
}

/// How often a leaf is made.
#[derive(Clone, Copy, Debug)]
pub struct Rekeying {
    /// Time from one leaf to the next, before the spread.
    pub interval: Duration,
    /// From 0 to 1, another one at each node.
    pub spread: f64,
}

/// Keeps the leaf key young. Ends only with the agent.
pub async fn run(identity: Arc<Identity>, own: OwnRecords, rekeying: Rekeying) {
    let mut timer = LeafTimer::new(identity.leaf_since(), rekeying.interval, rekeying.spread);
    let tick = TICK.min(rekeying.interval / 10);
    loop {
        tokio::time::sleep(tick).await;
        let now = wall_clock();
        // A chain that ended while a renewed one is held, or a leaf that could not be made when trust changed.
        identity.node.show(&identity.current.trust(), now);
        if !timer.is_due(now) && identity.shows_its_chain() {
            continue;
        }
        if identity.rekey(now) {
            timer.made(now);
            identity.publish(&own);
            info!(not_after = %identity.current.leaf_not_after(), "leaf re-keyed");
        }
        if identity.is_ending(now) {
            let not_after = identity.node.certificate_not_after();
            warn!(%not_after, "under 20 % of the certificate's life is left ({})", codes::CERTIFICATE_ENDING);
        }
    }
}

/// Loads or, with a shared issuer, makes our identity.
///
/// # Errors
/// [`AgentError`] with the code of what is missing, foreign, expired or unsafe.
pub fn load(config: &AgentConfig) -> Result<Identity, AgentError> {
    let now = wall_clock();
    let installed = load_bundle(&config.trust)?;
    let folder = config.state.join("identity");
    crate::identity_folder::heal(&config.state).map_err(|error| unreadable(&error))?;
    files::make_dir(&config.state, 0o700).map_err(|error| unreadable(&error))?;
    files::make_dir(&folder, 0o700).map_err(|error| unreadable(&error))?;
    let record_key = load_or_create(&folder.join("record.key"), || Ok(new_record_key()))?;
    let quic = load_quic(&folder.join("quic.key"))?;
    let issuer = load_shared_issuer(config, &installed)?;
    // What was rotated stays rotated, from the first handshake on.
    let trust = super::gossip::trust_in_force(&config.state, &installed);
    let node = load_node(config, (&trust, &installed), &folder, &record_key, issuer.as_ref(), now)?;
    if *node.node() != config.node_name {
        return Err(AgentError {
            code: codes::IDENTITY_MISSING,
            what: format!(
                "the identity on this host is that of {:?}, but node_name is {:?}",
                node.node().as_str(),
                config.node_name.as_str()
            ),
            cause: None,
            help: format!(
                "set node_name = {:?}, or get an identity for this name: starling trust issue node {}, then starling join {}.join --replace",
                node.node().as_str(),
                config.node_name,
                config.node_name
            ),
        });
    }
    let leaf = node.mint_leaf(now).map_err(|failure| AgentError {
        code: codes::CERTIFICATE_EXPIRED,
        what: "no leaf certificate could be made from this node's identity".to_owned(),
        cause: Some(chain_of(&failure)),
        help: codes::CERTIFICATE_EXPIRED.help.to_owned(),
    })?;
    let current = CurrentIdentity::new(leaf, trust);
    let identity = Identity {
        node: Arc::new(node),
        current,
        quic,
        rekeying: Mutex::default(),
        leaf_since: AtomicU64::new(now.0),
        refreshed: AtomicU64::new(1),
        refresh_failed: AtomicU64::new(0),
    };
    debug!(spiffe_id = %starling_model::SpiffeId::node(identity.node.trust_domain(), identity.node.node()), "identity loaded");
    Ok(identity)
}

fn load_bundle(trust: &Path) -> Result<TrustBundle, AgentError> {
    let path = trust.join("bundle.trust");
    let bytes = files::read_public(&path).map_err(|error| {
        if error.is_missing() {
            AgentError {
                code: codes::IDENTITY_MISSING,
                what: format!("no trust bundle at {}", path.display()),
                cause: Some(chain_of(&error)),
                help: codes::IDENTITY_MISSING.help.to_owned(),
            }
        } else {
            unreadable(&error)
        }
    })?;
    TrustBundle::parse(&bytes).map_err(|invalid| AgentError {
        code: invalid.code(),
        what: format!("the trust bundle at {} cannot be used", path.display()),
        cause: Some(chain_of(&invalid)),
        help: invalid.code().help.to_owned(),
    })
}

/// The issuer's key, where the mesh shares it and it lies beside the bundle.
fn load_shared_issuer(config: &AgentConfig, bundle: &TrustBundle) -> Result<Option<IssuingCa>, AgentError> {
    let path = config.trust.join("issuer.key");
    if !bundle.shared_issuer {
        return Ok(None);
    }
    let key = match files::read_secret_text(&path) {
        Ok(key) => key,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    };
    IssuingCa::load(bundle, &key).map(Some).map_err(|failure| AgentError {
        code: codes::BUNDLE_INVALID,
        what: format!("the shared issuer's key at {} cannot be used", path.display()),
        cause: Some(chain_of(&failure)),
        help: "copy the whole trust folder from the operator again: bundle.trust and issuer.key belong together"
            .to_owned(),
    })
}

fn load_node(
    config: &AgentConfig,
    (trust, bundle): (&TrustView, &TrustBundle),
    folder: &Path,
    record_key: &[u8],
    issuer: Option<&IssuingCa>,
    now: UnixTime,
) -> Result<NodeIdentity, AgentError> {
    let (chain_path, key_path) = (folder.join("chain.pem"), folder.join("issuing.key"));
    let read = || -> Result<NodeIdentity, LoadFailure> {
        let chain = files::read_public_text(&chain_path)?;
        let key = files::read_secret_text(&key_path)?;
        match NodeIdentity::load_renewed(trust, &chain, &key, record_key, now) {
            // Trust went on without a certificate for us. With the old one we are refused, and ask for what we missed.
            Err(IdentityInvalid::Refused(PeerRefused::NotChained)) if trust.bundle().hash() != bundle.hash() => {
                warn!(sequence = trust.bundle().sequence, "no certificate of this node leads to a root in force");
                Ok(NodeIdentity::load(bundle, &chain, &key, record_key, now)?)
            }
            loaded => Ok(loaded?),
        }
    };
    let found = read();
    let Some(issuer) = issuer else { return found.map_err(|failure| failure.explain(&chain_path, bundle)) };
    let reason = match &found {
        Ok(node) if *node.node() != config.node_name => "it is of another name",
        Ok(node) if is_chain_ending(node, now) => "under 20 % of its life is left",
        Ok(_) => return found.map_err(|failure| failure.explain(&chain_path, bundle)),
        Err(LoadFailure::File(error)) if error.is_missing() => "there is none",
        // An unsafe file is for a person to judge; it is never replaced silently.
        Err(LoadFailure::File(_)) => return found.map_err(|failure| failure.explain(&chain_path, bundle)),
        Err(LoadFailure::Invalid(_)) => "it cannot be used with this bundle",
    };
    derive(issuer, &config.node_name, (&chain_path, &key_path), now)?;
    info!(reason, "identity made from the shared issuer ({})", codes::SHARED_ISSUER);
    read().map_err(|failure| failure.explain(&chain_path, bundle))
}

/// True when under 20 % of the life of the issuing certificate is left (ST0603).
#[must_use]
pub fn is_chain_ending(node: &NodeIdentity, now: UnixTime) -> bool {
    let rows = starling_identity::inspect::describe_chain(&node.issuers());
    let own = rows.iter().find(|row| row.what == "node CA");
    own.is_some_and(|row| is_ending(row.not_before, row.not_after, now))
}

fn derive(issuer: &IssuingCa, name: &NodeName, (chain, key): (&Path, &Path), now: UnixTime) -> Result<(), AgentError> {
    let issued = issuer.issue_node(name, NODE_DAYS, now).map_err(|failure| AgentError {
        code: codes::CERTIFICATE_EXPIRED,
        what: "no identity could be made from the shared issuer".to_owned(),
        cause: Some(chain_of(&failure)),
        help: "make a new trust domain (starling trust init --shared-issuer) if the issuer's own certificate has ended"
            .to_owned(),
    })?;
    // The key first: a chain without its key would be refused at the next start, a key without chain is replaced.
    files::replace_secret(key, issued.issuing_key_pem.as_bytes()).map_err(|error| unreadable(&error))?;
    files::replace(chain, issued.chain_pem.as_bytes(), 0o644).map_err(|error| unreadable(&error))
}

enum LoadFailure {
    File(FileError),
    Invalid(IdentityInvalid),
}

impl From<FileError> for LoadFailure {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<IdentityInvalid> for LoadFailure {
    fn from(error: IdentityInvalid) -> Self {
        Self::Invalid(error)
    }
}

impl LoadFailure {
    fn explain(self, chain: &Path, bundle: &TrustBundle) -> AgentError {
        match self {
            Self::File(error) if error.is_missing() => AgentError {
                code: codes::IDENTITY_MISSING,
                what: "no identity on this host".to_owned(),
                cause: Some(chain_of(&error)),
                help: codes::IDENTITY_MISSING.help.to_owned(),
            },
            Self::File(error) => unreadable(&error),
            Self::Invalid(invalid) => {
                let code: Code = invalid.code();
                let what = if code == codes::OTHER_MESH {
                    let head: String = mesh::hex(&bundle.mesh_id.0).chars().take(8).collect();
                    format!(
                        "the identity at {} is from another mesh than the trust bundle (trust domain {:?}, mesh {head})",
                        chain.display(),
                        bundle.trust_domain.as_str(),
                    )
                } else {
                    format!("the identity at {} cannot be used", chain.display())
                };
                AgentError { code, what, cause: Some(chain_of(&invalid)), help: code.help.to_owned() }
            }
        }
    }
}

fn load_or_create(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, AgentError>,
) -> Result<Zeroizing<Vec<u8>>, AgentError> {
    match files::read_secret(path) {
        Ok(found) => Ok(found),
        Err(error) if error.is_missing() => {
            let made = make()?;
            files::create_secret(path, &made).map_err(|error| unreadable(&error))?;
            Ok(made)
        }
        Err(error) => Err(unreadable(&error)),
    }
}

fn load_quic(path: &Path) -> Result<QuicSecrets, AgentError> {
    let fresh = || {
        let mut bytes = Zeroizing::new(vec![0_u8; 2 * QUIC_KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| AgentError {
            code: codes::IDENTITY_MISSING,
            what: "the system gives no random bytes".to_owned(),
            cause: None,
            help: "look at the host's kernel log".to_owned(),
        })?;
        Ok(bytes)
    };
    let mut bytes = load_or_create(path, fresh)?;
    if bytes.len() != 2 * QUIC_KEY_BYTES {
        // Damaged; nothing but quick detection of restarts depends on it.
        bytes = fresh()?;
        files::replace_secret(path, &bytes).map_err(|error| unreadable(&error))?;
    }
    let (reset, connection_id) = bytes.split_at(QUIC_KEY_BYTES);
    let fixed = |half: &[u8]| {
        let mut key = Zeroizing::new([0_u8; QUIC_KEY_BYTES]);
        key.copy_from_slice(half);
        key
    };
    Ok(QuicSecrets { reset: fixed(reset), connection_id: fixed(connection_id) })
}

fn unreadable(error: &FileError) -> AgentError {
    let (code, help) = match error {
        FileError::Unsafe { help, .. } => (codes::SECRET_UNSAFE, help.clone()),
        FileError::Io { .. } | FileError::TooLarge { .. } | FileError::NotText { .. } => (
            codes::IDENTITY_MISSING,
            "let the agent's user read and write this place, or name another with --state-dir".to_owned(),
        ),
    };
    let text = error.to_string();
    let what = text.strip_prefix(&format!("{code}: ")).map_or(text.clone(), str::to_owned);
    let cause = std::error::Error::source(error).map(ToString::to_string);
    AgentError { code, what, cause, help }
}

/// An error with its causes, joined by colons.
#[must_use]
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
