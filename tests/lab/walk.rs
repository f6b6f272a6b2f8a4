//! The life of a mesh, walked through by commands as an operator types them: made, joined, attacked with the stolen files of a
//! node, cleaned by a revocation, rotated under load, handed to another operator.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::agent::{Host, Mesh, eventually, starling_in, starling_ok, start_all};
use crate::apply::Desk;
use crate::http::{Backend, get};
use crate::operators::ROUTE;
use crate::steady::Steady;

/// web is vm-2's to serve.
const GRANT: &str = "apiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {name: web-hosts}\n\
spec: {nodes: [{node: vm-2}], services: [{service: web}]}\n";

/// Runs a command in the operator's folder by way of a host: exit code and all that was said.
pub(crate) fn op(mesh: &Mesh, host: &Host, args: &[&str]) -> (i32, String) {
    let config = host.config.display().to_string();
    let output = starling_in(&mesh.path("op"), &[args, &["--config-dir", &config]].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
}

fn op_ok(mesh: &Mesh, host: &Host, args: &[&str]) -> String {
    let (exit, told) = op(mesh, host, args);
    assert_eq!(exit, 0, "{args:?}: {told}");
    print!("walk: {told}");
    told
}

/// Peers refused at this host for one reason, since its start.
fn refused(host: &Host, reason: &str) -> u64 {
    let address = host.at(7741);
    let text = get(address, &address.to_string(), "/metrics").expect("metrics").body;
    let name = format!("starling_identity_peers_refused_total{{reason=\"{reason}\"}}");
    let line = text.lines().find(|line| line.starts_with(&name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("every reason is listed")
}

/// What a thief has: the private key and the chain of a node, which is all there is on its disk.
struct Thief {
    key: KeyPair,
    chain: Vec<CertificateDer<'static>>,
}

impl Thief {
    /// Copies the files of a host.
    fn of(host: &Host) -> Self {
        let read = |name: &str| fs::read_to_string(host.config.join("state/identity").join(name)).expect("a file");
        let chain = CertificateDer::pem_slice_iter(read("chain.pem").as_bytes()).map(|der| der.expect("PEM")).collect();
        Self { key: KeyPair::from_pem(&read("issuing.key")).expect("a key"), chain }
    }

    /// A leaf with these names by the stolen key, with the stolen chain above it.
    fn leaf(&self, names: &[SanType]) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_ca_cert_der(&self.chain[0], &self.key).expect("the node's CA");
        let leaf = leaf(names).signed_by(&key, &issuer).expect("a leaf");
        (std::iter::once(leaf.der().clone()).chain(self.chain.iter().cloned()).collect(), key)
    }

    /// The same under a node CA for `node` that the thief made itself: by the stolen key where that is asked for.
    fn own_ca(&self, node: &str, by_stolen_key: ByStolenKey) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let (ca_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "starling node of a thief");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        let permitted = vec![GeneralSubtree::DnsName(format!("{node}.node.lab.internal"))];
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: Vec::new() });
        let (ca, above) = match by_stolen_key {
            ByStolenKey::Yes => {
                let issuer = Issuer::from_ca_cert_der(&self.chain[0], &self.key).expect("the node's CA");
                (params.signed_by(&ca_key, &issuer).expect("a CA"), self.chain[0].clone())
            }
            ByStolenKey::No => (params.self_signed(&ca_key).expect("a CA"), self.chain[1].clone()),
        };
        let leaf = leaf(&names(node, node)).signed_by(&key, &Issuer::from_params(&params, &ca_key)).expect("a leaf");
        (vec![leaf.der().clone(), ca.der().clone(), above], key)
    }
}

#[derive(Clone, Copy)]
enum ByStolenKey {
    Yes,
    No,
}

/// The names of a node's leaf: the SPIFFE id of one, the DNS name of another.
fn names(uri_of: &str, dns_of: &str) -> Vec<SanType> {
    vec![uri(uri_of), SanType::DnsName(ia5(&format!("{dns_of}.node.lab.internal")))]
}

fn uri(node: &str) -> SanType {
    SanType::URI(ia5(&format!("spiffe://lab.internal/node/{node}")))
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).expect("ASCII")
}

fn leaf(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = names.to_vec();
    params.use_authority_key_identifier_extension = true;
    params
}

/// Takes every server for the right one: the thief does not care.
#[derive(Debug)]
struct Careless(Arc<CryptoProvider>);

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Shakes hands with a host's traffic port: `Ok` when it lets us in, else what it says.
fn knock(host: &Host, (chain, key): (Vec<CertificateDer<'static>>, KeyPair)) -> Result<(), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless(provider)))
        .with_client_auth_cert(chain, key)
        .expect("a key that belongs to it");
    config.alpn_protocols = vec![b"starling-mux/1".to_vec()];
    let name = ServerName::try_from("starling.invalid").expect("a name");
    let socket = TcpStream::connect(host.at(7740)).expect("the port is open");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a socket");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
    let mut stream = StreamOwned::new(connection, socket);
    // A server that lets us in waits for our first frame; one that does not says so at once.
    match stream.read(&mut [0; 1]) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Ok(()),
    }
}

#[test]
fn a_mesh_is_made_attacked_cleaned_rotated_and_handed_on() {
    // Made: one command for the trust domain, one for three nodes, one on each host.
    let mesh = Mesh::new(165);
    let folder = mesh.path("op");
    starling_ok(&folder, &["trust", "issue", "node", "vm-1", "vm-2", "vm-3"]);
    let mut hosts = [1, 2, 3].map(|n| mesh.bare_host(n, "fast", ""));
    let join = |host: &Host, flags: &[&str]| {
        let file = folder.join(format!("{}.join", host.name())).display().to_string();
        let config = host.config.display().to_string();
        starling_ok(&folder, &[&["join", &file, "--config-dir", &config, "--no-start"], flags].concat());
    };
    hosts.iter().for_each(|host| join(host, &[]));
    start_all(&mesh, &mut hosts);
    let backend = Backend::start("127.165.0.2:0", "web");
    hosts[1].announce("web-1", "web", "http", backend.address, "");
    eventually("traffic flows", Duration::from_secs(10), || {
        hosts[0].request("web", "/").ok().filter(|answer| answer.status == 200)
    });

    // Attacked: the files of vm-3 are copied. They speak as vm-3, and as nobody else.
    let thief = Thief::of(&hosts[2]);
    assert_eq!(knock(&hosts[0], thief.leaf(&names("vm-3", "vm-3"))), Ok(()), "its own name is what was stolen");
    for (what, forged, reason) in [
        ("vm-2's names by vm-3's key", thief.leaf(&names("vm-2", "vm-2")), "path-shape"),
        ("vm-2's SPIFFE id with vm-3's DNS name", thief.leaf(&names("vm-2", "vm-3")), "unbound-name"),
        ("vm-2's SPIFFE id and no DNS name", thief.leaf(&[uri("vm-2")]), "san-count"),
        ("both SPIFFE ids", thief.leaf(&[&names("vm-3", "vm-3")[..], &[uri("vm-2")]].concat()), "san-count"),
        (
            "a service of vm-3's own choice",
            thief.leaf(&[uri("vm-3/ns/default/svc/web"), names("vm-3", "vm-3").remove(1)]),
            "not-spiffe",
        ),
        ("a CA for vm-2 by vm-3's key", thief.own_ca("vm-2", ByStolenKey::Yes), "path-shape"),
        ("a CA for vm-2 by nobody's key", thief.own_ca("vm-2", ByStolenKey::No), "not-chained"),
    ] {
        let before = refused(&hosts[0], reason);
        let alert = knock(&hosts[0], forged).expect_err(what);
        eventually(&format!("{what}: counted as {reason} (the thief saw {alert:?})"), Duration::from_secs(5), || {
            (refused(&hosts[0], reason) == before + 1).then_some(())
        });
        println!("walk: {what}: refused as {reason}; the thief saw {alert:?}");
    }
    let log = hosts[0].log();
    assert!(
        log.contains("peer refused") && log.contains("ST0621") && log.contains("ST0623"),
        "reasons stand in the log"
    );
    // Nor does vm-3 serve what is granted to another: root on it announces web, and gets none of its requests.
    let (alice, bob) = (Desk::of(&mesh, "alice"), Desk::of(&mesh, "bob"));
    alice.write("grant.yaml", GRANT);
    let (exit, out, told) = alice.signed(&hosts[0], &["apply", "-f", "grant.yaml", "--wait"]);
    assert_eq!(exit, 0, "{out}{told}");
    let stolen = Backend::start("127.165.0.3:0", "stolen");
    hosts[2].announce("web-9", "web", "http", stolen.address, "");
    eventually("vm-3's instance is shown as ungranted", Duration::from_secs(10), || {
        let told = hosts[0].api("/v1/services/default/web")?;
        let is_refused = |one: &serde_json::Value| one["node"] == "vm-3" && one["health"] == "ungranted";
        told["endpoints"].as_array()?.iter().any(is_refused).then_some(())
    });
    for _ in 0..50 {
        assert_eq!(hosts[0].request("web", "/").expect("an answer").status, 200);
    }
    assert_eq!(stolen.served.load(std::sync::atomic::Ordering::Relaxed), 0, "nothing reached it");
    println!("walk: vm-3 announced web, which is granted to vm-2: ungranted (ST0612), 0 of 50 requests");
    fs::remove_file(hosts[2].config.join("services.d/web-9.toml")).unwrap();
    // A second agent with the stolen files is noticed: one of the two stays out, and says so.
    let mut clone = mesh.bare_host(4, "fast", "");
    for part in ["trust", "state/identity"] {
        fs::create_dir_all(clone.config.join(part)).unwrap();
        for entry in fs::read_dir(hosts[2].config.join(part)).unwrap().flatten() {
            fs::copy(entry.path(), clone.config.join(part).join(entry.file_name())).unwrap();
        }
    }
    let settings = clone.config.join("agent.toml");
    let text = fs::read_to_string(&settings).unwrap().replace("node_name = \"vm-4\"", "node_name = \"vm-3\"");
    fs::write(&settings, text).unwrap();
    clone.start(Some(mesh.address(1, 7740)));
    let is_out = |host: &Host| {
        let status = host.api("/v1/status").unwrap_or_default();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        problems.iter().any(|problem| problem["code"] == "ST0203")
    };
    eventually("one of two agents of one name stays out", Duration::from_secs(20), || {
        (is_out(&clone) || is_out(&hosts[2])).then_some(())
    });
    clone.kill();

    // Cleaned: one signed revocation, in force everywhere; the stolen key opens nothing any more.
    let told = op_ok(&mesh, &hosts[0], &["trust", "revoke", "node", "vm-3", "--reason", "compromised", "--wait"]);
    assert!(told.contains("in use on 2/2") || told.contains("in use on 3/3"), "{told}");
    for host in &hosts[..2] {
        let before = refused(host, "revoked");
        assert!(knock(host, thief.leaf(&names("vm-3", "vm-3"))).is_err());
        eventually("counted", Duration::from_secs(5), || (refused(host, "revoked") > before).then_some(()));
    }
    eventually("vm-3 is out", Duration::from_secs(20), || {
        hosts[..2].iter().all(|host| host.members("alive").len() == 2).then_some(())
    });
    let (exit, told) = op(&mesh, &hosts[0], &["trust", "sign", "--renew", "vm-3"]);
    assert!(exit == 5 && told.contains("ST0624"), "nothing is renewed for who is out: {told}");
    hosts[2].kill();
    // Its host comes back with a new key; the old one stays shut out.
    starling_ok(&folder, &["trust", "issue", "node", "vm-3", "--replace"]);
    op_ok(&mesh, &hosts[0], &["trust", "revoke", "node", "vm-3", "--keep-newest", "--reason", "new key", "--wait"]);
    join(&hosts[2], &["--replace"]);
    hosts[2].start(Some(mesh.address(1, 7740)));
    eventually("vm-3 is back", Duration::from_secs(30), || hosts.iter().all(|host| host.sees_alive(3)).then_some(()));
    assert!(knock(&hosts[0], thief.leaf(&names("vm-3", "vm-3"))).is_err(), "the stolen key is out for ever");

    // Rotated, under load, without an error.
    let load = Steady::start(hosts[0].at(7780), "web.mesh.internal", 2_000, u64::MAX);
    let root = |host: &Host, name: &str| {
        let list = host.api("/v1/members")?;
        let found = list["items"].as_array()?.iter().find(|one| one["name"] == name)?.clone();
        found["certificate"]["root"].as_str().map(str::to_owned)
    };
    let old = root(&hosts[0], "vm-2").expect("its root is known");
    op_ok(&mesh, &hosts[0], &["trust", "rotate", "--begin", "--wait"]);
    let step = |flag: &str| {
        eventually(flag, Duration::from_secs(20), || {
            let (exit, told) = op(&mesh, &hosts[1], &["trust", "rotate", flag, "--wait"]);
            if exit == 0 {
                print!("walk: {told}")
            }
            (exit == 0).then_some(())
        });
    };
    step("--switch");
    step("--finish");
    eventually("all show the new root", Duration::from_secs(20), || {
        let new = |host: &Host, name: &str| root(host, name).is_some_and(|root| root != old);
        hosts.iter().all(|host| ["vm-1", "vm-2", "vm-3"].iter().all(|name| new(host, name))).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    let seen = load.finish();
    println!("walk: while the root was rotated: {}", seen.line());
    assert!(seen.requests > 2_000 && seen.failures.is_empty(), "{:?}", seen.failures);
    // And new certificates for the same keys, without a hand on any host.
    let ends = || {
        let list = hosts[0].api("/v1/members")?;
        let found = list["items"].as_array()?.iter().find(|one| one["name"] == "vm-2")?.clone();
        found["certificate"]["notAfter"].as_str().map(str::to_owned)
    };
    let before = ends().expect("its end is known");
    let told = op_ok(&mesh, &hosts[0], &["trust", "sign", "--renew", "vm-2", "--wait"]);
    assert!(told.contains("renewed 1 certificates, of vm-2; no node key changed"), "{told}");
    eventually("vm-2 shows the new certificate", Duration::from_secs(10), || (ends()? > before).then_some(()));
    let (exit, told) = op(&mesh, &hosts[0], &["trust", "sign", "--renew", "vm-9"]);
    assert!(exit == 4 && told.contains("vm-9"), "{told}");

    // Handed on: bob's key, under a passphrase, takes the place of alice's.
    let passphrase = folder.join("passphrase");
    fs::write(&passphrase, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&passphrase, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    alice.write("route.yaml", ROUTE);
    let apply = ["apply", "-f", "route.yaml", "--wait"];
    assert_eq!(alice.signed(&hosts[0], &apply).0, 0);
    starling_ok(
        &folder,
        &[
            "trust",
            "issue",
            "operator",
            "bob",
            "--roles",
            "admin,config,issue,revoke",
            "--passphrase-file",
            "passphrase",
        ],
    );
    assert!(fs::read_to_string(folder.join("operator/bob.key")).unwrap().contains("ENCRYPTED"));
    op_ok(&mesh, &hosts[0], &["trust", "update", "--wait"]);
    op_ok(&mesh, &hosts[0], &["trust", "revoke", "operator", "k1", "--wait"]);
    alice.write("route.yaml", &format!("# by another\n{ROUTE}"));
    let (exit, _, told) = alice.signed(&hosts[0], &apply);
    assert!(exit == 5 && told.contains("ST0411"), "a removed key signs nothing: {told}");
    let (exit, _, told) = bob.signed(&hosts[0], &apply);
    assert!(exit == 5 && told.contains("ST0618") && told.contains("--passphrase-file"), "{told}");
    let (exit, out, told) = bob.signed(&hosts[0], &[&apply[..], &["--passphrase-file", "passphrase"]].concat());
    assert_eq!(exit, 0, "{out}{told}");
    // What alice granted has lost its force with her key: bob signs it again.
    alice.write("grant.yaml", &format!("# by bob\n{GRANT}"));
    let (exit, out, told) =
        bob.signed(&hosts[0], &["apply", "-f", "grant.yaml", "--wait", "--passphrase-file", "passphrase"]);
    assert_eq!(exit, 0, "{out}{told}");
    let (exit, told) = op(&mesh, &hosts[1], &["trust", "revoke", "node", "vm-3", "--key", "operator/alice.key"]);
    assert!(exit == 5 && told.contains("ST0411"), "{told}");

    // In the end all is in order, and no secret was told to anybody.
    eventually("nothing is wrong", Duration::from_secs(15), || {
        let check = hosts[0].cli(&["check"]);
        let told = String::from_utf8_lossy(&check.stdout).into_owned();
        if check.status.code() != Some(0) {
            println!("walk: check says for now:\n{told}");
            std::thread::sleep(Duration::from_secs(1));
        }
        (check.status.code() == Some(0)).then_some(())
    });
    let log: String = hosts.iter().map(Host::log).collect();
    let secret = fs::read_to_string(hosts[0].config.join("state/identity/issuing.key")).unwrap();
    let secret = secret.lines().nth(1).expect("a line of the key");
    assert!(
        !log.contains(secret)
            && !log.contains("PRIVATE KEY")
            && !log.contains("correct horse")
            && !log.contains("panicked")
    );
    for path in ["/v1/status", "/v1/certs", "/v1/trust", "/v1/members", "/v1/checks"] {
        let told = hosts[0].api(path).expect(path).to_string();
        assert!(!told.contains(secret) && !told.contains("PRIVATE"), "{path}");
    }
}
