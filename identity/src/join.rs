//! `NAME.join`: everything a host needs to become one node, in one file.
//!
//! A text of armoured blocks: first a header (`STARLING JOIN`) with node, seeds and the hash of all that follows, then
//! the trust bundle, the node's chain and, unless its host made the key itself, its private issuing key. With a key
//! inside the file is a bearer secret.
//!
//! ```text
//! header := version u8 (1) | node text | seeds u8 { text } | SHA-256 of all before it and the bodies that follow
//! ```

use std::fmt;

use rustls_pki_types::CertificateDer;
use starling_model::{Code, NodeName, codes};
use zeroize::Zeroizing;

use crate::armor::{self, Block};
use crate::bundle::{self, BundleInvalid, TrustBundle};
use crate::keys::{self, EcKey, KeyInvalid};
use crate::path::{self, When};
use crate::trust::TrustView;
use crate::verify::PeerRefused;
use crate::wire::{Reader, WireError, Writer};
use crate::x509::Facts;

const LABEL: &str = "STARLING JOIN";
const VERSION: u8 = 1;
/// Three seeds are plenty; more than this is a mistake.
pub const SEEDS_MAX: usize = 16;
/// A DNS name of 253 bytes with its port is cut short by nobody who means it.
const SEED_BYTES_MAX: usize = 255;

/// Why a join file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinInvalid {
    /// Not the blocks that a join file has, or one of them is damaged.
    #[error("it is not a join file, or it is damaged or cut off")]
    Format,
    /// A newer release wrote it.
    #[error("it has format {0}, this release reads format {VERSION}")]
    Version(u8),
    /// The bundle inside is refused.
    #[error("the trust bundle in it cannot be used")]
    Bundle(#[source] BundleInvalid),
    /// The chain inside is refused.
    #[error("the certificate in it is refused")]
    Chain(#[source] PeerRefused),
    /// The certificate is another node's.
    #[error("it is for {named}, but its certificate is that of {certified}")]
    OtherNode {
        /// The header's node.
        named: NodeName,
        /// The certificate's node.
        certified: NodeName,
    },
    /// The private key cannot be read.
    #[error("the private key in it cannot be used")]
    Key(#[source] KeyInvalid),
    /// The private key belongs to another certificate.
    #[error("the private key in it does not belong to its certificate")]
    KeyMismatch,
}

impl JoinInvalid {
    /// The catalogue entry.
    #[must_use]
    pub fn code(&self) -> Code {
        codes::JOIN_FILE_INVALID
    }
}

impl From<WireError> for JoinInvalid {
    fn from(_: WireError) -> Self {
        Self::Format
    }
}

/// A join file, checked against itself.
pub struct JoinFile {
    /// The armoured bundle.
    pub bundle_file: Vec<u8>,
    /// For whom.
    pub node: NodeName,
    /// Where to join: `host:port`.
    pub seeds: Vec<String>,
    /// Node CA and issuing CA.
    pub chain_pem: String,
    /// The node's CA key, unless its host made it.
    pub issuing_key_pem: Option<Zeroizing<String>>,
}

impl fmt::Debug for JoinFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinFile")
            .field("node", &self.node)
            .field("seeds", &self.seeds)
            .field("has_key", &self.issuing_key_pem.is_some())
            .finish_non_exhaustive()
    }
}

impl JoinFile {
    /// The file's text. A secret when a key is inside. Seeds beyond [`SEEDS_MAX`] are left out.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        let mut rest: Vec<Block> = Vec::new();
        for part in [self.bundle_file.as_slice(), self.chain_pem.as_bytes()] {
            rest.extend(armor::decode(part).unwrap_or_default());
        }
        if let Some(key) = &self.issuing_key_pem {
            rest.extend(armor::decode(key.as_bytes()).unwrap_or_default());
        }
        let seeds: Vec<&String> = self.seeds.iter().filter(|seed| is_seed(seed)).take(SEEDS_MAX).collect();
        let mut header = Writer::default();
        header.u8(VERSION);
        let written = header.text(self.node.as_str()).and_then(|header| header.count(seeds.len())).is_ok()
            && seeds.iter().all(|seed| header.text(seed).is_ok());
        debug_assert!(written, "names and seeds have at most 255 bytes");
        let mut header = header.into_bytes();
        let sealed = digest(&header, &rest);
        header.extend_from_slice(&sealed);

        let secret = if self.issuing_key_pem.is_some() { " SECRET: it holds this node's private key." } else { "" };
        let mut text = Zeroizing::new(format!("Starling join file of node {}.{secret}\n", self.node));
        text.push_str(&armor::encode(LABEL, &header));
        for block in &rest {
            text.push_str(&armor::encode(&block.label, &block.body));
        }
        text
    }

    /// True when this private key (PKCS#8 in PEM) is the one that the certificate in the file is for.
    #[must_use]
    pub fn certifies(&self, issuing_key_pem: &str) -> bool {
        let Ok(key) = EcKey::from_pem(issuing_key_pem) else { return false };
        let chain = armor::decode_certificates(self.chain_pem.as_bytes()).unwrap_or_default();
        chain.first().and_then(|der| Facts::read(der)).is_some_and(|node_ca| node_ca.spki == key.spki())
    }

    /// Reads a join file and checks it against itself: bundle, chain under the bundle (dates apart, they are judged by
    /// the host's clock in [`crate::NodeIdentity::load`]), name, and that the key belongs to the certificate.
    ///
    /// # Errors
    /// [`JoinInvalid`] with the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, JoinInvalid> {
        let mut blocks = armor::decode(text.as_bytes()).ok_or(JoinInvalid::Format)?;
        if blocks.first().is_none_or(|first| first.label != LABEL) {
            return Err(JoinInvalid::Format);
        }
        let header = blocks.remove(0);
        let (node, seeds) = read_header(&header.body, &blocks)?;

        let key = blocks.pop_if(|last| last.label == armor::PRIVATE_KEY);
        let [bundle_block, chain @ ..] = blocks.as_slice() else { return Err(JoinInvalid::Format) };
        if bundle_block.label != bundle::LABEL || chain.iter().any(|block| block.label != armor::CERTIFICATE) {
            return Err(JoinInvalid::Format);
        }
        let bundle_file = armor::encode(bundle::LABEL, &bundle_block.body).as_bytes().to_vec();
        let trust = TrustView::new(TrustBundle::parse(&bundle_file).map_err(JoinInvalid::Bundle)?);
        let issuers: Vec<CertificateDer<'_>> =
            chain.iter().map(|block| CertificateDer::from(block.body.as_slice())).collect();
        let ca = path::verify_issuers(&issuers, &trust, When::Whenever).map_err(JoinInvalid::Chain)?;
        if ca.node != node {
            return Err(JoinInvalid::OtherNode { named: node, certified: ca.node });
        }
        if let Some(key) = &key {
            let key = EcKey::from_pkcs8(&key.body).map_err(JoinInvalid::Key)?;
            if key.spki() != ca.facts.spki {
                return Err(JoinInvalid::KeyMismatch);
            }
        }
        Ok(Self {
            bundle_file,
            node,
            seeds,
            chain_pem: armor::encode_certificates(&issuers),
            issuing_key_pem: key.map(|key| armor::encode(armor::PRIVATE_KEY, &key.body)),
        })
    }
}

fn read_header(header: &[u8], rest: &[Block]) -> Result<(NodeName, Vec<String>), JoinInvalid> {
    let (head, sealed) = header.split_last_chunk::<32>().unwrap_or((header, &[0; 32]));
    let mut reader = Reader::new(head);
    let version = reader.u8()?;
    if version != VERSION {
        return Err(JoinInvalid::Version(version));
    }
    let node = NodeName::new(reader.text()?).map_err(|_| JoinInvalid::Format)?;
    let count = usize::from(reader.u8()?);
    if count > SEEDS_MAX {
        return Err(JoinInvalid::Format);
    }
    let seeds = (0..count).map(|_| reader.text().map(str::to_owned)).collect::<Result<Vec<_>, _>>()?;
    reader.finish()?;
    if *sealed != digest(head, rest) || !seeds.iter().all(|seed| is_seed(seed)) {
        return Err(JoinInvalid::Format);
    }
    Ok((node, seeds))
}

/// Not authenticity, which the signatures inside give: a file that was cut off or pasted together is told apart.
fn digest(head: &[u8], rest: &[Block]) -> [u8; 32] {
    let mut all = Zeroizing::new(head.to_vec());
    for block in rest {
        all.extend_from_slice(&(block.body.len() as u64).to_le_bytes());
        all.extend_from_slice(&block.body);
    }
    keys::sha256(&all)
}

/// `host:port` in printable ASCII; the host is looked up elsewhere.
fn is_seed(text: &str) -> bool {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    let port = text.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>()));
    printable && text.len() <= SEED_BYTES_MAX && matches!(port, Some(Ok(1..)))
}

#[cfg(test)]
mod tests;
