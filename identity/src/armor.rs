//! Text armour (RFC 7468) around certificates, keys and our own signed bodies.

use rustls_pki_types::CertificateDer;
use zeroize::{Zeroize as _, Zeroizing};

/// Label of one X.509 certificate.
pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
/// Label of a PKCS#8 private key.
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Largest armoured text that is looked at: four roots, eight issuers and 64 operators need 24 KiB.
pub(crate) const ARMOR_BYTES_MAX: usize = 256 * 1024;

/// Most blocks in one text.
const BLOCKS_MAX: usize = 32;

const CONFIG: pem::EncodeConfig = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);

/// One labelled body. Its bytes are wiped when dropped, for it may be a key.
pub(crate) struct Block {
    pub(crate) label: String,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Writes one block. The result is wiped when dropped, for it may be a key.
pub(crate) fn encode(label: &str, body: &[u8]) -> Zeroizing<String> {
    let block = pem::Pem::new(label, body);
    let text = Zeroizing::new(pem::encode_config(&block, CONFIG));
    block.into_contents().zeroize();
    text
}

/// Reads all blocks of a text; whatever stands outside of them is skipped. `None` when the text is too large, holds too
/// many blocks, or one of them is damaged.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<Block>> {
    if text.len() > ARMOR_BYTES_MAX {
        return None;
    }
    let blocks = pem::parse_many(text).ok()?;
    if blocks.len() > BLOCKS_MAX {
        return None;
    }
    let wipe = |block: pem::Pem| Block { label: block.tag().to_owned(), body: Zeroizing::new(block.into_contents()) };
    Some(blocks.into_iter().map(wipe).collect())
}

/// The body of a text that is exactly one block with this label.
pub(crate) fn decode_one(text: &[u8], label: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut blocks = decode(text)?;
    let block = blocks.pop()?;
    (blocks.is_empty() && block.label == label).then_some(block.body)
}

/// The certificates of a text that holds nothing else.
pub(crate) fn decode_certificates(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificate = |block: Block| (block.label == CERTIFICATE).then(|| CertificateDer::from(block.body.to_vec()));
    decode(text)?.into_iter().map(certificate).collect()
}

/// Certificates as one text, in order.
pub(crate) fn encode_certificates(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| encode(CERTIFICATE, der).as_str().to_owned()).collect()
}
