//! Node statements. The first byte chooses: raw bytes; the genuine one, damaged; or any statement that `n1` signed.
//! Whoever holds the key of `n1` may bind record keys to `n1` only, and nobody else may bind one to anybody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_fuzz::identity::{FIXTURE, NOW, domain_message, name, sign};
use starling_fuzz::{Input, edited};
use starling_identity::verify_credential;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mode = input.byte() % 3;
    let credential = match mode {
        0 => input.rest().to_vec(),
        1 => edited(&FIXTURE.credential, &mut input),
        _ => sealed(&mut input),
    };
    for owner in ["n1", "n2"] {
        match verify_credential(&credential, &name(owner), &FIXTURE.trust, NOW) {
            Ok(proven) => {
                assert_eq!(owner, "n1", "the keys of n1 spoke for another node");
                let genuine = verify_credential(&FIXTURE.credential, &name("n1"), &FIXTURE.trust, NOW);
                assert!(mode == 2 || genuine == Ok(proven), "a forged statement was believed");
            }
            Err(refused) => drop((refused.reason(), refused.code(), refused.to_string())),
        }
    }
});

/// A statement with the right mesh id and signature around what the input says, and the genuine chain.
fn sealed(input: &mut Input<'_>) -> Vec<u8> {
    let chain =
        [FIXTURE.chain[1].as_ref(), if input.byte() & 1 == 0 { &FIXTURE.chain[2] } else { &FIXTURE.other_node_ca }];
    let statement = [&FIXTURE.trust.bundle().mesh_id.0[..], input.rest()].concat();
    let statement = &statement[..statement.len().min(2_000)];
    let signature = sign(&FIXTURE.node_key, &domain_message("node-statement", statement));
    let mut out = b"SC1".to_vec();
    let counted = |out: &mut Vec<u8>, part: &[u8]| {
        out.extend_from_slice(&u16::try_from(part.len()).expect("short").to_le_bytes());
        out.extend_from_slice(part);
    };
    counted(&mut out, statement);
    counted(&mut out, &signature);
    out.push(2);
    chain.iter().for_each(|der| counted(&mut out, der));
    out
}
