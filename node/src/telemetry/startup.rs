//! The block that an agent writes to stderr when it starts.

use std::fmt::Write as _;
use std::time::Duration;

use starling_model::Digest;

use super::metrics::REVISION;

/// What the block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Node name.
    pub node: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Sequence of the bundle.
    pub bundle: u64,
    /// SPIFFE id.
    pub spiffe_id: String,
    /// Life left of the issuing certificate.
    pub certificate_left: Duration,
    /// Identities come from a shared issuer.
    pub shared_issuer: bool,
    /// Address that others dial.
    pub mesh: String,
    /// Unix socket.
    pub api_socket: Option<String>,
    /// Loopback TCP.
    pub api: Option<String>,
    /// HTTP proxy.
    pub http: Option<String>,
    /// Fixed entrances: listener and service.
    pub upstreams: Vec<(String, String)>,
    /// Local instances: service, labels, address.
    pub services: Vec<(String, String, String)>,
}

/// `361d`, `5h`, `9m`: one figure.
fn left(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds >= 2 * 86_400 {
        format!("{}d", seconds / 86_400)
    } else if seconds >= 2 * 3_600 {
        format!("{}h", seconds / 3_600)
    } else {
        format!("{}m", seconds / 60)
    }
}

impl Block {
    /// The lines.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let revision = if REVISION == "unknown" { String::new() } else { format!(" ({REVISION})") };
        // Writing to a string cannot fail.
        let mut line = |label: &str, rest: String| {
            let _ = writeln!(text, "  {label:<13}{rest}");
        };
        line("node", format!("{:<15} trust domain  {}   bundle {}", self.node, self.trust_domain, self.bundle));
        let certificate = left(self.certificate_left);
        line("identity", format!("{}   certificate {certificate} left, leaf re-keyed every 6h", self.spiffe_id));
        if self.shared_issuer {
            line("", "‼ shared issuer: any host can pose as any node (ST0604)".to_owned());
        }
        line("mesh", format!("{:<15} gossip QUIC/udp, traffic TLS/tcp, mTLS, X25519MLKEM768", self.mesh));
        let api: Vec<String> = [
            self.api_socket.as_ref().map(|path| format!("unix://{path}")),
            self.api.as_ref().map(|address| format!("http://{address}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        line("local API", api.join("  "));
        if let Some(http) = &self.http {
            line("HTTP proxy", http.clone());
        }
        for (listen, service) in &self.upstreams {
            line("upstream", format!("{listen} to {service}"));
        }
        for (at, (service, labels, address)) in self.services.iter().enumerate() {
            let labels = if labels.is_empty() { String::new() } else { format!(" {{{labels}}}") };
            line(if at == 0 { "services" } else { "" }, format!("{service}{labels} on {address}"));
        }
        format!("starling {}{revision} agent starting\n{text}", crate::RELEASE)
    }
}

/// The line at readiness: `joined 10.0.0.11:7740: 3 members, 4 documents (digest 9f2c41d0), ready in 0.31 s`.
#[must_use]
pub fn ready_line(via: Option<&str>, members: u64, documents: (usize, Digest), after: Duration) -> String {
    let (seconds, (count, digest)) = (after.as_secs_f64(), documents);
    let documents = format!("{count} documents (digest {digest})");
    match via {
        Some(seed) => {
            format!("joined {seed}: {members} members, {documents}, ready in {seconds:.2} s")
        }
        None if members > 1 => {
            format!("mesh formed: {members} members, {documents}, ready in {seconds:.2} s")
        }
        None => format!("serving alone: 1 member, {documents}, ready in {seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_reads_as_documented() {
        let block = Block {
            node: "vm-2".to_owned(),
            trust_domain: "prod.internal".to_owned(),
            bundle: 1,
            spiffe_id: "spiffe://prod.internal/node/vm-2".to_owned(),
            certificate_left: Duration::from_secs(361 * 86_400 + 5),
            shared_issuer: false,
            mesh: "10.0.0.12:7740".to_owned(),
            api_socket: Some("/run/starling/api.sock".to_owned()),
            api: Some("127.0.0.1:7741".to_owned()),
            http: Some("127.0.0.1:7780".to_owned()),
            upstreams: Vec::new(),
            services: vec![("default/orders".to_owned(), "version=v2".to_owned(), "127.0.0.1:8080".to_owned())],
        };
        let text = block.render();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("starling 0.1.0") && lines[0].ends_with("agent starting"));
        assert_eq!(
            lines[1..],
            [
                "  node         vm-2            trust domain  prod.internal   bundle 1",
                "  identity     spiffe://prod.internal/node/vm-2   certificate 361d left, leaf re-keyed every 6h",
                "  mesh         10.0.0.12:7740  gossip QUIC/udp, traffic TLS/tcp, mTLS, X25519MLKEM768",
                "  local API    unix:///run/starling/api.sock  http://127.0.0.1:7741",
                "  HTTP proxy   127.0.0.1:7780",
                "  services     default/orders {version=v2} on 127.0.0.1:8080",
            ]
        );
    }

    #[test]
    fn readiness_names_the_seed() {
        let line = ready_line(Some("10.0.0.11:7740"), 3, (4, Digest([0x9f; 32])), Duration::from_millis(310));
        assert_eq!(line, "joined 10.0.0.11:7740: 3 members, 4 documents (digest 9f9f9f9f), ready in 0.31 s");
        assert!(ready_line(None, 1, (0, Digest::default()), Duration::ZERO).starts_with("serving alone: 1 member,"));
    }
}
