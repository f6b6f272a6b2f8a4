//! Refuses documents that would take the last endpoint from a service with traffic: a slip in a selector must not be an
//! outage. Lost members never count, since both tables are made of the same ones.

use starling_model::ServiceKey;

use crate::table::{EndpointIndex, RouteTable};

/// The first service, in order of names, that has traffic, endpoints that may be used in `before`, and none in `after`.
/// Both tables are of one registry; they differ in documents alone. `has_traffic` says it of an endpoint.
#[must_use]
pub fn emptied(
    before: &RouteTable,
    after: &RouteTable,
    has_traffic: &dyn Fn(EndpointIndex) -> bool,
) -> Option<ServiceKey> {
    let lost = before.services().filter(|service| {
        service.admissible_len() > 0 && after.service(&service.key).is_none_or(|left| left.admissible_len() == 0)
    });
    let mut used = lost.filter(|service| {
        service.endpoints.iter().any(|endpoint| endpoint.admissible() && has_traffic(endpoint.index))
    });
    used.next().map(|service| service.key.clone())
}
