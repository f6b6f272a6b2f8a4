//! What is issued has the profile of the table, byte for byte where it matters.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry as oids;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::fixtures::{Mesh, NOW, name};
use crate::x509::Constraint;

/// One certificate against its line of the table.
fn check(der: &CertificateDer<'_>, common_name: &str, path_len: u32, permitted: &str, days: u64) {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let facts = Facts::read(der).unwrap();
    assert_eq!(certificate.version().0, 2, "X.509 v3");
    let cn = facts.common_name().unwrap();
    assert!(cn.starts_with(common_name) && cn.len() < 64, "{cn}");
    assert!(hex(&facts.key_hash()).starts_with(cn.rsplit(' ').next().unwrap()), "{cn} carries its key's hash");
    assert_eq!((facts.ca, facts.path_len), (true, Some(path_len)));
    assert_eq!(facts.constraint, Constraint::One(permitted));
    assert!(facts.names.is_none() && facts.extended.is_none());
    assert_eq!((facts.serial.len(), facts.serial[0] & 0xc0), (20, 0x40), "20 bytes, positive, no leading zero");
    assert_eq!(facts.not_before, NOW.minus(DAY_SECONDS));
    assert_eq!(facts.not_after, NOW.plus(days * DAY_SECONDS));
    assert_eq!(facts.curve(), Some("P-256"));
    for oid in [oids::OID_X509_EXT_BASIC_CONSTRAINTS, oids::OID_X509_EXT_KEY_USAGE, oids::OID_X509_EXT_NAME_CONSTRAINTS]
    {
        assert!(certificate.get_extension_unique(&oid).unwrap().unwrap().critical, "{oid} is critical");
    }
    assert!(certificate.get_extension_unique(&oids::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER).unwrap().is_some());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.flags.count_ones() == 1, "keyCertSign alone");
    let constraints = certificate.name_constraints().unwrap().unwrap().value;
    let excluded: Vec<usize> = constraints
        .excluded_subtrees
        .iter()
        .flatten()
        .map(|subtree| {
            let GeneralName::IPAddress(bytes) = subtree.base else { panic!("{:?}", subtree.base) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.len()
        })
        .collect();
    assert_eq!(excluded, [8, 32], "all of IPv4 and IPv6");
}

#[test]
fn certificates_have_the_profiles_of_the_table() {
    let mesh = Mesh::new("prod.internal");
    let bundle = &mesh.made.bundle;
    check(&bundle.roots[0], "starling root ", 2, "prod.internal", 3_650);
    check(&bundle.issuers[0], "starling issuer ", 1, "prod.internal", 1_826);
    let issued = mesh.issue("web-1");
    let chain = armor::decode_certificates(issued.chain_pem.as_bytes()).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], bundle.issuers[0]);
    check(&chain[0], "starling node ", 0, "web-1.node.prod.internal", 365);
    assert_eq!(issued.serial, hex(Facts::read(&chain[0]).unwrap().serial));
    assert_eq!(issued.key_hash, Facts::read(&chain[0]).unwrap().key_hash());
    assert_eq!(issued.not_after, NOW.plus(365 * DAY_SECONDS));
}

#[test]
fn a_leaf_has_the_profile_of_the_table() {
    let leaf = Mesh::new("prod.internal").node("web-1").mint_leaf(NOW).unwrap();
    let (_, certificate) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
    let facts = Facts::read(&leaf.chain[0]).unwrap();
    assert_eq!(certificate.subject().iter().count(), 0, "the subject is empty");
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "so the names are critical");
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://prod.internal/node/web-1"), GeneralName::DNSName("web-1.node.prod.internal"),]
    );
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.flags.count_ones() == 1);
    assert_eq!(facts.extended, Some((true, true)));
    assert!(certificate.basic_constraints().unwrap().is_none());
    assert!(!certificate.extensions().iter().any(|extension| {
        matches!(
            extension.parsed_extension(),
            ParsedExtension::NameConstraints(_) | ParsedExtension::SubjectKeyIdentifier(_)
        )
    }));
    assert_eq!((facts.not_before, facts.not_after), (NOW.minus(DAY_SECONDS), NOW.plus(DAY_SECONDS)));
    assert_eq!(facts.serial.len(), 20);
}

#[test]
fn keys_serials_and_subjects_are_new_each_time() {
    let mesh = Mesh::new("prod.internal");
    let (one, two) = (mesh.issue("web-1"), mesh.issue("web-1"));
    assert_ne!(one.serial, two.serial);
    assert_ne!(one.key_hash, two.key_hash);
    let node = mesh.node("web-1");
    let (one, two) = (node.mint_leaf(NOW).unwrap(), node.mint_leaf(NOW).unwrap());
    assert_ne!(one.key.secret_der(), two.key.secret_der());
}

#[test]
fn a_life_is_between_a_day_and_that_of_the_issuer() {
    let mesh = Mesh::new("prod.internal");
    let issue = |days, now| mesh.ca.issue_node(&name("web-1"), days, now);
    assert!(matches!(issue(0, NOW), Err(IssueError::Days(0))));
    assert!(matches!(issue(NODE_DAYS_MAX + 1, NOW), Err(IssueError::Days(_))));
    assert_eq!(issue(NODE_DAYS_MAX, NOW).unwrap().not_after, NOW.plus(1_826 * DAY_SECONDS));
    let late = NOW.plus(1_700 * DAY_SECONDS);
    assert_eq!(issue(365, late).unwrap().not_after, NOW.plus(1_826 * DAY_SECONDS), "cut at the issuer's end");
    assert!(matches!(issue(365, NOW.plus(1_827 * DAY_SECONDS)), Err(IssueError::IssuerDates { .. })));
    assert!(matches!(issue(365, NOW.minus(2 * DAY_SECONDS)), Err(IssueError::IssuerDates { .. })));
}

#[test]
fn a_leaf_ends_with_its_node_ca() {
    let mesh = Mesh::new("prod.internal");
    let node = mesh.node("web-1");
    let end = node.certificate_not_after();
    let leaf = node.mint_leaf(end.minus(60)).unwrap();
    assert_eq!(leaf.not_after, end);
    assert!(matches!(node.mint_leaf(end.plus(1)), Err(IssueError::IssuerDates { .. })));
}

#[test]
fn only_a_key_of_the_bundle_issues() {
    let (mesh, other) = (Mesh::new("prod.internal"), Mesh::new("prod.internal"));
    let load = |pem: &str| IssuingCa::load(&mesh.made.bundle, pem);
    assert!(matches!(load(&other.made.issuer_key_pem), Err(IssueError::ForeignKey)));
    assert!(matches!(load(&mesh.made.root_key_pem), Err(IssueError::ForeignKey)));
    assert!(matches!(load(&mesh.made.operator_key_pem), Err(IssueError::Key(KeyInvalid::Kind("P-256")))));
    assert!(matches!(load("no key"), Err(IssueError::Key(KeyInvalid::Armour))));
    assert!(matches!(load(&mesh.issue("web-1").chain_pem), Err(IssueError::Key(KeyInvalid::Armour))));
}

#[test]
fn an_operator_has_a_name_of_one_label() {
    let td = TrustDomain::new("prod.internal").unwrap();
    for bad in ["", "Alice", "a/b", "..", &"x".repeat(64)] {
        assert!(matches!(create_trust_domain(&td, bad, false, NOW), Err(IssueError::OperatorName(_))), "{bad}");
    }
}

#[test]
fn an_operators_key_signs_what_the_bundle_verifies() {
    let mesh = Mesh::new("prod.internal");
    assert_eq!(mesh.made.operator_key_id, "k1");
    let pkcs8 = armor::decode_one(mesh.made.operator_key_pem.as_bytes(), armor::PRIVATE_KEY).unwrap();
    assert_eq!(EdKey::from_pkcs8(&pkcs8).unwrap().public(), mesh.made.bundle.operators[0].key);
}

#[test]
fn any_clock_issues_or_says_why() {
    let td = TrustDomain::new("prod.internal").unwrap();
    for now in [UnixTime(0), UnixTime(1), LAST_SECOND, UnixTime(u64::MAX)] {
        let made = create_trust_domain(&td, "alice", false, now).unwrap();
        let ca = IssuingCa::load(&made.bundle, &made.issuer_key_pem).unwrap();
        let _ = ca.issue_node(&name("web-1"), 365, now);
    }
}

#[test]
fn no_debug_output_holds_a_key() {
    let mesh = Mesh::new("prod.internal");
    let issued = mesh.issue("web-1");
    let node = mesh.node("web-1");
    let leaf = node.mint_leaf(NOW).unwrap();
    let keys =
        [&mesh.made.root_key_pem, &mesh.made.issuer_key_pem, &mesh.made.operator_key_pem, &issued.issuing_key_pem];
    let output = format!("{:?} {:?} {issued:?} {node:?} {leaf:?} {:?}", mesh.made, mesh.ca, mesh.trust);
    for key in keys {
        let head: String = key.lines().nth(1).unwrap().chars().take(24).collect();
        assert!(!output.contains(&head));
    }
    assert!(!output.contains("PRIVATE"));
    // A byte vector printed by a derived Debug would read [48, 129, ...] or hold long lists of numbers.
    let der = leaf.key.secret_der();
    let numbers = format!("{}, {}, {}, {}", der[30], der[31], der[32], der[33]);
    assert!(!output.contains(&numbers), "{numbers}");
}
