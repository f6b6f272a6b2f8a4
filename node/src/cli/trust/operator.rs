//! Operators' keys: `trust issue operator`, `trust revoke operator`, and `trust update`, which hands the folder's trust
//! bundle to the mesh. Each change is one update of the bundle, signed by the offline root key: it wins over whatever
//! admins signed beside it, and every reader of the file can judge it alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use http::Method;
use starling_identity::issue::{issue_operator, update_by_root};
use starling_identity::{Role, Roles, TrustBundle};
use starling_model::codes;
use starling_model::mesh::{hex, read_fingerprint};

use super::revoke::{LOOK_PAUSE, not_understood};
use super::{PUBLIC_FILE_MODE, SECRET_DIR_MODE, bundle_error, issue_error, operator_bundle};
use crate::api::views::{BundleForm, Envelope, Member, MemberList, Trust, TrustRequest};
use crate::cli::client::{ANSWER_TIMEOUT, Ask, Client, refusal};
use crate::cli::errors::{CliError, Exit};
use crate::cli::table::clean;
use crate::cli::{AgentPlace, duration, operator_key, output};
use crate::files;

/// Rotations whose keys one folder tells apart.
pub(super) const KEY_NUMBER_MAX: u32 = 99;

/// Flags of `trust issue operator`.
#[derive(Args, Clone, Debug)]
pub(crate) struct IssueOperatorArgs {
    /// The operator's name, one DNS label
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// What the key may sign: admin (bundle updates), config (documents), issue (join files), revoke (revocations)
    #[arg(long, value_delimiter = ',', required = true, value_name = "ROLES", value_parser = role)]
    pub(super) roles: Vec<Role>,
    /// A file with a passphrase, under which the new key is written
    #[arg(long, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) desk: RootDesk,
    #[command(flatten)]
    pub(super) place: AgentPlace,
}

/// Flags of `trust revoke operator`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RevokeOperatorArgs {
    /// The key, e.g. k2
    #[arg(value_name = "KEYID")]
    pub(super) key_id: String,
    #[command(flatten)]
    pub(super) desk: RootDesk,
    #[command(flatten)]
    pub(super) hand: Hand,
}

/// Flags of `trust update`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpdateArgs {
    /// The operator's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    #[command(flatten)]
    pub(super) hand: Hand,
}

/// The operator's folder and the root's key.
#[derive(Args, Clone, Debug)]
pub(crate) struct RootDesk {
    /// The root's key [default: operator/root.key in the operator's folder]
    #[arg(long, value_name = "FILE")]
    pub(super) root_key: Option<PathBuf>,
    /// The operator's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// Signs on top of this folder's trust bundle although the agent uses one that is not in it
    #[arg(long)]
    pub(super) own_head: bool,
}

impl RootDesk {
    /// The same, unless the agent that answers uses a bundle that this folder does not have: what is signed on top of another
    /// one is lost, or takes the place of what somebody else signed.
    ///
    /// # Errors
    /// Those of [`RootDesk::open`]; ST0609 with who is ahead, ST0204 for the agent of another mesh.
    pub(super) fn open_beside(&self, client: &Client) -> Result<(TrustBundle, zeroize::Zeroizing<String>), CliError> {
        let opened = self.open()?;
        if self.own_head {
            return Ok(opened);
        }
        let held = match client.ask(Ask::get("/v1/trust")) {
            Ok(answer) => answer,
            // Signing needs no agent; handing over does, and says so.
            Err(error) if error.exit() == Exit::NoAgent => return Ok(opened),
            Err(error) => return Err(error),
        };
        let held: Envelope<Trust> = serde_json::from_slice(&held.body).map_err(|error| not_understood(&error))?;
        ahead(&held.view.node, &held.body, &self.dir, &opened.0)?;
        Ok(opened)
    }

    /// Bundle of the folder and key of a root.
    pub(super) fn open(&self) -> Result<(TrustBundle, zeroize::Zeroizing<String>), CliError> {
        let (bundle, _) = operator_bundle(&self.dir)?;
        let path = match &self.root_key {
            Some(path) => path.clone(),
            None => root_key_file(&self.dir, &bundle)?,
        };
        let key = files::read_secret_text(&path).map_err(|error| {
            let missing = error.is_missing();
            let cli = CliError::from(error);
            if missing { cli.help(["the root key lies offline; name its file with --root-key"]) } else { cli }
        })?;
        Ok((bundle, key))
    }

    /// The bundle of the folder is this one from now on. Each update is kept beside, and so is the bundle that it follows
    /// where that came from elsewhere: members take one after the other.
    pub(super) fn replace(&self, bundle: &TrustBundle) -> Result<(), CliError> {
        let folder = updates(&self.dir);
        files::make_dir(&folder, SECRET_DIR_MODE)?;
        let kept = |bundle: &TrustBundle| folder.join(format!("{}.trust", bundle.sequence));
        let (before, _) = operator_bundle(&self.dir)?;
        if kept(&before).symlink_metadata().is_err() {
            files::create(&kept(&before), &before.to_file(), PUBLIC_FILE_MODE)?;
        }
        let file = bundle.to_file();
        files::replace(&kept(bundle), &file, PUBLIC_FILE_MODE)?;
        Ok(files::replace(&self.dir.join("trust/bundle.trust"), &file, PUBLIC_FILE_MODE)?)
    }
}

/// How a bundle is handed over.
#[derive(Args, Clone, Debug)]
pub(crate) struct Hand {
    /// Waits until every live member uses it
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Duration,
    #[command(flatten)]
    pub(super) place: AgentPlace,
}

/// The key of the newest root of the bundle whose key lies in the folder; where the first one's lies if there is none.
///
/// # Errors
/// A key that lies there and cannot be read: it may be the one that is wanted.
fn root_key_file(dir: &Path, bundle: &TrustBundle) -> Result<PathBuf, CliError> {
    let first = dir.join("operator/root.key");
    let later = (2..=KEY_NUMBER_MAX).map(|number| dir.join(format!("operator/root-{number}.key")));
    let roots = bundle.roots_short();
    let mut newest = None;
    for path in std::iter::once(first.clone()).chain(later) {
        let text = match files::read_secret_text(&path) {
            Ok(text) => text,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error.into()),
        };
        let short = starling_identity::rotate::root_short(&text);
        let place = roots.iter().position(|root| Some(*root) == short);
        newest = newest.max(place.map(|place| (place, path)));
    }
    Ok(newest.map_or(first, |(_, path)| path))
}

/// Where an operator's folder keeps the lists of renewed certificates that its bundles name.
pub(super) fn lists(dir: &Path) -> PathBuf {
    dir.join("operator/lists")
}

/// Where an operator's folder keeps the updates that were made in it.
fn updates(dir: &Path) -> PathBuf {
    dir.join("operator/updates")
}

/// The updates of this folder after `sequence` and before the newest, ascending.
fn updates_after(dir: &Path, sequence: u64, newest: &TrustBundle) -> Result<Vec<TrustBundle>, CliError> {
    let mut all = Vec::new();
    for number in sequence.saturating_add(1)..newest.sequence {
        let path = updates(dir).join(format!("{number}.trust"));
        match files::read_public(&path) {
            Ok(file) => all.push(TrustBundle::parse(&file).map_err(|error| bundle_error(&path, &error))?),
            // Made elsewhere: what it lacks, the agent says.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

fn role(text: &str) -> Result<Role, String> {
    let all = || Role::ALL.map(Role::as_str);
    Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
        let near = starling_config::suggest(text, all()).map(|near| format!("; did you mean {near}?"));
        format!("is no role; they are {}{}", all().join(", "), near.unwrap_or_default())
    })
}

/// Runs `trust issue operator`.
pub(super) fn issue(client: &Client, args: &IssueOperatorArgs) -> Result<Exit, CliError> {
    let (before, root) = args.desk.open_beside(client)?;
    let roles = Roles::of(&args.roles);
    let made = issue_operator(&before, &root, &args.name, roles).map_err(|error| issue_error(&error))?;
    let path = args.desk.dir.join("operator").join(format!("{}.key", args.name));
    if path.symlink_metadata().is_ok() {
        return Err(CliError::coded(Exit::Refused, codes::TRUST_EXISTS, format!("{} exists", path.display()))
            .help(["the bundle does not name it; move it away, or choose another name"]));
    }
    let key = operator_key::at_rest(&made.key_pem, args.passphrase_file.as_deref())?;
    files::create_secret(&path, key.as_bytes())?;
    args.desk.replace(&made.bundle)?;
    output::print(&format!(
        "wrote {} (0600)   {} \"{}\"   roles {roles}\n\
         wrote {}   public, sequence {}\n\
         next:  starling trust update{} --wait   (any agent passes it on; then give the key to {} and delete it here)\n",
        path.display(),
        made.key_id,
        args.name,
        args.desk.dir.join("trust/bundle.trust").display(),
        made.bundle.sequence,
        dir_flag(&args.desk.dir),
        args.name,
    ))
}

/// Runs `trust revoke operator`.
pub(super) fn revoke(client: &Client, args: &RevokeOperatorArgs) -> Result<Exit, CliError> {
    let (before, root) = args.desk.open_beside(client)?;
    let Some(gone) = before.operators.iter().find(|operator| operator.key_id() == args.key_id) else {
        let known: Vec<String> =
            before.operators.iter().map(|one| format!("{} \"{}\"", one.key_id(), one.name)).collect();
        return Err(CliError::plain(Exit::NotFound, format!("the trust bundle names no operator key {}", args.key_id))
            .cause(format!("it names {}", known.join(", "))));
    };
    let admins = before.operators.iter().filter(|one| one.roles.has(Role::Admin) && one.id != gone.id).count();
    if admins == 0 {
        output::message("no admin is left: from now on only the root key changes the trust bundle\n");
    }
    let id = gone.id;
    let bundle = update_by_root(&before, &root, |bundle| bundle.operators.retain(|one| one.id != id));
    let bundle = bundle.map_err(|error| issue_error(&error))?;
    // Written first: whatever becomes of the answer, the next change builds upon this one, and `trust update` repeats it.
    args.desk.replace(&bundle)?;
    let text = hand_over(client, &args.hand, &args.desk.dir, &bundle).map_err(|error| {
        error.help([format!(
            "the change is in this folder; hand it over again:  starling trust update{} --wait",
            dir_flag(&args.desk.dir)
        )])
    })?;
    output::print(&format!("{} \"{}\" signs no more, and what it signed has no force\n{text}", args.key_id, gone.name))
}

/// Runs `trust update`.
pub(super) fn update(client: &Client, args: &UpdateArgs) -> Result<Exit, CliError> {
    let (bundle, _) = operator_bundle(&args.dir)?;
    let text = hand_over(client, &args.hand, &args.dir, &bundle)?;
    output::print(&text)
}

/// Gives the agent what it lacks of the folder's updates, this one the last, and waits if that is asked for.
pub(super) fn hand_over(client: &Client, hand: &Hand, dir: &Path, bundle: &TrustBundle) -> Result<String, CliError> {
    let held = client.ask(Ask::get("/v1/trust"))?;
    let held: Envelope<Trust> = serde_json::from_slice(&held.body).map_err(|error| not_understood(&error))?;
    let began = Instant::now();
    let sequence = held.body.bundle_sequence;
    for update in updates_after(dir, sequence, bundle)? {
        put_lists(client, dir, &update)?;
        put(client, &update)?;
    }
    if sequence < bundle.sequence {
        put_lists(client, dir, bundle)?;
    }
    let taken = put(client, bundle)?;
    let sequence = bundle.sequence;
    behind(&taken.view.node, taken.body.bundle_sequence, sequence)?;
    let mut text = in_force(&taken.view.node, sequence);
    if hand.wait {
        let members = wait(client, hand, sequence, began)?;
        text.push_str(&format!(
            "; in use on {members}/{members} alive members after {:.2} s",
            began.elapsed().as_secs_f64()
        ));
    }
    text.push('\n');
    Ok(text)
}

/// An agent may call itself anything, and this goes to a terminal.
fn in_force(node: &str, sequence: u64) -> String {
    format!("trust bundle {sequence} in force on {}", clean(node))
}

/// Refuses to call something done that came to nothing: a bundle never goes back, so one that is behind changes nobody.
fn behind(node: &str, in_force: u64, ours: u64) -> Result<(), CliError> {
    if in_force <= ours {
        return Ok(());
    }
    let what = format!("{node} uses trust bundle {in_force}, and this folder's is {ours}: nothing changed");
    Err(CliError::coded(Exit::Refused, codes::BUNDLE_BEHIND, what)
        .cause("the newer one was made in another folder, or this one was copied before it"))
}

/// Refuses where the agent's bundle is not one that this folder holds or its newest one follows.
fn ahead(node: &str, agent: &Trust, dir: &Path, ours: &TrustBundle) -> Result<(), CliError> {
    let is_other_mesh = read_fingerprint(&agent.mesh_id).is_some_and(|mesh| mesh != ours.mesh_id.0);
    if is_other_mesh {
        let what = format!("{node} is of another mesh than this folder");
        return Err(CliError::coded(Exit::Refused, codes::OTHER_MESH, what)
            .help(["name the folder of its mesh with --dir, or an agent of this one with --config-dir or --address"]));
    }
    let refused = |what: String, cause: &str| {
        Err(CliError::coded(Exit::Refused, codes::BUNDLE_BEHIND, format!("{what}: nothing was signed"))
            .cause(cause)
            .help([codes::BUNDLE_BEHIND.help, "or, if this folder is to decide all the same:  --own-head"]))
    };
    let (theirs, own) = (agent.bundle_sequence, ours.sequence);
    if theirs > own {
        return refused(
            format!("{node} uses trust bundle {theirs}, and this folder's is {own}"),
            "the newer one was made in another folder, or this one was copied before it",
        );
    }
    let held = if theirs == own { Some(ours.hash()) } else { kept_hash(dir, theirs)? };
    match (held, read_fingerprint(&agent.bundle_hash)) {
        (Some(held), Some(used)) if held != used => refused(
            format!("{node} uses another trust bundle {theirs} than this folder"),
            "two folders signed updates side by side: all members keep the same one, and it is not this folder's",
        ),
        _ => Ok(()),
    }
}

/// The hash of a former bundle that this folder keeps.
fn kept_hash(dir: &Path, sequence: u64) -> Result<Option<[u8; 32]>, CliError> {
    let path = updates(dir).join(format!("{sequence}.trust"));
    match files::read_public(&path) {
        Ok(file) => Ok(Some(TrustBundle::parse(&file).map_err(|error| bundle_error(&path, &error))?.hash())),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn put(client: &Client, bundle: &TrustBundle) -> Result<Envelope<Trust>, CliError> {
    let form = BundleForm { format: "starling-bundle/1".to_owned(), payload: BASE64.encode(bundle.to_file()) };
    put_form(client, &TrustRequest { bundle: Some(form), ..TrustRequest::default() })
}

/// The lists that a bundle names, before the bundle.
fn put_lists(client: &Client, dir: &Path, bundle: &TrustBundle) -> Result<(), CliError> {
    for hash in &bundle.lists {
        let raw = files::read_public(&lists(dir).join(hex(hash)))?;
        let form = BundleForm { format: "starling-certificates/1".to_owned(), payload: BASE64.encode(raw) };
        put_form(client, &TrustRequest { certificates: Some(form), ..TrustRequest::default() })?;
    }
    Ok(())
}

fn put_form(client: &Client, request: &TrustRequest) -> Result<Envelope<Trust>, CliError> {
    let json = output::to_json(request)?;
    let answer =
        client.ask(Ask { method: Method::PUT, path: "/v1/trust", body: Some(json), timeout: ANSWER_TIMEOUT })?;
    serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))
}

/// Waits until all live members use this bundle or a later one; returns how many they are. Linked members tell their root
/// over documents and trust with each ack, of the others their status says which bundle they use.
fn wait(client: &Client, hand: &Hand, sequence: u64, began: Instant) -> Result<u64, CliError> {
    loop {
        // The answer to the update may overtake the agent's picture of the others by some 20 ms.
        std::thread::sleep(LOOK_PAUSE);
        let answer = client.try_ask(Ask::get("/v1/trust"))?;
        if answer.status >= 400 {
            return Err(refusal(&answer));
        }
        let trust: Envelope<Trust> = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
        let agreement = trust.body.holding.as_ref().unwrap_or(&trust.view.agreement);
        let mut behind = agreement.behind.clone();
        if trust.body.bundle_sequence >= sequence && agreement.behind_count == 0 {
            behind = older(client, sequence)?;
            if behind.is_empty() {
                return Ok(agreement.alive);
            }
        }
        if began.elapsed() >= hand.timeout {
            let waited = starling_config::duration::format(hand.timeout);
            let what = format!("trust bundle {sequence} is not in use everywhere after {waited}");
            let error = CliError::plain(Exit::TimedOut, what)
                .help(["it spreads by itself; `starling members` shows who agrees"]);
            return Err(error.cause(format!("behind are {}", behind.join(", "))));
        }
    }
}

/// Live members whose status names an older bundle, or none yet.
fn older(client: &Client, sequence: u64) -> Result<Vec<String>, CliError> {
    let answer = client.ask(Ask::get("/v1/members"))?;
    let members: MemberList = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
    let is_older = |member: &Member| member.trust.as_ref().is_none_or(|trust| trust.bundle_sequence < sequence);
    let alive = members.body.items.into_iter().filter(|member| member.state == "alive");
    Ok(alive.filter(is_older).map(|member| member.name).collect())
}

pub(super) fn dir_flag(dir: &Path) -> String {
    if dir == Path::new(".") { String::new() } else { format!(" --dir {}", dir.display()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use starling_identity::create_trust_domain;
    use starling_model::TrustDomain;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("prod.internal").unwrap();
        let made = create_trust_domain(&domain, "alice", false, super::super::now()).unwrap();
        std::fs::create_dir_all(folder.path().join("operator")).unwrap();
        std::fs::create_dir_all(folder.path().join("trust")).unwrap();
        files::create_secret(&folder.path().join("operator/root.key"), made.root_key_pem.as_bytes()).unwrap();
        std::fs::write(folder.path().join("trust/bundle.trust"), made.bundle_file).unwrap();
        folder
    }

    fn args(dir: &Path, name: &str) -> IssueOperatorArgs {
        let desk = RootDesk { root_key: None, dir: dir.to_owned(), own_head: false };
        IssueOperatorArgs {
            name: name.to_owned(),
            roles: vec![Role::Config, Role::Revoke],
            passphrase_file: None,
            desk,
            place: AgentPlace { config_dir: None },
        }
    }

    /// Nobody answers there.
    fn issue(args: &IssueOperatorArgs) -> Result<Exit, CliError> {
        let nobody = crate::cli::Address::Unix(args.desk.dir.join("none.sock"));
        super::issue(&Client::new(nobody).unwrap(), args)
    }

    fn agent(bundle: &TrustBundle) -> Trust {
        serde_json::from_value(serde_json::json!({"meshId": hex(&bundle.mesh_id.0), "bundleSequence": bundle.sequence,
            "bundleHash": hex(&bundle.hash()), "operators": [], "revocations": []}))
        .unwrap()
    }

    /// A copy of the folder signs on, the folder itself too: whoever is not what the mesh uses is told before it signs.
    #[test]
    fn a_folder_that_is_behind_or_beside_the_mesh_is_told_before_it_signs() {
        let folder = folder();
        let (first, _) = operator_bundle(folder.path()).unwrap();
        let root = std::fs::read_to_string(folder.path().join("operator/root.key")).unwrap();
        let elsewhere = update_by_root(&first, &root, |bundle| bundle.operators[0].name = "eve".to_owned()).unwrap();
        let ours = || operator_bundle(folder.path()).unwrap().0;
        let told = |agent: &Trust| {
            let told =
                ahead("vm-1", agent, folder.path(), &ours()).map_err(|error| (error.exit(), error.code(), error));
            told.map_err(|(exit, code, error)| {
                let text = error.render(&crate::cli::Look::plain());
                assert_eq!(exit, Exit::Refused);
                assert!(text.contains("cause:") || code == Some(codes::OTHER_MESH), "{text}");
                code.unwrap()
            })
        };
        assert_eq!(told(&agent(&first)), Ok(()));
        assert_eq!(told(&agent(&elsewhere)), Err(codes::BUNDLE_BEHIND), "ahead");
        issue(&args(folder.path(), "bob")).unwrap();
        assert_eq!(told(&agent(&first)), Ok(()), "the agent lacks what was not handed over");
        assert_eq!(told(&agent(&elsewhere)), Err(codes::BUNDLE_BEHIND), "beside: one number, two contents");
        issue(&args(folder.path(), "carol")).unwrap();
        assert_eq!(told(&agent(&elsewhere)), Err(codes::BUNDLE_BEHIND), "beside, further back");
        assert_eq!(told(&Trust { bundle_hash: String::new(), ..agent(&ours()) }), Ok(()), "of an older release");
        let other = Trust { mesh_id: "00".repeat(32), ..agent(&first) };
        assert_eq!(told(&other), Err(codes::OTHER_MESH));
    }

    #[test]
    fn a_further_operator_gets_a_key_and_a_place_in_the_bundle() {
        let folder = folder();
        issue(&args(folder.path(), "bob")).unwrap();
        let key = folder.path().join("operator/bob.key");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let (bundle, _) = operator_bundle(folder.path()).unwrap();
        assert_eq!(bundle.sequence, 2);
        let text = std::fs::read_to_string(&key).unwrap();
        let held = starling_identity::OperatorKey::from_pem(&text).unwrap();
        let named = held.operator(&bundle).unwrap();
        assert_eq!((named.key_id(), named.roles.to_string()), ("k2".to_owned(), "config, revoke".to_owned()));

        let taken = issue(&args(folder.path(), "bob")).unwrap_err();
        assert_eq!(taken.exit(), Exit::Refused);
        assert_eq!(issue(&args(folder.path(), "no label")).unwrap_err().exit(), Exit::Usage);
        std::fs::write(folder.path().join("operator/carol.key"), "something").unwrap();
        assert_eq!(issue(&args(folder.path(), "carol")).unwrap_err().code(), Some(codes::TRUST_EXISTS));
        std::fs::remove_file(folder.path().join("operator/root.key")).unwrap();
        assert!(issue(&args(folder.path(), "dave")).is_err(), "the root key is offline");
        assert_eq!(operator_bundle(folder.path()).unwrap().0.sequence, 2, "and nothing changed");
    }

    #[test]
    fn an_agent_that_calls_itself_something_odd_steers_no_terminal() {
        assert_eq!(in_force("vm-1\u{1b}]0;x\u{7}", 2), "trust bundle 2 in force on vm-1\u{fffd}]0;x\u{fffd}");
    }

    #[test]
    fn a_bundle_that_is_behind_is_no_success() {
        assert!(behind("vm-1", 2, 2).is_ok() && behind("vm-1", 1, 2).is_ok());
        let refused = behind("vm-1", 3, 2).unwrap_err();
        assert_eq!((refused.exit(), refused.code()), (Exit::Refused, Some(codes::BUNDLE_BEHIND)));
        assert!(refused.what().contains("uses trust bundle 3") && refused.what().contains("this folder's is 2"));
    }

    /// Members take one update after the other, so none of those that were made before a hand-over may be lost.
    #[test]
    fn each_update_is_kept_until_it_is_handed_over() {
        let folder = folder();
        for name in ["bob", "carol", "dave"] {
            issue(&args(folder.path(), name)).unwrap();
        }
        let (newest, _) = operator_bundle(folder.path()).unwrap();
        let after = |sequence| -> Vec<u64> {
            updates_after(folder.path(), sequence, &newest).unwrap().iter().map(|one| one.sequence).collect()
        };
        assert_eq!((newest.sequence, after(1), after(2), after(4), after(9)), (4, vec![2, 3], vec![3], vec![], vec![]));
    }

    #[test]
    fn roles_are_named_or_refused_with_the_nearest() {
        assert_eq!(role("config"), Ok(Role::Config));
        assert!(role("confg").unwrap_err().contains("did you mean config?"));
        assert!(role("root").unwrap_err().contains("admin, config, issue, revoke"));
    }
}
