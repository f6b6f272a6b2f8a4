//! What `starling-trust/1` carries. Who missed updates says what it holds, and gets what follows; who knows the hash of a
//! node's issuing key gets its renewed certificates, and who knows the hash of a list gets the list.
//!
//! ```text
//! request := "STQ1" | mesh id [32] | hashes u8 { [32] }          newest first, then 1, 2, 4, … before it
//! answer  := "STA1" | updates u8 { len u16 | bundle without its armour }          ascending
//! request := "STQ2" | mesh id [32] | issuing key hash [32]
//! answer  := "STA2" | certificates u8 { len u16 | DER }          the newest first, at most 4
//! request := "STQ3" | mesh id [32] | list hash [32]
//! answer  := "STA3" | list, or nothing when it is not held
//! ```
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use rustls_pki_types::CertificateDer;
use starling_model::MeshId;

use super::{BundleChain, Head};
use crate::certificates::{CertificateList, NodeCertificates};
use crate::limits::{
    ANSWER_BYTES_MAX, CERTIFICATES_PER_KEY_MAX, REQUEST_BYTES_MAX, REQUEST_HASHES_MAX, UPDATE_BYTES_MAX, UPDATES_MAX,
};
use crate::wire::{Reader, WireError, Writer};

const REQUEST: [u8; 4] = *b"STQ1";
const ANSWER: [u8; 4] = *b"STA1";
const KEY_REQUEST: [u8; 4] = *b"STQ2";
const KEY_ANSWER: [u8; 4] = *b"STA2";
const LIST_REQUEST: [u8; 4] = *b"STQ3";
const LIST_ANSWER: [u8; 4] = *b"STA3";

/// The bytes are no request or no answer: longer than may be, or of another form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are not part of an exchange of trust bundles")]
pub struct ExchangeInvalid;

impl From<WireError> for ExchangeInvalid {
    fn from(_: WireError) -> Self {
        Self
    }
}

/// Which bundles the asker holds; it wants what follows the first that the other side knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of which mesh.
    pub mesh_id: MeshId,
    /// One to eight, newest first.
    pub held: Vec<[u8; 32]>,
}

impl Request {
    /// Its bytes.
    ///
    /// # Errors
    /// [`ExchangeInvalid`] with no hash, or with more than a request may hold.
    pub fn encode(&self) -> Result<Vec<u8>, ExchangeInvalid> {
        if self.held.is_empty() || self.held.len() > REQUEST_HASHES_MAX {
            return Err(ExchangeInvalid);
        }
        let mut out = Writer::default();
        out.raw(&REQUEST).raw(&self.mesh_id.0).count(self.held.len())?;
        for hash in &self.held {
            out.raw(hash);
        }
        Ok(out.into_bytes())
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`ExchangeInvalid`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ExchangeInvalid> {
        let mut reader = Reader::new(bytes);
        if bytes.len() > REQUEST_BYTES_MAX || reader.array()? != REQUEST {
            return Err(ExchangeInvalid);
        }
        let mesh_id = MeshId(reader.array()?);
        let count = usize::from(reader.u8()?);
        if count == 0 || count > REQUEST_HASHES_MAX {
            return Err(ExchangeInvalid);
        }
        let held = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { mesh_id, held })
    }
}

/// Updates that follow each other, as bytes; [`BundleChain::merge`] judges them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'a>(pub Vec<&'a [u8]>);

impl<'a> Answer<'a> {
    /// Its bytes.
    ///
    /// # Errors
    /// [`ExchangeInvalid`] with more or larger updates than an answer may hold.
    pub fn encode(&self) -> Result<Vec<u8>, ExchangeInvalid> {
        if self.0.len() > UPDATES_MAX || self.0.iter().any(|raw| raw.len() > UPDATE_BYTES_MAX) {
            return Err(ExchangeInvalid);
        }
        let mut out = Writer::default();
        out.raw(&ANSWER).count(self.0.len())?;
        for raw in &self.0 {
            out.bytes(raw)?;
        }
        Ok(out.into_bytes())
    }

    /// Reads one; the updates in it are not looked into.
    ///
    /// # Errors
    /// [`ExchangeInvalid`] when it is none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ExchangeInvalid> {
        let mut reader = Reader::new(bytes);
        if bytes.len() > ANSWER_BYTES_MAX || reader.array()? != ANSWER {
            return Err(ExchangeInvalid);
        }
        let count = usize::from(reader.u8()?);
        if count > UPDATES_MAX {
            return Err(ExchangeInvalid);
        }
        let updates = (0..count).map(|_| reader.bytes()).collect::<Result<Vec<_>, _>>()?;
        reader.finish()?;
        if updates.iter().any(|raw| raw.len() > UPDATE_BYTES_MAX) {
            return Err(ExchangeInvalid);
        }
        Ok(Self(updates))
    }
}

/// Anything that is asked over `starling-trust/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Updates of the bundle.
    Updates(Request),
    /// Renewed certificates of one issuing key.
    Key {
        /// Of which mesh.
        mesh_id: MeshId,
        /// SHA-256 of its SPKI.
        hash: [u8; 32],
    },
    /// A list of renewed certificates.
    List {
        /// Of which mesh.
        mesh_id: MeshId,
        /// As a bundle names it.
        hash: [u8; 32],
    },
}

impl Question {
    /// Its bytes.
    ///
    /// # Errors
    /// As [`Request::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, ExchangeInvalid> {
        let two = |magic: &[u8; 4], mesh_id: &MeshId, hash: &[u8; 32]| {
            let mut out = Writer::default();
            out.raw(magic).raw(&mesh_id.0).raw(hash);
            out.into_bytes()
        };
        match self {
            Self::Updates(request) => request.encode(),
            Self::Key { mesh_id, hash } => Ok(two(&KEY_REQUEST, mesh_id, hash)),
            Self::List { mesh_id, hash } => Ok(two(&LIST_REQUEST, mesh_id, hash)),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`ExchangeInvalid`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ExchangeInvalid> {
        let mut reader = Reader::new(bytes);
        let magic: [u8; 4] = reader.array()?;
        if magic == REQUEST {
            return Request::decode(bytes).map(Self::Updates);
        }
        let (mesh_id, hash) = (MeshId(reader.array()?), reader.array()?);
        reader.finish()?;
        match magic {
            KEY_REQUEST => Ok(Self::Key { mesh_id, hash }),
            LIST_REQUEST => Ok(Self::List { mesh_id, hash }),
            _ => Err(ExchangeInvalid),
        }
    }
}

/// Answers any question out of what is public here; for another mesh with nothing.
///
/// # Errors
/// [`ExchangeInvalid`] when the bytes are no question.
pub fn reply(
    chain: &BundleChain,
    certificates: &NodeCertificates,
    question: &[u8],
) -> Result<Vec<u8>, ExchangeInvalid> {
    let ours = |mesh_id: &MeshId| *mesh_id == chain.newest().mesh_id;
    let mut out = Writer::default();
    match Question::decode(question)? {
        Question::Updates(request) => return answer(chain, &request).encode(),
        Question::Key { mesh_id, hash } => {
            let held = if ours(&mesh_id) { certificates.of_key(&hash) } else { &[] };
            out.raw(&KEY_ANSWER).count(held.len())?;
            for der in held {
                out.bytes(der)?;
            }
        }
        Question::List { mesh_id, hash } => {
            let list = certificates.list(&hash).filter(|_| ours(&mesh_id));
            out.raw(&LIST_ANSWER).raw(list.map(CertificateList::raw).unwrap_or_default());
        }
    }
    Ok(out.into_bytes())
}

/// Reads the answer to [`Question::Key`] as a list; nothing when there is none.
///
/// # Errors
/// [`ExchangeInvalid`] when it is no such answer.
pub fn read_key_answer(bytes: &[u8]) -> Result<Option<CertificateList>, ExchangeInvalid> {
    let mut reader = Reader::new(bytes);
    if bytes.len() > ANSWER_BYTES_MAX || reader.array()? != KEY_ANSWER {
        return Err(ExchangeInvalid);
    }
    let count = usize::from(reader.u8()?);
    if count > CERTIFICATES_PER_KEY_MAX {
        return Err(ExchangeInvalid);
    }
    let held = (0..count).map(|_| reader.bytes().map(CertificateDer::from)).collect::<Result<Vec<_>, _>>()?;
    reader.finish()?;
    let mut lists = CertificateList::pack(&held).map_err(|_| ExchangeInvalid)?;
    Ok(lists.pop())
}

/// Reads the answer to [`Question::List`]; nothing when it is not held there.
///
/// # Errors
/// [`ExchangeInvalid`] when it is no such answer.
pub fn read_list_answer(bytes: &[u8]) -> Result<Option<CertificateList>, ExchangeInvalid> {
    let raw = bytes.strip_prefix(&LIST_ANSWER).ok_or(ExchangeInvalid)?;
    if raw.is_empty() {
        return Ok(None);
    }
    CertificateList::decode(raw).map(Some).map_err(|_| ExchangeInvalid)
}

/// What to ask of a member whose chain ends at `theirs`; nothing when we hold that bundle.
#[must_use]
pub fn missing(chain: &BundleChain, theirs: &Head) -> Option<Request> {
    if chain.place(&theirs.hash).is_some() {
        return None;
    }
    Some(whatever_follows(chain))
}

/// What to ask of somebody of whose chain nothing is known.
#[must_use]
pub fn whatever_follows(chain: &BundleChain) -> Request {
    let hashes: Vec<[u8; 32]> = chain.links().rev().map(|link| link.hash).collect();
    let doubling = std::iter::successors(Some(1_usize), |back| back.checked_mul(2));
    let mut held: Vec<_> = std::iter::once(0)
        .chain(doubling)
        .map_while(|back| hashes.get(back).copied())
        .take(REQUEST_HASHES_MAX)
        .collect();
    // The oldest is always named, so that whatever we can still attach is found.
    let oldest = chain.oldest.hash;
    if held.last() != Some(&oldest) {
        held.truncate(REQUEST_HASHES_MAX.saturating_sub(1));
        held.push(oldest);
    }
    Request { mesh_id: chain.newest().mesh_id, held }
}

/// Our updates after the newest bundle that the asker holds too; all of them when we know none of these, and none for
/// another mesh.
#[must_use]
pub fn answer<'a>(chain: &'a BundleChain, request: &Request) -> Answer<'a> {
    if request.mesh_id != chain.newest().mesh_id {
        return Answer(Vec::new());
    }
    let after = request.held.iter().find_map(|hash| chain.place(hash));
    let updates = chain.updates.iter().skip(after.unwrap_or(0)).map(|link| link.bundle.raw());
    // Whoever holds what is before our oldest lacks that, too.
    let oldest = &chain.oldest.bundle;
    let attaches = after.is_none() && request.held.contains(&oldest.previous);
    Answer(attaches.then(|| oldest.raw()).into_iter().chain(updates).take(UPDATES_MAX).collect())
}
