//! `trust issue node` and `trust sign`: a node's CA certificate, with a key made here or for the key that a host made.
//!
//! Who issues holds the issuing CA's key, which is what counts, and an operator's key with the role issue, which says who it
//! was. What is handed out is written down first (`operator/issued.log`, `operator/issued/`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use starling_identity::issue::NODE_DAYS;
use starling_identity::{IssuingCa, JoinFile, NodeRequest, Role, SignedNode, TrustBundle};
use starling_model::mesh::hex;
use starling_model::{NodeName, SpiffeId, codes};

use super::desk::{Desk, KeyArgs};
use super::operator::{Hand, RootDesk};
use super::{Asked, issue_error, newest_issuer, node_name, now, operator_bundle, renew, rotate};
use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::output;
use crate::files;

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
    #[arg(value_name = "FILE", required_unless_present_any = ["renew", "renew_all"])]
    pub(super) file: Option<PathBuf>,
    /// Instead: a new certificate for the key that this node holds, published through the mesh; may be given several times
    #[arg(long, value_name = "NAME", value_parser = node_name, conflicts_with = "file")]
    pub(super) renew: Vec<NodeName>,
    /// The same for every node that was issued here and is not revoked
    #[arg(long, conflicts_with_all = ["file", "renew"])]
    pub(super) renew_all: bool,
    /// With --renew: the root's key, which signs the update of the bundle [default: operator/root.key]
    #[arg(long, value_name = "FILE")]
    pub(super) root_key: Option<PathBuf>,
    #[command(flatten)]
    pub(super) how: HowArgs,
    #[command(flatten)]
    pub(super) hand: Hand,
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
        let desk = Desk::open(&how.dir, &how.key, Role::Issue)?;
        let ca = newest_issuer(&how.dir, &bundle)?;
        Ok(Self { dir: how.dir.clone(), bundle, bundle_file, ca, by: desk.id.to_string() })
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
    fn record(&self, issued: &SignedNode) -> Result<(), CliError> {
        let mut text = self.log()?;
        text.push_str(&format!(
            "node {} key {} serial {} until {} by {}\n",
            issued.node,
            hex(&issued.key_hash),
            issued.serial,
            issued.not_after,
            self.by
        ));
        // Public; a rotation renews it.
        rotate::keep_issued(&self.dir, issued)?;
        Ok(files::replace_secret(&self.log_path(), text.as_bytes())?)
    }

    fn join_path(&self, node: &NodeName) -> PathBuf {
        self.dir.join(format!("{node}.join"))
    }

    /// Refuses names that have an identity, all of them at once and before anything is issued.
    fn refuse_known<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeName>) -> Result<(), CliError> {
        let log = self.log()?;
        let is_known = |node: &&NodeName| was_issued(&log, node) || self.join_path(node).symlink_metadata().is_ok();
        let known: Vec<String> = nodes.into_iter().filter(is_known).map(ToString::to_string).collect();
        if known.is_empty() {
            return Ok(());
        }
        let names = known.join(" ");
        let what = format!("{} has an identity already", known.join(", "));
        Err(CliError::coded(Exit::Refused, codes::TRUST_EXISTS, what)
            .cause(format!("it is in {}, or NAME.join exists", self.log_path().display()))
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

fn was_issued(log: &str, node: &NodeName) -> bool {
    log.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("node") && words.next() == Some(node.as_str())
    })
}

/// The key that was issued last for a node, by `operator/issued.log` of this folder.
pub(super) fn newest_key(dir: &Path, node: &NodeName) -> Result<Option<[u8; 32]>, CliError> {
    let text = files::read_secret_text(&dir.join("operator/issued.log"))?;
    let mut of_node = text.lines().rev().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["node", name, "key", key, ..] if *name == node.as_str() => read_hash(key),
            _ => None,
        }
    });
    Ok(of_node.next())
}

/// 64 hex digits.
fn read_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
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
    let Some(file) = &args.file else {
        let issuer = Issuer::open(&args.how)?;
        let root = RootDesk { root_key: args.root_key.clone(), dir: args.how.dir.clone() };
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
    let signed = issuer.ca.sign_request(&request, ttl_days, now()).map_err(|error| issue_error(&error))?;
    issuer.record(&signed)?;
    let mut text = issuer.hand_out(&signed, None, how)?;
    text.push_str(&format!(
        "key   SHA256:{}   compare it with what `starling trust csr` printed on {node}\n\
         next:  scp {} {node}: && ssh {node} sudo starling join {node}.join\n",
        hex(&request.key_hash()),
        issuer.shown(&issuer.join_path(&node)),
    ));
    text.push_str(&shut_out(how, &node));
    output::print(&text)
}
