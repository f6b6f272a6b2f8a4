//! The nouns every room of Starling shares: small, cheap to copy or clone, checked once at construction.
//!
//! Reading order: [`names`] (who and what), [`life`] (which life of a member), [`member`] and [`endpoint`] (state of
//! nodes and of what they offer), [`record`] (what an owner says about itself), [`document`] and [`envelope`] (what
//! operators decide, and the bytes that they sign), [`spiffe`] (how an identity is written), [`codes`] (every error a
//! person can meet).
//!
//! Not here: IO, clocks, randomness, cryptography, any decision.

pub mod codes;
pub mod document;
pub mod endpoint;
pub mod envelope;
pub mod life;
pub mod limits;
pub mod member;
pub mod mesh;
pub mod names;
pub mod record;
pub mod spiffe;

pub use codes::Code;
pub use document::{Batch, BatchId, DocumentKey, DocumentKind, DocumentVersion, Generation, KeyId};
pub use endpoint::{EndpointId, Labels, Protocol, Readiness, Weight};
pub use envelope::{Document, EnvelopeInvalid, Revocation};
pub use life::{BootEpoch, Incarnation, Life};
pub use member::MemberState;
pub use mesh::{Digest, MeshId};
pub use names::{
    DocumentName, InstanceName, NameInvalid, Namespace, NodeName, PortName, ServiceKey, ServiceName, SubsetName,
};
pub use record::{
    Announcement, HealthEntry, HealthRecord, HeldDocument, HeldWhy, RecordKind, RecordVersion, ServicesRecord,
    StatusRecord,
};
pub use spiffe::{SpiffeId, SpiffeInvalid, TrustDomain};
