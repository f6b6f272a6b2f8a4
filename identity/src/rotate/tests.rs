//! A -> A+B -> B, as every reader of bundles and every node sees it.

use starling_model::BootEpoch;

use super::*;
use crate::armor;
use crate::certificates::NodeCertificates;
use crate::chain::{self, BundleChain, Merged, Question};
use crate::current::CurrentIdentity;
use crate::fixtures::{Mesh, NOW, name};
use crate::issue::IssuedNode;
use crate::limits::CERTIFICATES_PER_KEY_MAX;
use crate::node::{IdentityInvalid, NodeIdentity, new_record_key};
use crate::statement::verify_credential;
use crate::verify::{Expected, verify_peer};

fn node_ca(issued: &IssuedNode) -> CertificateDer<'static> {
    armor::decode_certificates(issued.chain_pem.as_bytes()).unwrap().remove(0)
}

struct Rotation {
    mesh: Mesh,
    issued: IssuedNode,
    begun: Begun,
    switched: TrustBundle,
    finished: TrustBundle,
}

impl Rotation {
    fn new() -> Self {
        let mesh = Mesh::new("prod.internal");
        let issued = mesh.issue("web-1");
        let begun = begin(&mesh.made.bundle, &mesh.made.root_key_pem, &[node_ca(&issued)], NOW).unwrap();
        let switched = switch(&begun.bundle, &mesh.made.root_key_pem).unwrap();
        let finished = finish(&switched, &begun.root_key_pem).unwrap();
        Self { mesh, issued, begun, switched, finished }
    }

    fn view(&self, bundle: &TrustBundle) -> TrustView {
        TrustView::new(bundle.clone()).with_certificates(NodeCertificates::new(self.begun.lists.clone()))
    }

    fn load(&self, trust: &TrustView) -> Result<NodeIdentity, IdentityInvalid> {
        let (chain, key) = (&self.issued.chain_pem, &self.issued.issuing_key_pem);
        NodeIdentity::load_renewed(trust, chain, key, &new_record_key(), NOW)
    }
}

#[test]
fn members_take_each_step_and_every_file_can_be_judged_alone() {
    let all = Rotation::new();
    let mut chain = BundleChain::new(all.mesh.made.bundle.clone());
    for bundle in [&all.begun.bundle, &all.switched, &all.finished] {
        assert_eq!(TrustBundle::parse(&bundle.to_file()).as_ref(), Ok(bundle));
        assert_eq!(chain.merge_file(&bundle.to_file()), Ok(Merged::Extended), "{bundle:?}");
    }
    let (old, new) = (all.mesh.made.bundle.roots_short(), all.finished.roots_short());
    assert_eq!(all.begun.bundle.roots_short(), [old.clone(), new.clone()].concat());
    assert_eq!((old.len(), new.len(), all.finished.issuers.len()), (1, 1, 1));
    assert_eq!([&all.begun.bundle, &all.switched, &all.finished].map(|bundle| bundle.present), [0, 1, 0]);
    assert_eq!(all.finished.mesh_id, all.mesh.made.bundle.mesh_id, "the mesh keeps its name");
    // The next rotation begins where this one ended.
    let next = begin(&all.finished, &all.begun.root_key_pem, all.begun.lists[0].certificates(), NOW).unwrap();
    assert_eq!(chain.merge_file(&next.bundle.to_file()), Ok(Merged::Extended));
}

#[test]
fn steps_out_of_order_are_refused() {
    let all = Rotation::new();
    let (old, new) = (&all.mesh.made.root_key_pem, &all.begun.root_key_pem);
    let rotation = |refused: Result<TrustBundle, IssueError>| matches!(refused, Err(IssueError::Rotation(_)));
    let begin = |before: &TrustBundle| begin(before, old, &[], NOW).map(|begun| begun.bundle);
    assert!(rotation(begin(&all.begun.bundle)) && rotation(begin(&all.switched)));
    assert!(rotation(switch(&all.mesh.made.bundle, old)) && rotation(switch(&all.switched, old)));
    assert!(rotation(finish(&all.mesh.made.bundle, old)) && rotation(finish(&all.finished, new)));
    assert!(
        matches!(finish(&all.switched, old), Err(IssueError::ForeignRoot)),
        "the root that goes signs no last step"
    );
    assert!(matches!(switch(&all.begun.bundle, &all.begun.issuer_key_pem), Err(IssueError::ForeignRoot)));
    let foreign = node_ca(&Mesh::new("prod.internal").issue("web-1"));
    let before = &all.mesh.made.bundle;
    assert!(matches!(super::begin(before, old, &[foreign], NOW), Err(IssueError::ForeignNode)));
    let shared = crate::create_trust_domain(&before.trust_domain, "alice", true, NOW).unwrap();
    assert!(rotation(super::begin(&shared.bundle, &shared.root_key_pem, &[], NOW).map(|begun| begun.bundle)));
}

#[test]
fn a_node_shows_what_the_bundle_names_and_nobody_refuses_it_between_two_steps() {
    let all = Rotation::new();
    let steps = [&all.mesh.made.bundle, &all.begun.bundle, &all.switched, &all.finished].map(|bundle| all.view(bundle));
    let node = all.load(&steps[0]).unwrap();
    let current = CurrentIdentity::new(node.mint_leaf(NOW).unwrap(), steps[0].clone());
    let mut shown = Vec::new();
    for (at, trust) in steps.iter().enumerate() {
        if node.show(trust, NOW) {
            current.swap_leaf(node.mint_leaf(NOW).unwrap());
        }
        shown.push(node.root_short());
        // Who is a step behind or ahead accepts it.
        for other in steps.iter().take(at + 2).skip(at.saturating_sub(1)) {
            if at > 0 || other.bundle().sequence < 3 {
                verify_peer(&current.leaf_chain(), Expected::Exactly(&name("web-1")), other, NOW).unwrap();
            }
        }
        assert_eq!(all.load(trust).unwrap().root_short(), node.root_short(), "and after a restart it shows the same");
        assert!(node.is_under(trust));
    }
    let (old, new) = (all.mesh.made.bundle.root_short(), all.finished.root_short());
    assert_eq!(shown, [old, old, new, new]);
    // Without its certificate it keeps what it has, which no root stands behind any more.
    let bare = TrustView::new(all.finished.clone());
    let behind = all.load(&steps[0]).unwrap();
    assert!(!behind.show(&bare, NOW) && !behind.is_under(&bare));
    assert_eq!(behind.root_short(), old);
    assert!(matches!(all.load(&bare), Err(IdentityInvalid::Refused(_))));
}

#[test]
fn what_a_node_said_under_the_old_root_stands_by_its_renewed_certificate() {
    let all = Rotation::new();
    let node = all.load(&all.view(&all.mesh.made.bundle)).unwrap();
    let credential = node.credential(BootEpoch(3));
    let judge = |trust: &TrustView| verify_credential(&credential, &name("web-1"), trust, NOW).map(|held| held.epoch);
    assert_eq!(judge(&all.view(&all.finished)), Ok(BootEpoch(3)));
    let bare = TrustView::new(all.finished.clone());
    assert_eq!(judge(&bare).unwrap_err().reason(), "not-chained");
    let (key, root) = (node.issuing_key_hash(), node.root_short());
    let stands = |trust: &TrustView, node: &str, key| trust.stands(&name(node), &key, root);
    assert!(stands(&all.view(&all.finished), "web-1", key) && stands(&all.view(&all.switched), "web-1", key));
    assert!(!stands(&bare, "web-1", key), "its connection ends");
    assert!(!stands(&all.view(&all.finished), "web-2", key), "another node's certificate proves nothing");
    let revoked = crate::Revoked::new([(name("web-1"), Vec::new())]);
    assert!(!stands(&all.view(&all.finished).with_revoked(revoked), "web-1", key));
}

#[test]
fn anybody_is_told_the_certificates_of_a_key_and_the_lists() {
    let all = Rotation::new();
    let (chain, held) = (BundleChain::new(all.finished.clone()), NodeCertificates::new(all.begun.lists.clone()));
    let mesh_id = all.finished.mesh_id;
    let ask = |question: &Question| {
        let bytes = question.encode().unwrap();
        assert_eq!(Question::decode(&bytes).as_ref(), Ok(question));
        for end in 0..bytes.len() {
            assert!(Question::decode(&bytes[..end]).is_err(), "{question:?} {end}");
        }
        chain::reply(&chain, &held, &bytes).unwrap()
    };
    let key = all.issued.key_hash;
    let found = chain::read_key_answer(&ask(&Question::Key { mesh_id, hash: key })).unwrap().unwrap();
    assert_eq!(found.certificates(), all.begun.lists[0].certificates());
    assert_eq!(chain::read_key_answer(&ask(&Question::Key { mesh_id, hash: [0; 32] })), Ok(None));
    let list = &all.begun.lists[0];
    let answer = ask(&Question::List { mesh_id, hash: list.hash() });
    assert_eq!(chain::read_list_answer(&answer).as_ref(), Ok(&Some(list.clone())));
    assert_eq!(chain::read_list_answer(&ask(&Question::List { mesh_id, hash: [0; 32] })), Ok(None));
    let other = starling_model::MeshId([7; 32]);
    assert_eq!(chain::read_list_answer(&ask(&Question::List { mesh_id: other, hash: list.hash() })), Ok(None));
    assert_eq!(chain::read_key_answer(&ask(&Question::Key { mesh_id: other, hash: key })), Ok(None));
    assert!(chain::reply(&chain, &held, b"GET / HTTP/1.1").is_err());
    assert!(chain::read_list_answer(&answer[..answer.len() - 1]).is_err());
    assert!(chain::read_key_answer(&answer).is_err());
    let updates = ask(&Question::Updates(chain::whatever_follows(&BundleChain::new(all.switched.clone()))));
    assert!(chain::Answer::decode(&updates).is_ok_and(|answer| answer.0.len() == 1));

    let der = &list.certificates()[0];
    let many = |count: usize| {
        let one = [&u16::try_from(der.len()).unwrap().to_le_bytes()[..], der].concat();
        [&b"STA2"[..], &[u8::try_from(count).unwrap()], &one.repeat(count)].concat()
    };
    assert!(chain::read_key_answer(&many(CERTIFICATES_PER_KEY_MAX)).is_ok());
    assert!(chain::read_key_answer(&many(CERTIFICATES_PER_KEY_MAX + 1)).is_err());
}

#[test]
fn a_bundle_names_as_many_lists_as_it_may() {
    let all = Rotation::new();
    let named = |count: usize| {
        let lists = (0..count).map(|at| [u8::try_from(at).unwrap(); 32]).collect();
        update_by_root(&all.finished, &all.begun.root_key_pem, |bundle| bundle.lists = lists)
    };
    assert_eq!(named(LISTS_MAX).unwrap().lists.len(), LISTS_MAX);
    assert!(named(LISTS_MAX + 1).is_err());
    let twice = update_by_root(&all.finished, &all.begun.root_key_pem, |bundle| bundle.lists = vec![[1; 32]; 2]);
    assert!(twice.is_err());
    assert!(named(0).unwrap().lists.is_empty());
}
