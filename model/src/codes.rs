//! The one catalogue of errors that people meet: `ST` and four digits, stable, never reused.
//!
//! Ranges: 01 usage, 02 joining and gossip, 03 local API, 04 documents and signatures, 05 routing and proxy,
//! 06 identity, 07 host. `docs/errors.md` is made from this table; a test asserts that each is documented and used.

use std::fmt;

/// How much a code weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing was done.
    Error,
    /// It works, but somebody should look.
    Warning,
}

/// One entry of the catalogue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Four digits, e.g. 301 for `ST0301`.
    pub number: u16,
    /// Error or warning.
    pub level: Level,
    /// What happened, without particulars.
    pub title: &'static str,
    /// What to do about it, in general.
    pub help: &'static str,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ST{:04}", self.number)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! codes {
    ($($name:ident = $number:literal, $level:ident, $title:literal, $help:literal;)*) => {
        $(
            #[doc = $title]
            pub const $name: Code = Code { number: $number, level: Level::$level, title: $title, help: $help };
        )*
        /// Every code, by number.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    UNKNOWN_NAME = 101, Error, "unknown name", "`starling services` and `starling members` list the known names";
    UNKNOWN_SETTING = 102, Error, "unknown setting or variable", "`starling agent --print-config` lists every setting with its value and origin";
    BAD_SETTING = 103, Error, "a setting has a value it cannot have", "correct the named place; every problem of all files is listed in one run";
    SETTING_IDLE = 104, Warning, "a setting has no effect in this release", "remove it, or keep it for the release that acts on it";
    NO_QUIC_ANSWER = 201, Error, "no QUIC answer from a seed", "check that the seed's agent runs and that UDP 7740 is open in both directions; the agent keeps trying";
    CLOCKS_DIFFER = 202, Error, "a certificate is not valid at this moment of our clock", "compare the clocks: timedatectl; leaves are valid from 24 h before to 24 h after they are made, so one clock is off by more";
    NAME_TAKEN = 203, Error, "another node is alive under this name", "give this host another name, or stop the other agent; a cloned disk needs a new identity";
    OTHER_MESH = 204, Error, "the certificate is from another mesh", "issue an identity for that mesh in its operator folder: starling trust issue node NAME";
    NO_COMMON_PROTOCOL = 205, Error, "no common protocol version", "upgrade the older agent";
    NO_AGENT = 301, Error, "no agent answers", "start it: sudo systemctl start starling, or try it without root: starling demo";
    API_DENIED = 302, Error, "permission denied on the agent's socket", "reading needs no root: starling --address http://127.0.0.1:7741 members";
    NOT_READY = 303, Error, "the agent is not ready", "`starling status` says what it waits for";
    FOREIGN_HOST = 304, Error, "wrong Host or foreign Origin", "call the API by its loopback address, or name the host in api.hosts";
    BAD_REQUEST = 305, Error, "the request is malformed", "see the detail; unknown parameters and fields are refused";
    NOT_FOUND = 306, Error, "no such thing", "list what there is: /v1/members, /v1/services, /v1/instances";
    READ_ONLY = 307, Error, "this door is read-only", "writes go over the Unix socket";
    API_LIMIT = 308, Error, "over a limit of the local API", "bodies are at most 1 MiB, 64 connections at a time";
    UNKNOWN_FIELD = 401, Error, "a document has a field that its kind does not have", "write the known name that is meant; every problem of all documents is listed in one run";
    BAD_DOCUMENT = 402, Error, "a document, or a value in it, cannot be what it is", "correct the named place; every problem of all documents is listed in one run";
    DOCUMENT_TWICE = 403, Error, "the same document stands twice in one input", "keep one of the two, or give one another name";
    DOCUMENT_IDLE = 404, Warning, "something in a document has no effect in this release", "remove it, or keep it for the release that acts on it";
    SIGNATURE_INVALID = 411, Error, "a signature is bad or its key is unknown", "sign again with a key that the trust bundle names: starling trust inspect shows them";
    DOCUMENT_STALE = 412, Error, "a later generation of the document is in use", "fetch the one in use, edit it, and apply that";
    DOCUMENT_CONFLICT = 413, Warning, "two contents of one generation were signed", "the greater one is in use everywhere; agree with the other signer and apply the next generation";
    DOCUMENT_HELD_BACK = 414, Warning, "a document is held back: this agent cannot use it", "`starling get KIND NAME` says why: of a later release, upgrade this agent; quarantined, apply another text; it would empty a service, see `starling services`; a ServiceGrant denies all that it names until it can be used";
    MEMBERS_DIFFER = 421, Warning, "members use different documents", "normal for a moment; if it stays: starling get and starling members say who is behind";
    BATCH_INCOMPLETE = 422, Warning, "a batch of documents is not complete", "it is used when the rest arrives; if it does not, apply the files again";
    BACKEND_EMPTY = 431, Warning, "a rule leads to no endpoint now", "its share is answered with 503 until an instance is ready: `starling services NAME` shows what there is";
    DOCUMENT_COVERED = 432, Warning, "another document comes before this one and leaves nothing to it", "see the detail: merge the two, or narrow what one of them holds for";
    UNKNOWN_REFERENCE = 433, Warning, "a document refers to something unknown", "check the name; what comes later than the document is found when it comes";
    STARLING_FIELD = 434, Error, "the field exists in starling/v1 only", "write apiVersion: starling/v1, or leave the field out and stay portable";
    RULE_ANSWERS_ERROR = 436, Warning, "a rule can only answer with an error", "give it a backend with a weight over 0, or a filter that answers";
    RETRIES_WRITES = 437, Warning, "a retry rule also holds for requests that change things", "match the methods that may run twice, as method: GET, or leave retry out";
    NO_ROUTE = 501, Error, "no route or service", "`starling services` lists the services this node knows";
    DENIED = 502, Error, "denied by policy", "hosts outside the mesh are not passed on: name them in no_proxy; for hosts of the mesh the detail names the policy";
    NO_ENDPOINT = 503, Error, "the service has no usable endpoint", "`starling services NAME` shows each endpoint and why it is not used";
    UPSTREAM_FAILED = 504, Error, "the endpoint could not be reached or broke off", "`starling services NAME` and the log of the serving node say why";
    UPSTREAM_TIMEOUT = 505, Error, "the endpoint did not answer in time", "look at the service itself; the built-in deadline to the response head is 15 s";
    PEER_CERTIFICATE = 506, Error, "the peer is not the expected node", "compare `starling members` with the host at that address";
    BAD_HTTP = 507, Error, "the HTTP request is malformed or ambiguous", "the detail names the rule; correct the client";
    BAD_TLS = 508, Error, "a connection at a Gateway did not begin with TLS in time", "it is closed: connect with TLS, and name the server (SNI); the access log says which";
    CERTIFICATE_EXPIRED = 601, Error, "certificate expired or not chained to the bundle", "issue a new identity: starling trust issue node NAME --replace, then starling join";
    CERTIFICATE_ENDING = 603, Warning, "under 20 % of a certificate's life is left, or a leaf is not renewed", "the certificate: renew it in the operator's folder, starling trust sign --renew NAME --wait; with a shared issuer the agent does it at its next start; a leaf: the agent makes it itself, and its log says what stops it";
    SHARED_ISSUER = 604, Warning, "shared issuer: any host can pose as any node", "for production issue one identity per node: starling trust issue node NAME";
    BUNDLE_FORKED = 605, Warning, "members use different trust bundles", "an update that is on its way ends this within seconds; of two that were signed side by side, all members keep the same one: the two authors compare what they signed, and sign again what was left";
    ROLE_MISSING = 606, Error, "an operator's key lacks the role", "sign with a key that has it; starling trust inspect shows the roles of each key";
    MEMBERS_BEHIND = 607, Error, "members are behind the rotation of the root", "bring them back, revoke them, or go on without them: --force";
    TRUST_STALE = 608, Warning, "no peer was heard for a day: what was revoked since is not known here", "bring the network back; until then this node may let in who was shut out meanwhile";
    BUNDLE_BEHIND = 609, Error, "the folder's trust bundle is behind the one in force", "copy trust/bundle.trust, operator/updates and operator/lists from the folder where the newer one was made, then repeat the command";
    SECRET_UNSAFE = 610, Error, "a secret file is not safe", "make it a regular file of the agent's user with mode 0600: chmod 600 FILE";
    IDENTITY_MISSING = 611, Error, "no identity on this host", "get a join file from the operator: starling trust issue node NAME, then: starling join NAME.join";
    UNGRANTED = 612, Warning, "a service is announced without a grant", "grant it to the nodes that may announce it, in a ServiceGrant; serviceGrants: Strict in the MeshConfig keeps out what no grant names";
    BUNDLE_INVALID = 613, Error, "the trust bundle cannot be used", "copy trust/bundle.trust from the operator's folder again";
    JOIN_FILE_INVALID = 614, Error, "the join file cannot be used", "ask for a new one: starling trust issue node NAME --replace";
    IDENTITY_EXISTS = 615, Error, "an identity is installed already", "replace it on purpose: starling join FILE --replace";
    TRUST_EXISTS = 616, Error, "the operator folder or name exists already", "choose another folder, or --replace for a name that was issued before";
    REQUEST_INVALID = 617, Error, "the certificate request cannot be used", "make it again on the node: starling trust csr --node NAME, and compare the key's hash with what is printed there";
    KEY_LOCKED = 618, Error, "an operator's key is under a passphrase that was not given, or is another", "name the file that holds the passphrase: --passphrase-file FILE (mode 0600)";
    TRUST_UNPROVEN = 619, Error, "nothing proves a trust bundle to this host", "have the operator sign the file again with the newest bundle, or copy the mesh's trust/bundle.trust by a way that you trust; --new-trust takes one unproven, after its fingerprint was compared";
    CHAIN_MALFORMED = 620, Error, "a peer's certificate chain is malformed", "the peer is not a Starling agent, or is broken; its address is in the log";
    NOT_SPIFFE = 621, Error, "a peer's name is no bound SPIFFE identity", "the peer's certificate was not made by this mesh's tools";
    LEAF_PROFILE = 622, Error, "a peer's leaf breaks the profile", "the peer's certificate was not made by this mesh's tools";
    PATH_SHAPE = 623, Error, "a peer's certificate path has a wrong shape", "the peer's certificate was not made by this mesh's tools";
    REVOKED = 624, Error, "the node is revoked", "issue a new identity for its host if it is to come back: starling trust issue node NAME --replace, then starling trust revoke node NAME --keep-newest";
    UNEXPECTED_PEER = 625, Error, "another node answered than was dialled", "an address changed hands; `starling members` shows who is where";
    DUPLICATE_IDENTITY = 626, Error, "one identity is live at two addresses", "stop one of the two agents; a cloned disk needs a new identity";
    REQUEST_UNCONFIRMED = 627, Error, "the key of a request is not the one that was named, or nobody confirmed it", "compare with what `starling trust csr` printed on the node, by another way than the request came, and name it: --request-key SHA256:…";
    KEY_COSTLY = 628, Error, "an operator's key asks for too much memory or time to be opened", "write it again with a lower cost: openssl pkcs8 -topk8 -scrypt, or -iter of at most 10,000,000; a file from elsewhere may be made to stop you";
    PORT_TAKEN = 701, Error, "a port is taken", "stop the process that holds it, or change the setting that is named";
    UDP_BUFFER = 711, Warning, "the UDP receive buffer is small", "above 50 nodes: sudo sysctl -w net.core.rmem_max=4194304, and the same in /etc/sysctl.d";
    FILE_LIMIT = 712, Warning, "the limit of open files is low", "raise it: LimitNOFILE=65536 in the unit, or ulimit -n 65536";
    PORT_FORBIDDEN = 715, Error, "a port below 1024 cannot be bound", "give the agent CAP_NET_BIND_SERVICE, or choose a port from 1024 up";
    STORE_DEGRADED = 716, Error, "the store cannot write durably", "free space or repair the file system at the state folder; the agent serves from memory meanwhile";
    STATE_LOCKED = 718, Error, "another agent uses this state folder", "stop it (its process id is named), or give this agent another --state-dir";
}

/// The entry of a number, if there is one.
#[must_use]
pub fn find(number: u16) -> Option<Code> {
    ALL.iter().copied().find(|code| code.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_are_unique() {
        assert!(ALL.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert_eq!(find(301), Some(NO_AGENT));
        assert_eq!(NO_AGENT.to_string(), "ST0301");
    }
}
