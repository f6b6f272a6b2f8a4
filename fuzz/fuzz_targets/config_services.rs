//! Files of `services.d`, parted by zero bytes. An instance that is read survives being sent to the local API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_config::{InstanceSpec, parse_instances, parse_services, render};

fuzz_target!(|text: &str| {
    let files: Vec<(String, String)> =
        text.split('\0').take(8).enumerate().map(|(at, text)| (format!("{at}.toml"), text.to_owned())).collect();
    for (path, text) in &files {
        match parse_instances(path, text) {
            Ok(specs) => {
                for spec in specs {
                    let json = serde_json::to_string(&spec).expect("a spec has a JSON form");
                    let again: InstanceSpec =
                        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
                    assert_eq!(again, spec, "{json}");
                }
            }
            Err(problems) => {
                assert!(!problems.is_empty(), "refused without a reason");
                drop(render(&problems));
            }
        }
    }
    let read = parse_services(&files);
    drop(format!("{read:?}"));
});
