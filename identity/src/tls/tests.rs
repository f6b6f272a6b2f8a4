//! Handshakes in memory, both directions: who is let in, who is not, and what is negotiated.

use rustls::{ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};

use super::*;
use crate::fixtures::{Forge, Mesh, NOW, clock, name};
use crate::time::DAY_SECONDS;

fn identity(mesh: &Mesh, node: &str) -> CurrentIdentity {
    CurrentIdentity::new(mesh.node(node).mint_leaf(NOW).unwrap(), mesh.trust.clone())
}

/// A finished or failed handshake, and what either side said.
struct Met {
    client: ClientConnection,
    server: ServerConnection,
    client_said: Result<(), rustls::Error>,
    server_said: Result<(), rustls::Error>,
}

impl Met {
    fn both_agreed(&self) -> bool {
        let done = !self.client.is_handshaking() && !self.server.is_handshaking();
        done && self.client_said.is_ok() && self.server_said.is_ok()
    }

    fn reason_of(result: &Result<(), rustls::Error>) -> Option<&'static str> {
        result.as_ref().err().and_then(refusal_of).map(PeerRefused::reason)
    }
}

/// Carries bytes between both until neither has more to say.
fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Met {
    const FLIGHTS_MAX: usize = 10;
    let mut met = Met {
        client: ClientConnection::new(client, server_name()).unwrap(),
        server: ServerConnection::new(server).unwrap(),
        client_said: Ok(()),
        server_said: Ok(()),
    };
    for _ in 0..FLIGHTS_MAX {
        let mut flight = Vec::new();
        while met.client.wants_write() {
            met.client.write_tls(&mut flight).unwrap();
        }
        let mut rest = flight.as_slice();
        while !rest.is_empty() {
            met.server.read_tls(&mut rest).unwrap();
            let said = met.server.process_new_packets().map(|_| ());
            met.server_said = met.server_said.and(said);
        }
        let mut flight = Vec::new();
        while met.server.wants_write() {
            met.server.write_tls(&mut flight).unwrap();
        }
        let mut rest = flight.as_slice();
        while !rest.is_empty() {
            met.client.read_tls(&mut rest).unwrap();
            let said = met.client.process_new_packets().map(|_| ());
            met.client_said = met.client_said.and(said);
        }
    }
    met
}

fn data(client: &CurrentIdentity, expected: &str, server: &CurrentIdentity) -> Met {
    meet(data_client(client, name(expected), clock), data_server(server, clock))
}

fn gossip(client: &CurrentIdentity, expected: Option<&str>, server: &CurrentIdentity) -> Met {
    meet(gossip_client(client, expected.map(name), clock), gossip_server(server, clock))
}

#[test]
fn two_nodes_of_one_mesh_meet() {
    let mesh = Mesh::new("prod.internal");
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    for (met, alpn) in [
        (data(&web, "db-1", &db), ALPN_MUX),
        (gossip(&web, Some("db-1"), &db), ALPN_GOSSIP),
        (gossip(&web, None, &db), ALPN_GOSSIP),
    ] {
        assert!(met.both_agreed(), "{:?} {:?}", met.client_said, met.server_said);
        assert_eq!(met.client.alpn_protocol(), Some(alpn));
        assert_eq!(met.server.alpn_protocol(), Some(alpn));
        assert_eq!(met.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = met.client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(met.server.negotiated_key_exchange_group().unwrap().name(), group);
        assert_eq!(met.client.handshake_kind(), Some(HandshakeKind::Full), "no retry for the hybrid group");
        assert_eq!(met.server.server_name(), None, "no server name is sent");
        let dialled = peer_of(met.client.peer_certificates().unwrap(), &web, clock).unwrap();
        let accepted = peer_of(met.server.peer_certificates().unwrap(), &db, clock).unwrap();
        assert_eq!((dialled.node, accepted.node), (name("db-1"), name("web-1")));
    }
}

#[test]
fn no_session_is_ever_resumed() {
    let mesh = Mesh::new("prod.internal");
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    let (client, server) = (data_client(&web, name("db-1"), clock), data_server(&db, clock));
    for _ in 0..3 {
        let mut met = meet(Arc::clone(&client), Arc::clone(&server));
        assert!(met.both_agreed());
        assert_eq!(met.server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(met.client.tls13_tickets_received(), 0);
        assert!(met.client.early_data().is_none());
    }
}

#[test]
fn a_dialler_meets_the_node_it_dialled_or_none() {
    let mesh = Mesh::new("prod.internal");
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    for met in [data(&web, "db-2", &db), gossip(&web, Some("db-2"), &db)] {
        assert_eq!(Met::reason_of(&met.client_said), Some("unexpected-peer"));
        assert!(!met.both_agreed());
        assert!(met.server.peer_certificates().is_none(), "nothing of ours was shown to the wrong node");
    }
    let refusals = web.refusals();
    assert!(refusals.contains(&("unexpected-peer", 2)), "{refusals:?}");
    assert_eq!(refusals.iter().map(|(_, count)| count).sum::<u64>(), 2);
}

#[test]
fn foreign_meshes_do_not_meet_in_either_direction() {
    let mesh = Mesh::new("prod.internal");
    let (twin, test) = (Mesh::new("prod.internal"), Mesh::new("test.internal"));
    let ours = identity(&mesh, "web-1");
    for (other, reason) in [(&twin, "not-chained"), (&test, "other-mesh")] {
        let foreign = identity(other, "web-1");
        let dialled = data(&ours, "web-1", &foreign);
        assert_eq!(Met::reason_of(&dialled.client_said), Some(reason));
        assert!(!dialled.both_agreed());
        // A dialler that would believe us, so that only our server stands in its way.
        let credulous = CurrentIdentity::new(other.node("web-2").mint_leaf(NOW).unwrap(), mesh.trust.clone());
        let accepted = data(&credulous, "web-1", &ours);
        assert_eq!(Met::reason_of(&accepted.server_said), Some(reason));
        assert!(accepted.client_said.is_err(), "the client is told, by an alert that names no reason");
        assert!(Met::reason_of(&accepted.client_said).is_none());
    }
    let refusals = ours.refusals();
    assert!(refusals.contains(&("not-chained", 2)) && refusals.contains(&("other-mesh", 2)), "{refusals:?}");
}

/// Of traffic in the handshake; of gossip by who looks at the protocol, because questions about trust come on the same
/// port.
#[test]
fn a_client_without_certificate_is_turned_away_or_proves_nothing() {
    let mesh = Mesh::new("prod.internal");
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    let bare = |alpn: &[u8]| {
        let verifier = PeerVerifier { current: web.clone(), expected: None, clients: Clients::Proven };
        let mut config = ClientConfig::builder_with_details(provider(), Arc::new(FromClock(clock)))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    };
    let met = meet(bare(ALPN_MUX), data_server(&db, clock));
    assert_eq!(met.server_said, Err(rustls::Error::NoCertificatesPresented));
    assert!(met.server.is_handshaking());
    let met = meet(bare(ALPN_GOSSIP), gossip_server(&db, clock));
    assert_eq!((&met.server_said, met.server.alpn_protocol()), (&Ok(()), Some(ALPN_GOSSIP)));
    assert!(met.server.peer_certificates().is_none());
    assert_eq!(peer_of(&[], &db, clock).unwrap_err().reason(), "chain-size");
}

/// It is asked by who is refused everywhere, and of who cannot be believed otherwise.
#[test]
fn questions_about_trust_need_no_certificate_and_believe_none() {
    let (ours, theirs) = (Mesh::new("prod.internal"), Mesh::new("other.internal"));
    for server in [identity(&ours, "db-1"), identity(&theirs, "db-1")] {
        let met = meet(trust_client(clock), gossip_server(&server, clock));
        assert_eq!((met.server_said, met.client_said), (Ok(()), Ok(())));
        assert_eq!(met.server.alpn_protocol(), Some(ALPN_TRUST));
        assert!(met.server.peer_certificates().is_none());
    }
    let met = meet(trust_client(clock), data_server(&identity(&ours, "db-1"), clock));
    assert!(met.server_said.is_err(), "traffic has its own port and knows no such protocol");
    assert_eq!(own_name(&identity(&ours, "db-1")), Some(name("db-1")));
}

/// The server prefers what its client asked for first; one of an older release, which knows one protocol, takes that.
#[test]
fn a_dedicated_stream_is_agreed_upon_where_both_know_it() {
    let mesh = Mesh::new("prod.internal");
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    let met = meet(dedicated_client(&web, name("db-1"), clock), data_server(&db, clock));
    assert_eq!(met.server.alpn_protocol(), Some(ALPN_DATA));
    let met = meet(data_client(&web, name("db-1"), clock), data_server(&db, clock));
    assert_eq!(met.server.alpn_protocol(), Some(ALPN_MUX));
    let older = server(&db, clock, &[ALPN_MUX], Clients::Proven);
    let met = meet(dedicated_client(&web, name("db-1"), clock), older);
    assert_eq!(met.server.alpn_protocol(), Some(ALPN_MUX));
}

#[test]
fn a_client_must_offer_the_servers_protocol() {
    let mesh = Mesh::new("prod.internal");
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    for offered in [&[][..], &[ALPN_GOSSIP], &[ALPN_TRUST, b"h2"]] {
        let mut config = ClientConfig::clone(&data_client(&web, name("db-1"), clock));
        config.alpn_protocols = offered.iter().map(|alpn| alpn.to_vec()).collect();
        let met = meet(Arc::new(config), data_server(&db, clock));
        assert!(met.server_said.is_err() && met.client_said.is_err(), "{offered:?}");
    }
}

#[test]
fn expired_leaves_and_wrong_clocks_do_not_meet() {
    fn in_two_days() -> UnixTime {
        NOW.plus(2 * DAY_SECONDS)
    }
    fn three_days_ago() -> UnixTime {
        NOW.minus(3 * DAY_SECONDS)
    }
    let mesh = Mesh::new("prod.internal");
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    let late = meet(data_client(&web, name("db-1"), in_two_days), data_server(&db, clock));
    assert_eq!(Met::reason_of(&late.client_said), Some("leaf-expired"));
    let early = meet(data_client(&web, name("db-1"), clock), data_server(&db, three_days_ago));
    assert_eq!(Met::reason_of(&early.server_said), Some("not-yet-valid"));
}

#[test]
fn a_stolen_chain_is_no_identity() {
    let mesh = Mesh::new("prod.internal");
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    // The chain of db-1 in the hands of somebody with another key.
    let mut thief = mesh.node("evil-1").mint_leaf(NOW).unwrap();
    thief.certified = Arc::new(CertifiedKey::new(db.leaf_chain(), Arc::clone(&thief.certified.key)));
    let thief = CurrentIdentity::new(thief, mesh.trust);
    let met = data(&web, "db-1", &thief);
    assert!(!met.both_agreed());
    assert!(met.client_said.is_err(), "the handshake signature does not fit");
    let met = data(&thief, "web-1", &web);
    assert!(met.server_said.is_err());
}

#[test]
fn a_forged_leaf_for_another_node_does_not_get_in() {
    let mesh = Mesh::new("prod.internal");
    let db = identity(&mesh, "db-1");
    let mut forge = Forge::new(&mesh);
    forge.leaf.subject_alt_names = vec![crate::fixtures::uri("spiffe://prod.internal/node/admin-1")];
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = vec![forge.leaf_cert_for(&key), forge.node_cert(), forge.issuer_cert()];
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut leaf = mesh.node("web-1").mint_leaf(NOW).unwrap();
    leaf.certified = Arc::new(CertifiedKey::new(chain, aws_lc_rs::sign::any_ecdsa_type(&private).unwrap()));
    let met = data(&CurrentIdentity::new(leaf, mesh.trust), "db-1", &db);
    assert_eq!(Met::reason_of(&met.server_said), Some("san-count"));
}

#[test]
fn a_swapped_leaf_and_a_swapped_trust_are_in_use_at_the_next_handshake() {
    let (mesh, twin) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    let (web, db) = (identity(&mesh, "web-1"), identity(&mesh, "db-1"));
    let (client, server) = (data_client(&web, name("db-1"), clock), data_server(&db, clock));
    let shown = || {
        let met = meet(Arc::clone(&client), Arc::clone(&server));
        met.both_agreed().then(|| met.client.peer_certificates().unwrap()[0].to_vec())
    };
    let first = shown().unwrap();
    assert_eq!(first, db.leaf_chain()[0].to_vec());
    db.swap_leaf(mesh.node("db-1").mint_leaf(NOW).unwrap());
    let second = shown().unwrap();
    assert_ne!(first, second);
    assert_eq!(second, db.leaf_chain()[0].to_vec());
    web.swap_trust(twin.trust);
    assert_eq!(shown(), None, "a trust without our root refuses the next handshake");
    web.swap_trust(mesh.trust);
    assert_eq!(shown(), Some(second));
}

#[test]
fn no_debug_output_holds_a_key() {
    let mesh = Mesh::new("prod.internal");
    let leaf = mesh.node("web-1").mint_leaf(NOW).unwrap();
    let der = leaf.key.secret_der().to_vec();
    let web = CurrentIdentity::new(leaf, mesh.trust);
    let server = data_server(&web, clock);
    let output = format!("{web:?} {server:?} {:?}", gossip_client(&web, None, clock));
    let numbers = format!("{}, {}, {}, {}", der[36], der[37], der[38], der[39]);
    assert!(!output.contains(&numbers));
}
