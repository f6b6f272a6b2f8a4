//! `starling trust`: makes a trust domain and its nodes' identities, shows what is in a file, revokes, and hands updates
//! of the trust bundle over. Only the last two need an agent.
//!
//! `operator/` is secret, `trust/` goes to every node.

mod operator;
mod revoke;
mod rotate;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use starling_config::ConfigDir;
use starling_identity::inspect::{InspectRow, describe_bundle, inspect};
use starling_identity::issue::NODE_DAYS;
use starling_identity::{
    IssueError, IssuedNode, IssuingCa, JoinFile, NewTrustDomain, TrustBundle, UnixTime, create_trust_domain,
};
use starling_model::mesh::hex;
use starling_model::{NodeName, SpiffeId, TrustDomain, codes};

use self::operator::{IssueOperatorArgs, UpdateArgs};
use self::revoke::RevokeCommand;
use self::rotate::RotateArgs;
use crate::api::views::{API_VERSION, kind};
use crate::cli::AgentPlace;
use crate::cli::client::Client;
use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::install::{self, PUBLIC_FILE_MODE, bundle_error};
use crate::cli::load::{Request, configuration};
use crate::cli::look::{Look, Mark, ascii};
use crate::cli::read::ShowArgs;
use crate::cli::table::{Align, Cell, Table};
use crate::cli::{Format, figures, output};
use crate::files;

/// Port of a seed that names none.
const MESH_PORT: u16 = 7740;

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
            Self::Init(_) | Self::Issue(_) | Self::Revoke(_) | Self::Update(_) => true,
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
}

/// Commands of `trust issue`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum IssueCommand {
    /// Writes NAME.join (0600) with the identity of a node
    Node(IssueNodeArgs),
    /// Writes operator/NAME.key (0600) and the trust bundle that names it
    Operator(IssueOperatorArgs),
}

/// Flags of `trust issue node`.
#[derive(Args, Clone, Debug)]
pub(crate) struct IssueNodeArgs {
    /// The node's name
    #[arg(value_parser = node_name)]
    name: NodeName,
    /// Where the node joins, HOST[:PORT]; may be given several times
    #[arg(long, value_name = "ADDR", value_parser = seed)]
    seed: Vec<String>,
    /// Life of the identity
    #[arg(long, value_name = "DAYS", default_value_t = NODE_DAYS.to_string() + "d")]
    ttl: String,
    /// Issues again for a name that was issued before
    #[arg(long)]
    replace: bool,
    /// The operator's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// Flags of `trust inspect`.
#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    /// A bundle, join file or certificates [default: this host's identity]
    file: Option<PathBuf>,
    /// Folder of this host's configuration
    #[arg(long, value_name = "DIR", default_value = ConfigDir::STANDARD)]
    config_dir: PathBuf,
    #[command(flatten)]
    show: ShowArgs,
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).map_err(|error| error.to_string())
}

fn node_name(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|error| error.to_string())
}

/// `HOST:PORT`; without a port the mesh port.
fn seed(text: &str) -> Result<String, String> {
    let bad = || Err("is no HOST or HOST:PORT".to_owned());
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['/', '"', '\\']) {
        return bad();
    }
    let after_host = text.rfind(']').map_or(0, |at| at + 1);
    let tail = text.get(after_host..).unwrap_or_default();
    match tail.rsplit_once(':') {
        None => Ok(format!("{text}:{MESH_PORT}")),
        // An IPv6 address without brackets: its last group is not meant as a port.
        Some((head, _)) if after_host == 0 && head.contains(':') => Ok(format!("[{text}]:{MESH_PORT}")),
        Some((head, port)) => match port.parse::<u16>() {
            Ok(1..) if after_host > 0 || !head.is_empty() => Ok(text.to_owned()),
            Ok(_) | Err(_) => bad(),
        },
    }
}

/// `365d` or `365`.
fn days(text: &str) -> Result<u32, CliError> {
    let number = text.strip_suffix('d').unwrap_or(text);
    number.parse().map_err(|_| {
        CliError::plain(Exit::Usage, format!("--ttl {text} is no number of days")).help(["write it like 365d"])
    })
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
        TrustCommand::Issue(IssueCommand::Node(args)) => issue_node(args),
        TrustCommand::Issue(IssueCommand::Operator(args)) => operator::issue(args),
        TrustCommand::Revoke(RevokeCommand::Node(args)) => revoke::node(&asked(&args.place)?, args),
        TrustCommand::Revoke(RevokeCommand::Operator(args)) => operator::revoke(&asked(&args.hand.place)?, args),
        TrustCommand::Update(args) => operator::update(&asked(&args.hand.place)?, args),
        TrustCommand::Rotate(args) => rotate::run(&asked(&args.hand.place)?, args, look),
        TrustCommand::Inspect(args) => inspect_file(args, look),
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
    write_operator_folder(args, &made)?;
    output::print(&init_text(args, &made, look))
}

/// Writes the folder beside its place, then renames it: there is never half of one.
fn write_operator_folder(args: &InitArgs, made: &NewTrustDomain) -> Result<(), CliError> {
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
        files::create_secret(&operator.join(format!("{}.key", args.operator)), made.operator_key_pem.as_bytes())?;
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
    let fingerprint = install::short_fingerprint(&made.bundle);
    // Put in before columns are measured.
    let fingerprint = if look.unicode { fingerprint } else { ascii(&fingerprint).into_owned() };
    let mut text = format!("created trust domain {} in {out}\n", args.trust_domain);
    for (label, file, what, remark) in [
        ("root CA", "operator/root.key", "valid 10 years", "KEEP OFFLINE"),
        ("issuing CA", "operator/issuer.key", "valid 5 years", "signs node certificates"),
        ("operator key", operator_file.as_str(), operator_key.as_str(), &format!("roles {roles}")),
        ("trust bundle", "trust/bundle.trust", sequence.as_str(), "goes to every node"),
        ("fingerprint", fingerprint.as_str(), "", "compare it by voice or ticket"),
    ] {
        text.push_str(&format!("  {label:<15}{file:<23}{what:<23}{remark}\n"));
    }
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

/// The operator's folder, as far as issuing needs it.
struct Operator {
    dir: PathBuf,
    bundle: TrustBundle,
    bundle_file: Vec<u8>,
    issuer: IssuingCa,
}

impl Operator {
    fn open(dir: &Path) -> Result<Self, CliError> {
        let (bundle, bundle_file) = operator_bundle(dir)?;
        let issuer = newest_issuer(dir, &bundle)?;
        Ok(Self { dir: dir.to_owned(), bundle, bundle_file, issuer })
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("operator/issued.log")
    }

    fn log(&self) -> Result<String, CliError> {
        match files::read_secret_text(&self.log_path()) {
            Ok(text) => Ok(text.to_string()),
            Err(error) if error.is_missing() => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes down what is about to be handed out, before it is: a join file without a line must not exist.
    fn record(&self, issued: &IssuedNode) -> Result<(), CliError> {
        let mut text = self.log()?;
        text.push_str(&log_line(issued));
        // Public; a rotation renews it.
        rotate::keep_issued(&self.dir, issued)?;
        Ok(files::replace_secret(&self.log_path(), text.as_bytes())?)
    }
}

/// `node NAME key HASH serial SERIAL until TIME`
fn log_line(issued: &IssuedNode) -> String {
    format!("node {} key {} serial {} until {}\n", issued.node, hex(&issued.key_hash), issued.serial, issued.not_after)
}

fn was_issued(log: &str, node: &NodeName) -> bool {
    log.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("node") && words.next() == Some(node.as_str())
    })
}

fn issue_node(args: &IssueNodeArgs) -> Result<Exit, CliError> {
    let ttl_days = days(&args.ttl)?;
    let operator = Operator::open(&args.dir)?;
    let file = args.dir.join(format!("{}.join", args.name));
    let known = was_issued(&operator.log()?, &args.name) || file.symlink_metadata().is_ok();
    if known && !args.replace {
        let what = format!("{} has an identity already", args.name);
        return Err(CliError::coded(Exit::Refused, codes::TRUST_EXISTS, what)
            .cause(format!("it is in {}, or {} exists", operator.log_path().display(), file.display()))
            .help([format!("issue a further one on purpose:  starling trust issue node {} --replace", args.name)]));
    }
    let issued = operator.issuer.issue_node(&args.name, ttl_days, now()).map_err(|error| issue_error(&error))?;
    operator.record(&issued)?;
    let left_days = now().until(issued.not_after).as_secs().div_ceil(86_400);
    let join = JoinFile {
        bundle_file: operator.bundle_file.clone(),
        node: issued.node.clone(),
        seeds: args.seed.clone(),
        chain_pem: issued.chain_pem,
        issuing_key_pem: Some(issued.issuing_key_pem),
    };
    files::replace_secret(&file, join.encode().as_bytes())?;
    let shown = if args.dir == Path::new(".") { PathBuf::from(file.file_name().unwrap_or_default()) } else { file };
    let (name, shown) = (&args.name, shown.display());
    let id = SpiffeId::node(&operator.bundle.trust_domain, name);
    output::print(&format!(
        "wrote {shown} (0600)   {id}   valid {left_days} days\n\
         next:  scp {shown} {name}: && ssh {name} sudo starling join {name}.join\n"
    ))
}

fn inspect_file(args: &InspectArgs, look: &Look) -> Result<Exit, CliError> {
    let rows = match &args.file {
        Some(path) => rows_of(path)?,
        None => {
            let config = configuration(&Request { dir: ConfigDir::new(&args.config_dir), flags: Vec::new() })?.config;
            let bundle = config.trust.join("bundle.trust");
            let bytes = files::read_public(&bundle).map_err(|error| {
                if error.is_missing() {
                    CliError::coded(Exit::NotFound, codes::IDENTITY_MISSING, "no identity is installed on this host")
                        .cause(format!("{} does not exist", bundle.display()))
                } else {
                    error.into()
                }
            })?;
            let parsed = TrustBundle::parse(&bytes).map_err(|error| bundle_error(&bundle, &error))?;
            let mut rows: Vec<InspectRow> =
                describe_bundle(&parsed).into_iter().filter(|row| row.what == "root CA").collect();
            let chain = config.state.join("identity/chain.pem");
            if chain.symlink_metadata().is_ok() {
                rows.extend(rows_of(&chain)?);
            }
            rows
        }
    };
    let json = || {
        let items: Vec<CertificateRow<'_>> = rows.iter().map(CertificateRow::from).collect();
        output::to_json(&CertificateRows { api_version: API_VERSION, kind: kind::CERTIFICATE_LIST, items })
    };
    match args.show.output {
        Format::Table => output::print(&certificates(&rows, now(), Serials::Short, look)),
        Format::Wide => output::print(&certificates(&rows, now(), Serials::Full, look)),
        Format::Json => output::print_body(&json()?),
        Format::Yaml => output::print_yaml(&json()?),
        Format::Name => output::print(&rows.iter().map(|row| format!("{}\n", row.subject)).collect::<String>()),
    }
}

fn rows_of(path: &Path) -> Result<Vec<InspectRow>, CliError> {
    // Bundles and chains are public, join files are not; reading one's own file with open permissions is no leak.
    let bytes = zeroize::Zeroizing::new(files::read_public(path)?);
    let inspected = inspect(&bytes).map_err(|error| {
        let what = format!("{} cannot be shown", path.display());
        let cause = causes(&error).map_or_else(|| error.to_string(), |causes| format!("{error}: {causes}"));
        CliError::plain(Exit::Refused, what).cause(cause)
    })?;
    Ok(inspected.rows())
}

/// The rows as a document, in the shape of the local API's certificates.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateRows<'a> {
    api_version: &'a str,
    kind: &'a str,
    items: Vec<CertificateRow<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateRow<'a> {
    what: &'a str,
    subject: &'a str,
    serial: &'a str,
    not_before: String,
    not_after: String,
    key: &'a str,
}

impl<'a> From<&'a InspectRow> for CertificateRow<'a> {
    fn from(row: &'a InspectRow) -> Self {
        Self {
            what: row.what,
            subject: &row.subject,
            serial: &row.serial,
            not_before: row.not_before.to_string(),
            not_after: row.not_after.to_string(),
            key: &row.key,
        }
    }
}

/// How serial numbers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serials {
    Short,
    Full,
}

fn certificates(rows: &[InspectRow], now: UnixTime, serials: Serials, look: &Look) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("WHAT", Left),
        ("SUBJECT", Left),
        ("SERIAL", Left),
        ("NOT BEFORE", Left),
        ("NOT AFTER", Left),
        ("LEFT", Right),
        ("KEY", Left),
    ]);
    for row in rows {
        let serial = match serials {
            Serials::Full => row.serial.clone(),
            Serials::Short => row.serial.chars().take(4).chain(['…']).collect(),
        };
        let left = match now.until(row.not_after).as_secs() {
            0 => "ended".to_owned(),
            seconds @ 1..172_800 => figures::age(seconds),
            seconds @ 172_800.. => format!("{}d", seconds / 86_400),
        };
        table.row([
            Cell::new(row.what),
            Cell::new(&row.subject),
            Cell::new(serial),
            Cell::new(figures::date(&row.not_before.to_string())),
            Cell::new(figures::date(&row.not_after.to_string())),
            Cell::new(left),
            Cell::new(&row.key),
        ]);
    }
    table.render(look)
}

#[cfg(test)]
mod tests;
