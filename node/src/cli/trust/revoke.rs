//! `starling trust revoke node NAME`: an operator's key signs here that a node is out, and any agent passes it on.
//!
//! The key never leaves this process; the agent gets a signed form. A revocation cannot be taken back, so a name that
//! neither the agent nor `issued.log` knows is refused unless that is insisted on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use http::Method;
use starling_identity::{OperatorStatement, Role};
use starling_model::mesh::hex;
use starling_model::{NodeName, Revocation};

use super::issued_log::IssuedLog;
use super::node_name;
use super::operator::RevokeOperatorArgs;
use crate::api::views::{Agreement, Envelope, Member, MemberList, SignedForm, Trust, TrustRequest};
use crate::cli::client::{ANSWER_TIMEOUT, Ask, Client, refusal};
use crate::cli::errors::{CliError, Exit};
use crate::cli::operator_key::{Desk, KeyArgs};
use crate::cli::table::clean;
use crate::cli::{AgentPlace, Format, duration, output};

/// Pause between two looks at the others with `--wait`.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Greatest number of a revocation that is followed unasked: one node revoked each second for years.
const NUMBER_MAX: u64 = 1 << 32;

/// Commands of `trust revoke`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RevokeCommand {
    /// Shuts a node out of the mesh, with all its keys; it cannot be taken back
    Node(RevokeNodeArgs),
    /// Takes an operator's key out of the trust bundle, and its documents out of force
    Operator(RevokeOperatorArgs),
}

/// Flags of `trust revoke node`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RevokeNodeArgs {
    /// The node's name
    #[arg(value_parser = node_name)]
    pub(super) name: NodeName,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) reason: String,
    /// Waits until every live member counts it
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Duration,
    /// Shows what would be signed, and sends nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Revokes a name that neither the agent nor issued.log knows, or over a number that nobody comes to
    #[arg(long)]
    pub(super) force: bool,
    /// Shuts out all its keys but the one that was issued last: after `issue node NAME --replace`
    #[arg(long)]
    pub(super) keep_newest: bool,
    #[command(flatten)]
    pub(super) key: KeyArgs,
    /// The operator's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// Form of the answer; json of a dry run is what PUT /v1/trust takes
    #[arg(short, long, value_enum, default_value = "table", env = "STARLING_OUTPUT", value_name = "FORM")]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) place: AgentPlace,
}

/// Signs that `node` is out with all its keys but the kept ones.
///
/// # Errors
/// When the reason does not fit.
fn sign(desk: &Desk, node: &NodeName, kept: &[[u8; 32]], number: u64, reason: &str) -> Result<TrustRequest, CliError> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let revocation = Revocation {
        schema: 1,
        node: node.clone(),
        signer: desk.id,
        number,
        signed_at: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        kept: kept.to_vec(),
        reason: reason.to_owned(),
    };
    let body = revocation.to_body().map_err(|error| {
        CliError::plain(Exit::Usage, "the revocation cannot be written")
            .cause(error.to_string())
            .help(["--reason is one short line"])
    })?;
    let signature = desk.key.sign(OperatorStatement::Revocation, &desk.mesh, &body);
    let form = SignedForm {
        format: "starling-revocation/1".to_owned(),
        payload: BASE64.encode(&body),
        key_id: desk.id.to_string(),
        signature: BASE64.encode(signature),
    };
    Ok(TrustRequest { revocation: Some(form), ..TrustRequest::default() })
}

/// Whether `--force` was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Insist {
    No,
    Yes,
}

/// The number after the one that the agent names. An agent may name any: a node's last number, once signed, could never be
/// followed by another.
///
/// # Errors
/// A number that nobody comes to by revoking, unless it is insisted on.
fn next_number(held: Option<u64>, insist: Insist) -> Result<u64, CliError> {
    let held = held.unwrap_or(0);
    if held >= NUMBER_MAX && insist == Insist::No {
        return Err(CliError::plain(
            Exit::Refused,
            format!("the agent says that revocation {held} of this node is in force"),
        )
        .cause(format!("over {NUMBER_MAX} nobody revokes: a key of the role revoke was misused, or this agent lies"))
        .help(["ask an agent on another host:  --address or --config-dir", "if it says the same:  --force"]));
    }
    held.checked_add(1)
        .ok_or_else(|| CliError::plain(Exit::Refused, "the revocation in force has the last number there is"))
}

/// What is known of the node before it is revoked.
#[derive(Debug)]
struct Known {
    /// The highest number of a revocation that is in force.
    number: Option<u64>,
    /// As a member.
    member: Option<Member>,
}

/// Runs the command.
pub(super) fn node(client: &Client, args: &RevokeNodeArgs) -> Result<Exit, CliError> {
    let desk = Desk::open_in(&args.dir, &args.key, Role::Revoke)?;
    let kept = if args.keep_newest { vec![newest(args)?] } else { Vec::new() };
    let known = look_up(client, args)?;
    let number = next_number(known.number, if args.force { Insist::Yes } else { Insist::No })?;
    if let Some(held) = known.number {
        output::message(&format!("{} is revoked already; this takes the place of revocation {held}\n", args.name));
    }
    let request = sign(&desk, &args.name, &kept, number, &args.reason)?;
    let json = output::to_json(&request)?;
    let keys = match kept.first() {
        None => "all its issuing keys".to_owned(),
        Some(kept) => format!("all its issuing keys but {}…", hex(kept).get(..8).unwrap_or_default()),
    };
    let line = format!("revocation {number}   node {}   {keys}   signed by {}\n", args.name, desk.signer());
    if args.dry_run {
        return show(args, &json, &format!("{line}{}", would_do(args, &known)));
    }
    let ask = Ask { method: Method::PUT, path: "/v1/trust", body: Some(json), timeout: ANSWER_TIMEOUT };
    let began = Instant::now();
    let answer = client.ask(ask)?;
    let taken: Envelope<Trust> = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
    let mut text = format!("{line}accepted by {}", clean(&taken.view.node));
    if args.wait {
        let members = wait(client, args, number, began)?;
        text.push_str(&format!(
            "; in use on {members}/{members} alive members after {:.2} s",
            began.elapsed().as_secs_f64()
        ));
    }
    text.push('\n');
    show(args, &answer.body, &text)
}

/// The key that stays.
fn newest(args: &RevokeNodeArgs) -> Result<[u8; 32], CliError> {
    IssuedLog::read(&args.dir)?.newest_key(&args.name).ok_or_else(|| {
        let what = format!("issued.log of this folder has no line of {}", args.name);
        CliError::plain(Exit::NotFound, what)
            .help([format!("issue its new identity first:  starling trust issue node {} --replace", args.name)])
    })
}

fn show(args: &RevokeNodeArgs, json: &[u8], text: &str) -> Result<Exit, CliError> {
    match args.output {
        Format::Table | Format::Wide => output::print(text),
        Format::Json => output::print_body(json),
        Format::Yaml => output::print_yaml(json),
        Format::Name => output::print(&format!("{}\n", args.name)),
    }
}

fn would_do(args: &RevokeNodeArgs, known: &Known) -> String {
    let member = match &known.member {
        Some(member) => {
            let at = member.address.as_ref().map(|address| format!(" at {}", clean(address))).unwrap_or_default();
            format!("it is {}{at}", clean(&member.state))
        }
        None => "it is no member".to_owned(),
    };
    let who = if args.keep_newest { format!("{} with an older key", args.name) } else { args.name.to_string() };
    format!(
        "{who} would be refused by every member and what is open with it closed; {member}\nnothing was sent (--dry-run)\n"
    )
}

pub(super) fn not_understood(error: &serde_json::Error) -> CliError {
    CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(error.to_string())
}

fn look_up(client: &Client, args: &RevokeNodeArgs) -> Result<Known, CliError> {
    let name = args.name.as_str();
    let trust = client.ask(Ask::get("/v1/trust"))?;
    let trust: Envelope<Trust> = serde_json::from_slice(&trust.body).map_err(|error| not_understood(&error))?;
    let held = trust.body.revocations.iter().filter(|one| one.node == name);
    let number = held.map(|one| one.number).max();
    let answer = client.ask(Ask::get("/v1/members"))?;
    let members: MemberList = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
    let member = members.body.items.iter().find(|member| member.name == name).cloned();
    // Who revokes need not be who issues.
    let log = IssuedLog::read(&args.dir).map(|log| log.names()).unwrap_or_default();
    let is_known = member.is_some() || number.is_some() || log.iter().any(|issued| issued == name);
    if !is_known && !args.force {
        let names = members.body.items.iter().map(|member| member.name.as_str()).chain(log.iter().map(String::as_str));
        let near = starling_config::suggest(name, names).map(|near| format!("did you mean {near}?"));
        let force =
            format!("a revocation cannot be taken back; if it is meant:  starling trust revoke node {name} --force");
        return Err(CliError::plain(Exit::NotFound, format!("no node {name} is known"))
            .cause(format!("{} knows no such member, and issued.log has no line of it", members.view.node))
            .help(near.into_iter().chain([force])));
    }
    Ok(Known { number, member })
}

/// Waits until all live members but the revoked one hold what the agent holds; returns how many they are.
fn wait(client: &Client, args: &RevokeNodeArgs, number: u64, began: Instant) -> Result<u64, CliError> {
    loop {
        let answer = client.try_ask(Ask::get("/v1/trust"))?;
        if answer.status >= 400 {
            return Err(refusal(&answer));
        }
        let trust: Envelope<Trust> = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error))?;
        let known = trust.body.revocations.iter().any(|one| one.node == args.name.as_str() && one.number >= number);
        let (alive, behind) = others(trust.body.holding.as_ref().unwrap_or(&trust.view.agreement), args.name.as_str());
        if known && behind.is_empty() {
            return Ok(alive);
        }
        if began.elapsed() >= args.timeout {
            let waited = starling_config::duration::format(args.timeout);
            let what = format!("revocation {number} of {} is not in use everywhere after {waited}", args.name);
            let error = CliError::plain(Exit::TimedOut, what)
                .help(["it spreads by itself; `starling members` shows who agrees"]);
            return Err(error.cause(format!("behind are {}", behind.join(", "))));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Live members without the revoked one, and the names of those among them that differ; `…` where there are more.
fn others(agreement: &Agreement, revoked: &str) -> (u64, Vec<String>) {
    let mut behind = agreement.behind.clone();
    behind.retain(|name| name != revoked);
    let counted = u64::from(behind.len() < agreement.behind.len());
    if agreement.behind_count > agreement.behind.len() as u64 {
        behind.push("…".to_owned());
    }
    (agreement.alive.saturating_sub(counted), behind)
}

#[cfg(test)]
mod tests {
    use starling_identity::{create_trust_domain, verify_operator};
    use starling_model::{KeyId, TrustDomain, codes};

    use std::path::Path;

    use super::*;
    use crate::files;

    /// An operator's folder with one operator of all roles.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let made =
            create_trust_domain(&TrustDomain::new("prod.internal").unwrap(), "alice", false, super::super::now());
        let made = made.unwrap();
        files::make_dir(&folder.path().join("operator"), 0o700).unwrap();
        files::make_dir(&folder.path().join("trust"), 0o755).unwrap();
        files::create(&folder.path().join("trust/bundle.trust"), &made.bundle_file, 0o644).unwrap();
        files::create_secret(&folder.path().join("operator/alice.key"), made.operator_key_pem.as_bytes()).unwrap();
        files::create_secret(&folder.path().join("operator/root.key"), made.root_key_pem.as_bytes()).unwrap();
        folder
    }

    #[test]
    fn what_the_desk_signs_holds_under_its_bundle() {
        let folder = folder();
        let desk = open(folder.path(), None).unwrap();
        assert_eq!(desk.signer(), "k1 \"alice\"");
        let node = NodeName::new("vm-7").unwrap();
        let form = sign(&desk, &node, &[], 3, "compromised").unwrap().revocation.unwrap();
        assert_eq!((form.format.as_str(), form.key_id.as_str()), ("starling-revocation/1", "k1"));
        let body = BASE64.decode(form.payload).unwrap();
        let signature: [u8; 64] = BASE64.decode(form.signature).unwrap().try_into().unwrap();
        verify_operator(
            OperatorStatement::Revocation,
            KeyId(1),
            &body,
            &signature,
            &super::super::operator_bundle(folder.path()).unwrap().0,
        )
        .unwrap();
        let said = Revocation::read(&body).unwrap();
        assert_eq!((said.node, said.number, said.kept.len(), said.reason.as_str()), (node, 3, 0, "compromised"));
    }

    /// A compromised agent must not make an operator sign the last number there is.
    #[test]
    fn a_number_that_nobody_comes_to_is_followed_only_when_that_is_insisted_on() {
        assert_eq!((next_number(None, Insist::No).unwrap(), next_number(Some(4), Insist::No).unwrap()), (1, 5));
        assert_eq!(next_number(Some(NUMBER_MAX - 1), Insist::No).unwrap(), NUMBER_MAX);
        for held in [NUMBER_MAX, u64::MAX - 1, u64::MAX] {
            assert_eq!(next_number(Some(held), Insist::No).unwrap_err().exit(), Exit::Refused, "{held}");
        }
        assert_eq!(next_number(Some(NUMBER_MAX), Insist::Yes).unwrap(), NUMBER_MAX + 1);
        assert!(next_number(Some(u64::MAX), Insist::Yes).is_err());
    }

    #[test]
    fn a_reason_that_does_not_fit_is_wrong_usage() {
        let folder = folder();
        let desk = open(folder.path(), None).unwrap();
        let node = NodeName::new("vm-7").unwrap();
        for reason in ["two\nlines".to_owned(), "x".repeat(300)] {
            assert_eq!(sign(&desk, &node, &[], 1, &reason).unwrap_err().exit(), Exit::Usage, "{reason}");
        }
    }

    fn open(dir: &Path, key: Option<&Path>) -> Result<Desk, CliError> {
        Desk::open_in(dir, &KeyArgs { key: key.map(Path::to_owned), passphrase_file: None }, Role::Revoke)
    }

    fn refused(dir: &Path, key: Option<&Path>) -> (Exit, Option<starling_model::Code>) {
        open(dir, key).map(|_| ()).map_err(|error| (error.exit(), error.code())).unwrap_err()
    }

    #[test]
    fn a_key_that_is_none_foreign_or_missing_is_refused_before_anything_is_sent() {
        let (ours, foreign) = (folder(), folder());
        let key = foreign.path().join("operator/alice.key");
        assert_eq!(refused(ours.path(), Some(&key)), (Exit::Refused, Some(codes::SIGNATURE_INVALID)));
        assert_eq!(refused(ours.path(), Some(&ours.path().join("operator/root.key"))).0, Exit::Refused);
        assert_eq!(refused(ours.path(), Some(Path::new("/nowhere/key"))).0, Exit::NotFound);
        std::fs::remove_file(ours.path().join("operator/alice.key")).unwrap();
        assert_eq!(refused(ours.path(), None).0, Exit::NotFound);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(refused(empty.path(), None).0, Exit::NotFound);
    }

    #[test]
    fn the_revoked_node_is_not_waited_for() {
        let agreement = |behind: &[&str], count| Agreement {
            alive: 3,
            same: 3 - count,
            behind: behind.iter().map(|name| (*name).to_owned()).collect(),
            behind_count: count,
        };
        assert_eq!(others(&agreement(&["vm-7"], 1), "vm-7"), (2, Vec::new()));
        assert_eq!(others(&agreement(&["vm-2", "vm-7"], 2), "vm-7"), (2, vec!["vm-2".to_owned()]));
        assert_eq!(others(&agreement(&[], 0), "vm-7"), (3, Vec::new()));
        assert!(!others(&agreement(&["vm-7"], 2), "vm-7").1.is_empty(), "more than are named");
    }
}
