//! What hosts and operators hand each other to join. The first byte chooses: a join file's text; the genuine one, damaged;
//! blocks of the input under a header whose hash is right; or a certificate request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use starling_fuzz::identity::{FIXTURE, armour, sha256};
use starling_fuzz::{Input, edited};
use starling_identity::inspect::{describe_join, inspect};
use starling_identity::{JoinFile, NodeRequest};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let file = match input.byte() % 4 {
        3 => return request(input.rest()),
        0 => input.rest().to_vec(),
        1 => edited(FIXTURE.join_file.as_bytes(), &mut input),
        _ => sealed(&mut input).into_bytes(),
    };
    let _ = inspect(&file).map(|found| found.rows());
    let Ok(text) = std::str::from_utf8(&file) else { return };
    match JoinFile::parse(text) {
        Ok(join) => {
            let again = JoinFile::parse(&join.encode()).expect("a join file survives its own text");
            assert_eq!((&again.node, &again.seeds, &again.chain_pem), (&join.node, &join.seeds, &join.chain_pem));
            assert_eq!(again.issuing_key_pem.as_deref(), join.issuing_key_pem.as_deref());
            assert_eq!(again.bundle_file, join.bundle_file);
            let _ = describe_join(&join);
        }
        Err(refused) => drop((refused.code(), refused.to_string())),
    }
});

/// What is accepted names a node that stands in the request, letter for letter.
fn request(der: &[u8]) {
    let file = armour("CERTIFICATE REQUEST", der);
    let _ = inspect(file.as_bytes()).map(|found| found.rows());
    match NodeRequest::parse(file.as_bytes()) {
        Ok(asked) => {
            let name = asked.node().as_str().as_bytes();
            assert!(der.windows(name.len()).any(|part| part == name), "{} was not asked for", asked.node());
        }
        Err(refused) => drop((refused.code(), refused.to_string())),
    }
}

/// Genuine blocks, some damaged or left out, and a header of the input with the hash over all of them.
fn sealed(input: &mut Input<'_>) -> String {
    let genuine = pem::parse_many(&FIXTURE.join_file).expect("PEM");
    let header = input.counted_short().to_vec();
    let mut all = header.clone();
    let mut text = String::new();
    for block in genuine.iter().skip(1) {
        let what = input.byte();
        if what & 3 == 3 {
            continue;
        }
        let body = if what & 3 == 2 { edited(block.contents(), input) } else { block.contents().to_vec() };
        all.extend_from_slice(&(body.len() as u64).to_le_bytes());
        all.extend_from_slice(&body);
        text.push_str(&armour(block.tag(), &body));
    }
    let sealed = [header, sha256(&all)].concat();
    format!("{}{text}", armour("STARLING JOIN", &sealed))
}
