//! What one file of documents may hold.

pub use starling_model::limits::DOCUMENT_TEXT_BYTES_MAX;

/// Most documents in one file: `apply` activates a file as one batch, and a batch must stay readable.
pub const DOCUMENTS_MAX: usize = 256;
