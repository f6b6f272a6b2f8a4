//! What operators ruled, in words: one event for each document that came into use, was refused or is in conflict, and for
//! each revocation.

use serde_json::{Value, json};
use starling_gossip::{DocumentView, OperatorClaim, RevocationView, SubmitProblem, SubmitRefused, Void};
use starling_identity::TrustBundle;
use starling_identity::chain::Fork;
use starling_model::envelope::split_signature;
use starling_model::mesh::hex;
use starling_model::{Batch, Document, DocumentKey, DocumentVersion, Generation, KeyId, NodeName, Revocation, codes};

use super::Submission;
use crate::api::config::verdict;
use crate::events::{Kind, News};

/// Things that one cause tells one by one; what is beyond is told as a number. A batch is at most as large.
pub(super) const TOLD_MAX: usize = 100;

/// What of these is told one by one, and how many there are beyond.
pub(super) fn told<T>(all: &[T]) -> (&[T], usize) {
    let (told, more) = all.split_at(all.len().min(TOLD_MAX));
    (told, more.len())
}

/// `k1 "alice"`; a key that the bundle does not name is told alone.
fn signer(bundle: &TrustBundle, key: KeyId) -> String {
    let operator = bundle.operators.iter().find(|operator| operator.id == key.0);
    operator.map_or_else(|| key.to_string(), |operator| format!("{key} \"{}\"", operator.name))
}

/// `HTTPRoute/orders`; `HTTPRoute/shop/orders` outside of the default namespace.
pub(in crate::tasks) fn subject(key: &DocumentKey) -> String {
    match key.namespace.as_str() {
        "default" => format!("{}/{}", key.kind, key.name),
        namespace => format!("{}/{namespace}/{}", key.kind, key.name),
    }
}

fn version(version: &DocumentVersion) -> Value {
    json!({"generation": version.generation.get(), "keyId": version.signer.to_string(), "digest": version.hash.to_string()})
}

/// What we ruled about: `me` is the node that tells.
fn config(me: &NodeName, subject: String, step: &'static str, what: String, evidence: Value) -> News {
    News { kind: Kind::Config, node: me.to_string(), subject, step, what, evidence }
}

/// A document came into use.
pub(super) fn of_used(me: &NodeName, before: Option<Generation>, now: &DocumentView, bundle: &TrustBundle) -> News {
    let generation = now.version.generation;
    let deleted = if now.deleted { " (deleted)" } else { "" };
    let step = match before {
        Some(before) => format!("generation {before} → {generation}{deleted}"),
        None => format!("generation {generation}{deleted}"),
    };
    let what = format!("{step} in use, signed by {}", signer(bundle, now.version.signer));
    let evidence = json!({"version": version(&now.version), "before": before.map(Generation::get), "deleted": now.deleted,
                          "batch": now.batch.map(|batch| batch.id.to_string())});
    config(me, subject(&now.key), "in_use", what, evidence)
}

/// More came into use at once than are told one by one.
pub(super) fn of_more_used(me: &NodeName, more: usize) -> News {
    let what = format!("and {more} more documents in use");
    config(me, "-".to_owned(), "in_use", what, json!({"documents": more}))
}

/// One generation was written in more than one way.
pub(super) fn of_conflict(me: &NodeName, key: &DocumentKey, all: &[DocumentVersion], bundle: &TrustBundle) -> News {
    let generation = all.first().map(|one| one.generation.to_string()).unwrap_or_default();
    let signers: Vec<String> = all.iter().map(|one| signer(bundle, one.signer)).collect();
    let (by, code) = (signers.join(", "), codes::DOCUMENT_CONFLICT);
    let wins = signers.first().cloned().unwrap_or_default();
    let what =
        format!("generation {generation} was signed with different contents by {by}; that of {wins} wins ({code})");
    let evidence = json!({"code": code.to_string(), "versions": all.iter().map(version).collect::<Vec<_>>()});
    config(me, subject(key), "conflict", what, evidence)
}

/// The next generation ended a conflict.
pub(super) fn of_conflict_ended(me: &NodeName, key: &DocumentKey, by: &DocumentVersion, bundle: &TrustBundle) -> News {
    let what = format!("generation {} by {} ended the conflict", by.generation, signer(bundle, by.signer));
    config(me, subject(key), "conflict_ended", what, json!({"version": version(by)}))
}

/// A document counts for nothing any more.
pub(super) fn of_voided(me: &NodeName, gone: &DocumentView, was_used: bool, bundle: &TrustBundle) -> News {
    let (code, by) = (codes::SIGNATURE_INVALID, signer(bundle, gone.version.signer));
    let generation = gone.version.generation;
    let ending = if was_used { "no longer in use" } else { "no longer kept" };
    let what = format!("generation {generation} by {by} counts for nothing since trust changed: {ending} ({code})");
    let evidence = json!({"code": code.to_string(), "version": version(&gone.version), "wasInUse": was_used});
    config(me, subject(&gone.key), "voided", what, evidence)
}

/// A batch is not complete after its time.
pub(super) fn of_incomplete(me: &NodeName, batch: &Batch, present: &[DocumentKey]) -> News {
    let (count, code) = (batch.count.get(), codes::BATCH_INCOMPLETE);
    let what =
        format!("{} of {count} documents of batch {} are here, so none is used ({code})", present.len(), batch.id);
    let names: Vec<String> = present.iter().map(subject).collect();
    let evidence = json!({"code": code.to_string(), "batch": batch.id.to_string(), "count": count, "present": names});
    config(me, present.first().map_or_else(|| "-".to_owned(), subject), "batch_incomplete", what, evidence)
}

/// Something that was handed in here was refused; nothing of it is kept.
pub(super) fn of_refused(me: &NodeName, what: &Submission, problem: &SubmitProblem, bundle: &TrustBundle) -> News {
    let (_, code) = verdict(&problem.why);
    let why = format!("{} ({code})", problem.why);
    match what {
        Submission::Documents(documents) => {
            let body = documents.get(problem.index).and_then(|whole| split_signature(whole)).map(|(body, _)| body);
            match body.and_then(|body| Document::read(body).ok()) {
                Some((head, _)) => {
                    let by = signer(bundle, head.signer);
                    let text = format!("generation {} by {by} refused: {why}", head.generation);
                    let evidence = json!({"code": code.to_string(), "generation": head.generation.get(), "keyId": head.signer.to_string()});
                    config(me, subject(&head.key), "refused", text, evidence)
                }
                None => {
                    let evidence = json!({"code": code.to_string()});
                    config(me, "-".to_owned(), "refused", format!("a document refused: {why}"), evidence)
                }
            }
        }
        Submission::Revocation(whole) => {
            let said = split_signature(whole).and_then(|(body, _)| Revocation::read(body).ok());
            let (node, text) = match said {
                Some(said) => {
                    let by = signer(bundle, said.signer);
                    (said.node.to_string(), format!("revocation {} by {by} refused: {why}", said.number))
                }
                None => ("-".to_owned(), format!("a revocation refused: {why}")),
            };
            let evidence = json!({"code": code.to_string()});
            News { kind: Kind::Identity, subject: node.clone(), node, step: "revocation_refused", what: text, evidence }
        }
    }
}

/// A peer brought a document or a revocation whose signature counts for nothing here.
pub(super) fn of_refused_word(from: &NodeName, kind: OperatorClaim, why: Void) -> News {
    let (_, code) = verdict(&SubmitRefused::Void(why));
    let (kind, subject, word) = match kind {
        OperatorClaim::Document => (Kind::Config, "document", "a document"),
        OperatorClaim::Revocation => (Kind::Identity, "revocation", "a revocation"),
    };
    let reason = match why {
        Void::UnknownKey => "no operator here has its key",
        Void::Role => "its key may not sign this",
        Void::BadSignature => "its signature does not hold",
    };
    let what = format!("{word} from {from} refused: {reason} ({code})");
    let evidence = json!({"code": code.to_string(), "from": from.to_string(), "reason": reason});
    News { kind, node: from.to_string(), subject: subject.to_owned(), step: "peer_word_refused", what, evidence }
}

/// A revocation is in force.
pub(super) fn of_revoked(view: &RevocationView, bundle: &TrustBundle) -> News {
    let said = &view.revocation;
    let reason = if said.reason.is_empty() { String::new() } else { format!(": {}", said.reason) };
    let keys = match said.kept.len() {
        0 => "all its issuing keys".to_owned(),
        kept => format!("all its issuing keys but {kept}"),
    };
    let by = signer(bundle, said.signer);
    let what = format!("revocation {} in force, {keys}, signed by {by}{reason} ({})", said.number, codes::REVOKED);
    let evidence = json!({"code": codes::REVOKED.to_string(), "number": said.number, "keyId": said.signer.to_string(),
                          "kept": said.kept.len(), "reason": said.reason});
    let node = said.node.to_string();
    News { kind: Kind::Identity, subject: node.clone(), node, step: "revoked", what, evidence }
}

/// Another trust bundle is in force.
pub(super) fn of_bundle(me: &NodeName, bundle: &TrustBundle, whence: &str) -> News {
    let sequence = bundle.sequence;
    let what = format!("trust bundle {sequence} in force, {whence}");
    let evidence = json!({"sequence": sequence, "sha256": hex(&bundle.hash()), "roots": bundle.roots.len(),
                          "operators": bundle.operators.len()});
    News { kind: Kind::Identity, node: me.to_string(), subject: "trust".to_owned(), step: "bundle", what, evidence }
}

/// The trust bundle forked, and which side stays.
pub(super) fn of_fork(me: &NodeName, fork: &Fork) -> News {
    let code = fork.code().to_string();
    let evidence = json!({"code": code, "sequence": fork.sequence, "kept": fork.kept.to_string(),
                          "left": fork.left.to_string()});
    let (node, subject) = (me.to_string(), "trust".to_owned());
    News { kind: Kind::Identity, node, subject, step: "forked", what: format!("{fork} ({code})"), evidence }
}

/// A revoked node tried to connect and was refused.
pub(super) fn of_refused_peer(node: &NodeName, attempts: u64) -> News {
    let what = format!("refused: revoked ({}), {attempts} attempts", codes::REVOKED);
    let what = if attempts == 1 { what.replace("1 attempts", "1 attempt") } else { what };
    let evidence = json!({"code": codes::REVOKED.to_string(), "attempts": attempts});
    let node = node.to_string();
    News { kind: Kind::Identity, subject: node.clone(), node, step: "peer_refused", what, evidence }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use starling_identity::create_trust_domain;
    use starling_model::TrustDomain;

    use super::*;
    use crate::mesh_view::tests::document;

    fn bundle() -> TrustBundle {
        let domain = TrustDomain::new("prod.internal").unwrap();
        create_trust_domain(&domain, "alice", false, crate::crypto::wall_clock()).unwrap().bundle
    }

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    #[test]
    fn one_thing_more_than_are_told_one_by_one_is_told_as_a_number() {
        let all = [(); TOLD_MAX + 1];
        assert_eq!(told(&all[1..]), (&all[1..], 0));
        assert_eq!(told(&all), (&all[1..], 1));
        assert_eq!(of_more_used(&name("vm-1"), 1).what, "and 1 more documents in use");
    }

    #[test]
    fn a_document_in_use_reads_as_documented() {
        let (me, bundle) = (name("vm-1"), bundle());
        let news = of_used(&me, Generation::new(12), &document("orders-canary", 13), &bundle);
        assert_eq!((news.subject.as_str(), news.step), ("HTTPRoute/orders-canary", "in_use"));
        assert_eq!(news.what, "generation 12 → 13 in use, signed by k1 \"alice\"");
        let gone = DocumentView { deleted: true, ..document("orders-canary", 1) };
        assert_eq!(of_used(&me, None, &gone, &bundle).what, "generation 1 (deleted) in use, signed by k1 \"alice\"");
    }

    #[test]
    fn a_document_that_lost_its_force_names_who_signed_it() {
        let news = of_voided(&name("vm-1"), &document("orders", 3), true, &bundle());
        let want = "generation 3 by k1 \"alice\" counts for nothing since trust changed: no longer in use (ST0411)";
        assert_eq!((news.what.as_str(), news.step), (want, "voided"));
    }

    #[test]
    fn a_conflict_names_all_signers_and_whose_wins() {
        let (mine, mut other) = (document("orders", 3).version, document("orders", 3).version);
        other.signer = KeyId(2);
        let news = of_conflict(&name("vm-1"), &document("orders", 3).key, &[other, mine], &bundle());
        assert_eq!(
            news.what,
            "generation 3 was signed with different contents by k2, k1 \"alice\"; that of k2 wins (ST0413)"
        );
    }

    #[test]
    fn what_was_refused_names_who_signed_it_and_why() {
        let head = Document {
            schema: 1,
            key: document("orders", 1).key,
            signer: KeyId(1),
            generation: Generation::new(4).unwrap(),
            signed_at: 0,
            deleted: false,
            batch: None,
        };
        let whole = Bytes::from([&head.to_body("x: 1\n").unwrap()[..], &[0; 64]].concat());
        let what = Submission::Documents(vec![whole, Bytes::from_static(b"garbage")]);
        let problem = |index| SubmitProblem { index, key: None, why: SubmitRefused::Full };
        let (me, bundle) = (name("vm-1"), bundle());
        let news = of_refused(&me, &what, &problem(0), &bundle);
        assert!(news.what.starts_with("generation 4 by k1 \"alice\" refused: there is no room for it ("), "{news:?}");
        assert_eq!(news.subject, "HTTPRoute/orders");
        for index in [1, 2] {
            assert!(of_refused(&me, &what, &problem(index), &bundle).what.starts_with("a document refused: "));
        }
    }

    #[test]
    fn a_word_refused_from_a_peer_names_the_peer_and_why() {
        let said = |kind, why| {
            let news = of_refused_word(&name("vm-3"), kind, why);
            (news.kind, news.node, news.what)
        };
        let (kind, node, what) = said(OperatorClaim::Document, Void::UnknownKey);
        assert_eq!((kind, node.as_str()), (Kind::Config, "vm-3"));
        assert_eq!(what, "a document from vm-3 refused: no operator here has its key (ST0411)");
        let (kind, _, what) = said(OperatorClaim::Revocation, Void::Role);
        assert_eq!(kind, Kind::Identity);
        assert_eq!(what, "a revocation from vm-3 refused: its key may not sign this (ST0606)");
    }

    #[test]
    fn a_revocation_and_a_refused_peer_are_about_the_node() {
        let revocation = Revocation {
            schema: 1,
            node: name("vm-7"),
            signer: KeyId(1),
            number: 5,
            signed_at: 0,
            kept: Vec::new(),
            reason: "compromised".to_owned(),
        };
        let view = RevocationView { revocation, hash: [0; 32], envelope: Bytes::new() };
        let news = of_revoked(&view, &bundle());
        assert_eq!((news.node.as_str(), news.kind), ("vm-7", Kind::Identity));
        let want = "revocation 5 in force, all its issuing keys, signed by k1 \"alice\": compromised (ST0624)";
        assert_eq!(news.what, want);
        assert_eq!(of_refused_peer(&name("vm-7"), 1).what, "refused: revoked (ST0624), 1 attempt");
        assert_eq!(of_refused_peer(&name("vm-7"), 11).what, "refused: revoked (ST0624), 11 attempts");
    }
}
