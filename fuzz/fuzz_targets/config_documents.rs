//! Files of traffic documents: any text is refused with the place of each problem, or every document keeps its own text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_config::documents;

fuzz_target!(|text: &str| match documents::parse("routes.yaml", text) {
    Ok(read) => {
        for document in read {
            assert!(text.contains(&document.text));
            // What is signed and spread is read again by every member, alone.
            let again = documents::parse("one.yaml", &document.text).expect("it was accepted once");
            assert_eq!(again.iter().map(|one| &one.spec).collect::<Vec<_>>(), [&document.spec]);
        }
    }
    Err(problems) => assert!(!problems.is_empty()),
});
