//! `starling explain URL`: what becomes of a request, and why; asked of an agent, or of a snapshot file.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use http::Method;
use jiff::Timestamp;
use starling_model::{Namespace, ServiceKey, TrustDomain};
use starling_routing::limits::SNAPSHOT_BYTES_MAX;
use starling_routing::{EndpointIndex, Snapshot};

use crate::api::views::{EXPLAINED_REFUSE, Envelope, ExplainRequest, Explanation, SnapshotInstance, View, kind};
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::look::Look;
use crate::cli::read::ShowArgs;
use crate::cli::render::explain as shown;
use crate::cli::{AgentPlace, Format, output};
use crate::explain::{Ground, Words, explain};
use crate::files;
use crate::telemetry::time::Clocks;

/// Longer than the agent waits for the request that it sends.
const LIVE_TIMEOUT: Duration = Duration::from_secs(35);

/// Flags of `starling explain`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples
  starling explain http://orders.mesh.internal/cart
  starling explain --from web -X POST -H 'x-user: 7' http://orders.mesh.internal/cart
  starling explain --exit-code http://orders.mesh.internal/ || echo broken
  starling explain --live http://orders.mesh.internal/
  starling explain tls://shop.example.com:8443
  starling snapshot save now.json; starling explain --snapshot now.json http://orders.mesh.internal/")]
pub(crate) struct ExplainArgs {
    /// What is asked for: http://SERVICE.mesh.internal/PATH, or tls://NAME:PORT at a Gateway of the node
    #[arg(value_name = "URL")]
    url: String,
    /// The local service that calls: NAME or NAMESPACE/NAME [default: the node itself]
    #[arg(long, value_name = "SERVICE", value_parser = super::service)]
    from: Option<String>,
    /// Who calls, as a SPIFFE id, in place of --from
    #[arg(long, value_name = "ID", conflicts_with = "from")]
    identity: Option<String>,
    /// The request's method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// One of its headers; may be given several times
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Also tells what this seed draws, among all that may be drawn
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Decides by this file of `starling snapshot save`, without an agent
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Sends the request once, too, without a body, and shows what happened; a write, so over the socket
    #[arg(long, conflicts_with = "snapshot")]
    live: bool,
    /// Ends with 1 when a share of such requests is refused
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    place: AgentPlace,
}

impl ExplainArgs {
    pub(crate) fn place(&self) -> &AgentPlace {
        &self.place
    }

    pub(crate) fn headers(&self) -> bool {
        !self.show.no_headers
    }

    /// The question; service names carry their namespace from here on.
    fn words(&self, namespace: Option<&Namespace>) -> Result<Words, CliError> {
        let fallback = namespace.cloned().unwrap_or_default();
        let from = self.from.as_ref().map(|from| ServiceKey::parse(from, &fallback)).transpose();
        let from = from.map_err(|invalid| CliError::plain(Exit::Usage, invalid.to_string()))?;
        Ok(Words {
            url: self.url.clone(),
            method: Some(self.method.clone()),
            headers: self.header.clone(),
            from: from.map(|from| from.to_string()),
            identity: self.identity.clone(),
            seed: self.seed.map(|seed| seed.to_string()),
        })
    }
}

/// Runs the command.
pub(crate) fn run(
    client: impl FnOnce() -> Result<Client, CliError>,
    args: &ExplainArgs,
    namespace: Option<&Namespace>,
    look: &Look,
) -> Result<Exit, CliError> {
    let words = args.words(namespace)?;
    let body = match &args.snapshot {
        Some(file) => output::to_json(&offline(file, words)?)?,
        None if args.live => client()?.ask(live(words)?)?.body.to_vec(),
        None => client()?.ask(Ask::get(&path(&words)))?.body.to_vec(),
    };
    let told: Envelope<Explanation> = serde_json::from_slice(&body)
        .map_err(|error| CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(error.to_string()))?;
    let exit = match args.show.output {
        Format::Table | Format::Wide => output::print(&shown::render(&told, look))?,
        Format::Name => output::print(&shown::names(&told))?,
        Format::Json => output::print_body(&body)?,
        Format::Yaml => output::print_yaml(&body)?,
    };
    let refused = told.body.outcomes.iter().any(|outcome| outcome.decision == EXPLAINED_REFUSE);
    Ok(if args.exit_code && refused { Exit::Bad } else { exit })
}

/// Sent by the agent: a write.
fn live(words: Words) -> Result<Ask<'static>, CliError> {
    let Words { url, method, headers, from, identity, seed } = words;
    let body = output::to_json(&ExplainRequest { url, method, headers, from, identity, seed, live: true })?;
    Ok(Ask { method: Method::POST, path: "/v1/explain", body: Some(body), timeout: LIVE_TIMEOUT })
}

/// The path that asks an agent; reading needs no rights, so the question stands in the query.
fn path(words: &Words) -> String {
    let Words { url, method, headers, from, identity, seed } = words;
    let one = |name: &str, value: &str| format!("{name}={}", escaped(value));
    let mut parts = vec![one("url", url)];
    parts.extend(method.as_ref().map(|method| one("method", method)));
    parts.extend(headers.iter().map(|header| one("header", header)));
    parts.extend(from.as_ref().map(|from| one("from", from)));
    parts.extend(identity.as_ref().map(|identity| one("identity", identity)));
    parts.extend(seed.as_ref().map(|seed| one("seed", seed)));
    format!("/v1/explain?{}", parts.join("&"))
}

/// All but RFC 3986's unreserved characters in percent coding.
fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// The part of a snapshot file that is not the table's.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taken {
    view: View,
    trust_domain: String,
    local: Vec<SnapshotInstance>,
}

/// What the agent would have answered when the snapshot was taken.
fn offline(file: &std::path::Path, words: Words) -> Result<Envelope<Explanation>, CliError> {
    let bytes = files::read_bounded(file, SNAPSHOT_BYTES_MAX as u64)?;
    answer(&bytes, words).map_err(|refused| match refused {
        Refused::File(cause) => {
            CliError::plain(Exit::Refused, format!("{} is no snapshot that can be used", file.display()))
                .cause(cause)
                .help(["starling snapshot save FILE writes one"])
        }
        Refused::Question(why) => CliError::plain(Exit::Usage, why),
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    File(String),
    Question(String),
}

fn answer(bytes: &[u8], words: Words) -> Result<Envelope<Explanation>, Refused> {
    let file = |why: &dyn std::error::Error| {
        let source = why.source().map(|source| format!(": {source}")).unwrap_or_default();
        Refused::File(format!("{why}{source}"))
    };
    let snapshot = Snapshot::read(bytes).map_err(|invalid| file(&invalid))?;
    let taken: Taken = serde_json::from_slice(bytes).map_err(|invalid| file(&invalid))?;
    let frozen = snapshot.freeze(Instant::now()).map_err(|invalid| file(&invalid))?;
    let trust_domain = TrustDomain::new(&taken.trust_domain).map_err(|invalid| file(&invalid))?;
    let node = taken.view.node.parse().map_err(|invalid: starling_model::NameInvalid| file(&invalid))?;
    let at: Timestamp = taken.view.as_of.parse().map_err(|invalid: jiff::Error| file(&invalid))?;
    let local =
        taken.local.iter().map(|one| Ok((ServiceKey::parse(&one.service, &Namespace::default())?, one.name.clone())));
    let local = local.collect::<Result<Vec<_>, starling_model::NameInvalid>>().map_err(|invalid| file(&invalid))?;
    let question = words.read((&node, &trust_domain), &Namespace::default());
    let question = question.map_err(|invalid| Refused::Question(invalid.to_string()))?;
    let loads = |index: EndpointIndex| frozen.load(index);
    let clocks = Clocks::of_then(frozen.now, at.into());
    let ground =
        Ground { table: &frozen.table, loads: &loads, clocks, node: &node, trust_domain: &trust_domain, local: &local };
    Ok(Envelope::new(kind::EXPLANATION, taken.view.clone(), explain(&question, &ground)))
}

#[cfg(test)]
mod tests;
