//! The wire format for outsiders: one sample of each signed or framed form, and readers that need no machine. Fuzz
//! targets, benches and golden files come through here; nothing in the protocol does.

use std::net::SocketAddr;

use bytes::Bytes;
use starling_model::{
    BootEpoch, DocumentKey, DocumentVersion, EnvelopeInvalid, Life, MeshId, NodeName, RecordKind, RecordVersion,
    Revocation, ServicesRecord,
};

use crate::codec::WireError;
use crate::documents::SignedDocument;
use crate::limits::SIGNATURE_BYTES;
use crate::payload;
use crate::trust::SignedRevocation;
use crate::wire::{self, Alive, DatagramWriter, Envelope, Frame, LifeClaim, Message, RecordHead, SignedLife};

/// What a frame held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Another mesh's frame: refused unread.
    Foreign,
    /// Ours: messages that were read, and messages of unknown kinds that were skipped.
    Ours {
        /// Read.
        messages: usize,
        /// Skipped.
        unknown: u64,
    },
}

/// Reads a whole datagram.
///
/// # Errors
/// What is wrong with it.
pub fn read_datagram(mesh: &MeshId, bytes: &[u8]) -> Result<Seen, WireError> {
    wire::read_frame(Envelope::Datagram, &wire::mesh_head(mesh), bytes).map(|frame| seen(&frame))
}

/// Reads a whole frame of a sync stream.
///
/// # Errors
/// What is wrong with it.
pub fn read_sync_frame(mesh: &MeshId, bytes: &[u8]) -> Result<Seen, WireError> {
    wire::read_frame(Envelope::Sync, &wire::mesh_head(mesh), bytes).map(|frame| seen(&frame))
}

fn seen(frame: &Frame) -> Seen {
    match frame {
        Frame::Foreign => Seen::Foreign,
        Frame::Ours(messages, unknown) => Seen::Ours { messages: messages.len(), unknown: *unknown },
    }
}

/// Reads the signed bytes of an `alive` or `leave`: whose life they are about.
///
/// # Errors
/// What is wrong with them.
pub fn read_life(body: &[u8]) -> Result<(NodeName, Life), WireError> {
    wire::read_life(body).map(|claim: LifeClaim| (claim.name().clone(), claim.life()))
}

/// Reads a whole record and its payload: whose it is, and whether this release understands it.
///
/// # Errors
/// What is wrong with it.
pub fn read_record(bytes: &Bytes) -> Result<(NodeName, RecordVersion, bool), WireError> {
    let parts = wire::read_record(bytes)?;
    let payload = payload::read(parts.head.kind, parts.head.schema, &parts.payload)?;
    Ok((parts.head.owner, parts.head.version, payload.is_some()))
}

/// A datagram with one ping.
///
/// # Errors
/// Never, for any input.
pub fn ping_datagram(mesh: &MeshId, nonce: u64) -> Result<Bytes, WireError> {
    let ping = wire::message(&Message::Ping { nonce })?;
    Ok(wire::frame(Envelope::Datagram, &wire::mesh_head(mesh), &[ping]))
}

/// The bytes that a member signs to say that it lives.
#[must_use]
pub fn alive_body(name: &NodeName, epoch: BootEpoch, addresses: &[SocketAddr]) -> Bytes {
    let alive = Alive {
        name: name.clone(),
        life: Life::first(epoch),
        credential: [0; 32],
        tag: 1,
        protocol: (1, 1),
        features: 0,
        region: "region".to_owned(),
        release: "0.1.0".to_owned(),
        addresses: addresses.to_vec(),
    };
    alive.to_bytes()
}

/// A datagram with one signed `alive`.
///
/// # Errors
/// The body is longer than a life may be.
pub fn alive_datagram(mesh: &MeshId, body: Bytes, signature: [u8; SIGNATURE_BYTES]) -> Result<Bytes, WireError> {
    let life = wire::message(&Message::Life(SignedLife { body, signature }))?;
    Ok(wire::frame(Envelope::Datagram, &wire::mesh_head(mesh), &[life]))
}

/// A datagram that is as full as it gets: the first of these signed lives, and a filling.
#[must_use]
pub fn full_datagram(mesh: &MeshId, lives: &[(Bytes, [u8; SIGNATURE_BYTES])]) -> Bytes {
    let lives = lives.iter().map(|(body, signature)| SignedLife { body: body.clone(), signature: *signature });
    full(mesh, lives.map(Message::Life))
}

/// A datagram that is as full as it gets: the first of these records, and a filling.
#[must_use]
pub fn full_record_datagram(mesh: &MeshId, records: &[Bytes]) -> Bytes {
    full(mesh, records.iter().cloned().map(Message::Record))
}

fn full(mesh: &MeshId, mut news: impl Iterator<Item = Message>) -> Bytes {
    let mut writer = DatagramWriter::default();
    writer.begin(&wire::mesh_head(mesh));
    while news.next().is_some_and(|one| writer.put(&one).is_ok()) {}
    if let Some(padding) = wire::padding(writer.room()) {
        writer.append(&padding);
    }
    writer.finish()
}

/// The hash by which lives and records name the credential of their key.
#[must_use]
pub fn credential_hash(credential: &[u8]) -> [u8; 32] {
    crate::replica::credential_hash(credential)
}

/// The life that [`introduction_frame`] brings: what is signed, and the signature, which is nothing.
#[must_use]
pub fn introduced_life(name: &NodeName, epoch: BootEpoch, credential: &[u8]) -> (Bytes, [u8; SIGNATURE_BYTES]) {
    let alive = Alive {
        name: name.clone(),
        life: Life::first(epoch),
        credential: credential_hash(credential),
        tag: 1,
        protocol: (1, 1),
        features: 0,
        region: "eu-1".to_owned(),
        release: "0.1.0".to_owned(),
        addresses: vec![SocketAddr::from(([10, 0, 0, 1], 7740))],
    };
    (alive.to_bytes(), [0; SIGNATURE_BYTES])
}

/// A frame of a stream that brings a member: its credential, and its life signed with nothing.
///
/// # Errors
/// The credential is longer than one may be.
pub fn introduction_frame(
    mesh: &MeshId,
    name: &NodeName,
    epoch: BootEpoch,
    credential: &Bytes,
) -> Result<Bytes, WireError> {
    let (body, signature) = introduced_life(name, epoch, credential);
    let credential = Message::Credential { owner: name.clone(), bytes: credential.clone() };
    let messages = [wire::message(&credential)?, wire::message(&Message::Life(SignedLife { body, signature }))?];
    Ok(wire::frame(Envelope::Sync, &wire::mesh_head(mesh), &messages))
}

/// One shard of a `services` record, whole.
///
/// # Errors
/// The record does not fit one shard.
pub fn services_record(
    owner: &NodeName,
    version: RecordVersion,
    record: &ServicesRecord,
    statement: [u8; 32],
    signature: [u8; SIGNATURE_BYTES],
) -> Result<Bytes, WireError> {
    let payload = payload::write_services(record.instances.iter())?;
    let schema = payload::SCHEMA;
    let (kind, owner) = (RecordKind::Services, owner.clone());
    let head = RecordHead { owner, kind, shard: 0, version, schema, ttl_s: 0, statement };
    Ok([&head.to_bytes(&payload)?[..], &signature[..]].concat().into())
}

/// A datagram with one record.
///
/// # Errors
/// The record is longer than a record may be.
pub fn record_datagram(mesh: &MeshId, record: Bytes) -> Result<Bytes, WireError> {
    let message = wire::message(&Message::Record(record))?;
    Ok(wire::frame(Envelope::Datagram, &wire::mesh_head(mesh), &[message]))
}

/// Reads a signed document: which one, which version of it, and its text.
///
/// # Errors
/// What is wrong with it.
pub fn read_document(envelope: &Bytes) -> Result<(DocumentKey, DocumentVersion, Bytes), EnvelopeInvalid> {
    SignedDocument::read(envelope).map(|document| (document.head.key, document.version, document.text))
}

/// Reads a signed revocation: what it says, and its hash.
///
/// # Errors
/// What is wrong with it.
pub fn read_revocation(envelope: &Bytes) -> Result<(Revocation, [u8; 32]), EnvelopeInvalid> {
    SignedRevocation::read(envelope).map(|revocation| (revocation.said, revocation.hash))
}

/// A sync frame with one signed document.
///
/// # Errors
/// It is longer than a document may be.
pub fn document_frame(mesh: &MeshId, envelope: Bytes) -> Result<Bytes, WireError> {
    let message = wire::message(&Message::Document(envelope))?;
    Ok(wire::frame(Envelope::Sync, &wire::mesh_head(mesh), &[message]))
}

/// A datagram that says that a signed document exists.
///
/// # Errors
/// It is no document.
pub fn document_announcement(mesh: &MeshId, envelope: &Bytes) -> Result<Bytes, WireError> {
    let document = SignedDocument::read(envelope).map_err(|_| WireError::Malformed)?;
    let message = wire::message(&Message::HaveDocument(document.digest()))?;
    Ok(wire::frame(Envelope::Datagram, &wire::mesh_head(mesh), &[message]))
}

/// A datagram with one signed revocation.
///
/// # Errors
/// It is longer than a revocation may be.
pub fn revocation_datagram(mesh: &MeshId, envelope: Bytes) -> Result<Bytes, WireError> {
    let message = wire::message(&Message::Revocation(envelope))?;
    Ok(wire::frame(Envelope::Datagram, &wire::mesh_head(mesh), &[message]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::tests::sample_instance;
    use crate::testing::{document, document_key, node, revocation};

    const MESH: MeshId = MeshId([7; 32]);

    #[test]
    fn samples_are_read_by_the_readers() {
        let one = Ok(Seen::Ours { messages: 1, unknown: 0 });
        assert_eq!(read_datagram(&MESH, &ping_datagram(&MESH, 5).unwrap()), one);
        let body = alive_body(&node("n"), BootEpoch(3), &[]);
        assert_eq!(read_life(&body), Ok((node("n"), Life::first(BootEpoch(3)))));
        assert_eq!(read_datagram(&MESH, &alive_datagram(&MESH, body, [0; 64]).unwrap()), one);
        let record = ServicesRecord { instances: vec![sample_instance("web")] };
        let bytes = services_record(&node("n"), RecordVersion::default(), &record, [0; 32], [0; 64]).unwrap();
        assert_eq!(read_record(&bytes), Ok((node("n"), RecordVersion::default(), true)));
        assert_eq!(read_datagram(&MESH, &record_datagram(&MESH, bytes).unwrap()), one);
        assert_eq!(read_datagram(&MeshId([8; 32]), &ping_datagram(&MESH, 5).unwrap()), Ok(Seen::Foreign));
        let lives: Vec<_> =
            (0..9).map(|at| (alive_body(&node(&format!("n{at}")), BootEpoch(3), &[]), [0; 64])).collect();
        let full = full_datagram(&MESH, &lives);
        assert_eq!(full.len(), crate::limits::DATAGRAM_BYTES_MAX);
        assert!(matches!(read_datagram(&MESH, &full), Ok(Seen::Ours { messages: 5.., unknown: 0 })));
        assert_eq!(read_sync_frame(&MESH, b"x"), Err(WireError::Truncated));
    }

    #[test]
    fn samples_of_operators_words_are_read_by_the_readers() {
        let one = Ok(Seen::Ours { messages: 1, unknown: 0 });
        let document = document("orders", 3, None);
        let (key, version, text) = read_document(&document).unwrap();
        assert_eq!((key, version.generation.get(), &text[..]), (document_key("orders"), 3, &b"orders 3"[..]));
        assert_eq!(read_datagram(&MESH, &document_announcement(&MESH, &document).unwrap()), one);
        assert_eq!(read_sync_frame(&MESH, &document_frame(&MESH, document).unwrap()), one);
        let revocation = revocation("vm-3", 2, &[1]);
        let (said, _) = read_revocation(&revocation).unwrap();
        assert_eq!((said.node, said.number), (node("vm-3"), 2));
        assert_eq!(read_datagram(&MESH, &revocation_datagram(&MESH, revocation).unwrap()), one);
        assert!(read_document(&Bytes::new()).is_err() && read_revocation(&Bytes::new()).is_err());
    }

    /// Bytes of the first wire version; they never change under this envelope.
    #[test]
    fn the_bytes_of_operators_words_are_fixed() {
        let document = document("a", 1, None);
        let frame = document_frame(&MESH, document.clone()).unwrap();
        let len = u8::try_from(document.len()).unwrap();
        let head = [b"S1\x02\x00", &[7; 8][..], &[len + 5, 0, 0, 0], &[128, len, 0, 0, 0]].concat();
        assert_eq!(frame, [&head[..], &document].concat());
        let announcement = document_announcement(&MESH, &document).unwrap();
        let want = "533101000707070707070707340000000b310001b446";
        let hex: String = announcement.iter().take(22).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, want);
    }
}
