//! Snapshot files: any text is refused, or it makes a table whose own snapshot decides alike, and every explanation is the
//! decision itself.
#![no_main]

use std::time::Instant;

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use starling_routing::snapshot::Frozen;
use starling_routing::{Decision, Destination, Draws, EndpointIndex, HttpFacts, RequestFacts, Snapshot, UnixSeconds};

/// Endpoint or status.
fn told(decision: &Decision) -> String {
    match decision {
        Decision::Forward(choice) => choice.endpoint().id.to_string(),
        Decision::Answer(answer) => answer.status.to_string(),
        Decision::Refuse { why, .. } => format!("{why:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = Snapshot::read(bytes) else { return };
    let Ok(frozen) = read.freeze(Instant::now()) else { return };
    let again = Snapshot::of(&frozen.table, frozen.now, &|index| frozen.load(index));
    let again = again.freeze(Instant::now()).expect("it was accepted once");
    assert_eq!(again.table.digest(), frozen.table.digest());
    assert_eq!(again.table.grants(), frozen.table.grants());
    let headers = HeaderMap::new();
    for service in frozen.table.services().take(16) {
        for (seed, path) in (0..).zip(["/", "/a", "/old/x"]) {
            let (method, scheme, authority) = (&Method::GET, "http", "a");
            let http = HttpFacts { method, scheme, authority, path, query: None, headers: &headers };
            let request = RequestFacts {
                destination: Destination::Service(&service.key),
                port: None,
                source: None,
                http: Some(&http),
                avoid: &[],
                node: None,
                wall: UnixSeconds(0),
            };
            let decide = |frozen: &Frozen| {
                let loads = |index: EndpointIndex| frozen.load(index);
                let (decision, _) = frozen.table.explain(&request, frozen.now, Draws::from_seed(seed), &loads);
                let same = frozen.table.decide(&request, frozen.now, Draws::from_seed(seed), &loads);
                assert_eq!(told(&decision), told(&same));
                told(&decision)
            };
            assert_eq!(decide(&frozen), decide(&again));
        }
    }
});
