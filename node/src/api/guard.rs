//! Who may ask what: one pure function in front of every handler.
//!
//! Browsers reach loopback. So over TCP the `Host` must be ours (a foreign name that resolves to 127.0.0.1 is DNS
//! rebinding), a foreign `Origin` or a cross-site fetch is refused, and writing needs the token mode. The Unix socket's
//! own permissions decide who may use it; no browser gets there. Writes are JSON, so that no HTML form can make one.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version, header};
use starling_model::codes;

use super::problem::Refusal;

/// Through which door a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The Unix socket; the peer as the kernel names it.
    Socket {
        /// User of the caller.
        uid: u32,
        /// Process of the caller, if the kernel told.
        pid: Option<i32>,
    },
    /// Loopback TCP.
    Tcp,
}

/// What loopback TCP may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpRule {
    /// `GET` and `HEAD`, no token.
    Read,
    /// Everything, with this token.
    Token(String),
}

/// The rules of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// What loopback TCP may do.
    pub tcp: TcpRule,
    /// Host names that are ours besides `localhost` and loopback addresses.
    pub hosts: Vec<String>,
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

impl Guard {
    /// Judges the head of one request.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn judge(
        &self,
        door: Door,
        method: &Method,
        (uri, version): (&Uri, Version),
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        match door {
            Door::Socket { .. } => {}
            Door::Tcp => {
                self.check_host(uri, version, headers)?;
                self.check_origin(headers)?;
                self.check_access(method, headers)?;
            }
        }
        if !is_read(method) {
            check_json(headers, door)?;
        }
        Ok(())
    }

    fn check_host(&self, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
        let wrong = |shown: &str| {
            let detail = format!("Host {shown:?} is not this agent");
            Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, codes::FOREIGN_HOST, detail))
        };
        let mut hosts = headers.get_all(header::HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => {
                let host = host.to_str().unwrap_or("\u{fffd}");
                if !self.is_ours(host) {
                    return wrong(host);
                }
            }
            (None, _) if version == Version::HTTP_10 => {}
            (None, _) => return wrong(""),
            (Some(_), Some(_)) => return Err(Refusal::malformed("more than one Host header")),
        }
        // An absolute request target names the host as well (RFC 9112, 3.2.2).
        match uri.authority() {
            Some(authority) if !self.is_ours(authority.as_str()) => wrong(authority.as_str()),
            _ => Ok(()),
        }
    }

    fn is_ours(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            || self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let foreign = |detail: String| Err(Refusal::new(StatusCode::FORBIDDEN, codes::FOREIGN_HOST, detail));
        for origin in headers.get_all(header::ORIGIN) {
            let text = origin.to_str().unwrap_or("\u{fffd}");
            let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
            if !authority.is_some_and(|authority| self.is_ours(authority)) {
                return foreign(format!("Origin {text:?} is not this agent"));
            }
        }
        for site in headers.get_all("sec-fetch-site") {
            if site.as_bytes().eq_ignore_ascii_case(b"cross-site") {
                return foreign("a cross-site request of a browser".to_owned());
            }
        }
        Ok(())
    }

    fn check_access(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        match &self.tcp {
            TcpRule::Read if is_read(method) => Ok(()),
            TcpRule::Read => {
                let detail = format!("{method} over TCP: api.tcp is \"read\"");
                Err(Refusal::new(StatusCode::FORBIDDEN, codes::READ_ONLY, detail))
            }
            TcpRule::Token(token) => {
                let given =
                    headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
                if given.is_some_and(|given| equal(given, token.as_bytes())) {
                    return Ok(());
                }
                let detail = "api.tcp is \"token\": this request has no valid bearer token";
                let help = "send the content of api.token_file: curl -H \"Authorization: Bearer $(cat FILE)\"";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, codes::API_DENIED, detail).with_help(help))
            }
        }
    }
}

/// Compares without telling by its duration where the difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// A write is JSON. Over the socket one without a body needs no type.
fn check_json(headers: &HeaderMap, door: Door) -> Result<(), Refusal> {
    let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|len| len.as_bytes() == b"0")
        && !headers.contains_key(header::TRANSFER_ENCODING);
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("\u{fffd}"));
    match kind {
        None if empty && matches!(door, Door::Socket { .. }) => Ok(()),
        Some(kind) if kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") => Ok(()),
        kind => {
            let detail = format!("Content-Type {:?}: writes are application/json", kind.unwrap_or(""));
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, codes::BAD_REQUEST, detail)
                .with_help("curl -H 'Content-Type: application/json' …"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `head` is a method, a target and headers, separated by `|`.
    fn check(door: Door, guard: &Guard, head: &str, want: u16) {
        let mut parts = head.split('|');
        let method: Method = parts.next().unwrap().parse().unwrap();
        let uri: Uri = parts.next().unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in parts {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let got = guard.judge(door, &method, (&uri, Version::HTTP_11), &headers);
        assert_eq!(got.map_or_else(|refusal| refusal.status.as_u16(), |()| 200), want, "{head}");
    }

    #[test]
    fn reading_over_tcp_needs_our_host_and_no_foreign_page() {
        let guard = Guard { tcp: TcpRule::Read, hosts: vec!["vm-1.example".to_owned()] };
        let tcp = |head: &str, want| check(Door::Tcp, &guard, head, want);
        tcp("GET|/v1/status|host: 127.0.0.1:7741", 200);
        tcp("GET|/v1/status|host: 127.99.0.1", 200);
        tcp("GET|/v1/status|host: localhost:7741", 200);
        tcp("GET|/v1/status|host: LOCALHOST", 200);
        tcp("GET|/v1/status|host: [::1]:7741", 200);
        tcp("GET|/v1/status|host: VM-1.example:7741", 200);
        tcp("HEAD|/v1/status|host: localhost", 200);
        tcp("GET|http://localhost/v1/status|host: localhost", 200);
        tcp("GET|/v1/status", 421);
        tcp("GET|/v1/status|host: ", 421);
        tcp("GET|/v1/status|host: evil.example", 421);
        tcp("GET|/v1/status|host: 127.0.0.1.evil.example", 421);
        tcp("GET|/v1/status|host: localhost.evil.example", 421);
        tcp("GET|/v1/status|host: 10.0.0.1:7741", 421);
        tcp("GET|/v1/status|host: 0.0.0.0:7741", 421);
        tcp("GET|/v1/status|host: evil@localhost", 421);
        tcp("GET|/v1/status|host: localhost evil", 421);
        tcp("GET|http://evil.example/v1/status|host: localhost", 421);
        tcp("GET|/v1/status|host: localhost|host: localhost", 400);
        tcp("GET|/v1/status|host: localhost|origin: http://127.0.0.1:7741", 200);
        tcp("GET|/v1/status|host: localhost|origin: http://localhost:3000", 200);
        tcp("GET|/v1/status|host: localhost|origin: http://evil.example", 403);
        tcp("GET|/v1/status|host: localhost|origin: null", 403);
        tcp("GET|/v1/status|host: localhost|origin: file://localhost", 403);
        tcp("GET|/v1/status|host: localhost|origin: http://localhost|origin: http://evil.example", 403);
        tcp("GET|/v1/status|host: localhost|sec-fetch-site: cross-site", 403);
        tcp("GET|/v1/status|host: localhost|sec-fetch-site: Cross-Site", 403);
        tcp("GET|/v1/status|host: localhost|sec-fetch-site: same-origin", 200);
        tcp("GET|/v1/status|host: localhost|sec-fetch-site: none", 200);
    }

    #[test]
    fn writing_over_tcp_needs_the_token_mode_and_json() {
        let json = "content-type: application/json";
        let read = Guard { tcp: TcpRule::Read, hosts: Vec::new() };
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            check(Door::Tcp, &read, &format!("{method}|/v1/leave|host: localhost|{json}"), 403);
        }
        let token = Guard { tcp: TcpRule::Token("s3cret".to_owned()), hosts: Vec::new() };
        let tcp = |head: &str, want| check(Door::Tcp, &token, head, want);
        tcp("GET|/v1/status|host: localhost", 401);
        tcp("GET|/v1/status|host: localhost|authorization: Bearer s3cre", 401);
        tcp("GET|/v1/status|host: localhost|authorization: Bearer s3creT", 401);
        tcp("GET|/v1/status|host: localhost|authorization: Basic s3cret", 401);
        tcp("GET|/v1/status|host: localhost|authorization: Bearer s3cret", 200);
        tcp(&format!("POST|/v1/leave|host: localhost|authorization: Bearer s3cret|{json}"), 200);
        tcp("POST|/v1/leave|host: localhost|authorization: Bearer s3cret", 415);
        tcp("POST|/v1/leave|host: localhost|authorization: Bearer s3cret|content-type: text/plain", 415);
        tcp(&format!("POST|/v1/leave|host: evil.example|authorization: Bearer s3cret|{json}"), 421);
    }

    #[test]
    fn the_socket_needs_no_host_but_json() {
        let guard = Guard { tcp: TcpRule::Read, hosts: Vec::new() };
        let door = Door::Socket { uid: 0, pid: Some(1) };
        let socket = |head: &str, want| check(door, &guard, head, want);
        socket("GET|/v1/status", 200);
        socket("GET|/v1/status|host: starling", 200);
        socket("POST|/v1/leave", 200);
        socket("DELETE|/v1/instances/web", 200);
        socket("PUT|/v1/instances/web|content-type: application/json; charset=utf-8|content-length: 2", 200);
        socket("PUT|/v1/instances/web|content-length: 2", 415);
        socket("PUT|/v1/instances/web|transfer-encoding: chunked", 415);
        socket("POST|/v1/leave|content-type: application/x-www-form-urlencoded|content-length: 1", 415);
        socket("POST|/v1/leave|content-type: text/plain", 415);
    }
}
