//! What one file of documents may hold.

use std::time::Duration;

pub use starling_model::limits::DOCUMENT_TEXT_BYTES_MAX;

/// Most documents in one file: `apply` activates a file as one batch, and a batch must stay readable.
pub const DOCUMENTS_MAX: usize = 256;

/// Deepest nesting of one document: the deepest field of a route stands at level 13.
pub const YAML_DEPTH_MAX: usize = 32;

/// Most values of one document, each repetition of an alias counted. A document of the largest size that a person lays
/// out has fewer than 4,000.
pub const YAML_NODES_MAX: usize = 16_384;

/// Most aliases, and most anchors, of one document.
pub const YAML_ALIASES_MAX: usize = 64;

/// Largest file of documents: a batch that a person can still review, and as much as one request to an agent may carry.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Bytes of one compiled regular expression: room for any pattern that a person writes by hand; counted repetitions of
/// counted repetitions, which grow without being long, end here.
pub const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// Most regular expressions in one document; with [`PATTERN_BYTES_MAX`] they bound its compiled form to 32 MiB.
pub const PATTERNS_MAX: usize = 128;

/// Most bytes of all regular expressions of one document, each use of an alias counted: what is refused for its compiled
/// size has been compiled before, at up to a third of a millisecond a byte.
pub const DOCUMENT_PATTERN_BYTES_MAX: usize = 16 * 1024;
/// The same of all documents that are read together.
pub const INPUT_PATTERN_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of all texts of one document, each repetition of an alias counted.
pub const YAML_TEXT_BYTES_MAX: usize = 4 * DOCUMENT_TEXT_BYTES_MAX;

/// Most rules of a route (Gateway API v1).
pub const RULES_MAX: usize = 16;
/// Most matches of one rule (Gateway API v1).
pub const MATCHES_PER_RULE_MAX: usize = 64;
/// Most matches of one route (Gateway API v1).
pub const MATCHES_PER_ROUTE_MAX: usize = 128;
/// Most header conditions, query conditions, headers to set, to add and to remove (Gateway API v1).
pub const HEADERS_MAX: usize = 16;
/// Most filters of a rule or of a backend (Gateway API v1).
pub const FILTERS_MAX: usize = 16;
/// Most backends of a rule (Gateway API v1).
pub const BACKENDS_MAX: usize = 16;
/// Most host names of a route (Gateway API v1).
pub const HOSTNAMES_MAX: usize = 16;
/// Most parents of a route (Gateway API v1), and most targets of a policy.
pub const PARENTS_MAX: usize = 32;
/// Most origins and most headers that a CORS filter names (Gateway API v1).
pub const CORS_ENTRIES_MAX: usize = 64;

/// Longest name of a rule: a DNS subdomain (Gateway API v1, `SectionName`).
pub const RULE_NAME_BYTES_MAX: usize = 253;
/// Longest path, to match or to write (Gateway API v1).
pub const PATH_BYTES_MAX: usize = 1_024;
/// Longest name of a header or query parameter (Gateway API v1).
pub const HEADER_NAME_BYTES_MAX: usize = 256;
/// Longest value of a header (Gateway API v1).
pub const HEADER_VALUE_BYTES_MAX: usize = 4_096;
/// Longest value of a query parameter, gRPC service or gRPC method (Gateway API v1).
pub const MATCH_VALUE_BYTES_MAX: usize = 1_024;
/// Longest name of a session (GEP-1619).
pub const SESSION_NAME_BYTES_MAX: usize = 128;
/// Longest entry of `allowOrigins` (Gateway API v1).
pub const ORIGIN_BYTES_MAX: usize = 253;

/// Most retries that a rule may ask for: each is a whole further request, and ten of them outlast every caller's patience.
pub const RETRIES_MAX: u32 = 10;
/// Most status codes that a retry block lists.
pub const RETRY_CODES_MAX: usize = 32;
/// Most connections, requests or retries per interval that a policy can name.
pub const COUNT_MAX: u32 = 1_000_000;

/// Most ports of a Service: each is an address that agents listen for.
pub const SERVICE_PORTS_MAX: usize = 64;
/// Most subsets of a Service: each is a pool of its own.
pub const SUBSETS_MAX: usize = 64;
/// Most entries of nodes in one ServiceGrant, and in each list of a MeshConfig: more are a pattern, or several grants.
pub const GRANT_NODES_MAX: usize = 256;
/// Most listeners of a Gateway (Gateway API v1).
pub const GATEWAY_LISTENERS_MAX: usize = 64;
/// Most services that one ServiceGrant names.
pub const GRANT_SERVICES_MAX: usize = 256;
/// Most labels, and most annotations, of a document; they are kept and never looked at.
pub const METADATA_ENTRIES_MAX: usize = 256;
/// Longest slow start.
pub const SLOW_START_MAX: Duration = Duration::from_secs(3_600);
