//! The body of `PUT /v1/instances/{name}`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_config::{InstanceForm, InstanceSpec};
use starling_model::InstanceName;

fuzz_target!(|bytes: &[u8]| {
    let Ok(form) = serde_json::from_slice::<InstanceForm>(bytes) else { return };
    let asked = InstanceName::new("orders").expect("a name");
    for name in [None, Some(&asked)] {
        match form.clone().resolve(name) {
            Ok(spec) => {
                let json = serde_json::to_vec(&spec).expect("a spec has a JSON form");
                let again: InstanceSpec = serde_json::from_slice(&json).expect("a spec reads its own JSON");
                assert_eq!(again, spec);
            }
            Err(refused) => drop(refused.to_string()),
        }
    }
});
