//! A question in the words of its asker, and the request that it means.

use std::num::NonZeroU16;

use starling_model::{Namespace, NodeName, ServiceKey, SpiffeId, TrustDomain};
use starling_routing::{Caller, server_name};

/// Most bytes of a question: as large as a request's head may be at the entrance.
pub const QUESTION_BYTES_MAX: usize = 64 * 1024;

/// Longest server name (RFC 1035).
const SERVER_NAME_BYTES_MAX: usize = 253;

/// What somebody asks, unread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// `http://orders.mesh.internal/cart`.
    pub url: String,
    /// `GET` unless said otherwise.
    pub method: Option<String>,
    /// `x-user: 7`, each.
    pub headers: Vec<String>,
    /// The service that calls, `web` or `shop/web`.
    pub from: Option<String>,
    /// A whole SPIFFE id in its place.
    pub identity: Option<String>,
    /// What is drawn by, instead of telling all that may be drawn.
    pub seed: Option<String>,
}

/// A question that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// As asked.
    pub url: String,
    /// As asked.
    pub method: String,
    /// Names and values, in their order.
    pub headers: Vec<(String, String)>,
    /// Who calls.
    pub caller: Caller,
    /// What is drawn by.
    pub seed: Option<u64>,
    pub(super) asks: Asks,
}

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// A request at the HTTP entrance.
    Http { host: String, target: String },
    /// A TLS connection at a Gateway.
    Tls { port: NonZeroU16, name: Option<String> },
}

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionInvalid {
    /// Over the bound.
    #[error("the request has over {QUESTION_BYTES_MAX} bytes")]
    TooLarge,
    /// No URL of the mesh.
    #[error("{0:?} is no URL such as http://orders.mesh.internal/cart")]
    Url(String),
    /// TLS ends where it ends: nobody can look into it.
    #[error(
        "{0:?}: applications call http:// URLs, and the mesh encrypts; what is inside https:// nobody sees. Where a Gateway leads TLS to: tls://NAME:PORT"
    )]
    Https(String),
    /// No connection at a Gateway.
    #[error("{0:?} is no connection such as tls://shop.example.com:8443 (without a name: tls://:8443)")]
    Tls(String),
    /// Nobody looks into the connection, and nobody of the mesh makes it.
    #[error("a TLS connection at a Gateway has no headers that the mesh sees, and comes from no service of it")]
    Inside,
    /// Would break the head apart.
    #[error("{0:?} has control characters, blanks, or letters that a request cannot hold")]
    Unprintable(String),
    /// Not `name: value`.
    #[error("{0:?} is no header such as 'x-user: 7'")]
    Header(String),
    /// No service.
    #[error("from: {0}")]
    From(String),
    /// No identity.
    #[error("identity {text:?} is not spiffe://{trust_domain}/node/NODE or …/node/NODE/ns/NAMESPACE/svc/SERVICE")]
    Identity {
        /// As given.
        text: String,
        /// The only one that can call here.
        trust_domain: TrustDomain,
    },
    /// Two answers to one question.
    #[error("from and identity exclude each other: both say who calls")]
    TwoCallers,
    /// No number.
    #[error("seed {0:?} is no number from 0 to 18446744073709551615")]
    Seed(String),
}

/// Why a question cannot be sent as a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLive {
    /// It needs a client that speaks TLS.
    #[error("live: a TLS connection is made by a client: openssl s_client -servername NAME -connect GATEWAY")]
    Tls,
    /// A tunnel.
    #[error("live: CONNECT opens a tunnel, and is no request that ends")]
    Connect,
    /// Nobody sends on behalf of another node.
    #[error("live: requests of {0} are sent by its own agent")]
    OtherNode(NodeName),
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// What may stand in a request line: visible ASCII, and bytes beyond, which the door lets pass.
fn is_token(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_control() || c == ' ')
}

impl Words {
    /// Reads them; `node` is whose decision is asked for, `namespace` that of a bare service name.
    ///
    /// # Errors
    /// [`QuestionInvalid`]: the first thing that is wrong.
    pub fn read(
        self,
        (node, trust_domain): (&NodeName, &TrustDomain),
        namespace: &Namespace,
    ) -> Result<Question, QuestionInvalid> {
        let bytes = self.url.len() + self.headers.iter().map(|one| one.len() + 4).sum::<usize>();
        if bytes + self.method.as_ref().map_or(0, String::len) > QUESTION_BYTES_MAX {
            return Err(QuestionInvalid::TooLarge);
        }
        let caller = match (self.from, self.identity) {
            (Some(_), Some(_)) => return Err(QuestionInvalid::TwoCallers),
            (Some(from), None) => {
                let service = ServiceKey::parse(&from, namespace);
                let service = service.map_err(|invalid| QuestionInvalid::From(invalid.to_string()))?;
                Caller { node: node.clone(), service: Some(service) }
            }
            (None, Some(text)) => identity(&text, trust_domain)?,
            (None, None) => Caller { node: node.clone(), service: None },
        };
        let asks = match connection(&self.url)? {
            Some(tls) if self.headers.is_empty() && caller.service.is_none() => tls,
            Some(_) => return Err(QuestionInvalid::Inside),
            None => {
                let (host, target) = split(&self.url)?;
                Asks::Http { host, target }
            }
        };
        let method = match asks {
            Asks::Http { .. } => self.method.unwrap_or_else(|| "GET".to_owned()),
            Asks::Tls { .. } => "TLS".to_owned(),
        };
        if !is_token(&method) {
            return Err(QuestionInvalid::Unprintable(short(&method)));
        }
        let headers = self.headers.iter().map(|line| header(line)).collect::<Result<_, _>>()?;
        let seed = self.seed.map(|seed| seed.parse().map_err(|_| QuestionInvalid::Seed(short(&seed)))).transpose()?;
        Ok(Question { method, headers, caller, seed, asks, url: self.url })
    }
}

fn header(line: &str) -> Result<(String, String), QuestionInvalid> {
    let (name, value) = line.split_once(':').ok_or_else(|| QuestionInvalid::Header(short(line)))?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() {
        return Err(QuestionInvalid::Header(short(line)));
    }
    if !is_token(name) || value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(QuestionInvalid::Unprintable(short(line)));
    }
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// Port and server name of `tls://NAME:PORT`; `None`: it is another URL.
fn connection(url: &str) -> Result<Option<Asks>, QuestionInvalid> {
    const SCHEME: &str = "tls://";
    let Some((head, rest)) = url.split_at_checked(SCHEME.len()) else { return Ok(None) };
    if !head.eq_ignore_ascii_case(SCHEME) {
        return Ok(None);
    }
    let refuse = || QuestionInvalid::Tls(short(url));
    let (name, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(refuse)?;
    let port = port.parse().map_err(|_| refuse())?;
    let name = server_name(name);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.len() > SERVER_NAME_BYTES_MAX || !name.chars().all(is_name) {
        return Err(refuse());
    }
    Ok(Some(Asks::Tls { port, name: Some(name).filter(|name| !name.is_empty()) }))
}

/// Host and target of a URL; as clients do, without its fragment.
fn split(url: &str) -> Result<(String, String), QuestionInvalid> {
    let scheme = |want: &str| url.get(..want.len()).is_some_and(|head| head.eq_ignore_ascii_case(want));
    if scheme("https://") {
        return Err(QuestionInvalid::Https(short(url)));
    }
    let rest = url.get("http://".len()..).filter(|_| scheme("http://"));
    let rest = rest.ok_or_else(|| QuestionInvalid::Url(short(url)))?;
    let rest = rest.split('#').next().unwrap_or_default();
    let ends = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(ends);
    if host.is_empty() || host.contains('@') {
        return Err(QuestionInvalid::Url(short(url)));
    }
    if !is_token(rest) {
        return Err(QuestionInvalid::Unprintable(short(url)));
    }
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((host.to_owned(), target))
}

fn identity(text: &str, trust_domain: &TrustDomain) -> Result<Caller, QuestionInvalid> {
    let refuse = || QuestionInvalid::Identity { text: short(text), trust_domain: trust_domain.clone() };
    let (node, service) = match text.split_once("/ns/") {
        None => (text, None),
        Some((node, rest)) => {
            let (namespace, service) = rest.split_once("/svc/").ok_or_else(refuse)?;
            let namespace = Namespace::new(namespace).map_err(|_| refuse())?;
            let name = starling_model::ServiceName::new(service).map_err(|_| refuse())?;
            (node, Some(ServiceKey::new(namespace, name)))
        }
    };
    let id = SpiffeId::parse_node(node).map_err(|_| refuse())?;
    if id.trust_domain == *trust_domain { Ok(Caller { node: id.node, service }) } else { Err(refuse()) }
}

impl Question {
    /// The head to send and the service to call as, where this node can send it.
    ///
    /// # Errors
    /// [`NotLive`].
    pub fn live(&self, node: &NodeName) -> Result<(Vec<u8>, Option<ServiceKey>), NotLive> {
        let Asks::Http { host, target } = &self.asks else { return Err(NotLive::Tls) };
        if self.method.eq_ignore_ascii_case("CONNECT") {
            return Err(NotLive::Connect);
        }
        if self.caller.node != *node {
            return Err(NotLive::OtherNode(self.caller.node.clone()));
        }
        Ok((self.head((host, target)), self.caller.service.clone()))
    }

    /// The head of the request as a client writes it to the HTTP entrance.
    pub(super) fn head(&self, (host, target): (&str, &str)) -> Vec<u8> {
        let mut head = format!("{} {target} HTTP/1.1\r\n", self.method);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            head.push_str(&format!("host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}
