//! Writes the committed seeds of all targets, and the identity fixtures when there are none: `cargo run --example seeds`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, io};

use bytes::Bytes;
use starling_fuzz::driver::Driver;
use starling_fuzz::frames::{Envelope, MESH, frame, message, record};
use starling_fuzz::identity::{FIXTURE, MADE, folder, name, sha256};

use starling_gossip::{ExchangeId, Restored, golden};
use starling_identity::{IssuingCa, JoinFile, NodeIdentity, create_trust_domain, new_record_key};
use starling_model::{
    Announcement, Batch, BatchId, BootEpoch, Digest, Document, DocumentKey, DocumentVersion, Generation, HealthEntry,
    HealthRecord, InstanceName, KeyId, Labels, MemberState, Namespace, PortName, Protocol, Readiness, RecordVersion,
    Revocation, ServiceKey, ServiceName, ServicesRecord, TrustDomain, Weight,
};
use starling_proxy::header::{Carry, OpenHeader};
use starling_routing::{
    Denial, Denied, Documents, InUse, Load, MemberFact, Registry, Snapshot, TableSettings, compile,
};
use starling_transport::mux::{Mux, Role};
use starling_transport::quic::hello::Hello;

/// Its key is of ones, its epoch 0.
const CREDENTIAL: &[u8] = &[1, 0, b'c'];

fn main() -> io::Result<()> {
    if !folder().join("bundle.trust").exists() {
        fixtures()?;
    }
    gossip()?;
    operators()?;
    identity()?;
    connections()?;
    snapshots()?;
    texts()
}

fn seed(target: &str, what: &str, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("seed-{what}")), bytes)
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("short").to_le_bytes()[..], bytes].concat()
}

fn fixtures() -> io::Result<()> {
    fs::create_dir_all(folder())?;
    let write = |file: &str, bytes: &[u8]| fs::write(folder().join(file), bytes);
    let domain = TrustDomain::new("fuzz.example").expect("a trust domain");
    let made = create_trust_domain(&domain, "alice", false, MADE).expect("a trust domain");
    let ca = IssuingCa::load(&made.bundle, &made.issuer_key_pem).expect("the issuer's key");
    let (n1, n2) = (ca.issue_node(&name("n1"), 365, MADE), ca.issue_node(&name("n2"), 365, MADE));
    let (n1, n2) = (n1.expect("n1"), n2.expect("n2"));
    let node = NodeIdentity::load(&made.bundle, &n1.chain_pem, &n1.issuing_key_pem, &new_record_key(), MADE);
    let node = node.expect("an identity");
    let leaf = node.mint_leaf(MADE).expect("a leaf");
    let chain: String = leaf.chain.iter().map(|der| starling_fuzz::identity::armour("CERTIFICATE", der)).collect();
    let join = JoinFile {
        bundle_file: made.bundle_file.clone(),
        node: name("n1"),
        seeds: vec!["10.0.0.1:7740".to_owned()],
        chain_pem: n1.chain_pem.clone(),
        issuing_key_pem: Some(n1.issuing_key_pem.clone()),
    };
    write("bundle.trust", &made.bundle_file)?;
    write("root.key", made.root_key_pem.as_bytes())?;
    write("n1.issuing.key", n1.issuing_key_pem.as_bytes())?;
    write("n1.leaf-chain.pem", chain.as_bytes())?;
    write("n1.credential", &node.credential(BootEpoch(7)))?;
    write("n1.join", join.encode().as_bytes())?;
    write("n2.chain.pem", n2.chain_pem.as_bytes())
}

fn gossip() -> io::Result<()> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7740);
    let ping = golden::ping_datagram(&MESH, 5).expect("a ping");
    let hash: [u8; 32] = sha256(CREDENTIAL).try_into().expect("32 bytes");
    let mut alive = golden::alive_body(&name("m1"), BootEpoch(3), &[address]).to_vec();
    // The sample names no credential: form, schema, name with its length, epoch and incarnation stand before it.
    alive[2 + 3 + 8 + 4..][..32].copy_from_slice(&hash);
    let alive = Bytes::from(alive);
    let life = [&[3; 64][..], &alive].concat();
    let announcement = Announcement {
        instance: InstanceName::new("orders-1").expect("a name"),
        service: ServiceKey::new(
            Namespace::new("default").expect("a name"),
            ServiceName::new("orders").expect("a name"),
        ),
        port: PortName::new("http").expect("a name"),
        protocol: Protocol::Http,
        weight: Weight::default(),
        labels: Labels::default(),
    };
    let version = RecordVersion { epoch: BootEpoch(3), version: 1 };
    let services = ServicesRecord { instances: vec![announcement] };
    let services = golden::services_record(&name("m1"), version, &services, hash, [3; 64]).expect("a record");
    let payload = &services[1 + 2 + 2 + 16 + 2 + 4 + 32 + 2..services.len() - 64];

    let messages = messages(&life, &services);
    seed("gossip_frame", "ping", &ping)?;
    seed("gossip_frame", "alive-body", &alive)?;
    let mut history = Vec::new();
    let life_op = |out: &mut Vec<u8>, to: u8| out.extend([&[0, to, LIFE_KIND][..], &counted(&life)].concat());
    let credential = [&[2][..], b"m1", CREDENTIAL].concat();
    for (kind, payload) in &messages {
        let one = message(*kind, payload);
        seed("gossip_frame", &format!("message-{kind}"), &one)?;
        seed("gossip_frame", &format!("sync-{kind}"), frame(Envelope::Sync, &one))?;
        for op in [0_u8, 0x40] {
            history.clear();
            life_op(&mut history, 1);
            history.extend([&[0, 1, CREDENTIAL_KIND][..], &counted(&credential)].concat());
            history.extend([&[op, 1, *kind][..], &counted(payload)].concat());
            history.extend([9, 0, 4]);
            seed("gossip_swim", &format!("message-{kind}-{op}"), &history)?;
        }
    }
    history.clear();
    for (at, (kind, payload)) in messages.iter().enumerate() {
        let more = if at + 1 < messages.len() { 0x80 } else { 0 };
        history.extend([&[0x40 | more, 1, *kind][..], &counted(payload)].concat());
    }
    history.extend([15, 20, 0x5b, 1, 0, 0, 15, 60, 0xff, 9, 0, 2]);
    seed("gossip_swim", "all", &history)?;

    seed("gossip_record", "whole", &services)?;
    seed("gossip_record", "services", [&[services[3], 0, 1][..], payload].concat())?;
    for kind in 0..4_u8 {
        seed("gossip_record", &format!("empty-{kind}"), [&[kind, 0, 1][..], &[0; 4]].concat())?;
        seed("gossip_record", &format!("zeros-{kind}"), [&[kind, 0, 1][..], &[0; 68]].concat())?;
    }
    seed("gossip_record", "unknown", record("n", 9, 0, (1, 1), 3, b"later"))?;

    let mut driver = Driver::new(10, Instant::now());
    driver.join();
    for datagram in [
        golden::alive_datagram(&MESH, alive, [3; 64]).expect("a life"),
        golden::record_datagram(&MESH, services).expect("a record"),
    ] {
        let _ = driver.swim.handle_datagram(&name("p1"), &datagram, driver.now);
        driver.perform();
        driver.wait(Duration::from_secs(1));
    }
    let said = frame(Envelope::Sync, &message(CREDENTIAL_KIND, &credential));
    let _ = driver.swim.handle_sync(&name("p1"), ExchangeId(ExchangeId::INBOUND | 1), &said, driver.now);
    driver.perform();
    let said = frame(Envelope::Datagram, &message(CREDENTIAL_KIND, &credential));
    let _ = driver.swim.handle_datagram(&name("p1"), &said, driver.now);
    driver.perform();
    driver.wait(Duration::from_secs(1));
    assert!(!driver.kept.is_empty(), "the machine believes nobody, so nothing is there to restore");
    let mut all = vec![0];
    for (at, item) in driver.kept.iter().enumerate() {
        let one = match item {
            Restored::Member { bytes, .. } => [&[0, 3][..], &counted(bytes)].concat(),
            Restored::Record { kind, shard, bytes, .. } => {
                [&[1, 3, kind.to_wire(), *shard][..], &counted(bytes)].concat()
            }
            Restored::Credential { bytes, .. } => [&[2, 3][..], &counted(bytes)].concat(),
            Restored::AddressBook { bytes, .. } => [&[3, 3][..], &counted(bytes)].concat(),
            Restored::Document { bytes } => [&[4, 3][..], &counted(bytes)].concat(),
            Restored::Revocation { bytes } => [&[5, 3][..], &counted(bytes)].concat(),
        };
        all.extend_from_slice(&one);
        if at < 8 {
            seed("gossip_restore", &format!("item-{at}"), [&[0][..], &one].concat())?;
        }
    }
    all.truncate(4_000);
    seed("gossip_restore", "all", all)
}

const LIFE_KIND: u8 = 6;
const CREDENTIAL_KIND: u8 = 22;

/// One message of each kind, as `gossip/src/wire.rs` numbers and lays them out.
fn messages(life: &[u8], record: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let number = |number: u64| number.to_le_bytes().to_vec();
    let named = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    let life_of = |epoch: u64| [&epoch.to_le_bytes()[..], &1_u32.to_le_bytes()].concat();
    let list =
        |items: &[Vec<u8>]| [&u32::try_from(items.len()).expect("short").to_le_bytes()[..], &items.concat()].concat();
    let digest = [&named("m1")[..], &[1, 0], &number(3), &number(1)].concat();
    let member = |state: u8| [&named("m1")[..], &life_of(3), &[state], &number(0), &number(0)].concat();
    let want = |class: u8, hash: &[u8]| {
        [&[class][..], &named("m1"), &[1, 0], &u32::try_from(hash.len()).expect("short").to_le_bytes(), hash].concat()
    };
    let signed = |kind: u8| [&[kind][..], &number(7), &number(1), &[4; 32]].concat();
    vec![
        (1, number(5)),
        (2, [number(5), number(0), number(9), vec![0]].concat()),
        (3, [&number(5)[..], &named("m1"), &500_u32.to_le_bytes()].concat()),
        (4, number(5)),
        (5, number(5)),
        (LIFE_KIND, life.to_vec()),
        (7, [&[2][..], &named("m1"), &life_of(3), &number(0), &named("p2")].concat()),
        (CREDENTIAL_KIND, [&named("m1")[..], CREDENTIAL].concat()),
        (8, record.to_vec()),
        (9, digest.clone()),
        (16, [number(0), number(9)].concat()),
        (17, list(&vec![number(9); 256])),
        (18, list(&[member(1), member(3), member(4)])),
        (19, list(&[digest])),
        (20, vec![0xff; 32]),
        (21, list(&[want(1, &[]), want(2, &[]), want(3, &[1; 32])])),
        (23, Vec::new()),
        (24, Vec::new()),
        (25, Vec::new()),
        (10, revocation(1)),
        (11, signed(1)),
        (26, list(&[signed(1), signed(2), signed(3)])),
        (27, list(&[vec![4; 32]])),
        (128, document(1)),
        (99, b"later".to_vec()),
    ]
}

/// A signed document of `m1`'s mesh.
fn document(schema: u16) -> Vec<u8> {
    let head = Document {
        schema,
        key: DocumentKey::parse("HTTPRoute", "default", "orders").expect("a key"),
        signer: KeyId(1),
        generation: Generation::FIRST,
        signed_at: 0,
        deleted: false,
        batch: Some(Batch { id: BatchId([9; 32]), count: NonZeroU16::MIN }),
    };
    [&head.to_body("kind: HTTPRoute\n").expect("a document")[..], &[3; 64]].concat()
}

/// A signed revocation of `m1`.
fn revocation(schema: u16) -> Vec<u8> {
    let (node, kept, reason) = (name("m1"), vec![[1; 32], [2; 32]], "stolen".to_owned());
    let said = Revocation { schema, node, signer: KeyId(1), number: 1, signed_at: 0, kept, reason };
    [&said.to_body().expect("a revocation")[..], &[3; 64]].concat()
}

fn operators() -> io::Result<()> {
    for schema in [1, 2] {
        seed("gossip_document", &format!("schema-{schema}"), document(schema))?;
        seed("gossip_revocation", &format!("schema-{schema}"), revocation(schema))?;
    }
    seed("gossip_document", "text", b"\x00\x01\x01kind: HTTPRoute\n")?;
    seed("gossip_document", "deleted", b"\x01\x02\x07")?;
    seed("gossip_restore", "document", [&[0, 4, 3][..], &counted(&document(1))].concat())?;
    seed("gossip_restore", "revocation", [&[0, 5, 3][..], &counted(&revocation(1))].concat())
}

fn identity() -> io::Result<()> {
    let fixture = &*FIXTURE;
    let chain: Vec<u8> = fixture.chain.iter().flat_map(|der| counted(der)).collect();
    seed("identity_peer", "raw", [&[0][..], &chain].concat())?;
    for shape in 0..8_u8 {
        seed("identity_peer", &format!("shape-{shape}"), [1, shape])?;
    }
    seed("identity_peer", "damaged", [1, 0x10, 40, 0, 2, 1])?;
    seed("identity_peer", "signed-again", [2, 90, 0, 2, 1])?;
    let extension = |which: u8, content: &[u8]| [&[which, 0][..], &counted(content)].concat();
    let text = |tag: u8, text: &str| [&[tag, u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    for (what, node) in [("own-name", "n1"), ("other-name", "n2")] {
        let uri = text(0x86, &format!("spiffe://fuzz.example/node/{node}"));
        let dns = text(0x82, &format!("{node}.node.fuzz.example"));
        let own_dns = text(0x82, "n1.node.fuzz.example");
        let usages = [
            extension(1, &[0x03, 0x02, 0x07, 0x80]),
            extension(2, &[0x30, 0x14, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2]),
        ]
        .concat();
        let names = |parts: &[&[u8]]| [&[3][..], &extension(0, &parts.concat()), &usages].concat();
        seed("identity_peer", &format!("written-{what}"), names(&[&uri, &dns]))?;
        seed("identity_peer", &format!("written-{what}-no-dns"), names(&[&uri]))?;
        seed("identity_peer", &format!("written-{what}-own-dns"), names(&[&uri, &own_dns]))?;
    }

    seed("identity_credential", "raw", [&[0][..], &fixture.credential].concat())?;
    seed("identity_credential", "damaged", [1, 9, 0, 2, 1])?;
    for node in ["n1", "n2"] {
        let statement = [&[2, 0, 2][..], node.as_bytes(), &[5; 32], &7_u64.to_le_bytes()].concat();
        seed("identity_credential", &format!("signed-{node}"), statement)?;
    }

    let raw = pem::parse(&fixture.bundle_file).expect("PEM");
    seed("identity_bundle", "file", [&[0][..], &fixture.bundle_file].concat())?;
    seed("identity_bundle", "body", [&[2][..], raw.contents()].concat())?;
    seed("identity_bundle", "damaged-file", [1, 200, 0, 2, 1])?;
    seed("identity_bundle", "damaged-body", [3, 60, 0, 2, 1])?;
    seed("identity_bundle", "signed", [4])?;
    seed("identity_bundle", "signed-sequence", [4, 0, 0, 0, 2])?;
    let length = u16::try_from(raw.contents().len()).expect("short").to_le_bytes();
    let request = [&[0][..], b"STQ1", &[7; 32], &[1], &[5; 32]].concat();
    seed("identity_chain", "request", request)?;
    seed("identity_chain", "answer", [&[1][..], b"STA1", &[1], &length, raw.contents()].concat())?;
    seed("identity_chain", "update", [&[2][..], raw.contents()].concat())?;
    seed("identity_chain", "damaged-update", [5, 60, 0, 2, 1])?;
    seed("identity_chain", "key-question", [&[3][..], b"STQ2", &[7; 64]].concat())?;
    seed("identity_chain", "list-answer", [&[4][..], b"STA3"].concat())?;

    let header = [&[1, 2][..], b"n1", &[1, 13], b"10.0.0.1:7740"].concat();
    let length = u8::try_from(header.len()).expect("short");
    let text = pem::parse_many(&fixture.join_file).expect("PEM");
    seed("identity_join", "damaged", [1, 200, 1, 2, 1])?;
    seed(
        "identity_join",
        "header",
        [&[0][..], starling_fuzz::identity::armour("STARLING JOIN", text[0].contents()).as_bytes()].concat(),
    )?;
    seed("identity_join", "sealed", [&[2, length][..], &header, &[0; 4]].concat())?;
    seed("identity_join", "sealed-without-key", [&[2, length][..], &header, &[0, 0, 0, 3]].concat())?;
    let key = starling_identity::request::new_issuing_key().expect("a key");
    let asked = starling_identity::request::request(&name("n1"), &key).expect("a request");
    let asked = pem::parse(asked).expect("PEM");
    seed("identity_join", "request", [&[3][..], asked.contents()].concat())
}

fn connections() -> io::Result<()> {
    let now = Instant::now();
    let hello = Hello { mesh: MESH, versions: (1, 1), instance: 7, holds_another: true }.encode();
    seed("quic_streams", "hello", [&[0][..], &hello].concat())?;
    let frames = [&[1, 0, 0, 0][..], b"a", &[3, 0, 0, 0], b"bcd"].concat();
    seed("quic_streams", "frames", [&[0xff][..], &frames].concat())?;
    seed("quic_streams", "cut", [&[3][..], &frames].concat())?;
    let mut mux = Mux::new(Role::Dialler, 8, now);
    let stream = mux.open(b"header", now).expect("a stream");
    mux.send(stream, b"some bytes").expect("room");
    mux.finish(stream);
    let other = mux.open(b"", now).expect("a stream");
    mux.reset(other, starling_transport::mux::ResetCode::Refused);
    mux.goaway();
    mux.fill();
    let wire = mux.output().to_vec();
    seed("mux_frames", "at-once", [&[0x82][..], &wire].concat())?;
    let mut cut = vec![0x80];
    for part in wire.chunks(11) {
        cut.push(0);
        cut.push(u8::try_from(part.len()).expect("short"));
        cut.extend_from_slice(part);
    }
    cut.extend([7, 0xff, 0, 14, 10, 8, 14]);
    seed("mux_frames", "cut", &cut)?;
    seed("mux_frames", "own", [0x81, 5, 3, 1, 2, 3, 6, 0xff, 0xff, 14, 12, 60, 14, 8, 14, 10, 0xfb, 14])?;

    let key = |text: &str| {
        ServiceKey::new(Namespace::new("default").expect("a name"), ServiceName::new(text).expect("a name"))
    };
    let mut header = OpenHeader {
        carry: Carry::Http1,
        source: None,
        destination: key("orders"),
        instance: InstanceName::new("orders-1").expect("a name"),
        port: PortName::new("http").expect("a name"),
    };
    seed("proxy_header", "bare", header.encode())?;
    header.source = Some(key("web"));
    header.carry = Carry::Bytes;
    seed("proxy_header", "source", header.encode())?;
    seed("proxy_header", "extension", [&header.encode()[..], &[5, 2, 1, 2]].concat())?;

    let get = "GET /a?b HTTP/1.1\r\nHost: orders\r\n\r\n";
    for (what, text) in [
        ("get", get.to_owned()),
        ("two", format!("{get}{get}")),
        ("length", format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{get}")),
        (
            "chunked",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n{get}"
            ),
        ),
        (
            "both",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("old", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned()),
        ("absolute", "GET http://orders/ HTTP/1.1\r\nHost: orders\r\nExpect: 100-continue\r\n\r\n".to_owned()),
        ("prior", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (
            "upgrade",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n".to_owned(),
        ),
        ("blank", format!("\r\n\n{get}")),
    ] {
        seed("http_request", what, [&[7][..], text.as_bytes()].concat())?;
    }
    Ok(())
}

fn snapshots() -> io::Result<()> {
    let key = |name: &str| ServiceKey::parse(name, &Namespace::default()).expect("a service");
    let text = "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec:\n  parentRefs: [{kind: Service, name: orders}]\n  rules:\n  - matches: [{path: {value: /old}}]\n    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]\n  - backendRefs: [{name: orders, subset: {version: v1}, weight: 9}, {name: orders}]\n";
    let version = DocumentVersion {
        generation: Generation::new(7).expect("not 0"),
        signer: KeyId(1),
        hash: Digest(sha256(text.as_bytes()).try_into().expect("32 bytes")),
    };
    let documents = InUse::read("orders.yaml", text, version, "k1").expect("a route");
    let mut registry = Registry::new();
    let instance = |instance: &str, version: &str| Announcement {
        instance: InstanceName::new(instance).expect("a name"),
        service: key("orders"),
        port: PortName::new("http").expect("a name"),
        protocol: Protocol::Http,
        labels: Labels::new([("version".to_owned(), version.to_owned())].into()).expect("labels"),
        weight: Weight::default(),
    };
    let instances = vec![instance("orders-1", "v1"), instance("orders-2", "v2")];
    let ready = |one: &Announcement| HealthEntry { instance: one.instance.clone(), readiness: Readiness::Ready };
    let entries = instances.iter().map(ready).collect();
    let address = Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7740));
    registry.member(&MemberFact { node: name("n1"), state: MemberState::Alive, address });
    registry.services(&name("n1"), &ServicesRecord { instances });
    registry.health(&name("n1"), &HealthRecord { entries });
    let settings = TableSettings { domain: "mesh.internal".to_owned() };
    let table = compile(&Documents::new(documents), &registry, &settings, None);
    let load = Load { latency: Some(Duration::from_millis(3)), in_flight: 1, ..Load::default() };
    let whole = Snapshot::of(&table, Instant::now(), &|_| load);
    let json = serde_json::to_string(&whole).expect("a snapshot has a JSON form");
    seed("routing_snapshot", "whole", &json)?;
    seed("routing_snapshot", "slip", json.replace("healthy", "fine"))?;
    seed("routing_snapshot", "later", json.replace("snapshot/1", "snapshot/2"))?;
    let text = "apiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {name: g}\nspec: {nodes: [{node: n2}], services: [{service: orders}]}\n";
    let granted = InUse::read("g.yaml", text, version, "k1").expect("a grant");
    let denial = |document: &str, what| Denial {
        document: DocumentKey::parse("ServiceGrant", "default", document).expect("a name"),
        version,
        what,
    };
    let denials = vec![
        denial("h", Denied::Services { services: [key("web")].into(), all_of: Some(Namespace::default()) }),
        denial("i", Denied::Unnamed),
    ];
    let table = compile(&Documents::new(granted).denying(denials), &registry, &settings, None);
    let grants = Snapshot::of(&table, Instant::now(), &|_| load);
    seed("routing_snapshot", "grants", serde_json::to_string(&grants).expect("a snapshot has a JSON form"))
}

fn texts() -> io::Result<()> {
    let agent = "# host vm-1\nnode_name = \"vm-2\"\n[mesh]\nlisten = \"0.0.0.0:7740\"\nadvertise = \"10.0.0.12:7740\"\n\
        seeds = [\"10.0.0.11:7740\", \"dns+srv://_starling._udp.example.net\"]\nlabels = { zone = \"a\" }\npreset = \"lan\"\n\
        ready_timeout = \"30s\"\n[api]\nsocket = \"/run/a.sock\"\ntcp = \"read\"\n[dns]\ndomain = \"mesh.internal\"\n\
        [outbound]\nhttp = \"off\"\nvip_cidr = \"127.77.0.0/16\"\nvip_listeners = [\"orders\"]\n[log]\nfilter = \"info\"\n\
        format = \"auto\"\n[data]\nthreads = 2\n[[upstream]]\nservice = \"orders\"\nport = \"http\"\n\
        listen = \"127.0.0.1:9001\"\nas = \"web\"\n";
    seed("config_agent", "whole", agent)?;
    seed("config_agent", "empty", "")?;
    seed("config_agent", "slip", "[mesh]\nlisen = \"0.0.0.0:7740\"\nseeds = 5\n")?;
    seed(
        "config_agent",
        "layers",
        "node_name = \"a\"\0[log]\nfilter = \"debug\"\n\0STARLING_MESH__LISTEN=0.0.0.0:1\0-mesh.seeds=a:1\0-log.format=json\0STARLING_LOG=warn",
    )?;
    seed("config_agent", "syntax", "a = \"\\u00\n[[x]\n = 5\n\u{feff}é = '''")?;

    let instance = "[[instance]]\nservice = \"orders\"\nnamespace = \"default\"\nname = \"orders-v2\"\nport = \"http\"\n\
        protocol = \"http\"\naddress = \"127.0.0.1:8080\"\nlabels = { version = \"v2\" }\nweight = 100\nrun_as = \"orders\"\n\
        health = { http = \"/healthz\", interval = \"5s\", timeout = \"1s\", unhealthy = 3, healthy = 2 }\n";
    let small =
        "[[instance]]\nservice = \"db\"\nprotocol = \"tcp\"\naddress = \"[::1]:5432\"\nhealth = { tcp = true }\n";
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec:\n  parentRefs:\n  - {kind: Service, name: orders, port: 80}\n  rules:\n  - matches:\n    - path: {type: PathPrefix, value: /v2}\n      headers: [{name: x, type: RegularExpression, value: 'a+'}]\n    backendRefs:\n    - {name: orders, port: 80, weight: 9}\n    timeouts: {request: 2s}\n";
    seed("config_documents", "route", route)?;
    seed("config_documents", "two", format!("# first\n{route}---\n{}", route.replace("orders}", "other}")))?;
    seed("config_documents", "slip", route.replace("weight: 9", "wieght: -9").replace("2s", "2 s"))?;
    seed("config_documents", "grants", include_str!("../../config/src/documents/samples/grants.yaml"))?;
    seed(
        "config_documents",
        "later",
        "apiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {name: g, namespace: shop}\nspec: {nodes: [{node: \"*\"}], services: [{service: web, later: 1}, {namespace: x, service: y}], except: [{node: a}]}\n",
    )?;
    seed("config_services", "whole", instance)?;
    seed("config_services", "small", small)?;
    seed("config_services", "two", format!("{small}\0{small}{instance}"))?;
    seed("config_services", "slip", "[[instance]]\nservce = 5\nprotocol = \"htp\"\naddress = \"1\"\n")?;

    seed("instance_json", "small", r#"{"service":"db","protocol":"tcp","address":"127.0.0.1:5432"}"#)?;
    seed(
        "instance_json",
        "whole",
        r#"{"service":"orders","namespace":"default","name":"orders","port":"http","protocol":"http","address":"[::1]:80",
        "labels":{"a":"b"},"weight":5,"run_as":1000,"health":{"http":"/x","interval":"5s","timeout":"1s","unhealthy":3,"healthy":2}}"#,
    )?;
    seed(
        "instance_json",
        "unit",
        r#"{"service":"db","protocol":"grpc","address":"127.0.0.1:1","unit":"db.service","health":{"tcp":true}}"#,
    )?;

    for (at, text) in
        ["vm-1", "fuzz.example", "spiffe://fuzz.example/node/n1", "1h30m", "250ms", "0s"].iter().enumerate()
    {
        seed("model_names", &at.to_string(), text)?;
    }
    Ok(())
}
