//! Installs what a join file holds: bundle into the configuration, chain and key into the state. Used by `starling
//! join` and by the demo, so that the demo's agents start from exactly the files that a real host has.

use std::io;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, chown, geteuid};
use starling_identity::request::new_issuing_key;
use starling_identity::{BundleInvalid, JoinFile, NodeIdentity, TrustBundle, new_record_key};
use starling_model::codes;
use zeroize::Zeroizing;

use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::trust::now;
use crate::files::{self, FileError};
use crate::identity_folder;

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
        self.identity().join("chain.pem")
    }

    /// The node's CA key, secret.
    pub(crate) fn issuing_key(&self) -> PathBuf {
        self.identity().join("issuing.key")
    }

    /// The key of a request that is not signed yet, secret.
    pub(crate) fn pending_key(&self) -> PathBuf {
        self.identity().join("pending.key")
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

/// What is there of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BundleThere {
    /// None, or an older one of the same mesh: ours is installed.
    Older,
    /// The same or a newer one of the same mesh: it stays.
    Newer,
}

/// What is installed, once nothing speaks against it.
#[derive(Clone)]
pub(crate) struct Ready {
    /// Whether the bundle in the file is newer than the one that is there.
    pub(crate) bundle: BundleThere,
    /// The node's CA key: that of the file, or the one that this host made.
    key: Zeroizing<String>,
}

impl Ready {
    /// A first identity with the key of the file.
    pub(crate) fn first(key: Zeroizing<String>) -> Self {
        Self { bundle: BundleThere::Older, key }
    }
}

/// Refuses what would lose an identity or mix two meshes.
///
/// # Errors
/// ST0204 for a bundle of another mesh, ST0615 for an identity that is there, ST0601 and ST0202 for a certificate that has
/// ended or not begun by this clock, ST0614 for a file without a key where this
/// host holds none that belongs to it.
pub(crate) fn check(join: &JoinFile, ours: &TrustBundle, places: &Places, present: Present) -> Result<Ready, CliError> {
    identity_folder::heal(&places.state)?;
    let bundle = bundle_there(join.node.as_str(), ours, places)?;
    let held = [places.issuing_key(), places.chain()].into_iter().find(|path| path.symlink_metadata().is_ok());
    if let Some(path) = held.filter(|_| present == Present::Keep) {
        let what = format!("{} is there: this host has an identity already", path.display());
        return Err(CliError::coded(Exit::Refused, codes::IDENTITY_EXISTS, what));
    }
    let key = match &join.issuing_key_pem {
        Some(key) => key.clone(),
        None => own_key(join, places)?,
    };
    // What the agent would refuse at its start is refused here, while the file is there still.
    NodeIdentity::load(ours, &join.chain_pem, &key, &new_record_key(), now()).map_err(|error| {
        let what = format!("{} cannot join: its certificate cannot be used now", join.node);
        let cause = causes(&error).map_or_else(|| error.to_string(), |causes| format!("{error}: {causes}"));
        CliError::coded(Exit::Refused, error.code(), what).cause(cause)
    })?;
    Ok(Ready { bundle, key })
}

/// Whether `ours` takes the place of the bundle that is there.
///
/// # Errors
/// ST0204 when that one is of another mesh; `who` would join.
fn bundle_there(who: &str, ours: &TrustBundle, places: &Places) -> Result<BundleThere, CliError> {
    let there = match files::read_public(&places.bundle()) {
        Ok(bytes) => Some(TrustBundle::parse(&bytes).map_err(|error| bundle_error(&places.bundle(), &error))?),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(there) = there.as_ref().filter(|there| there.mesh_id != ours.mesh_id) {
        let what = format!("{} cannot join: this host belongs to another mesh", who);
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
    let newer = there.is_some_and(|there| there.sequence >= ours.sequence);
    Ok(if newer { BundleThere::Newer } else { BundleThere::Older })
}

/// Installs the folder of a shared issuer: its bundle, then its key. The agent makes this host's own identity at its start.
///
/// # Errors
/// ST0204 for another mesh, or a file that cannot be written.
pub(crate) fn install_shared(bundle: &TrustBundle, file: &[u8], key: &str, places: &Places) -> Result<(), CliError> {
    let there = bundle_there("this host", bundle, places)?;
    let owner = Owner::find();
    files::make_dir(&places.config, CONFIG_DIR_MODE)?;
    for folder in places.drop_ins() {
        files::make_dir(&folder, CONFIG_DIR_MODE)?;
    }
    files::make_dir(&places.trust, PUBLIC_DIR_MODE)?;
    if there == BundleThere::Older {
        files::replace(&places.bundle(), file, PUBLIC_FILE_MODE)?;
    }
    let issuer = places.trust.join("issuer.key");
    files::replace_secret(&issuer, key.as_bytes())?;
    owner.give(&issuer, &[])?;
    owner.give_group(&[&places.config])?;
    places.drop_ins().iter().try_for_each(|folder| owner.give_group(&[folder]))?;
    Ok(())
}

/// The key that this host made for the certificate in a file without one: from its request, or that of the identity which
/// is renewed.
fn own_key(join: &JoinFile, places: &Places) -> Result<Zeroizing<String>, CliError> {
    let mut held = Vec::new();
    for path in [places.pending_key(), places.issuing_key()] {
        match files::read_secret_text(&path) {
            Ok(key) if join.certifies(&key) => return Ok(key),
            Ok(_) => held.push(path.display().to_string()),
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
    let owner = Owner::find();
    files::make_dir(&places.config, CONFIG_DIR_MODE)?;
    // Empty, so that one sees where services and further settings go.
    for folder in places.drop_ins() {
        files::make_dir(&folder, CONFIG_DIR_MODE)?;
    }
    files::make_dir(&places.trust, PUBLIC_DIR_MODE)?;
    files::make_dir(&places.state, SECRET_DIR_MODE)?;
    // Whoever stole the old issuing key may have these, too: a new identity has none of them, and the agent makes its own.
    let same = files::read_secret_text(&places.issuing_key()).is_ok_and(|held| *held == *ready.key);
    let gone = ["issuing.key", "chain.pem", "pending.key", "record.key", "quic.key"];
    let staged = identity_folder::stage(&places.state, if same { &gone[..3] } else { &gone })?;
    let (chain, key) = (staged.join("chain.pem"), staged.join("issuing.key"));
    files::create(&chain, join.chain_pem.as_bytes(), PUBLIC_FILE_MODE)?;
    files::create_secret(&key, ready.key.as_bytes())?;
    owner.give(&places.state, &[&staged, &chain, &key])?;
    if ready.bundle == BundleThere::Older {
        files::replace(&places.bundle(), &join.bundle_file, PUBLIC_FILE_MODE)?;
    }
    identity_folder::swap(&places.state)?;
    owner.give_group(&[&places.config])?;
    places.drop_ins().iter().try_for_each(|folder| owner.give_group(&[folder]))
}

/// Makes the folder of this host's keys, for the agent's user, and the key of a request in it; one that is there is used
/// again.
///
/// # Errors
/// [`FileError`], or a failing provider.
pub(crate) fn pending_key(places: &Places) -> Result<Zeroizing<String>, CliError> {
    identity_folder::heal(&places.state)?;
    let (owner, path) = (Owner::find(), places.pending_key());
    files::make_dir(&places.state, SECRET_DIR_MODE)?;
    files::make_dir_no_link(&places.identity(), SECRET_DIR_MODE)?;
    match files::read_secret_text(&path) {
        Ok(key) => return Ok(key),
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error.into()),
    }
    let key = new_issuing_key().map_err(|error| CliError::plain(Exit::Bad, error.to_string()))?;
    files::create_secret(&path, key.as_bytes())?;
    owner.give(&places.state, &[&places.identity(), &path])?;
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

/// The agent's user, where root installs for it.
#[derive(Clone, Copy, Debug)]
struct Owner(Option<(Uid, Gid)>);

impl Owner {
    fn find() -> Self {
        if !geteuid().is_root() {
            return Self(None);
        }
        let user = User::from_name(AGENT_USER).ok().flatten();
        let group = Group::from_name(AGENT_USER).ok().flatten();
        Self(user.zip(group).map(|(user, group)| (user.uid, group.gid)))
    }

    /// The agent's folder and files in it. What lies in the folder is the agent's to exchange: of a link there, the link is
    /// given, and not what it leads to.
    fn give(self, folder: &Path, inside: &[&Path]) -> Result<(), FileError> {
        let Some((user, group)) = self.0 else { return Ok(()) };
        set(folder, Some(user), group)?;
        let give = |path: &Path| lchown(path, Some(user.as_raw()), Some(group.as_raw())).map_err(not_given(path));
        inside.iter().try_for_each(|path| give(path))
    }

    /// Root's files that the agent reads.
    fn give_group(self, paths: &[&Path]) -> Result<(), FileError> {
        let Some((_, group)) = self.0 else { return Ok(()) };
        paths.iter().try_for_each(|path| set(path, None, group))
    }
}

fn set(path: &Path, user: Option<Uid>, group: Gid) -> Result<(), FileError> {
    chown(path, user, Some(group)).map_err(|error| not_given(path)(error.into()))
}

fn not_given(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action: "give to the agent's user", path, source }
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
