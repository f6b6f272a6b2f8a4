//! Answers of reads: the envelope, its view, and an `ETag` over the content without the view.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use starling_model::mesh;

use super::Shared;
use super::views::{Envelope, View, kind};
use crate::telemetry::time::{Clocks, rfc3339_millis};

/// The view of this answer.
#[must_use]
pub fn view(state: &Shared, clocks: &Clocks) -> View {
    let view = state.view.load();
    View {
        node: view.node.to_string(),
        boot_epoch: view.epoch.to_string(),
        revision: view.revision,
        as_of: rfc3339_millis(clocks.wall()),
        digest: view.applied.digest.to_string(),
        agreement: view.agreement(),
    }
}

/// Answers a read: JSON, or YAML where that is asked for; 304 when the asker has it already.
pub fn read<T: Serialize>(state: &Shared, headers: &HeaderMap, what: &str, body: T) -> Response {
    let envelope = Envelope::new(what, view(state, &Clocks::read()), body);
    render(headers, StatusCode::OK, &envelope)
}

/// Answers with an envelope and a status of one's own.
pub fn render<T: Serialize>(headers: &HeaderMap, status: StatusCode, envelope: &Envelope<T>) -> Response {
    let Ok(value) = serde_json::to_value(envelope) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let tag = etag(&envelope.view.boot_epoch, &value);
    if status == StatusCode::OK && is_known(headers, &tag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        set(&mut response, header::ETAG, &tag);
        return response;
    }
    let (kind, body) = if wants_yaml(headers) {
        ("application/yaml", serde_saphyr::to_string(envelope).unwrap_or_default().into_bytes())
    } else {
        ("application/json", serde_json::to_vec(envelope).unwrap_or_default())
    };
    let mut response = (status, body).into_response();
    set(&mut response, header::CONTENT_TYPE, kind);
    set(&mut response, header::ETAG, &tag);
    response
}

/// Adds the link to the next page, if there is one.
pub fn linked(mut response: Response, next: Option<&str>) -> Response {
    if let Some(next) = next {
        set(&mut response, header::LINK, &format!("<{next}>; rel=\"next\""));
    }
    response
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Boot epoch and hash of the content: weak, because the view's time differs from answer to answer. Fields that move
/// without any news are left out as well ([`ALWAYS_MOVING`]): whoever waits for a change is not woken by a round trip.
fn etag(epoch: &str, envelope: &Value) -> String {
    let mut content = envelope.clone();
    if let Value::Object(fields) = &mut content {
        fields.remove("view");
        match fields.get("kind").and_then(Value::as_str) {
            Some(kind::STATUS | kind::MEMBER) => still(fields),
            Some(kind::MEMBER_LIST) => {
                let items = fields.get_mut("items").and_then(Value::as_array_mut);
                items.into_iter().flatten().filter_map(Value::as_object_mut).for_each(still);
            }
            Some(_) | None => {}
        }
    }
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content.to_string().as_bytes());
    let head = hash.as_ref().first_chunk::<4>().map(|head| mesh::hex(head)).unwrap_or_default();
    format!("W/\"{epoch}-{head}\"")
}

/// Fields of a thing that differ from answer to answer although nothing happened: a member's last contact and round
/// trip, the agent's uptime, and the figures of the last minute.
const ALWAYS_MOVING: [&str; 4] = ["lastSeen", "rtt", "uptimeSeconds", "traffic"];

fn still(fields: &mut Map<String, Value>) {
    for name in ALWAYS_MOVING {
        fields.remove(name);
    }
}

/// Weak comparison (RFC 9110, 8.8.3.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known.flat_map(|list| list.split(',')).any(|known| known.trim() == "*" || opaque(known) == opaque(tag))
}

fn wants_yaml(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.split(',').any(|part| part.split(';').next().unwrap_or("").trim() == "application/yaml")
}

#[cfg(test)]
mod tests {
    use super::super::views::Items;
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    fn answer(headers: &HeaderMap, as_of: &str, items: &[u8]) -> Response {
        let view = View { boot_epoch: "7".to_owned(), as_of: as_of.to_owned(), ..View::default() };
        render(headers, StatusCode::OK, &Envelope::new("List", view, Items { items: items.to_vec() }))
    }

    #[test]
    fn the_tag_depends_on_the_content_and_not_on_the_view() {
        let tag = |response: &Response| response.headers()[header::ETAG].to_str().unwrap().to_owned();
        let none = HeaderMap::new();
        let first = tag(&answer(&none, "now", &[1]));
        assert!(first.starts_with("W/\"7-") && first.len() == 14, "{first}");
        assert_eq!(tag(&answer(&none, "later", &[1])), first);
        assert_ne!(tag(&answer(&none, "now", &[2])), first);
        for known in
            [first.clone(), format!("\"x\", {first}"), first.trim_start_matches("W/").to_owned(), "*".to_owned()]
        {
            let response = answer(&headers(header::IF_NONE_MATCH, &known), "later", &[1]);
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        let other = answer(&headers(header::IF_NONE_MATCH, "W/\"7-00000000\""), "later", &[1]);
        assert_eq!(other.status(), StatusCode::OK);
    }

    #[test]
    fn what_always_moves_changes_no_tag() {
        let tag = |item: Value| {
            let view = View { boot_epoch: "7".to_owned(), ..View::default() };
            let list = Envelope::new("MemberList", view, Items { items: vec![item] });
            let response = render(&HeaderMap::new(), StatusCode::OK, &list);
            response.headers()[header::ETAG].to_str().unwrap().to_owned()
        };
        let member = |rtt: f64, seen: &str, state: &str| serde_json::json!({"name": "vm-2", "state": state, "lastSeen": seen, "rtt": {"ms": rtt}, "uptimeSeconds": rtt});
        let first = tag(member(0.4, "15:31:58", "alive"));
        assert_eq!(tag(member(0.5, "15:31:59", "alive")), first);
        assert_ne!(tag(member(0.4, "15:31:58", "suspect")), first);
    }

    #[test]
    fn yaml_is_given_to_those_who_ask() {
        let kind = |accept: &str| {
            let response = answer(&headers(header::ACCEPT, accept), "now", &[1]);
            response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned()
        };
        assert_eq!(kind("application/yaml"), "application/yaml");
        assert_eq!(kind("*/*"), "application/json");
    }
}
