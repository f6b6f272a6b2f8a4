//! Trust bundles. The first byte chooses: the file's text; the bytes inside of the armour; or a body that the root signed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_fuzz::identity::{FIXTURE, armour, domain_message, sign};
use starling_fuzz::{Input, edited};
use starling_identity::inspect::{describe_bundle, inspect};
use starling_identity::{TrustBundle, TrustView};

const LABEL: &str = "STARLING TRUST BUNDLE";

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let file = match input.byte() % 5 {
        0 => input.rest().to_vec(),
        1 => edited(&FIXTURE.bundle_file, &mut input),
        2 => armour(LABEL, input.rest()).into_bytes(),
        3 => armour(LABEL, &edited(pem::parse(&FIXTURE.bundle_file).expect("PEM").contents(), &mut input)).into_bytes(),
        _ => armour(LABEL, &signed(&mut input)).into_bytes(),
    };
    let _ = inspect(&file).map(|found| found.rows());
    match TrustBundle::parse(&file) {
        Ok(bundle) => {
            assert!((1..=4).contains(&bundle.roots.len()) && bundle.issuers.len() <= 8);
            assert_eq!(TrustBundle::parse(&bundle.to_file()).as_ref(), Ok(&bundle), "it does not survive its own file");
            let _ = describe_bundle(&bundle);
            let _ = TrustView::new(bundle);
        }
        Err(refused) => drop((refused.code(), refused.to_string())),
    }
});

/// A changed body, signed by the root. Its mesh id is part of what is signed, so that stays.
fn signed(input: &mut Input<'_>) -> Vec<u8> {
    let genuine = pem::parse(&FIXTURE.bundle_file).expect("PEM");
    let genuine = genuine.contents();
    let length = u32::from_le_bytes([genuine[4], genuine[5], genuine[6], genuine[7]]) as usize;
    let body = [&genuine[8..40], &edited(&genuine[40..8 + length], input)[..]].concat();
    let signature = sign(&FIXTURE.root_key, &domain_message("bundle", &body));
    let mut out = b"STB1".to_vec();
    out.extend_from_slice(&u32::try_from(body.len()).expect("short").to_le_bytes());
    out.extend_from_slice(&body);
    out.extend([1, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&u16::try_from(signature.len()).expect("short").to_le_bytes());
    out.extend_from_slice(&signature);
    out
}
