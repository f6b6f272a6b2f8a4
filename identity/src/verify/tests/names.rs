//! Steps 2 to 4: which names a leaf may hold, and that they are tied to each other.

use rcgen::{BasicConstraints, DnType, IsCa, SanType};
use starling_model::codes;

use super::{OWN_DNS, OWN_URI, TD, bent, outcome};
use crate::fixtures::{Mesh, NOW, dns, raw_names, uri};

#[test]
pub(super) fn a_leaf_has_one_uri_and_one_dns_name_and_a_ca_has_no_names() {
    let mesh = Mesh::new(TD);
    let names = |what: &str, names: &[(u8, &[u8])]| {
        bent(&mesh, what, "san-count", |forge| {
            forge.leaf.subject_alt_names.clear();
            forge.leaf.custom_extensions = vec![raw_names(names)];
        });
    };
    names("an empty list", &[]);
    names("a URI alone", &[(0x86, OWN_URI)]);
    names("a DNS name alone", &[(0x82, OWN_DNS)]);
    names("a second URI that is not UTF-8", &[(0x86, OWN_URI), (0x86, b"\xff\xfe"), (0x82, OWN_DNS)]);
    names("the same URI twice", &[(0x86, OWN_URI), (0x86, OWN_URI), (0x82, OWN_DNS)]);
    names("an IP address", &[(0x86, OWN_URI), (0x82, OWN_DNS), (0x87, &[10, 0, 0, 1])]);
    names("a mail address", &[(0x86, OWN_URI), (0x82, OWN_DNS), (0x81, b"a@b")]);
    names("a directory name", &[(0x86, OWN_URI), (0x82, OWN_DNS), (0xa4, &[0x30, 0])]);
    names("another name", &[(0x86, OWN_URI), (0x82, OWN_DNS), (0xa0, &[6, 1, 42])]);
    names("a registered id", &[(0x86, OWN_URI), (0x82, OWN_DNS), (0x88, &[42])]);
    names("a constructed URI", &[(0xa6, OWN_URI), (0x82, OWN_DNS)]);
    names("a name of no known kind", &[(0x86, OWN_URI), (0x82, OWN_DNS), (0x8f, b"x")]);
    bent(&mesh, "no names", "san-count", |forge| {
        forge.leaf.subject_alt_names.clear();
        forge.leaf.distinguished_name.push(DnType::CommonName, "web-1.node.prod.internal");
    });
    bent(&mesh, "a node CA with a name", "san-count", |forge| {
        forge.node_ca.subject_alt_names = vec![dns("web-1.node.prod.internal")];
    });
    bent(&mesh, "an issuing CA with a name", "san-count", |forge| {
        forge.issuer.subject_alt_names = vec![dns("prod.internal")];
    });
    bent(&mesh, "an IP address through rcgen", "san-count", |forge| {
        forge.leaf.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
    });
}

#[test]
pub(super) fn the_uri_is_the_spiffe_id_of_a_node() {
    let mesh = Mesh::new(TD);
    let long = format!("spiffe://prod.internal/node/{}", "n".repeat(64));
    let bad: &[&[u8]] = &[
        b"",
        b"https://prod.internal/node/web-1",
        b"SPIFFE://prod.internal/node/web-1",
        b"spiffe://prod.internal/node/web-1\0",
        b"spiffe://prod.internal\0.evil.org/node/web-1",
        b"spiffe://prod.internal/node/web-1/",
        b"spiffe://prod.internal/node/web-1/ns/default/svc/web",
        b"spiffe://prod.internal/node/web-1?a=b",
        b"spiffe://prod.internal/node/web-1#f",
        b"spiffe://prod.internal/node/WEB-1",
        b"spiffe://prod.internal/node/web%2d1",
        b"spiffe://prod.internal/node/web-1.x",
        b"spiffe://prod.internal/node/../node/web-1",
        b"spiffe://prod.internal/node/",
        b"spiffe://prod.internal//node/web-1",
        b"spiffe://prod.internal:443/node/web-1",
        b"spiffe://a@prod.internal/node/web-1",
        b"spiffe:///node/web-1",
        b"spiffe://10.0.0.1/node/web-1",
        b"spiffe://prod.internal/node/w\xc3\xa9b",
        b"spiffe://prod.internal/node/\xff",
        b" spiffe://prod.internal/node/web-1",
        long.as_bytes(),
    ];
    for uri in bad {
        bent(&mesh, &String::from_utf8_lossy(uri), "not-spiffe", |forge| {
            forge.leaf.subject_alt_names.clear();
            forge.leaf.custom_extensions = vec![raw_names(&[(0x86, uri), (0x82, OWN_DNS)])];
        });
    }
}

#[test]
pub(super) fn another_trust_domain_is_another_mesh() {
    let mesh = Mesh::new(TD);
    for td in ["test.internal", "prod.internal.evil.org", "xprod.internal", "internal"] {
        bent(&mesh, td, "other-mesh", |forge| {
            forge.leaf.subject_alt_names =
                vec![uri(&format!("spiffe://{td}/node/web-1")), dns(&format!("web-1.node.{td}"))];
        });
    }
    let other = Mesh::new("test.internal");
    let refused = outcome(&mesh, &other.node("web-1").mint_leaf(NOW).unwrap().chain, NOW).unwrap_err();
    assert_eq!((refused.reason(), refused.code()), ("other-mesh", codes::OTHER_MESH));
}

#[test]
pub(super) fn the_dns_name_is_that_of_the_spiffe_id_byte_for_byte() {
    let mesh = Mesh::new(TD);
    let bad: &[&[u8]] = &[
        b"",
        b"web-1.node.prod.internal.",
        b"WEB-1.node.prod.internal",
        b"web-1.node.prod.internal\0",
        b"web-1\0.node.prod.internal",
        b"x.web-1.node.prod.internal",
        b"xweb-1.node.prod.internal",
        b"web-1.prod.internal",
        b"web-1.node.test.internal",
        b"*.node.prod.internal",
        b"web-1.node.prod.internal ",
        b"web-1.node.prod.\xff",
    ];
    for dns in bad {
        bent(&mesh, &String::from_utf8_lossy(dns), "unbound-name", |forge| {
            forge.leaf.subject_alt_names.clear();
            forge.leaf.custom_extensions = vec![raw_names(&[(0x86, OWN_URI), (0x82, dns)])];
        });
    }
}

/// The most important test of this crate: with its own key a node can sign any leaf. webpki lets the second one pass.
#[test]
pub(super) fn a_node_cannot_be_another_node_with_its_own_key() {
    let mesh = Mesh::new(TD);
    bent(&mesh, "both names of web-2", "path-shape", |forge| forge.names("web-2"));
    bent(&mesh, "the URI of web-2 and no DNS name", "san-count", |forge| {
        forge.leaf.subject_alt_names = vec![uri("spiffe://prod.internal/node/web-2")];
    });
    bent(&mesh, "the URI of web-2, own DNS name", "unbound-name", |forge| {
        forge.leaf.subject_alt_names[0] = uri("spiffe://prod.internal/node/web-2");
    });
    bent(&mesh, "own URI, the DNS name of web-2", "unbound-name", |forge| {
        forge.leaf.subject_alt_names[1] = dns("web-2.node.prod.internal");
    });
    bent(&mesh, "both URIs", "san-count", |forge| {
        forge.leaf.subject_alt_names.push(uri("spiffe://prod.internal/node/web-2"));
    });
    bent(&mesh, "both DNS names", "san-count", |forge| {
        forge.leaf.subject_alt_names.push(dns("web-2.node.prod.internal"));
    });
    bent(&mesh, "a wildcard", "unbound-name", |forge| {
        forge.leaf.subject_alt_names[1] = dns("*.node.prod.internal");
    });
    bent(&mesh, "a second CA under the node CA, for web-2", "path-shape", |forge| {
        forge.node_ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    });
}
