//! `starling trust`: makes a trust domain and its nodes' identities, shows what is in a file, revokes, and hands updates
//! of the trust bundle over. Only the last two need an agent.
//!
//! `operator/` is secret, `trust/` goes to every node.

mod csr;
mod desk;
mod inspect;
mod issue;
mod issued_log;
mod operator;
mod renew;
mod revoke;
mod rotate;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use starling_identity::{IssueError, IssuingCa, NewTrustDomain, TrustBundle, UnixTime, create_trust_domain};
use starling_model::{NodeName, TrustDomain, codes};

use self::csr::CsrArgs;
use self::inspect::InspectArgs;
use self::issue::{IssueNodeArgs, SignArgs};
use self::operator::{IssueOperatorArgs, UpdateArgs};
use self::revoke::RevokeCommand;
use self::rotate::RotateArgs;
use crate::cli::client::Client;
use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::install::{PUBLIC_FILE_MODE, bundle_error};
use crate::cli::look::{Look, Mark};
use crate::cli::{AgentPlace, operator_key, output};
use crate::files;

/// The operator's folder and its secret part.
const SECRET_DIR_MODE: u32 = 0o700;
/// What goes to every node.
const PUBLIC_DIR_MODE: u32 = 0o755;

/// Commands of `starling trust`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum TrustCommand {
    /// Makes a trust domain: root, issuing CA, operator key, public bundle
    Init(InitArgs),
    /// Issues an identity
    #[command(subcommand)]
    Issue(IssueCommand),
    /// On a node: makes a key that stays there, and the request for its identity
    Csr(CsrArgs),
    /// Signs a node's request, or renews certificates for the keys that nodes hold
    Sign(SignArgs),
    /// Shuts somebody out of the mesh
    #[command(subcommand)]
    Revoke(RevokeCommand),
    /// Hands the trust bundle of the operator's folder to the mesh
    Update(UpdateArgs),
    /// Replaces the root in three signed steps
    Rotate(RotateArgs),
    /// Shows a bundle, join file or certificates, or this host's own identity
    Inspect(InspectArgs),
}

impl TrustCommand {
    /// False when tables are to have no header.
    pub(crate) fn headers(&self) -> bool {
        match self {
            Self::Inspect(args) => !args.show.no_headers,
            Self::Rotate(args) => !args.no_headers,
            Self::Init(_) | Self::Issue(_) | Self::Csr(_) | Self::Sign(_) | Self::Revoke(_) | Self::Update(_) => true,
        }
    }
}

/// Flags of `trust init`.
#[derive(Args, Clone, Debug)]
pub(crate) struct InitArgs {
    /// The trust domain, e.g. prod.internal
    #[arg(long, value_name = "TD", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// Name of the first operator
    #[arg(long, value_name = "NAME", default_value = "operator")]
    operator: String,
    /// The operator's folder; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Puts the issuing key into trust/, so that each host makes its own identity; for labs only
    #[arg(long)]
    shared_issuer: bool,
    /// A file with a passphrase, under which the operator's key is written
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Commands of `trust issue`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum IssueCommand {
    /// Writes NAME.join (0600) with the identity of a node, for each name
    Node(IssueNodeArgs),
    /// Writes operator/NAME.key (0600) and the trust bundle that names it
    Operator(IssueOperatorArgs),
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).map_err(|error| error.to_string())
}

fn node_name(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|error| error.to_string())
}

/// Now, as certificates count it.
pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixTime(since.as_secs())
}

/// Gives a client of the agent at a place; nothing is opened yet.
type Asked<'a> = &'a dyn Fn(&AgentPlace) -> Result<Client, CliError>;

/// Runs the command.
pub(crate) fn run(command: &TrustCommand, look: &Look, asked: Asked<'_>) -> Result<Exit, CliError> {
    match command {
        TrustCommand::Init(args) => init(args, look),
        TrustCommand::Issue(IssueCommand::Node(args)) => issue::nodes(args),
        TrustCommand::Issue(IssueCommand::Operator(args)) => operator::issue(&asked(&args.place)?, args),
        TrustCommand::Csr(args) => csr::run(args),
        TrustCommand::Sign(args) => issue::sign(asked, args),
        TrustCommand::Revoke(RevokeCommand::Node(args)) => revoke::node(&asked(&args.place)?, args),
        TrustCommand::Revoke(RevokeCommand::Operator(args)) => operator::revoke(&asked(&args.hand.place)?, args),
        TrustCommand::Update(args) => operator::update(&asked(&args.hand.place)?, args),
        TrustCommand::Rotate(args) => rotate::run(&asked(&args.hand.place)?, args, look),
        TrustCommand::Inspect(args) => inspect::run(args, look),
    }
}

fn issue_error(error: &IssueError) -> CliError {
    let exit = match error {
        IssueError::OperatorName(_) | IssueError::Days(_) => Exit::Usage,
        IssueError::OperatorTaken(_)
        | IssueError::ForeignRoot
        | IssueError::NotAdmin
        | IssueError::Rotation(_)
        | IssueError::ForeignNode
        | IssueError::TooManyNodes(_) => Exit::Refused,
        IssueError::Key(_)
        | IssueError::ForeignKey
        | IssueError::IssuerDates { .. }
        | IssueError::Provider
        | IssueError::Certificate(_)
        | IssueError::Bundle(_) => Exit::Bad,
    };
    let cli = CliError::plain(exit, error.to_string());
    match causes(error) {
        Some(cause) => cli.cause(cause),
        None => cli,
    }
}

fn init(args: &InitArgs, look: &Look) -> Result<Exit, CliError> {
    let out = &args.out;
    let taken = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.symlink_metadata().is_ok(),
    };
    if taken {
        let what = format!("{} exists and is not empty", out.display());
        return Err(CliError::coded(Exit::Refused, codes::TRUST_EXISTS, what)
            .help(["choose another folder with --out; a trust domain is made once"]));
    }
    let made = create_trust_domain(&args.trust_domain, &args.operator, args.shared_issuer, now())
        .map_err(|error| issue_error(&error))?;
    let key = operator_key::at_rest(&made.operator_key_pem, args.passphrase_file.as_deref())?;
    write_operator_folder(args, &made, &key)?;
    output::print(&init_text(args, &made, look))
}

/// Writes the folder beside its place, then renames it: there is never half of one.
fn write_operator_folder(args: &InitArgs, made: &NewTrustDomain, operator_key: &str) -> Result<(), CliError> {
    let name =
        args.out.file_name().ok_or_else(|| CliError::plain(Exit::Usage, "--out is no folder that can be made"))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".new-{}", std::process::id()));
    let beside = args.out.with_file_name(beside);
    let write = || -> Result<(), CliError> {
        let (operator, trust) = (beside.join("operator"), beside.join("trust"));
        files::make_dir(&operator, SECRET_DIR_MODE)?;
        files::make_dir(&trust, PUBLIC_DIR_MODE)?;
        files::create_secret(&operator.join("root.key"), made.root_key_pem.as_bytes())?;
        files::create_secret(&operator.join("issuer.key"), made.issuer_key_pem.as_bytes())?;
        files::create_secret(&operator.join(format!("{}.key", args.operator)), operator_key.as_bytes())?;
        files::create_secret(&operator.join("issued.log"), b"")?;
        files::create(&trust.join("bundle.trust"), &made.bundle_file, PUBLIC_FILE_MODE)?;
        if args.shared_issuer {
            files::create_secret(&trust.join("issuer.key"), made.issuer_key_pem.as_bytes())?;
        }
        std::fs::rename(&beside, &args.out).map_err(|error| {
            CliError::plain(Exit::Bad, format!("cannot make {}", args.out.display())).cause(error.to_string())
        })?;
        Ok(files::sync_parent(&args.out)?)
    };
    let written = write();
    if written.is_err() {
        // Best effort: it holds keys that nobody will use.
        let _ = std::fs::remove_dir_all(&beside);
    }
    written
}

fn init_text(args: &InitArgs, made: &NewTrustDomain, look: &Look) -> String {
    let out = args.out.display();
    let operator_file = format!("operator/{}.key", args.operator);
    let roles = made.bundle.operators.first().map(|operator| operator.roles.to_string()).unwrap_or_default();
    let operator_key = format!("{} \"{}\"", made.operator_key_id, args.operator);
    let sequence = format!("public, sequence {}", made.bundle.sequence);
    let mut text = format!("created trust domain {} in {out}\n", args.trust_domain);
    for (label, file, what, remark) in [
        ("root CA", "operator/root.key", "valid 10 years", "KEEP OFFLINE"),
        ("issuing CA", "operator/issuer.key", "valid 5 years", "signs node certificates"),
        ("operator key", operator_file.as_str(), operator_key.as_str(), &format!("roles {roles}")),
        ("trust bundle", "trust/bundle.trust", sequence.as_str(), "goes to every node"),
    ] {
        text.push_str(&format!("  {label:<15}{file:<23}{what:<23}{remark}\n"));
    }
    // Whole: half of it is found again by trying.
    text.push_str(&format!(
        "  fingerprint    {}\n{:17}compare it by voice or ticket when a host joins\n",
        made.bundle.mesh_id.fingerprint(),
        ""
    ));
    if args.shared_issuer {
        let mark = look.painted_mark(Mark::Warn);
        text.push_str(&format!(
            "{mark} trust/issuer.key is included: whoever reads it can pose as any node (ST0604)\n"
        ));
        text.push_str(&format!(
            "next:  copy {} to /etc/starling/trust on every host; there:  starling agent --config-dir /etc/starling [--seed HOST:7740]\n",
            args.out.join("trust").display()
        ));
    } else {
        text.push_str(&format!("next:  cd {out} && starling trust issue node vm-1\n"));
    }
    text
}

/// The trust bundle of an operator's folder, read and as it stands there.
fn operator_bundle(dir: &Path) -> Result<(TrustBundle, Vec<u8>), CliError> {
    let path = dir.join("trust/bundle.trust");
    let file = files::read_public(&path).map_err(|error| {
        let missing = error.is_missing();
        let cli = CliError::from(error);
        if missing {
            cli.help([
                "this is no operator folder: name it with --dir, or cd there".to_owned(),
                "make one:  starling trust init --trust-domain prod.internal --operator NAME --out DIR".to_owned(),
            ])
        } else {
            cli
        }
    })?;
    let bundle = TrustBundle::parse(&file).map_err(|error| bundle_error(&path, &error))?;
    Ok((bundle, file))
}

/// The newest issuing CA of the bundle whose key lies in the folder.
fn newest_issuer(dir: &Path, bundle: &TrustBundle) -> Result<IssuingCa, CliError> {
    let later = (2..=operator::KEY_NUMBER_MAX).rev().map(|number| dir.join(format!("operator/issuer-{number}.key")));
    for path in later.filter(|path| path.symlink_metadata().is_ok()) {
        if let Ok(issuer) = IssuingCa::load(bundle, &files::read_secret_text(&path)?) {
            return Ok(issuer);
        }
    }
    let key = files::read_secret_text(&dir.join("operator/issuer.key"))?;
    IssuingCa::load(bundle, &key).map_err(|error| issue_error(&error))
}

#[cfg(test)]
mod tests;
