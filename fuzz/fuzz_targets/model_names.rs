//! Names, SPIFFE ids, durations: text that is accepted is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_config::duration;
use starling_model::{InstanceName, Namespace, NodeName, PortName, ServiceName, SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    let same = |written: String| assert_eq!(written, text);
    NodeName::new(text).map(|name| same(name.to_string())).ok();
    ServiceName::new(text).map(|name| same(name.to_string())).ok();
    InstanceName::new(text).map(|name| same(name.to_string())).ok();
    Namespace::new(text).map(|name| same(name.to_string())).ok();
    PortName::new(text).map(|name| same(name.to_string())).ok();
    TrustDomain::new(text).map(|name| same(name.to_string())).ok();
    SpiffeId::parse_node(text).map(|id| same(SpiffeId::node(&id.trust_domain, &id.node).to_string())).ok();
    if let Ok(time) = duration::parse(text) {
        assert_eq!(duration::parse(&duration::format(time)), Ok(time), "{text}");
    }
});
