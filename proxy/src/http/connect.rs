//! `CONNECT` on the HTTP outbound: the connection becomes an entrance to one port of a service.
//!
//! What it then carries is served as any entrance's connection is: as bytes where the service speaks TCP, by its
//! TCPRoute; as requests, hardened and routed, where it speaks HTTP. So a tunnel is no way around either.

use std::time::Instant;

use http::{Response, StatusCode};
use starling_model::{Protocol, ServiceKey};
use starling_routing::{Decision, Destination, RequestFacts, Service};

use crate::answers::{Answer, ErrorType};
use crate::http::body::ResponseBody;
use crate::http::exchange::Exchange;
use crate::http::outbound::{Relay, Wanted, own, protocol, refused};
use crate::http::upgrade::Switch;
use crate::worker::Worker;

/// The port that the target means: by its number, or the only one of a service that no document gives numbers.
pub(crate) fn wanted(service: &Service, target: &str, source: Option<ServiceKey>) -> Result<Wanted, Answer> {
    let number = target.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let numbered = service.ports.iter().find(|port| port.number.map(u16::from) == number);
    let port = numbered.or_else(|| match service.ports.as_slice() {
        [only] if only.number.is_none() => Some(only),
        _ => None,
    });
    match port {
        Some(port) => Ok(Wanted { service: service.key.clone(), port: Some(port.name.clone()), source }),
        None => Err(Answer::new(ErrorType::DestinationNotFound, format!("{} has no such port: {target}", service.key))),
    }
}

/// Opens the tunnel, or says why not: bytes that go nowhere now are refused here, while there are words for it.
pub(crate) fn answer(worker: &Worker, wanted: Wanted, mut exchange: Box<Exchange>) -> Relay {
    if protocol(worker, &wanted) == Some(Protocol::Tcp) {
        let facts = RequestFacts {
            destination: Destination::Service(&wanted.service),
            port: wanted.port.as_ref(),
            source: worker.counts_as(wanted.source.as_ref()),
            http: None,
            avoid: &[],
            node: Some(&worker.config.node),
            wall: worker.wall(),
        };
        match worker.foresee(&facts, Instant::now(), worker.draws()) {
            // The tunnel decides once more, for itself.
            Decision::Forward(_) | Decision::Answer(_) => {}
            Decision::Refuse { why, rule } => {
                return Relay::Answer(own(worker, exchange, &refused(why, &wanted, rule.as_deref())));
            }
        }
    }
    exchange.answered(StatusCode::OK.as_u16(), None);
    exchange.switched();
    exchange.completed();
    Relay::Switch(Response::new(ResponseBody::Own(None)), Box::new(Switch::Entrance { exchange, wanted }))
}
