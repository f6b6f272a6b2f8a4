//! Installs what a join file holds: bundle into the configuration, chain and key into the state. Used by `starling
//! join` and by the demo, so that the demo's agents start from exactly the files that a real host has.

use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, chown, geteuid};
use starling_identity::{BundleInvalid, JoinFile, TrustBundle};
use starling_model::codes;

use crate::cli::errors::{CliError, Exit, causes};
use crate::files::{self, FileError};

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

/// What [`check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BundleThere {
    /// None, or an older one of the same mesh: ours is installed.
    Older,
    /// The same or a newer one of the same mesh: it stays.
    Newer,
}

/// Refuses what would lose an identity or mix two meshes.
///
/// # Errors
/// ST0204 for a bundle of another mesh, ST0615 for an identity that is there, ST0614 for a file without a key.
pub(crate) fn check(
    join: &JoinFile,
    ours: &TrustBundle,
    places: &Places,
    present: Present,
) -> Result<BundleThere, CliError> {
    let there = match files::read_public(&places.bundle()) {
        Ok(bytes) => Some(TrustBundle::parse(&bytes).map_err(|error| bundle_error(&places.bundle(), &error))?),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(there) = there.as_ref().filter(|there| there.mesh_id != ours.mesh_id) {
        let what = format!("{} cannot join: this host belongs to another mesh", join.node);
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
    let held = [places.issuing_key(), places.chain()].into_iter().find(|path| path.symlink_metadata().is_ok());
    if let Some(path) = held.filter(|_| present == Present::Keep) {
        let what = format!("{} is there: this host has an identity already", path.display());
        return Err(CliError::coded(Exit::Refused, codes::IDENTITY_EXISTS, what));
    }
    if join.issuing_key_pem.is_none() {
        let what = "the join file holds no private key, and this host has made none";
        return Err(CliError::coded(Exit::Refused, codes::JOIN_FILE_INVALID, what));
    }
    let newer = there.is_some_and(|there| there.sequence >= ours.sequence);
    Ok(if newer { BundleThere::Newer } else { BundleThere::Older })
}

/// Installs bundle, chain and key, each file whole or not at all; the key last, since with it the identity is there.
///
/// # Errors
/// [`FileError`] when a folder or file cannot be written.
pub(crate) fn install(join: &JoinFile, places: &Places, bundle: BundleThere) -> Result<(), FileError> {
    let owner = Owner::find();
    files::make_dir(&places.config, CONFIG_DIR_MODE)?;
    // Empty, so that one sees where services and further settings go.
    for folder in places.drop_ins() {
        files::make_dir(&folder, CONFIG_DIR_MODE)?;
    }
    files::make_dir(&places.trust, PUBLIC_DIR_MODE)?;
    files::make_dir(&places.state, SECRET_DIR_MODE)?;
    files::make_dir(&places.identity(), SECRET_DIR_MODE)?;
    if bundle == BundleThere::Older {
        files::replace(&places.bundle(), &join.bundle_file, PUBLIC_FILE_MODE)?;
    }
    // While the old chain stands beside the new key, or the other way round, the agent would refuse both; so the old
    // key goes first, and a crash in between leaves a host without an identity that `join` can give one again.
    if let Err(source) = std::fs::remove_file(places.issuing_key())
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Err(FileError::Io { action: "remove", path: places.issuing_key(), source });
    }
    files::replace(&places.chain(), join.chain_pem.as_bytes(), PUBLIC_FILE_MODE)?;
    if let Some(key) = &join.issuing_key_pem {
        files::replace_secret(&places.issuing_key(), key.as_bytes())?;
    }
    owner.give(&[&places.state, &places.identity(), &places.chain(), &places.issuing_key()])?;
    owner.give_group(&[&places.config])?;
    places.drop_ins().iter().try_for_each(|folder| owner.give_group(&[folder]))
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

    /// The agent's own files.
    fn give(self, paths: &[&Path]) -> Result<(), FileError> {
        let Some((user, group)) = self.0 else { return Ok(()) };
        paths.iter().try_for_each(|path| set(path, Some(user), group))
    }

    /// Root's files that the agent reads.
    fn give_group(self, paths: &[&Path]) -> Result<(), FileError> {
        let Some((_, group)) = self.0 else { return Ok(()) };
        paths.iter().try_for_each(|path| set(path, None, group))
    }
}

fn set(path: &Path, user: Option<Uid>, group: Gid) -> Result<(), FileError> {
    chown(path, user, Some(group)).map_err(|error| FileError::Io {
        action: "give to the agent's user",
        path: path.to_owned(),
        source: error.into(),
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
