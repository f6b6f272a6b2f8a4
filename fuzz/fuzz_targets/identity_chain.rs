//! The exchange of trust bundles and certificates. The first byte chooses: a request; an answer; an answer of one update;
//! a question of anybody; or an answer to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_fuzz::identity::FIXTURE;
use starling_fuzz::{Input, edited};
use starling_identity::chain::{
    Answer, BundleChain, Question, Request, answer, read_key_answer, read_list_answer, reply,
};
use starling_identity::{CertificateList, NodeCertificates, TrustBundle};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut chain = BundleChain::new(TrustBundle::parse(&FIXTURE.bundle_file).expect("a bundle"));
    let genuine = pem::parse(&FIXTURE.bundle_file).expect("PEM");
    match input.byte() % 6 {
        0 => {
            let bytes = input.rest();
            if let Ok(request) = Request::decode(bytes) {
                assert_eq!(request.encode().as_deref(), Ok(bytes));
                let _ = answer(&chain, &request).encode();
            }
        }
        1 => {
            let bytes = input.rest();
            if let Ok(read) = Answer::decode(bytes) {
                assert_eq!(read.encode().as_deref(), Ok(bytes));
                merge(&mut chain, &read.0);
            }
        }
        2 => merge(&mut chain, &[input.rest()]),
        3 => {
            let bytes = input.rest();
            if let Ok(question) = Question::decode(bytes) {
                assert_eq!(question.encode().as_deref(), Ok(bytes));
                assert!(reply(&chain, &NodeCertificates::default(), bytes).is_ok());
            }
        }
        4 => {
            let bytes = input.rest();
            for list in [read_key_answer(bytes), read_list_answer(bytes)].into_iter().flatten().flatten() {
                assert_eq!(CertificateList::decode(list.raw()).as_ref(), Ok(&list));
            }
        }
        _ => merge(&mut chain, &[&edited(genuine.contents(), &mut input)]),
    }
});

/// Refused updates change nothing.
fn merge(chain: &mut BundleChain, updates: &[&[u8]]) {
    let before = (chain.head(), chain.len());
    if let Err(refused) = chain.merge(updates) {
        assert_eq!((chain.head(), chain.len()), before);
        drop((refused.code(), refused.to_string()));
    }
}
