//! What a node offers: protocols, labels, weights, readiness, and the name of one endpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{LABEL_BYTES_MAX, LABELS_MAX, WEIGHT_MAX};
use crate::names::{InstanceName, Namespace, NodeName};

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
    /// Bytes.
    Tcp,
    /// Its owner does not say: found out for each connection by its first bytes.
    Detect,
}

impl Protocol {
    /// The word of configuration, tables and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Detect => "detect",
        }
    }
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http" => Ok(Self::Http),
            "grpc" => Ok(Self::Grpc),
            "tcp" => Ok(Self::Tcp),
            "detect" => Ok(Self::Detect),
            other => Err(format!("protocol {other:?} is not one of http, grpc, tcp, detect")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Self-announced key-value pairs. They choose subsets and localities and never grant anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks a map: at most 32 labels; keys of 1 to 63 and values of 0 to 63 printable ASCII bytes without `,`, `=`,
    /// `"`, `\` or blanks.
    ///
    /// # Errors
    /// A sentence that names the offending label.
    pub fn new(map: BTreeMap<String, String>) -> Result<Self, String> {
        if map.len() > LABELS_MAX {
            return Err(format!("{} labels, at most {LABELS_MAX} are allowed", map.len()));
        }
        let fits = |text: &str| {
            text.len() <= LABEL_BYTES_MAX
                && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'=' | b'"' | b'\\'))
        };
        for (key, value) in &map {
            if key.is_empty() || !fits(key) || !fits(value) {
                return Err(format!(
                    "label {key:?} = {value:?}: keys and values are at most {LABEL_BYTES_MAX} printable characters without blank, comma, '=', quote or backslash"
                ));
            }
        }
        Ok(Self(map))
    }

    /// The labels in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// One label's value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(BTreeMap::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Labels {
    /// `a=1,b=2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Relative share of traffic, 0 to 1,000,000; 100 unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Weight(u32);

impl Weight {
    /// Checks the bound.
    ///
    /// # Errors
    /// A sentence with the bound.
    pub fn new(weight: u32) -> Result<Self, String> {
        if weight > WEIGHT_MAX {
            return Err(format!("weight {weight} is over {WEIGHT_MAX}"));
        }
        Ok(Self(weight))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(100)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u32::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What the owner says of its own instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Readiness {
    /// Takes traffic (also: has no check).
    Ready,
    /// Its check fails, or has not succeeded yet.
    Unready,
    /// Finishes what it has; nothing new.
    Draining,
}

impl Readiness {
    /// The word of the HEALTH column and of JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "healthy",
            Self::Unready => "unhealthy",
            Self::Draining => "draining",
        }
    }
}

/// One instance on one node, written `vm-3/default/orders-v2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// Where it runs.
    pub node: NodeName,
    /// Its service's namespace.
    pub namespace: Namespace,
    /// Its name on that node.
    pub instance: InstanceName,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.namespace, self.instance)
    }
}
