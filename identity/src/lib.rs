//! Who a peer is: certificates, signatures and the one function that judges them.
//!
//! **The shared thing is public.** A trust bundle ([`bundle`]) holds the roots, the issuing certificates and the
//! operators' public keys of one mesh. With it alone a host can authenticate everybody and speak to nobody.
//!
//! **Each node is a tiny CA for itself.** An operator issues one certificate per node ([`issue`]), constrained to the
//! one name `<node>.node.<trust domain>`. With its key the node mints its own short-lived leaves ([`leaf`]), so no
//! server stands in the renewal path and a stolen key reaches exactly one name.
//!
//! **One function judges every peer.** [`verify::verify_peer`] ties SPIFFE id, DNS name, constraint and chain
//! together, for gossip and traffic, dialling and accepting; [`tls`] is the only way into rustls. What owners say about
//! themselves is signed with a record key ([`signature`]), and that key is bound to the node by a node statement
//! ([`statement`]), provable with the bundle alone. What operators decide is signed with their keys ([`operator`]).
//!
//! Reading order: [`verify`], `x509`, [`trust`], [`bundle`], [`chain`], [`certificates`], [`issue`], [`rotate`], [`node`],
//! [`statement`], [`current`], [`tls`].
//!
//! Nothing here touches a file, a socket or a clock: time is a parameter. Key generation, serial numbers and
//! signatures draw entropy from the crypto provider (aws-lc-rs), the one exception.

pub mod bundle;
pub mod certificates;
pub mod chain;
pub mod current;
pub mod inspect;
pub mod issue;
pub mod join;
pub mod leaf;
pub mod life;
pub mod limits;
pub mod negotiated;
pub mod node;
pub mod operator;
pub mod passphrase;
pub mod request;
pub mod revoked;
pub mod rotate;
pub mod signature;
pub mod statement;
pub mod time;
pub mod tls;
pub mod trust;
pub mod verify;

mod armor;
mod keys;
mod path;
mod refusals;
mod wire;
mod x509;

#[cfg(test)]
mod fixtures;

pub use bundle::{BundleInvalid, Operator, Role, Roles, Signer, TrustBundle};
pub use certificates::{CertificateList, NodeCertificates};
pub use chain::BundleChain;
pub use current::CurrentIdentity;
pub use issue::{IssueError, IssuedNode, IssuingCa, NewTrustDomain, SignedNode, create_trust_domain, update_by_root};
pub use join::{JoinFile, JoinInvalid};
pub use keys::KeyInvalid;
pub use leaf::Leaf;
pub use life::LeafTimer;
pub use negotiated::Negotiated;
pub use node::{IdentityInvalid, NodeIdentity, new_record_key};
pub use operator::{OperatorKey, OperatorRefused, OperatorStatement, batch_id, verify_operator};
pub use request::{NodeRequest, RequestInvalid};
pub use revoked::Revoked;
pub use signature::{SignatureKind, verify_ed25519};
pub use statement::{CredentialRefused, VerifiedCredential, verify_credential};
pub use time::UnixTime;
pub use trust::TrustView;
pub use verify::{Expected, PeerIdentity, PeerRefused, verify_peer};
