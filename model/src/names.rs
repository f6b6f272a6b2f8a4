//! Names: one grammar for nodes, namespaces, services, instances and ports.
//!
//! Every name is one DNS label of at most 63 bytes, lower case: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?` (RFC 1123,
//! narrower than SPIFFE on purpose: no dot, no `_`, no `%`, no case), so a name can stand in a certificate, a DNS
//! question, a metric label and a path without escaping.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::NAME_BYTES_MAX;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', not '-' first or last{hint}")]
pub struct NameInvalid {
    what: &'static str,
    text: String,
    hint: &'static str,
}

impl NameInvalid {
    fn new(what: &'static str, text: &str, hint: &'static str) -> Self {
        // A hostile name may be long; what a person needs is its head.
        Self { what, text: text.chars().take(80).collect(), hint }
    }
}

/// True when `text` is one label of the grammar above.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    !bytes.is_empty()
        && bytes.len() <= NAME_BYTES_MAX
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal, reserved: [$($reserved:literal),*]) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses one label.
            ///
            /// # Errors
            /// [`NameInvalid`] when `text` breaks the grammar of this module or is a reserved word.
            pub fn new(text: &str) -> Result<Self, NameInvalid> {
                let reserved: &[&str] = &[$($reserved),*];
                if !is_label(text) {
                    return Err(NameInvalid::new($what, text, ""));
                }
                if reserved.contains(&text) {
                    return Err(NameInvalid::new($what, text, " (this word is reserved)"));
                }
                Ok(Self(Arc::from(text)))
            }

            /// The name as written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameInvalid;
            fn from_str(text: &str) -> Result<Self, NameInvalid> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

label!(
    /// A node: **the** member id, on the wire, in certificates, logs and tables.
    NodeName, "node name", reserved: []
);
label!(
    /// A namespace scopes service names. `node` and `starling` are reserved (DNS zone of nodes, the agents' own API).
    Namespace, "namespace", reserved: ["node", "starling"]
);
label!(
    /// A service within its namespace.
    ServiceName, "service name", reserved: []
);
label!(
    /// One running instance of a service, unique on its node.
    InstanceName, "instance name", reserved: []
);
label!(
    /// A named port of a service.
    PortName, "port name", reserved: []
);
label!(
    /// A named part of a service's instances.
    SubsetName, "subset name", reserved: []
);
label!(
    /// A document of one kind within its namespace.
    DocumentName, "document name", reserved: []
);

impl Default for Namespace {
    /// The namespace of everything that names none: `default`.
    fn default() -> Self {
        Self(Arc::from("default"))
    }
}

/// A service in its namespace, written `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Where the name holds.
    pub namespace: Namespace,
    /// The service's name there.
    pub name: ServiceName,
}

impl ServiceKey {
    /// Joins two checked names.
    #[must_use]
    pub fn new(namespace: Namespace, name: ServiceName) -> Self {
        Self { namespace, name }
    }

    /// Reads `orders` (in `fallback`) or `shop/orders`.
    ///
    /// # Errors
    /// [`NameInvalid`] when a part breaks the grammar.
    pub fn parse(text: &str, fallback: &Namespace) -> Result<Self, NameInvalid> {
        match text.split_once('/') {
            Some((namespace, name)) => Ok(Self::new(Namespace::new(namespace)?, ServiceName::new(name)?)),
            None => Ok(Self::new(fallback.clone(), ServiceName::new(text)?)),
        }
    }

    /// Reads a host name under `domain`: `orders.mesh.internal` or `orders.shop.mesh.internal`, any case, an optional
    /// port and final dot. `None` for every other host, nodes' own names (`vm-1.node.mesh.internal`) included.
    #[must_use]
    pub fn from_host(host: &str, domain: &str) -> Option<Self> {
        let host = match host.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let split = host.len().checked_sub(domain.len())?;
        let (head, tail) = (host.get(..split)?, host.get(split..)?);
        if !tail.eq_ignore_ascii_case(domain) {
            return None;
        }
        let head = head.strip_suffix('.')?.to_ascii_lowercase();
        match head.split_once('.') {
            None => Some(Self::new(Namespace::default(), ServiceName::new(&head).ok()?)),
            Some((name, namespace)) => Some(Self::new(Namespace::new(namespace).ok()?, ServiceName::new(name).ok()?)),
        }
    }

    /// The host name of this service under `domain`; the default namespace is left out.
    #[must_use]
    pub fn host(&self, domain: &str) -> String {
        if self.namespace == Namespace::default() {
            format!("{}.{domain}", self.name)
        } else {
            format!("{}.{}.{domain}", self.name, self.namespace)
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_is_one_dns_label_in_lower_case() {
        for good in ["a", "vm-1", "0", "a--b", &"x".repeat(63)] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ä", "a\0", &"x".repeat(64)] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reserved_namespaces_are_refused() {
        assert!(Namespace::new("node").is_err());
        assert!(Namespace::new("starling").is_err());
        assert!(ServiceName::new("node").is_ok());
    }

    #[test]
    fn hosts_name_services_and_nothing_else() {
        let check = |host: &str, want: Option<&str>| {
            let got = ServiceKey::from_host(host, "mesh.internal").map(|key| key.to_string());
            assert_eq!(got.as_deref(), want, "{host}");
        };
        check("orders.mesh.internal", Some("default/orders"));
        check("Orders.Mesh.Internal:8080", Some("default/orders"));
        check("orders.shop.mesh.internal.", Some("shop/orders"));
        check("vm-1.node.mesh.internal", None);
        check("mesh.internal", None);
        check("xmesh.internal", None);
        check("a.b.c.mesh.internal", None);
        check("example.org", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn no_host_text_panics(host in "\\PC{0,80}") {
            let _ = ServiceKey::from_host(&host, "mesh.internal");
        }

        #[test]
        fn a_key_survives_its_host_name(ns in "[a-z][a-z0-9]{0,8}", name in "[a-z][a-z0-9]{0,8}") {
            prop_assume!(ns != "node");
            let key = ServiceKey::new(Namespace::new(&ns).unwrap(), ServiceName::new(&name).unwrap());
            prop_assert_eq!(ServiceKey::from_host(&key.host("mesh.internal"), "mesh.internal"), Some(key));
        }
    }
}
