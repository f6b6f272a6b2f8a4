//! What an installation takes, refuses and leaves alone.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use nix::unistd::Uid;
use starling_identity::{IssuingCa, NewTrustDomain, create_trust_domain, update_by_root};
use starling_model::{Code, NodeName, TrustDomain};

use super::*;

fn domain() -> NewTrustDomain {
    create_trust_domain(&TrustDomain::new("prod.internal").unwrap(), "alice", false, now()).unwrap()
}

fn renamed(made: &NewTrustDomain, before: &TrustBundle, name: &str) -> TrustBundle {
    update_by_root(before, &made.root_key_pem, |bundle| name.clone_into(&mut bundle.operators[0].name)).unwrap()
}

/// A join file of `vm-1` with this bundle.
fn join(made: &NewTrustDomain, bundle: &TrustBundle) -> JoinFile {
    let ca = IssuingCa::load(bundle, &made.issuer_key_pem).unwrap();
    let issued = ca.issue_node(&NodeName::new("vm-1").unwrap(), 30, now()).unwrap();
    JoinFile {
        bundle_file: bundle.to_file(),
        node: issued.node,
        seeds: Vec::new(),
        chain_pem: issued.chain_pem,
        issuing_key_pem: Some(issued.issuing_key_pem),
    }
}

fn places(root: &Path) -> Places {
    Places { config: root.join("etc"), trust: root.join("etc/trust"), state: root.join("state") }
}

fn checked(join: &JoinFile, places: &Places, trust: Trust) -> Result<BundleThere, Option<Code>> {
    let bundle = TrustBundle::parse(&join.bundle_file).unwrap();
    check(join, &bundle, places, Present::Replace, trust).map(|ready| ready.bundle).map_err(|error| error.code())
}

#[test]
fn only_a_bundle_that_follows_from_the_one_that_is_held_takes_its_place() {
    let (root, made) = (tempfile::tempdir().unwrap(), domain());
    let places = places(root.path());
    let first = join(&made, &made.bundle);
    assert_eq!(checked(&first, &places, Trust::Proven), Ok(BundleThere::None));
    let ready = check(&first, &made.bundle, &places, Present::Keep, Trust::Proven).unwrap();
    install(&first, &places, &ready).unwrap();

    let second = renamed(&made, &made.bundle, "bob");
    let third = renamed(&made, &second, "carol");
    assert_eq!(checked(&first, &places, Trust::Proven), Ok(BundleThere::Newer));
    assert_eq!(checked(&join(&made, &second), &places, Trust::Proven), Ok(BundleThere::Older));
    assert_eq!(
        checked(&join(&made, &third), &places, Trust::Proven),
        Ok(BundleThere::Older),
        "a root that is held signed it"
    );

    // The same mesh id and a higher sequence, of somebody who has a root of his own.
    let eve = domain();
    let forged = made_with_mesh_of(&made, &eve);
    assert_eq!(forged.mesh_id, made.bundle.mesh_id);
    let file = join(&eve, &forged);
    let refused = check(&file, &forged, &places, Present::Replace, Trust::Proven).map(|_| ()).unwrap_err();
    assert_eq!((refused.exit(), refused.code()), (Exit::Refused, Some(codes::TRUST_UNPROVEN)));
    let told = refused.render(&crate::cli::Look::plain());
    for bundle in [&made.bundle, &forged] {
        assert!(told.contains(&bundle.fingerprint()), "both, to the last digit: {told}");
    }
    assert!(told.contains("--new-trust"), "{told}");
    assert_eq!(fs::read(places.bundle()).unwrap(), made.bundle_file);

    let ready = check(&file, &forged, &places, Present::Replace, Trust::New).unwrap();
    assert_eq!(ready.bundle, BundleThere::Unproven);
    // The agent's chain leads to another bundle, with which it would go on.
    fs::create_dir_all(places.state.join("trust")).unwrap();
    fs::write(places.state.join("trust/chain"), b"another").unwrap();
    install(&file, &places, &ready).unwrap();
    assert!(!places.state.join("trust/chain").exists());
    assert_eq!(fs::read(places.bundle()).unwrap(), forged.to_file());
    assert!(fingerprints(&forged).contains("this proves nothing alone"), "the mesh id is not of its root");
    assert!(!fingerprints(&made.bundle).contains("proves nothing"));
}

/// A bundle of Eve's roots under the mesh id of `ours`.
fn made_with_mesh_of(ours: &NewTrustDomain, eve: &NewTrustDomain) -> TrustBundle {
    update_by_root(&eve.bundle, &eve.root_key_pem, |bundle| {
        bundle.mesh_id = ours.bundle.mesh_id;
        bundle.sequence = 9;
    })
    .unwrap()
}

#[test]
fn what_the_agent_took_since_counts_as_far_as_it_follows() {
    let (root, made) = (tempfile::tempdir().unwrap(), domain());
    let places = places(root.path());
    let first = join(&made, &made.bundle);
    let ready = check(&first, &made.bundle, &places, Present::Keep, Trust::Proven).unwrap();
    install(&first, &places, &ready).unwrap();
    let second = renamed(&made, &made.bundle, "bob");
    let chain = |bundles: &[&TrustBundle]| {
        let mut chain = BundleChain::new(bundles[0].clone());
        bundles[1..].iter().for_each(|next| drop(chain.merge_file(&next.to_file()).unwrap()));
        let framed: Vec<u8> = chain
            .to_stored()
            .iter()
            .flat_map(|raw| [&u32::try_from(raw.len()).unwrap().to_le_bytes()[..], raw].concat())
            .collect();
        fs::create_dir_all(places.state.join("trust")).unwrap();
        fs::write(places.state.join("trust/chain"), framed).unwrap();
    };
    chain(&[&made.bundle, &second]);
    assert_eq!(checked(&join(&made, &second), &places, Trust::Proven), Ok(BundleThere::Newer), "the agent has it");
    // The agent's folder is the agent's: what lies there speaks for nobody by itself.
    let eve = domain();
    let forged = made_with_mesh_of(&made, &eve);
    chain(&[&forged]);
    assert_eq!(checked(&join(&eve, &forged), &places, Trust::Proven), Err(Some(codes::TRUST_UNPROVEN)));
}

/// Root installs for the agent's user, who has put links wherever it can.
#[test]
fn links_in_the_agents_folder_lead_nowhere_and_what_is_made_is_the_agents() {
    let (root, made) = (tempfile::tempdir().unwrap(), domain());
    let (places, victim) = (places(root.path()), root.path().join("victim"));
    let agent = geteuid().is_root().then(|| (Uid::from_raw(65_534), Gid::from_raw(65_534)));
    let owner = Owner { agent };
    let us = fs::metadata(root.path()).unwrap().uid();
    fs::create_dir(&victim).unwrap();
    files::make_dir(&places.state, SECRET_DIR_MODE).unwrap();
    let untouched = || {
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
        assert_eq!(fs::metadata(&victim).unwrap().uid(), us);
    };
    let identity = places.identity();
    symlink(&victim, &identity).unwrap();
    assert!(pending_key_for(owner, &places).is_err());
    untouched();
    fs::remove_file(&identity).unwrap();
    files::make_dir(&identity, SECRET_DIR_MODE).unwrap();
    symlink(victim.join("pending.key"), places.pending_key()).unwrap();
    assert!(pending_key_for(owner, &places).is_err());
    untouched();
    fs::remove_file(places.pending_key()).unwrap();

    // With a key that is the agent's, root reads it and installs what belongs to it.
    let key = pending_key_for(owner, &places).unwrap();
    assert_eq!(*pending_key_for(owner, &places).unwrap(), *key, "asked again, the key stays");
    let ca = IssuingCa::load(&made.bundle, &made.issuer_key_pem).unwrap();
    let text = starling_identity::request::request(&NodeName::new("vm-1").unwrap(), &key).unwrap();
    let request = starling_identity::NodeRequest::parse(text.as_bytes()).unwrap();
    let signed = ca.sign_request(&request, 30, now()).unwrap();
    let file = JoinFile { chain_pem: signed.chain_pem, issuing_key_pem: None, ..join(&made, &made.bundle) };
    for leftover in ["identity.new", "identity.old"] {
        symlink(&victim, places.state.join(leftover)).unwrap();
    }
    symlink(victim.join("other"), identity.join("record.key")).unwrap();
    let ready = check(&file, &made.bundle, &places, Present::Keep, Trust::Proven).unwrap();
    install_for(owner, &file, &places, &ready).unwrap();
    untouched();
    assert_eq!(fs::read_to_string(places.issuing_key()).unwrap(), *key);
    for (path, mode) in
        [(places.state.clone(), 0o700), (identity, 0o700), (places.issuing_key(), 0o600), (places.chain(), 0o644)]
    {
        let there = path.symlink_metadata().unwrap();
        let want = agent.map_or(us, |(user, _)| user.as_raw());
        assert_eq!((there.uid(), there.mode() & 0o777), (want, mode), "{}", path.display());
    }
    assert!(!places.pending_key().exists() && places.state.join("identity/record.key").symlink_metadata().is_err());
}
