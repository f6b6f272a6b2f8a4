//! Binding what the agent listens on, and who may use the local API; every failure names setting, address and holder.

use std::path::Path;
use std::time::Duration;

use starling_config::{AgentConfig, Preset, TcpAccess};
use starling_model::codes;
use starling_proxy::{ListenAddress, ListenError, ProxyError, Purpose};
use starling_routing::SessionKey;
use starling_transport::quic::{GossipNet, KeepAlive, NetEvent, NetSettings, QuicKeys};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;

use super::AgentError;
use crate::api::guard::{Guard, TcpRule};
use crate::api::server::bind_socket;
use crate::crypto::wall_clock;
use crate::ports::{Transport, bind_error};
use crate::tasks::identity::{Identity, chain_of};
use crate::{files, lower};

/// The doors of the local API.
pub(super) struct Doors {
    pub(super) socket: UnixListener,
    pub(super) tcp: Option<TcpListener>,
}

pub(super) fn bind_gossip(
    config: &AgentConfig,
    identity: &Identity,
    age_max: Duration,
    events: mpsc::Sender<NetEvent>,
) -> Result<GossipNet, AgentError> {
    let keys = QuicKeys { reset: *identity.quic.reset, connection_ids: *identity.quic.connection_id };
    let listen = config.mesh.listen;
    let keep_alive = match config.mesh.preset {
        Preset::Lan | Preset::Fast => KeepAlive::ByProbes,
        Preset::Wan => KeepAlive::BetweenSites,
    };
    let settings = NetSettings { listen, keys, mesh: identity.node.mesh_id(), keep_alive, age_max };
    GossipNet::bind(settings, identity.current.clone(), wall_clock, events)
        .map_err(|failure| bind_error("mesh.listen", listen, Transport::Udp, &io_of(&failure)))
}

/// The system's word inside an error of ours.
fn io_of(error: &(dyn std::error::Error + 'static)) -> std::io::Error {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            return std::io::Error::new(io.kind(), io.to_string());
        }
        next = current.source();
    }
    std::io::Error::other(chain_of(error))
}

pub(super) async fn bind_api(config: &AgentConfig) -> Result<Doors, AgentError> {
    let path = &config.api.socket;
    let socket = bind_socket(path).await.map_err(|failure| AgentError {
        code: codes::PORT_TAKEN,
        what: format!("the API socket {} cannot be made", path.display()),
        cause: Some(failure.to_string()),
        help: "stop the other agent, or name another place: api.socket = \"PATH\" in agent.toml".to_owned(),
    })?;
    if config.api.tcp == TcpAccess::Off {
        return Ok(Doors { socket, tcp: None });
    }
    let listen = config.api.listen;
    match TcpListener::bind(listen).await {
        Ok(tcp) => Ok(Doors { socket, tcp: Some(tcp) }),
        Err(failure) => {
            let _ = std::fs::remove_file(path);
            Err(bind_error("api.listen", listen, Transport::Tcp, &failure))
        }
    }
}

pub(super) fn guard(config: &AgentConfig) -> Result<Guard, AgentError> {
    let hosts = lower::api_hosts(&config.api);
    let tcp = match (&config.api.tcp, &config.api.token_file) {
        (TcpAccess::Token, Some(path)) => TcpRule::Token(read_token(path)?),
        (TcpAccess::Off | TcpAccess::Read | TcpAccess::Token, _) => TcpRule::Read,
    };
    Ok(Guard { tcp, hosts })
}

/// The token's file may be read by its group; by nobody else.
fn read_token(path: &Path) -> Result<String, AgentError> {
    use std::os::unix::fs::MetadataExt as _;
    let unusable = |why: String| AgentError {
        code: codes::SECRET_UNSAFE,
        what: format!("api.token_file {} cannot be used", path.display()),
        cause: Some(why),
        help: format!("head -c 32 /dev/urandom | base64 > {0} && chmod 640 {0}", path.display()),
    };
    let metadata = std::fs::symlink_metadata(path).map_err(|failure| unusable(failure.to_string()))?;
    if metadata.mode() & 0o037 != 0 {
        return Err(unusable(format!("its mode is {:04o}: others can reach it", metadata.mode() & 0o7777)));
    }
    let text = files::read_public_text(path).map_err(|failure| unusable(chain_of(&failure)))?;
    let token = text.trim();
    if token.len() < 16 {
        return Err(unusable("it holds fewer than 16 characters".to_owned()));
    }
    Ok(token.to_owned())
}

/// The key that seals sessions.
pub(super) fn read_session_key(path: &Path) -> Result<SessionKey, AgentError> {
    let unusable = |why: String| AgentError {
        code: codes::SECRET_UNSAFE,
        what: format!("outbound.session_key_file {} cannot be used", path.display()),
        cause: Some(why),
        help: format!("once: openssl rand -hex 32 > {0} && chmod 600 {0}; the same file at all agents", path.display()),
    };
    let text = files::read_secret_text(path).map_err(|failure| unusable(chain_of(&failure)))?;
    SessionKey::parse(&text).ok_or_else(|| unusable("it does not hold 64 hex digits".to_owned()))
}

/// A data plane that does not start, with the setting that names the address.
pub(super) fn plane_error(failure: &ProxyError) -> AgentError {
    if let ProxyError::Listen(ListenError { purpose, address: ListenAddress::Tcp(address), source }) = failure {
        let setting = match purpose {
            Purpose::Peers => "mesh.listen",
            Purpose::HttpOutbound => "outbound.http",
            Purpose::Upstream => "upstream.listen",
            // Opened later, and told in another way.
            Purpose::Gateway => "gateway.listen",
        };
        return bind_error(setting, *address, Transport::Tcp, source);
    }
    AgentError {
        code: failure.code(),
        what: failure.to_string(),
        cause: std::error::Error::source(failure).map(chain_of),
        help: failure.code().help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_of_sessions_is_a_secret_of_sixty_four_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session.key");
        let check = |text: &str, mode: u32, want: Option<&str>| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match (read_session_key(&path), want) {
                (Ok(_), None) => {}
                (Ok(_), Some(want)) => panic!("{text:?} {mode:o} is taken, and not {want}"),
                (Err(refused), want) => {
                    assert_eq!(refused.code, codes::SECRET_UNSAFE);
                    let why = refused.cause.unwrap();
                    assert!(want.is_some_and(|want| why.contains(want)), "{text:?} {mode:o}: {why}");
                    assert!(!why.contains("abab"), "{why}");
                }
            }
        };
        let digits = "ab".repeat(32);
        check(&format!("{digits}\n"), 0o600, None);
        check(&digits, 0o644, Some("mode"));
        check(&digits[1..], 0o600, Some("64 hex digits"));
        check("", 0o600, Some("64 hex digits"));
        fs::remove_file(&path).unwrap();
        assert!(read_session_key(&path).is_err());
    }
}
