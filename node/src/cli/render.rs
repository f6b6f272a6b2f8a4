//! From the API's views to text for people: pure functions, compared in tests with the documented samples.

pub(crate) mod explain;
pub(crate) mod members;
pub(crate) mod routes;
pub(crate) mod services;
pub(crate) mod status;

use crate::api::views::{ServiceRef, View};

/// Which columns a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// The usual ones.
    Usual,
    /// All (`-o wide`).
    Wide,
}

/// True when names of these namespaces need their namespace beside them.
pub(crate) fn several_namespaces<'a>(namespaces: impl IntoIterator<Item = &'a str>) -> bool {
    let mut namespaces = namespaces.into_iter();
    let first = namespaces.next();
    namespaces.any(|namespace| Some(namespace) != first)
}

/// `orders`, or `shop/orders` outside the default namespace.
pub(crate) fn short_key(namespace: &str, name: &str) -> String {
    if namespace == "default" { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The same from `namespace/name`.
pub(crate) fn short(key: &str) -> String {
    key.strip_prefix("default/").unwrap_or(key).to_owned()
}

/// `default/orders`, which every command takes whatever namespace is preset.
pub(crate) fn full_key(service: &ServiceRef) -> String {
    format!("{}/{}", service.namespace, service.name)
}

/// `view of vm-1, revision 118`
pub(crate) fn view_of(view: &View) -> String {
    format!("view of {}, revision {}", view.node, view.revision)
}

/// Parts with commas between them, or `-` for none.
pub(crate) fn or_dash(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(",") }
}

#[cfg(test)]
mod tests;
