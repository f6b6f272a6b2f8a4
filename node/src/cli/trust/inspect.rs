//! `trust inspect`: what is in a bundle, a join file, a request or a list of certificates, or what this host has; never a
//! private key.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use starling_config::ConfigDir;
use starling_identity::inspect::{InspectRow, Inspected, inspect};
use starling_identity::{TrustBundle, UnixTime};
use starling_model::codes;
use starling_model::mesh::hex;

use super::now;
use crate::api::views::{API_VERSION, kind};
use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::load::{Request, configuration};
use crate::cli::look::Look;
use crate::cli::read::ShowArgs;
use crate::cli::table::{Align, Cell, Table};
use crate::cli::{Format, figures, install, output};
use crate::files;

/// Flags of `trust inspect`.
#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    /// A bundle, join file, request or certificates [default: this host's identity]
    pub(super) file: Option<PathBuf>,
    /// Folder of this host's configuration
    #[arg(long, value_name = "DIR", default_value = ConfigDir::STANDARD)]
    pub(super) config_dir: PathBuf,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

/// What is shown: the certificates, and in words what no certificate says.
pub(super) struct Found {
    pub(super) rows: Vec<InspectRow>,
    pub(super) remarks: Vec<String>,
}

/// Runs the command.
pub(super) fn run(args: &InspectArgs, look: &Look) -> Result<Exit, CliError> {
    let found = match &args.file {
        Some(path) => of_file(path)?,
        None => of_host(args)?,
    };
    let rows = &found.rows;
    let json = || {
        let items: Vec<CertificateRow<'_>> = rows.iter().map(CertificateRow::from).collect();
        output::to_json(&CertificateRows { api_version: API_VERSION, kind: kind::CERTIFICATE_LIST, items })
    };
    let table = |serials: Serials| {
        let mut text = if rows.is_empty() { String::new() } else { certificates(rows, now(), serials, look) };
        if look.headers {
            found.remarks.iter().for_each(|remark| text.push_str(&format!("{remark}\n")));
        }
        output::print(&text)
    };
    match args.show.output {
        Format::Table => table(Serials::Short),
        Format::Wide => table(Serials::Full),
        Format::Json => output::print_body(&json()?),
        Format::Yaml => output::print_yaml(&json()?),
        Format::Name => output::print(&rows.iter().map(|row| format!("{}\n", row.subject)).collect::<String>()),
    }
}

/// This host's bundle and chain, as they lie there.
fn of_host(args: &InspectArgs) -> Result<Found, CliError> {
    let config = configuration(&Request { dir: ConfigDir::new(&args.config_dir), flags: Vec::new() })?.config;
    let bundle = config.trust.join("bundle.trust");
    if bundle.symlink_metadata().is_err() {
        return Err(CliError::coded(Exit::NotFound, codes::IDENTITY_MISSING, "no identity is installed on this host")
            .cause(format!("{} does not exist", bundle.display())));
    }
    let mut found = of_file(&bundle)?;
    found.rows.retain(|row| row.what == "root CA");
    let chain = config.state.join("identity/chain.pem");
    if chain.symlink_metadata().is_ok() {
        found.rows.extend(of_file(&chain)?.rows);
    }
    found.remarks.push("the leaf in use and what was rotated since:  starling status, or GET /v1/certs".to_owned());
    Ok(found)
}

/// What a file holds.
pub(super) fn of_file(path: &Path) -> Result<Found, CliError> {
    // Bundles and chains are public, join files are not; reading one's own file with open permissions is no leak.
    let bytes = zeroize::Zeroizing::new(files::read_public(path)?);
    let inspected = inspect(&bytes).map_err(|error| {
        let what = format!("{} cannot be shown", path.display());
        let cause = causes(&error).map_or_else(|| error.to_string(), |causes| format!("{error}: {causes}"));
        CliError::plain(Exit::Refused, what).cause(cause)
    })?;
    let remarks = match &inspected {
        Inspected::Bundle(bundle) => about(bundle),
        Inspected::Join(join) => {
            let key = if join.issuing_key_pem.is_some() { "a private key is inside: SECRET" } else { "no key inside" };
            let seeds = if join.seeds.is_empty() { "none".to_owned() } else { join.seeds.join(", ") };
            let mut text = vec![format!("join file of {}   {key}   seeds {seeds}", join.node)];
            // What `join` will ask to compare, before it is run.
            let bundle = TrustBundle::parse(&join.bundle_file).map(|bundle| install::fingerprints(&bundle));
            text.extend(bundle.unwrap_or_default().lines().map(str::to_owned));
            text
        }
        Inspected::Request(request) => vec![
            format!("request of {}   key SHA256:{}", request.node(), hex(&request.key_hash())),
            "compare the key's hash with what `starling trust csr` printed on the node".to_owned(),
        ],
        Inspected::Chain(_) => Vec::new(),
    };
    Ok(Found { rows: inspected.rows(), remarks })
}

/// What a bundle says beside its certificates.
fn about(bundle: &TrustBundle) -> Vec<String> {
    let mut text = vec![format!("trust domain {}   bundle sequence {}", bundle.trust_domain, bundle.sequence)];
    text.extend(install::fingerprints(bundle).lines().map(str::to_owned));
    if bundle.shared_issuer {
        text.push(format!("shared issuer: any host can pose as any node ({})", codes::SHARED_ISSUER));
    }
    let operator =
        |one: &starling_identity::Operator| format!("operator {} \"{}\"   roles {}", one.key_id(), one.name, one.roles);
    text.extend(bundle.operators.iter().map(operator));
    text
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
pub(super) enum Serials {
    Short,
    Full,
}

pub(super) fn certificates(rows: &[InspectRow], now: UnixTime, serials: Serials, look: &Look) -> String {
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
