//! `trust rotate`: a new root in place of the old one, in three signed steps, none of which leaves a live member behind
//! unless it is forced.
//!
//! Which nodes get a new certificate is read from `operator/issued`, where each `trust issue node` leaves the public one:
//! so members that are away, and those that have not joined yet, are renewed too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use starling_identity::rotate::{NodeCertificate, begin, finish, node_of, read_issued, switch};
use starling_identity::{CertificateList, IssueError, SignedNode, TrustBundle};
use starling_model::codes;
use starling_model::mesh::hex;

use super::operator::{Hand, KEY_NUMBER_MAX, RootDesk, dir_flag, hand_over, lists};
use super::revoke::not_understood;
use super::{PUBLIC_FILE_MODE, SECRET_DIR_MODE, issue_error, now};
use crate::api::views::{Envelope, Member, MemberList, Trust};
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::look::Look;
use crate::cli::output;
use crate::cli::table::{Align, Cell, Table, clean};
use crate::files;

/// Flags of `trust rotate`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(super) step: StepArgs,
    /// Goes on although members are behind or their certificates are not here; with --finish they are refused from then on
    #[arg(long)]
    pub(super) force: bool,
    /// With --status: no header
    #[arg(long, conflicts_with_all = ["begin", "switch", "finish"])]
    pub(super) no_headers: bool,
    #[command(flatten)]
    pub(super) desk: RootDesk,
    #[command(flatten)]
    pub(super) hand: Hand,
}

/// Which step.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag, and clap sees to it that one step is named")]
pub(crate) struct StepArgs {
    /// Makes a new root beside the old one and a new certificate for each node's key
    #[arg(long)]
    pub(super) begin: bool,
    /// Lets members show their new certificates
    #[arg(long)]
    pub(super) switch: bool,
    /// Drops the old root
    #[arg(long)]
    pub(super) finish: bool,
    /// Shows which members are ready for the next step
    #[arg(long, conflicts_with_all = ["force", "root_key", "own_head", "wait", "timeout"])]
    pub(super) status: bool,
}

/// Keeps the public certificate of a node, for a rotation to come.
pub(super) fn keep_issued(dir: &Path, issued: &SignedNode) -> Result<(), CliError> {
    let folder = issued_folder(dir);
    files::make_dir(&folder, SECRET_DIR_MODE)?;
    let key: String = hex(&issued.key_hash).chars().take(8).collect();
    let path = folder.join(format!("{}.{key}.pem", issued.node));
    Ok(files::replace(&path, issued.chain_pem.as_bytes(), PUBLIC_FILE_MODE)?)
}

fn issued_folder(dir: &Path) -> PathBuf {
    dir.join("operator/issued")
}

/// Runs the command.
pub(super) fn run(client: &Client, args: &RotateArgs, look: &Look) -> Result<Exit, CliError> {
    match (args.step.begin, args.step.switch, args.step.finish) {
        (true, _, _) => begin_rotation(client, args),
        (_, true, _) => switch_over(client, args),
        (_, _, true) => finish_rotation(client, args),
        (false, false, false) => status(client, args, look),
    }
}

fn begin_rotation(client: &Client, args: &RotateArgs) -> Result<Exit, CliError> {
    let dir = &args.desk.dir;
    let (before, root) = args.desk.open_beside(client)?;
    let nodes = issued(dir, &before)?;
    let members = members(client)?;
    let lost: Vec<&str> = members
        .iter()
        .map(|one| one.name.as_str())
        .filter(|name| !nodes.iter().any(|(node, _)| node == name))
        .collect();
    if !lost.is_empty() && !args.force {
        let what = format!("{} holds no certificate of {}", issued_folder(dir).display(), lost.join(", "));
        return Err(CliError::coded(Exit::Refused, codes::MEMBERS_BEHIND, what).help([
            "copy identity/chain.pem from the node's state folder to operator/issued/NAME.pem; it is public".to_owned(),
            "or go on without: the node needs a new join file before --finish  (--force)".to_owned(),
        ]));
    }
    let certificates: Vec<_> = nodes.iter().map(|(_, der)| der.clone()).collect();
    let made = begin(&before, &root, &certificates, now()).map_err(|error| issue_error(&error))?;
    let (root_file, issuer_file) = free_files(dir)?;
    // Keys and lists before the bundle that needs them.
    files::create_secret(&root_file, made.root_key_pem.as_bytes())?;
    files::create_secret(&issuer_file, made.issuer_key_pem.as_bytes())?;
    files::make_dir(&lists(dir), SECRET_DIR_MODE)?;
    for list in &made.lists {
        files::replace(&lists(dir).join(hex(&list.hash())), list.raw(), PUBLIC_FILE_MODE)?;
    }
    args.desk.replace(&made.bundle)?;
    let roots: Vec<String> = made.bundle.roots_short().iter().map(|root| hex(root)).collect();
    let renewed: usize = made.lists.iter().map(|list: &CertificateList| list.certificates().len()).sum();
    let [old, new] = roots.as_slice() else { return Err(CliError::plain(Exit::Bad, "there are not two roots")) };
    output::message(&format!(
        "bundle sequence {} holds both roots: {old} (old), {new} (new)   signed by root {old}\n\
         new root CA {}   KEEP OFFLINE\n\
         signed {renewed} new certificates under the new root; no node key changed\n",
        made.bundle.sequence,
        root_file.display(),
    ));
    hand(client, args, &made.bundle)
}

fn switch_over(client: &Client, args: &RotateArgs) -> Result<Exit, CliError> {
    let (before, root) = args.desk.open_beside(client)?;
    let bundle = switch(&before, &root).map_err(|error| issue_error(&error))?;
    refuse_laggards(client, args, "--switch", |member| rows(member, &before).is_ready())?;
    args.desk.replace(&bundle)?;
    output::message(&format!("bundle sequence {}: members present the new chain\n", bundle.sequence));
    hand(client, args, &bundle)
}

fn finish_rotation(client: &Client, args: &RotateArgs) -> Result<Exit, CliError> {
    let (before, root) = args.desk.open_beside(client)?;
    let bundle = finish(&before, &root).map_err(|error| {
        let cli = issue_error(&error);
        if !matches!(error, IssueError::ForeignRoot) {
            return cli;
        }
        let stays = before.roots_short().last().map(|root| hex(root)).unwrap_or_default();
        cli.help([format!(
            "root {stays}, which stays, signs this step; --begin wrote its key as root-N.key, and it lies offline: --root-key FILE"
        )])
    })?;
    refuse_laggards(client, args, "--finish", |member| {
        let row = rows(member, &before);
        row.is_ready() && row.root == Root::New
    })?;
    args.desk.replace(&bundle)?;
    let root = bundle.roots_short().last().map(|root| hex(root)).unwrap_or_default();
    output::message(&format!("bundle sequence {} holds root {root} only   signed by root {root}\n", bundle.sequence));
    hand(client, args, &bundle)
}

fn hand(client: &Client, args: &RotateArgs, bundle: &TrustBundle) -> Result<Exit, CliError> {
    let dir = &args.desk.dir;
    let text = hand_over(client, &args.hand, dir, bundle).map_err(|error| {
        let again = format!("starling trust update{} --wait", dir_flag(dir));
        error.help([format!("the step is in this folder; hand it over again:  {again}")])
    })?;
    output::print(&text)
}

/// ST0607 with the names of those that are not ready.
fn refuse_laggards(
    client: &Client,
    args: &RotateArgs,
    step: &str,
    is_ready: impl Fn(&Member) -> bool,
) -> Result<(), CliError> {
    let members = members(client)?;
    let behind: Vec<String> =
        members.iter().filter(|member| !is_ready(member)).map(|member| member.name.clone()).collect();
    if behind.is_empty() {
        return Ok(());
    }
    let names = behind.join(", ");
    if args.force {
        output::message(&format!("going on without {names} (--force)\n"));
        return Ok(());
    }
    let mut help =
        vec![codes::MEMBERS_BEHIND.help.to_owned(), "who is where:  starling trust rotate --status".to_owned()];
    if behind.len() == members.len() {
        let again = format!("starling trust update{} --wait", dir_flag(&args.desk.dir));
        help.insert(0, format!("the step before may not have been handed over:  {again}"));
    }
    Err(CliError::coded(Exit::Refused, codes::MEMBERS_BEHIND, format!("{step} waits for {names}")).help(help))
}

fn status(client: &Client, args: &RotateArgs, look: &Look) -> Result<Exit, CliError> {
    let (bundle, _) = super::operator_bundle(&args.desk.dir)?;
    let members = members(client)?;
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("BUNDLE", Align::Right),
        ("CERT ROOT", Align::Left),
        ("STATE", Align::Left),
    ]);
    let step = next_step(&bundle);
    let mut waits = Vec::new();
    for member in &members {
        let row = rows(member, &bundle);
        let is_ready = row.is_ready() && (step != Some("--finish") || row.root == Root::New);
        if !is_ready {
            waits.push(member.name.as_str());
        }
        let sequence = row.sequence.map_or_else(|| "-".to_owned(), |sequence| sequence.to_string());
        let state = match (is_ready, row.is_ready()) {
            (true, _) => "ready".to_owned(),
            (false, true) => "shows the old chain".to_owned(),
            (false, false) => "behind".to_owned(),
        };
        let state = if member.state == "alive" { state } else { format!("{state}, {}", member.state) };
        table.row(vec![
            Cell::new(member.name.as_str()),
            Cell::new(sequence),
            Cell::new(row.root.word()),
            Cell::new(state),
        ]);
    }
    let mut text = table.render(look);
    let ready = members.len() - waits.len();
    text.push_str(&match (step, waits.is_empty()) {
        (None, true) => format!(
            "{ready} of {} members use trust bundle {}; no rotation is under way\n",
            members.len(),
            bundle.sequence
        ),
        (None, false) => format!(
            "{ready} of {} members use trust bundle {}; behind are {}\n",
            members.len(),
            bundle.sequence,
            waits.join(", ")
        ),
        (Some(step), true) => {
            format!("{ready} of {} members are ready; next:  starling trust rotate {step}\n", members.len())
        }
        (Some(step), false) => {
            format!("{ready} of {} members are ready; {step} waits for {}\n", members.len(), waits.join(", "))
        }
    });
    output::print(&text)
}

/// The step that follows this bundle.
fn next_step(bundle: &TrustBundle) -> Option<&'static str> {
    match (bundle.roots.len(), bundle.issuers.len().checked_sub(1)) {
        (2.., Some(last)) if bundle.present == last => Some("--finish"),
        (2.., _) => Some("--switch"),
        _ => None,
    }
}

/// Which root the certificate of a member leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Old,
    New,
    Unknown,
}

impl Root {
    fn word(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
            Self::Unknown => "-",
        }
    }
}

/// What a member reported.
struct Row {
    sequence: Option<u64>,
    root: Root,
    wanted: u64,
}

impl Row {
    fn is_ready(&self) -> bool {
        self.sequence.is_some_and(|sequence| sequence >= self.wanted)
    }
}

fn rows(member: &Member, bundle: &TrustBundle) -> Row {
    let newest = bundle.roots_short().last().map(|root| hex(root));
    let root = match &member.certificate {
        None => Root::Unknown,
        Some(certificate) if Some(&certificate.root) == newest.as_ref() => Root::New,
        Some(_) => Root::Old,
    };
    let sequence = member.trust.as_ref().map(|trust| trust.bundle_sequence);
    Row { sequence, root, wanted: bundle.sequence }
}

/// All members that have not left and are not out: a rotation waits for each of them.
fn members(client: &Client) -> Result<Vec<Member>, CliError> {
    let answer = client.ask(Ask::get("/v1/members"))?;
    let members: MemberList = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
    let answer = client.ask(Ask::get("/v1/trust"))?;
    let trust: Envelope<Trust> = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
    Ok(awaited(members.body.items, &trust.body))
}

/// Who is revoked with all its keys is no member any more, whatever is remembered of it.
fn awaited(members: Vec<Member>, trust: &Trust) -> Vec<Member> {
    let is_out = |name: &str| trust.revocations.iter().any(|one| one.node == name && one.kept == 0);
    let members = members.into_iter().filter(|member| member.state != "left" && !is_out(&member.name));
    // An agent may say anything; these are shown.
    members.map(|one| Member { name: clean(&one.name), state: clean(&one.state), ..one }).collect()
}

/// Names for the new keys.
fn free_files(dir: &Path) -> Result<(PathBuf, PathBuf), CliError> {
    let file = |kind: &str, number: u32| dir.join(format!("operator/{kind}-{number}.key"));
    let free = (2..=KEY_NUMBER_MAX).map(|number| (file("root", number), file("issuer", number)));
    let mut free = free.filter(|(root, issuer)| [root, issuer].iter().all(|path| path.symlink_metadata().is_err()));
    free.next().ok_or_else(|| {
        CliError::plain(
            Exit::Refused,
            format!("{} holds {KEY_NUMBER_MAX} keys already", dir.join("operator").display()),
        )
    })
}

/// A node with its certificate.
pub(super) type Issued = (String, NodeCertificate);

/// The public certificates that were issued from this folder, each with its node's name; those of keys whose issuing CA has
/// gone are left out, because the bundle before it renewed them.
pub(super) fn issued(dir: &Path, bundle: &TrustBundle) -> Result<Vec<Issued>, CliError> {
    let mut held = Vec::new();
    for path in entries(&issued_folder(dir)).into_iter().chain(entries(&lists(dir))) {
        let bytes = files::read_public(&path)?;
        match CertificateList::decode(&bytes) {
            Ok(list) => held.extend(list.certificates().to_vec()),
            Err(_) => held.extend(read_issued(&bytes)),
        }
    }
    let judged =
        held.into_iter().filter_map(|der| node_of(bundle, &der).map(|(node, key)| (key, (node.to_string(), der))));
    let by_key: BTreeMap<[u8; 32], Issued> = judged.collect();
    Ok(by_key.into_values().collect())
}

/// Files of a folder, in order; none where there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rotation_waits_for_nobody_who_has_left_or_is_out() {
        let member = |name: &str, state: &str| -> Member {
            serde_json::from_value(json!({"name": name, "address": null, "state": state, "bootEpoch": "1",
                "incarnation": 0, "since": "", "lastSeen": null, "self": false, "rtt": null, "version": null,
                "protocol": {"min": 1, "max": 1}, "labels": {}, "services": [], "config": null, "trust": null,
                "suspicion": null, "certificate": null}))
            .unwrap()
        };
        let revoked = |name: &str, kept: usize| {
            json!({"node": name, "number": 1, "kept": kept, "reason": "",
            "signer": {"keyId": "k1", "name": null}, "signedAt": ""})
        };
        let trust: Trust = serde_json::from_value(json!({"bundleSequence": 1, "operators": [],
            "revocations": [revoked("vm-3", 0), revoked("vm-4", 1)]}))
        .unwrap();
        let all = vec![
            member("vm-1", "alive"),
            member("vm-2", "left"),
            member("vm-3", "failed"),
            member("vm-4", "alive"),
            member("vm-5", "failed"),
            member("vm-6\u{1b}[2J", "alive"),
        ];
        let names: Vec<String> = awaited(all, &trust).into_iter().map(|member| member.name).collect();
        assert_eq!(names, ["vm-1", "vm-4", "vm-5", "vm-6\u{fffd}[2J"], "vm-4 keeps a key, and vm-5 may come back");
    }
}
