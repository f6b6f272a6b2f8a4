//! Keys that may sign and keys that may not; what is signed holds under the bundle.

use starling_identity::{Roles, create_trust_domain, verify_operator};
use starling_model::TrustDomain;

use super::*;

struct Lab {
    folder: tempfile::TempDir,
    bundle: TrustBundle,
    pem: String,
}

fn lab() -> Lab {
    let domain = TrustDomain::new("prod.internal").unwrap();
    let made = create_trust_domain(&domain, "alice", false, crate::cli::now()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("operator")).unwrap();
    std::fs::create_dir_all(folder.path().join("trust")).unwrap();
    std::fs::write(folder.path().join("trust/bundle.trust"), &made.bundle_file).unwrap();
    Lab { folder, bundle: made.bundle, pem: made.operator_key_pem.to_string() }
}

impl Lab {
    fn trust(&self) -> Trust {
        let operators = self.bundle.operators.iter().map(|one| TrustOperator {
            key_id: one.key_id(),
            name: one.name.clone(),
            roles: one.roles.to_string(),
            public_key: hex(&one.key),
        });
        Trust {
            mesh_id: hex(&self.bundle.mesh_id.0),
            bundle_sequence: 1,
            bundle_hash: String::new(),
            operators: operators.collect(),
            revocations: Vec::new(),
            holding: None,
        }
    }

    fn open(&self, trust: &Trust) -> Result<Desk, CliError> {
        let key = OperatorKey::from_pem(&self.pem).unwrap();
        Desk::of(key, &self.folder.path().join("operator/alice.key"), trust)
    }

    fn refused(&self, trust: &Trust) -> (Exit, Option<starling_model::Code>) {
        self.open(trust).map(|_| ()).map_err(|error| (error.exit(), error.code())).unwrap_err()
    }
}

fn draft(name: &str, text: Option<&str>) -> Draft {
    let key = DocumentKey::parse("HTTPRoute", "default", name).unwrap();
    Draft { key, generation: Generation::new(14).unwrap(), text: text.map(str::to_owned) }
}

#[test]
fn what_is_signed_holds_and_several_are_one_batch() {
    let lab = lab();
    let desk = lab.open(&lab.trust()).unwrap();
    assert_eq!(desk.signer(), "k1 \"alice\"");
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_795_014_000_123);
    let read = |form: &SignedForm| {
        let body = BASE64.decode(&form.payload).unwrap();
        let signature: [u8; 64] = BASE64.decode(&form.signature).unwrap().try_into().unwrap();
        verify_operator(OperatorStatement::Document, starling_model::KeyId(1), &body, &signature, &lab.bundle).unwrap();
        let (document, text) = Document::read(&body).unwrap();
        (document, text.to_owned())
    };
    let alone = desk.sign(&[draft("a", Some("# as written\na: 1"))], now).unwrap();
    let (document, text) = read(&alone[0]);
    assert_eq!((text.as_str(), document.batch, document.deleted), ("# as written\na: 1", None, false));
    assert_eq!((document.generation.get(), document.signed_at), (14, 1_795_014_000_123));

    let both = desk.sign(&[draft("a", Some("x")), draft("b", None)], now).unwrap();
    let [(a, _), (b, nothing)] = [read(&both[0]), read(&both[1])];
    assert!(a.batch.is_some_and(|batch| batch.count.get() == 2) && a.batch == b.batch, "{a:?} {b:?}");
    assert!(b.deleted && nothing.is_empty());
    let again = desk.sign(&[draft("a", Some("y")), draft("b", None)], now).unwrap();
    assert_ne!(read(&again[0]).0.batch, a.batch, "another content is another batch");
}

#[test]
fn one_document_past_a_batch_and_one_byte_past_a_text_are_refused() {
    let lab = lab();
    let desk = lab.open(&lab.trust()).unwrap();
    let many: Vec<Draft> = (0..=BATCH_DOCUMENTS_MAX).map(|at| draft(&format!("a{at}"), Some("x"))).collect();
    let sign = |drafts: &[Draft]| desk.sign(drafts, SystemTime::UNIX_EPOCH).map(|forms| forms.len());
    assert_eq!(sign(&many[1..]), Ok(usize::from(BATCH_DOCUMENTS_MAX)));
    assert_eq!(sign(&many).unwrap_err().exit(), Exit::Refused);
    let long = "x".repeat(starling_model::limits::DOCUMENT_TEXT_BYTES_MAX + 1);
    assert_eq!(sign(&[draft("a", Some(&long[1..]))]), Ok(1));
    assert_eq!(sign(&[draft("a", Some(&long))]).unwrap_err().exit(), Exit::Refused);
}

#[test]
fn a_key_that_may_not_sign_for_this_mesh_is_refused_before_anything_is_signed() {
    let (ours, theirs) = (lab(), lab());
    assert_eq!(ours.refused(&theirs.trust()), (Exit::Refused, Some(codes::OTHER_MESH)));
    std::fs::remove_file(ours.folder.path().join("trust/bundle.trust")).unwrap();
    assert_eq!(ours.refused(&theirs.trust()), (Exit::Refused, Some(codes::SIGNATURE_INVALID)), "a foreign key");
    let mut trust = ours.trust();
    trust.operators[0].roles = Roles::of(&[Role::Issue, Role::Revoke]).to_string();
    assert_eq!(ours.refused(&trust), (Exit::Refused, Some(codes::ROLE_MISSING)));
    for id in ["", "12", &"x".repeat(64), &"0".repeat(66)] {
        let trust = Trust { mesh_id: id.to_owned(), ..ours.trust() };
        assert_eq!(ours.refused(&trust).0, Exit::Bad, "{id}");
    }
}

#[test]
fn a_key_beside_the_socket_comes_before_that_of_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Address::Unix(folder.path().join("api.sock"));
    let of_user = |found: Result<PathBuf, CliError>| found.is_ok_and(|path| path.ends_with(KEY_DEFAULT));
    assert!(of_user(default_key(&agent)));
    std::fs::write(folder.path().join("operator.key"), "").unwrap();
    assert_eq!(default_key(&agent), Ok(folder.path().join("operator.key")));
    assert!(of_user(default_key(&Address::Http("127.0.0.1:7741".to_owned()))));
}
