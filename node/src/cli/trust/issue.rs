//! `trust issue node` and `trust sign`: a node's CA certificate, with a key made here or for the key that a host made.
//!
//! Who issues holds the issuing CA's key, which is what counts, and an operator's key with the role issue, which says who it
//! was. What is handed out is written down first (`operator/issued.log`, `operator/issued/`).

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;
use starling_identity::issue::NODE_DAYS;
use starling_identity::{IssuingCa, JoinFile, NodeRequest, Role, SignedNode, TrustBundle};
use starling_model::mesh::{hex, read_fingerprint};
use starling_model::{NodeName, SpiffeId, codes};

use super::issued_log::IssuedLog;
use super::operator::{Hand, RootDesk};
use super::{Asked, issue_error, newest_issuer, node_name, now, operator_bundle, renew, rotate};
use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::operator_key::{Desk, KeyArgs};
use crate::cli::output;
use crate::files;

/// Longest answer that is read at a terminal.
const ANSWER_BYTES_MAX: u64 = 64;

/// Port of a seed that names none.
const MESH_PORT: u16 = 7740;

/// Flags of `trust issue node`.
#[derive(Args, Clone, Debug)]
pub(crate) struct IssueNodeArgs {
    /// The node's name; several are issued together
    #[arg(value_name = "NAME", value_parser = node_name, required = true)]
    pub(super) names: Vec<NodeName>,
    #[command(flatten)]
    pub(super) how: HowArgs,
}

/// Flags of `trust sign`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SignArgs {
    /// The request that `starling trust csr` made on the node
    #[arg(value_name = "FILE", required_unless_present_any = ["renew", "renew_all"],
          conflicts_with_all = ["renew", "renew_all", "root_key", "own_head", "wait", "timeout", "config_dir"])]
    pub(super) file: Option<PathBuf>,
    /// The key's hash as `starling trust csr` printed it on the node, by another way than the request came: another key is not
    /// signed. Without it the hash is shown and asked about at a terminal
    #[arg(long, value_name = "SHA256:HEX", value_parser = request_key)]
    pub(super) request_key: Option<[u8; 32]>,
    /// Instead: a new certificate for the key that this node holds, published through the mesh; may be given several times
    #[arg(long, value_name = "NAME", value_parser = node_name, conflicts_with_all = ["request_key", "seed", "ttl", "replace"])]
    pub(super) renew: Vec<NodeName>,
    /// The same for every node that was issued here and is not revoked
    #[arg(long, conflicts_with_all = ["renew", "request_key", "seed", "ttl", "replace"])]
    pub(super) renew_all: bool,
    /// With --renew: the root's key, which signs the update of the bundle [default: operator/root.key]
    #[arg(long, value_name = "FILE")]
    pub(super) root_key: Option<PathBuf>,
    /// With --renew: signs on top of this folder's trust bundle although the agent uses one that is not in it
    #[arg(long)]
    pub(super) own_head: bool,
    #[command(flatten)]
    pub(super) how: HowArgs,
    #[command(flatten)]
    pub(super) hand: Hand,
}

fn request_key(text: &str) -> Result<[u8; 32], String> {
    read_fingerprint(text).ok_or_else(|| "is no SHA256: and 64 hex digits, as starling trust csr prints it".to_owned())
}

/// How an identity is issued.
#[derive(Args, Clone, Debug)]
pub(crate) struct HowArgs {
    /// Where the node joins, HOST[:PORT]; may be given several times
    #[arg(long, value_name = "ADDR", value_parser = seed)]
    pub(super) seed: Vec<String>,
    /// Life of the identity
    #[arg(long, value_name = "DAYS", default_value_t = NODE_DAYS.to_string() + "d")]
    pub(super) ttl: String,
    /// Issues again for a name that was issued before
    #[arg(long)]
    pub(super) replace: bool,
    #[command(flatten)]
    pub(super) key: KeyArgs,
    /// The operator's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
}

/// `HOST:PORT`; without a port the mesh port.
pub(super) fn seed(text: &str) -> Result<String, String> {
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
pub(super) fn days(text: &str) -> Result<u32, CliError> {
    let number = text.strip_suffix('d').unwrap_or(text);
    number.parse().map_err(|_| {
        CliError::plain(Exit::Usage, format!("--ttl {text} is no number of days")).help(["write it like 365d"])
    })
}

/// The operator's folder, as far as issuing needs it.
struct Issuer {
    dir: PathBuf,
    bundle: TrustBundle,
    bundle_file: Vec<u8>,
    ca: IssuingCa,
    /// `k1`
    by: String,
}

impl Issuer {
    fn open(how: &HowArgs) -> Result<Self, CliError> {
        let (bundle, bundle_file) = operator_bundle(&how.dir)?;
        let desk = Desk::open_in(&how.dir, &how.key, Role::Issue)?;
        let ca = newest_issuer(&how.dir, &bundle)?;
        Ok(Self { dir: how.dir.clone(), bundle, bundle_file, ca, by: desk.id.to_string() })
    }

    /// Writes down what is about to be handed out, before it is.
    fn record(&self, issued: &SignedNode) -> Result<(), CliError> {
        // Public; a rotation renews it.
        rotate::keep_issued(&self.dir, issued)?;
        IssuedLog::read(&self.dir)?.append(issued, &self.by)
    }

    fn join_path(&self, node: &NodeName) -> PathBuf {
        self.dir.join(format!("{node}.join"))
    }

    /// Refuses names that have an identity, all of them at once and before anything is issued.
    fn refuse_known<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeName>) -> Result<(), CliError> {
        let log = IssuedLog::read(&self.dir)?;
        let is_known = |node: &&NodeName| log.holds(node) || self.join_path(node).symlink_metadata().is_ok();
        let known: Vec<String> = nodes.into_iter().filter(is_known).map(ToString::to_string).collect();
        if known.is_empty() {
            return Ok(());
        }
        let names = known.join(" ");
        let what = format!("{} has an identity already", known.join(", "));
        Err(CliError::coded(Exit::Refused, codes::TRUST_EXISTS, what)
            .cause(format!("it is in {}, or NAME.join exists", log.path().display()))
            .help([format!("issue a further one on purpose:  starling trust issue node {names} --replace")]))
    }

    /// Writes the join file, and says so.
    fn hand_out(
        &self,
        signed: &SignedNode,
        key: Option<zeroize::Zeroizing<String>>,
        how: &HowArgs,
    ) -> Result<String, CliError> {
        let join = JoinFile {
            bundle_file: self.bundle_file.clone(),
            node: signed.node.clone(),
            seeds: how.seed.clone(),
            chain_pem: signed.chain_pem.clone(),
            issuing_key_pem: key,
        };
        let what = if join.issuing_key_pem.is_some() { "(0600)" } else { "(no key inside)" };
        let file = self.join_path(&signed.node);
        files::replace_secret(&file, join.encode().as_bytes())?;
        let left_days = now().until(signed.not_after).as_secs().div_ceil(86_400);
        let id = SpiffeId::node(&self.bundle.trust_domain, &signed.node);
        Ok(format!("wrote {} {what}   {id}   valid {left_days} days\n", self.shown(&file)))
    }

    /// A file of the folder as it is called from where the command runs.
    fn shown(&self, file: &Path) -> String {
        let shown = if self.dir == Path::new(".") { Path::new(file.file_name().unwrap_or_default()) } else { file };
        shown.display().to_string()
    }
}

/// What shuts out the keys that a replaced identity leaves behind.
fn shut_out(how: &HowArgs, node: &NodeName) -> String {
    if !how.replace {
        return String::new();
    }
    format!(
        "then:  starling trust revoke node {node} --keep-newest --wait   (its older keys prove nothing from then on)\n"
    )
}

/// Runs `trust issue node`.
pub(super) fn nodes(args: &IssueNodeArgs) -> Result<Exit, CliError> {
    let how = &args.how;
    let ttl_days = days(&how.ttl)?;
    let distinct: BTreeSet<&NodeName> = args.names.iter().collect();
    if distinct.len() < args.names.len() {
        return Err(CliError::plain(Exit::Usage, "a name is given twice"));
    }
    let issuer = Issuer::open(how)?;
    if !how.replace {
        issuer.refuse_known(&args.names)?;
    }
    let mut text = String::new();
    for name in &args.names {
        let issued = issuer.ca.issue_node(name, ttl_days, now()).map_err(|error| issue_error(&error))?;
        let signed = SignedNode::from(&issued);
        issuer.record(&signed)?;
        text.push_str(&issuer.hand_out(&signed, Some(issued.issuing_key_pem), how)?);
    }
    if let [name] = args.names.as_slice() {
        let shown = issuer.shown(&issuer.join_path(name));
        text.push_str(&format!("next:  scp {shown} {name}: && ssh {name} sudo starling join {name}.join\n"));
    } else {
        text.push_str("next:  bring each file to its host, and there:  sudo starling join NAME.join\n");
    }
    args.names.iter().for_each(|name| text.push_str(&shut_out(how, name)));
    output::print(&text)
}

/// Runs `trust sign`.
pub(super) fn sign(asked: Asked<'_>, args: &SignArgs) -> Result<Exit, CliError> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return sign_at(asked, args, Some(&mut stdin.lock()));
    }
    sign_at(asked, args, None)
}

/// The same with the terminal at which somebody sits.
pub(super) fn sign_at(asked: Asked<'_>, args: &SignArgs, terminal: Option<&mut dyn BufRead>) -> Result<Exit, CliError> {
    let Some(file) = &args.file else {
        let issuer = Issuer::open(&args.how)?;
        let root = RootDesk { root_key: args.root_key.clone(), dir: args.how.dir.clone(), own_head: args.own_head };
        return renew::run(&asked(&args.hand.place)?, &issuer.ca, &root, &args.hand, &args.renew);
    };
    let how = &args.how;
    let ttl_days = days(&how.ttl)?;
    let bytes = files::read_public(file)?;
    let request = NodeRequest::parse(&bytes).map_err(|error| {
        let what = format!("{} is not signed", file.display());
        let cause = causes(&error).map_or_else(|| error.to_string(), |causes| format!("{error}: {causes}"));
        CliError::coded(Exit::Refused, error.code(), what).cause(cause)
    })?;
    let issuer = Issuer::open(how)?;
    let node = request.node().clone();
    if !how.replace {
        issuer.refuse_known([&node])?;
    }
    confirm(&request, args.request_key.as_ref(), terminal)?;
    let signed = issuer.ca.sign_request(&request, ttl_days, now()).map_err(|error| issue_error(&error))?;
    issuer.record(&signed)?;
    let mut text = issuer.hand_out(&signed, None, how)?;
    text.push_str(&format!(
        "key   {}\n\
         next:  scp {} {node}: && ssh {node} sudo starling join {node}.join\n",
        shown(&request.key_hash()),
        issuer.shown(&issuer.join_path(&node)),
    ));
    text.push_str(&shut_out(how, &node));
    output::print(&text)
}

/// `SHA256:` and 64 digits in one word, as it is handed to a flag.
fn shown(hash: &[u8; 32]) -> String {
    format!("SHA256:{}", hex(hash))
}

/// Nothing in a request says whose it is: a person compares the hash of its key before it is signed, and not after.
///
/// # Errors
/// ST0627 for another key than the named one, for an answer that is not yes, and where there is nobody to ask.
fn confirm(
    request: &NodeRequest,
    wanted: Option<&[u8; 32]>,
    terminal: Option<&mut dyn BufRead>,
) -> Result<(), CliError> {
    let (node, key) = (request.node(), request.key_hash());
    let refused = |what: String| CliError::coded(Exit::Refused, codes::REQUEST_UNCONFIRMED, what);
    let Some(wanted) = wanted else {
        let Some(terminal) = terminal else {
            // The hash in the file is not told here: it must come from the node.
            return Err(refused(format!("the request of {node} is not signed: nobody compared its key"))
                .cause("standard input is no terminal to ask at, and --request-key does not name the key"));
        };
        output::message(&format!(
            "the request says that it is of {node}, with the key\n  {}\ndid `starling trust csr` print this on {node}? [yes/N] ",
            shown(&key)
        ));
        let mut line = String::new();
        let read = std::io::Read::take(terminal, ANSWER_BYTES_MAX).read_line(&mut line);
        read.map_err(|error| CliError::plain(Exit::Bad, "cannot read the answer").cause(error.to_string()))?;
        if line.trim().eq_ignore_ascii_case("yes") {
            return Ok(());
        }
        return Err(refused(format!("the request of {node} is not signed: the answer was not yes")));
    };
    if *wanted == key {
        return Ok(());
    }
    Err(refused(format!("the request of {node} is not signed: it is for another key than the named one"))
        .cause(format!("named was  {}\nit is for  {}", shown(wanted), shown(&key)))
        .help([
            format!("make it again on {node}:  starling trust csr --node {node}"),
            "if they still differ, somebody exchanges requests on the way".to_owned(),
        ]))
}
