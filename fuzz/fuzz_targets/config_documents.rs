//! Files of traffic documents: any text is refused with the place of each problem, or every document keeps its own text.
//! What a grant names is made out alike whether or not the rest of it can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_config::documents::{self, Spec, grant};
use starling_model::Namespace;

fuzz_target!(|text: &str| match documents::parse("routes.yaml", text) {
    Ok(read) => {
        for document in read {
            assert!(text.contains(&document.text));
            // What is signed and spread is read again by every member, alone.
            let again = documents::parse("one.yaml", &document.text).expect("it was accepted once");
            assert_eq!(again.iter().map(|one| &one.spec).collect::<Vec<_>>(), [&document.spec]);
            if let Spec::ServiceGrant(read) = &document.spec {
                let targets = grant::targets(&document.text, &document.key.namespace);
                assert!(targets.complete);
                assert_eq!(targets.services, read.services.iter().cloned().collect());
            }
        }
    }
    Err(problems) => {
        assert!(!problems.is_empty());
        let targets = grant::targets(text, &Namespace::default());
        assert!(!targets.complete || !targets.services.is_empty());
    }
});
