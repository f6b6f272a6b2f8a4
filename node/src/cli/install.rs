//! Installs what a join file holds: bundle into the configuration, chain and key into the state. Used by `starling
//! join` and by the demo, so that the demo's agents start from exactly the files that a real host has.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, User, chown, geteuid};
use starling_identity::chain::Standing;
use starling_identity::request::new_issuing_key;
use starling_identity::{BundleChain, BundleInvalid, JoinFile, NodeIdentity, TrustBundle, new_record_key};
use starling_model::codes;
use zeroize::Zeroizing;

use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::trust::now;
use crate::files::{self, FileError, SECRET_MODE};
use crate::folder::{Folder, Ownership};
use crate::identity_folder;
use crate::tasks::gossip::{CHAIN_FILE, CHAIN_FOLDER, stored_bundles};

/// Files of the identity folder.
const ISSUING_KEY: &str = "issuing.key";
const PENDING_KEY: &str = "pending.key";
const CHAIN: &str = "chain.pem";

/// User and group that packages make for the agent.
const AGENT_USER: &str = "starling";

/// Secret folders: the agent's user alone.
const SECRET_DIR_MODE: u32 = 0o700;
/// The configuration: written by root, read by the agent's group.
const CONFIG_DIR_MODE: u32 = 0o750;
/// The trust folder and its bundle are public.
const PUBLIC_DIR_MODE: u32 = 0o755;
/// The bundle and the chain are public.
pub(crate) const PUBLIC_FILE_MODE: u32 = 0o644;
/// The settings hold no secret, but say much about a host.
const CONFIG_FILE_MODE: u32 = 0o640;

/// Where the parts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// The configuration folder.
    pub(crate) config: PathBuf,
    /// The folder of `bundle.trust`.
    pub(crate) trust: PathBuf,
    /// The folder of what the agent keeps.
    pub(crate) state: PathBuf,
}

impl Places {
    /// The public bundle.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.trust.join("bundle.trust")
    }

    /// The folder of the node's own keys.
    pub(crate) fn identity(&self) -> PathBuf {
        self.state.join("identity")
    }

    /// The node's chain, public.
    pub(crate) fn chain(&self) -> PathBuf {
        self.identity().join(CHAIN)
    }

    /// The node's CA key, secret.
    pub(crate) fn issuing_key(&self) -> PathBuf {
        self.identity().join(ISSUING_KEY)
    }

    /// The key of a request that is not signed yet, secret.
    pub(crate) fn pending_key(&self) -> PathBuf {
        self.identity().join(PENDING_KEY)
    }

    /// The folders of services and of further settings.
    fn drop_ins(&self) -> [PathBuf; 2] {
        ["services.d", "conf.d"].map(|name| self.config.join(name))
    }

    /// The settings.
    pub(crate) fn agent_toml(&self) -> PathBuf {
        self.config.join("agent.toml")
    }
}

/// What happens to an identity that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Present {
    /// It stays, and nothing is installed.
    Keep,
    /// It is replaced.
    Replace,
}

/// Which bundles are taken, where this host holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Those that follow from the one that is held.
    Proven,
    /// Any of the same mesh: whoever runs the command compared it.
    New,
}

/// What is there of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BundleThere {
    /// None, and nothing here says whose ours is: it is installed.
    None,
    /// One that ours follows from: ours is installed.
    Older,
    /// The same one, or one that ours came before: it stays.
    Newer,
    /// One that says nothing for ours, which takes its place because that was insisted on.
    Unproven,
}

/// What is installed, once nothing speaks against it.
#[derive(Clone)]
pub(crate) struct Ready {
    /// How the bundle in the file stands to the one that is there.
    pub(crate) bundle: BundleThere,
    /// The node's CA key: that of the file, or the one that this host made.
    key: Zeroizing<String>,
}

impl Ready {
    /// A first identity with the key of the file.
    pub(crate) fn first(key: Zeroizing<String>) -> Self {
        Self { bundle: BundleThere::None, key }
    }
}

/// Refuses what would lose an identity, mix two meshes, or bring a trust that nothing here speaks for.
///
/// # Errors
/// ST0204 for a bundle of another mesh, ST0619 for one that does not follow from the one that is held, ST0615 for an identity
/// that is there, ST0601 and ST0202 for a certificate that has ended or not begun by this clock, ST0614 for a file without a
/// key where this host holds none that belongs to it.
pub(crate) fn check(
    join: &JoinFile,
    ours: &TrustBundle,
    places: &Places,
    present: Present,
    trust: Trust,
) -> Result<Ready, CliError> {
    identity_folder::heal(&places.state)?;
    let held = held(places)?;
    let bundle = bundle_there(join.node.as_str(), ours, held.as_ref(), places, trust)?;
    let there = [places.issuing_key(), places.chain()].into_iter().find(|path| path.symlink_metadata().is_ok());
    if let Some(path) = there.filter(|_| present == Present::Keep) {
        let what = format!("{} is there: this host has an identity already", path.display());
        return Err(CliError::coded(Exit::Refused, codes::IDENTITY_EXISTS, what));
    }
    let key = match &join.issuing_key_pem {
        Some(key) => key.clone(),
        None => own_key(join, places)?,
    };
    // What the agent would refuse at its start is refused here, while the file is there still. A bundle that stays is the one
    // that the agent starts from.
    let in_force = held.as_ref().map(BundleChain::newest).filter(|_| bundle == BundleThere::Newer).unwrap_or(ours);
    NodeIdentity::load(in_force, &join.chain_pem, &key, &new_record_key(), now()).map_err(|error| {
        let what = format!("{} cannot join: its certificate cannot be used now", join.node);
        let cause = causes(&error).map_or_else(|| error.to_string(), |causes| format!("{error}: {causes}"));
        CliError::coded(Exit::Refused, error.code(), what).cause(cause)
    })?;
    Ok(Ready { bundle, key })
}

/// The bundle that is installed, and what the agent took since that follows from it.
fn held(places: &Places) -> Result<Option<BundleChain>, CliError> {
    match files::read_public(&places.bundle()) {
        Ok(bytes) => {
            let there = TrustBundle::parse(&bytes).map_err(|error| bundle_error(&places.bundle(), &error))?;
            Ok(Some(BundleChain::from_installed(there, &stored_bundles(&places.state))))
        }
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether `ours` takes the place of the bundle that is held.
///
/// # Errors
/// ST0204 when that one is of another mesh, ST0619 when nothing in it speaks for ours; `who` would join.
fn bundle_there(
    who: &str,
    ours: &TrustBundle,
    held: Option<&BundleChain>,
    places: &Places,
    trust: Trust,
) -> Result<BundleThere, CliError> {
    let Some(held) = held else { return Ok(BundleThere::None) };
    let there = held.newest();
    if there.mesh_id != ours.mesh_id {
        let what = format!("{who} cannot join: this host belongs to another mesh");
        return Err(CliError::coded(Exit::Refused, codes::OTHER_MESH, what)
            .cause(format!(
                "{} is of trust domain \"{}\" ({}); the file is of \"{}\" ({})",
                places.bundle().display(),
                there.trust_domain,
                short_fingerprint(there),
                ours.trust_domain,
                short_fingerprint(ours)
            ))
            .help([
                "issue an identity for that mesh, in its operator folder:  starling trust issue node NAME".to_owned(),
                format!("or move this host for good: stop the agent, remove {}", places.trust.display()),
                format!("and {}, then join again", places.state.display()),
            ]));
    }
    match (held.standing(ours), trust) {
        (Standing::Known, _) => Ok(BundleThere::Newer),
        (Standing::Newer, _) => Ok(BundleThere::Older),
        (Standing::Unproven, Trust::New) => Ok(BundleThere::Unproven),
        (Standing::Unproven, Trust::Proven) => {
            let what = format!("{who} cannot join: nothing proves the trust bundle in the file to this host");
            Err(CliError::coded(Exit::Refused, codes::TRUST_UNPROVEN, what)
                .cause(format!(
                    "{} holds bundle {}, {}\nthe file holds bundle {}, {}",
                    places.bundle().display(),
                    there.sequence,
                    there.fingerprint(),
                    ours.sequence,
                    ours.fingerprint(),
                ))
                .help([
                    codes::TRUST_UNPROVEN.help.to_owned(),
                    "if it is the operator's, by voice or ticket, to the last digit:  starling join FILE --new-trust"
                        .to_owned(),
                ]))
        }
    }
}

/// Installs the folder of a shared issuer: its bundle, then its key. The agent makes this host's own identity at its start.
///
/// # Errors
/// ST0204 for another mesh, ST0619 for a bundle that nothing here speaks for, or a file that cannot be written.
pub(crate) fn install_shared(
    bundle: &TrustBundle,
    file: &[u8],
    key: &str,
    places: &Places,
    trust: Trust,
) -> Result<BundleThere, CliError> {
    let there = bundle_there("this host", bundle, held(places)?.as_ref(), places, trust)?;
    let owner = Owner::find();
    files::make_dir(&places.config, CONFIG_DIR_MODE)?;
    for folder in places.drop_ins() {
        files::make_dir(&folder, CONFIG_DIR_MODE)?;
    }
    files::make_dir(&places.trust, PUBLIC_DIR_MODE)?;
    if let Some(state) = present(Folder::open(&places.state))? {
        forget_chain(&state, there)?;
    }
    if there != BundleThere::Newer {
        files::replace(&places.bundle(), file, PUBLIC_FILE_MODE)?;
    }
    // Whoever may replace files in the trust folder is root or the agent already.
    Folder::open(&places.trust)?.replace("issuer.key", key.as_bytes(), SECRET_MODE, owner.agent)?;
    owner.give_group(&[&places.config])?;
    places.drop_ins().iter().try_for_each(|folder| owner.give_group(&[folder]))?;
    Ok(there)
}

/// The key that this host made for the certificate in a file without one: from its request, or that of the identity which
/// is renewed.
fn own_key(join: &JoinFile, places: &Places) -> Result<Zeroizing<String>, CliError> {
    let mut held = Vec::new();
    let state = present(Folder::open(&places.state))?;
    let folder = state.as_ref().map(identity_folder::used).transpose()?.flatten();
    for name in [PENDING_KEY, ISSUING_KEY] {
        let Some(folder) = &folder else { break };
        match folder.read_secret_text(name) {
            Ok(key) if join.certifies(&key) => return Ok(key),
            Ok(_) => held.push(folder.path().join(name).display().to_string()),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let error = if held.is_empty() {
        CliError::coded(
            Exit::Refused,
            codes::JOIN_FILE_INVALID,
            "the join file holds no private key, and this host has made none",
        )
    } else {
        CliError::coded(
            Exit::Refused,
            codes::JOIN_FILE_INVALID,
            "the join file is for a key that this host does not hold",
        )
        .cause(format!("{} is another one", held.join(" and ")))
    };
    Err(error.help([
        format!("make a request here, and have it signed:  starling trust csr --node {}", join.node),
        format!("or ask for a file with a key inside:  starling trust issue node {} --replace", join.node),
    ]))
}

/// Installs bundle, chain and key: the bundle first, which alone changes nobody's identity, then chain and key together.
/// Whatever fails or crashes in between, the old identity or the new one is there, whole.
///
/// # Errors
/// [`FileError`] when a folder or file cannot be written.
pub(crate) fn install(join: &JoinFile, places: &Places, ready: &Ready) -> Result<(), FileError> {
    install_for(Owner::find(), join, places, ready)
}

fn install_for(owner: Owner, join: &JoinFile, places: &Places, ready: &Ready) -> Result<(), FileError> {
    files::make_dir(&places.config, CONFIG_DIR_MODE)?;
    // Empty, so that one sees where services and further settings go.
    for folder in places.drop_ins() {
        files::make_dir(&folder, CONFIG_DIR_MODE)?;
    }
    files::make_dir(&places.trust, PUBLIC_DIR_MODE)?;
    let state = state_folder(places, owner)?;
    // Whoever stole the old issuing key may have these, too: a new identity has none of them, and the agent makes its own.
    let held = identity_folder::used(&state)?.map(|folder| folder.read_secret_text(ISSUING_KEY));
    let same = held.is_some_and(|held| held.is_ok_and(|held| *held == *ready.key));
    let gone = [ISSUING_KEY, CHAIN, PENDING_KEY, "record.key", "quic.key"];
    let staged = identity_folder::stage(&state, if same { &gone[..3] } else { &gone })?;
    staged.create(CHAIN, join.chain_pem.as_bytes(), PUBLIC_FILE_MODE, owner.agent)?;
    staged.create(ISSUING_KEY, ready.key.as_bytes(), SECRET_MODE, owner.agent)?;
    staged.give(owner.agent)?;
    forget_chain(&state, ready.bundle)?;
    if ready.bundle != BundleThere::Newer {
        files::replace(&places.bundle(), &join.bundle_file, PUBLIC_FILE_MODE)?;
    }
    identity_folder::swap(&state, &staged)?;
    owner.give_group(&[&places.config])?;
    places.drop_ins().iter().try_for_each(|folder| owner.give_group(&[folder]))
}

/// Takes the agent's chain of bundles away where the bundle that comes does not follow from it: the agent would go on with
/// the chain else. Before the bundle, so that a crash between the two leaves what peers can mend.
fn forget_chain(state: &Folder, there: BundleThere) -> Result<(), FileError> {
    match there {
        BundleThere::Older | BundleThere::Newer => Ok(()),
        BundleThere::None | BundleThere::Unproven if state.holds(CHAIN_FOLDER) => {
            state.child(CHAIN_FOLDER)?.remove(CHAIN_FILE)
        }
        BundleThere::None | BundleThere::Unproven => Ok(()),
    }
}

/// The state folder, which is the agent's user's.
fn state_folder(places: &Places, owner: Owner) -> Result<Folder, FileError> {
    files::make_dir(&places.state, SECRET_DIR_MODE)?;
    let state = Folder::open(&places.state)?;
    state.give(owner.agent)?;
    Ok(state)
}

/// `None` for what is not there.
fn present<T>(found: Result<T, FileError>) -> Result<Option<T>, FileError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the folder of this host's keys, for the agent's user, and the key of a request in it; one that is there is used
/// again.
///
/// # Errors
/// [`FileError`], or a failing provider.
pub(crate) fn pending_key(places: &Places) -> Result<Zeroizing<String>, CliError> {
    pending_key_for(Owner::find(), places)
}

fn pending_key_for(owner: Owner, places: &Places) -> Result<Zeroizing<String>, CliError> {
    let folder = identity_folder::used_or_new(&state_folder(places, owner)?)?;
    folder.give(owner.agent)?;
    if let Some(key) = present(folder.read_secret_text(PENDING_KEY))? {
        return Ok(key);
    }
    let key = new_issuing_key().map_err(|error| CliError::plain(Exit::Bad, error.to_string()))?;
    folder.create(PENDING_KEY, key.as_bytes(), SECRET_MODE, owner.agent)?;
    Ok(key)
}

/// Writes `agent.toml` unless there is one. True when it was written.
///
/// # Errors
/// [`FileError`] when it cannot be written.
pub(crate) fn agent_toml(join: &JoinFile, places: &Places) -> Result<bool, FileError> {
    let path = places.agent_toml();
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let mut text = format!(
        "# Written by starling join. Every setting: starling agent --print-config\nnode_name = \"{}\"\n",
        join.node
    );
    if !join.seeds.is_empty() {
        // Seeds are printable ASCII without blanks; what TOML would read as more than a character is escaped.
        let seeds: Vec<String> =
            join.seeds.iter().map(|seed| format!("\"{}\"", seed.replace('\\', "\\\\").replace('"', "\\\""))).collect();
        text.push_str(&format!("\n[mesh]\nseeds = [{}]\n", seeds.join(", ")));
    }
    files::create(&path, text.as_bytes(), CONFIG_FILE_MODE)?;
    Owner::find().give_group(&[&path])?;
    Ok(true)
}

/// The agent's user and group, where root installs for it.
#[derive(Clone, Copy, Debug)]
struct Owner {
    agent: Ownership,
}

impl Owner {
    fn find() -> Self {
        if !geteuid().is_root() {
            return Self { agent: None };
        }
        let user = User::from_name(AGENT_USER).ok().flatten();
        let group = Group::from_name(AGENT_USER).ok().flatten();
        Self { agent: user.zip(group).map(|(user, group)| (user.uid, group.gid)) }
    }

    /// Root's files that the agent reads.
    fn give_group(self, paths: &[&Path]) -> Result<(), FileError> {
        let Some((_, group)) = self.agent else { return Ok(()) };
        paths.iter().try_for_each(|path| set_group(path, group))
    }
}

fn set_group(path: &Path, group: Gid) -> Result<(), FileError> {
    chown(path, None, Some(group)).map_err(|error| FileError::Io {
        action: "give to the agent's group",
        path: path.to_owned(),
        source: io::Error::from(error),
    })
}

/// A bundle that cannot be used.
pub(crate) fn bundle_error(path: &Path, error: &BundleInvalid) -> CliError {
    let cli = CliError::coded(Exit::Refused, error.code(), format!("{} cannot be used", path.display()));
    let cause = causes(error).map_or_else(|| error.to_string(), |causes| format!("{error}: {causes}"));
    cli.cause(cause)
}

/// `SHA256:b7e1 03c8 5d2a …`
pub(crate) fn short_fingerprint(bundle: &TrustBundle) -> String {
    let full = bundle.mesh_id.fingerprint();
    let groups: Vec<&str> = full.split(' ').take(3).collect();
    format!("{} …", groups.join(" "))
}

/// What a person has to compare before it is believed: the mesh's fingerprint and the bundle's own, to the last digit.
pub(crate) fn fingerprints(bundle: &TrustBundle) -> String {
    let (mesh, own) = (bundle.mesh_id.fingerprint(), bundle.fingerprint());
    let named = if bundle.is_named_by_its_root() { "" } else { "   its root has gone: this proves nothing alone" };
    format!("trust      {mesh}{named}\nbundle     {own}   sequence {}\n", bundle.sequence)
}

#[cfg(test)]
mod tests;
