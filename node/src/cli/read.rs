//! `status`, `members`, `services`, `routes`: one read of the local API, shown in the wanted form.

use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;
use starling_model::{Namespace, ServiceKey, codes};

use crate::api::views::{Envelope, MemberList, RouteTable, Service, ServiceList, Status};
use crate::cli::client::{Answer, Ask, Client, refusal};
use crate::cli::errors::{CliError, Exit};
use crate::cli::look::Look;
use crate::cli::render::{self, Columns, full_key};
use crate::cli::{Format, output};

/// Shortest pause between two watched answers.
const WATCH_PAUSE_MIN: Duration = Duration::from_millis(100);

/// How the answer is shown, for every command that reads.
#[derive(Args, Clone, Debug)]
pub(crate) struct ShowArgs {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "table", env = "STARLING_OUTPUT", value_name = "FORM")]
    pub(crate) output: Format,
    /// Tables without their header line
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// `-w`.
#[derive(Args, Clone, Debug)]
pub(crate) struct WatchArgs {
    /// Asks again and again [default pause: 2s]
    #[arg(short, long, value_name = "PAUSE", num_args = 0..=1, default_missing_value = "2s", require_equals = true,
          value_parser = pause)]
    pub(crate) watch: Option<Duration>,
}

fn pause(text: &str) -> Result<Duration, String> {
    let duration = starling_config::duration::parse(text).map_err(|error| error.to_string())?;
    if duration < WATCH_PAUSE_MIN { Err("is shorter than 100ms".to_owned()) } else { Ok(duration) }
}

/// One read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// `GET /v1/status`
    Status,
    /// `GET /v1/members`
    Members(render::members::Filter),
    /// `GET /v1/services`
    Services {
        /// Only this namespace.
        namespace: Option<Namespace>,
    },
    /// `GET /v1/services/{namespace}/{service}`
    Service {
        /// Which.
        key: ServiceKey,
        /// Only some of its endpoints.
        filter: render::services::Filter,
    },
    /// `GET /v1/routes[/{namespace}/{service}]`
    Routes {
        /// Of one service; `None` for all.
        key: Option<ServiceKey>,
        /// Only this namespace.
        namespace: Option<Namespace>,
    },
}

impl Read {
    fn path(&self) -> String {
        match self {
            Self::Status => "/v1/status".to_owned(),
            Self::Members(_) => "/v1/members".to_owned(),
            Self::Services { .. } => "/v1/services".to_owned(),
            Self::Service { key, .. } => format!("/v1/services/{key}"),
            Self::Routes { key: Some(key), .. } => format!("/v1/routes/{key}"),
            Self::Routes { key: None, .. } => "/v1/routes".to_owned(),
        }
    }

    /// The service whose absence is worth a suggestion.
    fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::Service { key, .. } | Self::Routes { key: Some(key), .. } => Some(key),
            Self::Status | Self::Members(_) | Self::Services { .. } | Self::Routes { key: None, .. } => None,
        }
    }

    /// True when something of the answer is hidden, which only tables and names can do.
    fn filters(&self) -> bool {
        match self {
            Self::Status => false,
            Self::Members(filter) => !filter.is_empty(),
            Self::Service { filter, .. } => !filter.is_empty(),
            // A preset namespace is no wish to hide anything from a program.
            Self::Services { .. } | Self::Routes { .. } => false,
        }
    }

    /// The answer as text.
    pub(crate) fn render(&self, body: &[u8], format: Format, look: &Look) -> Result<String, CliError> {
        let columns = if format == Format::Wide { Columns::Wide } else { Columns::Usual };
        let names = format == Format::Name;
        let lines = |names: Vec<String>| names.into_iter().map(|name| format!("{name}\n")).collect::<String>();
        let inside = |namespace: &Option<Namespace>, of: &str| namespace.as_ref().is_none_or(|n| n.as_str() == of);
        Ok(match self {
            Self::Status => {
                let answer: Envelope<Status> = parse(body)?;
                if names { lines(vec![answer.body.name]) } else { render::status::render(&answer, look) }
            }
            Self::Members(filter) => {
                let list: MemberList = parse(body)?;
                if names {
                    let shown = list.body.items.iter().filter(|member| filter.shows(member));
                    lines(shown.map(|member| member.name.clone()).collect())
                } else {
                    render::members::render(&list, columns, filter, look)
                }
            }
            Self::Services { namespace } => {
                let list: ServiceList = parse(body)?;
                if names {
                    let shown = list.body.items.iter().filter(|service| inside(namespace, &service.namespace));
                    lines(shown.map(|service| format!("{}/{}", service.namespace, service.name)).collect())
                } else {
                    render::services::list(&list, columns, namespace.as_ref().map(Namespace::as_str), look)
                }
            }
            Self::Service { filter, .. } => {
                let answer: Envelope<Service> = parse(body)?;
                if names {
                    let shown = answer.body.endpoints.iter().filter(|endpoint| filter.shows(endpoint));
                    lines(shown.map(|endpoint| endpoint.id.clone()).collect())
                } else {
                    render::services::one(&answer, columns, filter, look)
                }
            }
            Self::Routes { namespace, .. } => {
                let table: RouteTable = parse(body)?;
                if names {
                    let shown = table.body.items.iter().filter(|row| inside(namespace, &row.service.namespace));
                    let mut keys: Vec<String> = shown.map(|row| full_key(&row.service)).collect();
                    keys.dedup();
                    lines(keys)
                } else {
                    render::routes::render(&table, columns, namespace.as_ref().map(Namespace::as_str), look)
                }
            }
        })
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CliError> {
    serde_json::from_slice(body).map_err(|error| {
        CliError::plain(Exit::Bad, "the agent's answer is not understood")
            .cause(error.to_string())
            .help(["compare the releases of this program and of the agent: starling version"])
    })
}

/// Runs one read, or the same one again and again.
pub(crate) fn run(
    client: &Client,
    read: &Read,
    show: &ShowArgs,
    watch: Option<Duration>,
    look: &Look,
) -> Result<Exit, CliError> {
    let document = matches!(show.output, Format::Json | Format::Yaml);
    if document && read.filters() {
        return Err(CliError::plain(
            Exit::Usage,
            "filters work on tables and names; -o json is the agent's whole answer",
        ));
    }
    loop {
        let answer = fetch(client, read)?;
        let exit = match show.output {
            // Documents that follow each other are apart: one on each line, or as documents of one YAML stream.
            Format::Json if watch.is_some() => output::print_line(&answer.body)?,
            Format::Json => output::print_body(&answer.body)?,
            Format::Yaml if watch.is_some() => {
                output::print("---\n")?;
                output::print_yaml(&answer.body)?
            }
            Format::Yaml => output::print_yaml(&answer.body)?,
            Format::Table | Format::Wide | Format::Name => {
                let text = read.render(&answer.body, show.output, look)?;
                // On a terminal the same place is drawn again; on a pipe answers follow each other.
                let clear = if watch.is_some() && look.width.is_some() { "\x1b[H\x1b[2J" } else { "" };
                output::print(&format!("{clear}{text}"))?
            }
        };
        match watch {
            Some(pause) => std::thread::sleep(pause),
            None => {
                if let Some(warning) = releases_differ(&answer.body) {
                    output::message(&warning);
                }
                return Ok(exit);
            }
        }
    }
}

fn fetch(client: &Client, read: &Read) -> Result<Answer, CliError> {
    let answer = client.try_ask(Ask::get(&read.path()))?;
    match read.service() {
        Some(key) if answer.status == 404 => Err(unknown_service(client, key)),
        Some(_) | None if answer.status >= 400 => Err(refusal(&answer)),
        Some(_) | None => Ok(answer),
    }
}

/// The nearest known service, and where to find all.
fn unknown_service(client: &Client, key: &ServiceKey) -> CliError {
    let list = client.ask(Ask::get("/v1/services")).ok();
    let list: Option<ServiceList> = list.and_then(|answer| serde_json::from_slice(&answer.body).ok());
    let (node, known) = list.map_or_else(
        || ("this node".to_owned(), Vec::new()),
        |list| {
            let known = list.body.items.iter().map(|service| format!("{}/{}", service.namespace, service.name));
            (list.view.node.clone(), known.collect())
        },
    );
    let near = nearest_service(key, &known).map(|near| format!("did you mean {near}?"));
    let all = "all that this node knows:  starling services".to_owned();
    CliError::coded(Exit::NotFound, codes::UNKNOWN_NAME, format!("no service {key} is known to {node}"))
        .help(near.into_iter().chain([all]))
}

/// Of known `namespace/name` keys, the same name elsewhere, else the nearest.
fn nearest_service(key: &ServiceKey, known: &[String]) -> Option<String> {
    let elsewhere = known.iter().find(|other| other.split_once('/').is_some_and(|(_, name)| name == key.name.as_str()));
    let near = || starling_config::suggest(&key.to_string(), known.iter().map(String::as_str)).map(str::to_owned);
    // Whole keys share their namespace, which makes distant names look near: the bare name must be near, too.
    let really = |near: &String| {
        near.split_once('/').is_some_and(|(_, name)| starling_config::suggest(key.name.as_str(), [name]).is_some())
    };
    elsewhere.cloned().or_else(|| near().filter(really))
}

/// One line when the agent is of another release than this program.
fn releases_differ(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Known {
        version: Option<String>,
        #[serde(default)]
        items: Vec<KnownMember>,
    }
    #[derive(serde::Deserialize)]
    struct KnownMember {
        #[serde(rename = "self", default)]
        is_self: bool,
        version: Option<String>,
    }
    let known: Known = serde_json::from_slice(body).ok()?;
    let own = known.items.into_iter().find(|member| member.is_self).and_then(|member| member.version);
    let agent = known.version.or(own)?;
    let ours = crate::RELEASE;
    (agent != ours).then(|| format!("warning: the agent is starling {agent}, this program is {ours}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_their_paths() {
        let key = ServiceKey::parse("shop/orders", &Namespace::default()).unwrap();
        let filter = render::services::Filter::default();
        assert_eq!(Read::Service { key: key.clone(), filter }.path(), "/v1/services/shop/orders");
        assert_eq!(Read::Routes { key: Some(key), namespace: None }.path(), "/v1/routes/shop/orders");
        assert_eq!(Read::Routes { key: None, namespace: None }.path(), "/v1/routes");
    }

    #[test]
    fn an_unknown_service_finds_its_nearest_name() {
        let known: Vec<String> = ["default/orders", "default/web", "shop/cart"].map(str::to_owned).to_vec();
        let check = |text: &str, want: Option<&str>| {
            let key = ServiceKey::parse(text, &Namespace::default()).unwrap();
            assert_eq!(nearest_service(&key, &known).as_deref(), want, "{text}");
        };
        check("ordres", Some("default/orders"));
        check("wbe", Some("default/web"));
        check("cart", Some("shop/cart"));
        check("banana", None);
    }

    #[test]
    fn another_release_is_one_line() {
        assert_eq!(releases_differ(br#"{"items":[]}"#), None);
        assert_eq!(releases_differ(format!(r#"{{"version":"{}"}}"#, crate::RELEASE).as_bytes()), None);
        let text = releases_differ(br#"{"items":[{"self":true,"version":"9.9.9"},{"version":"1"}]}"#).unwrap();
        assert!(text.contains("9.9.9") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn names_obey_the_filter_of_endpoints() {
        let endpoint = |node: &str| {
            serde_json::json!({"id": format!("{node}/default/web"), "node": node, "instance": "web", "port": "http",
                "protocol": "http", "labels": {}, "subsets": [], "health": "healthy", "reason": null, "weight": 100,
                "share": 0.5, "inFlight": 0, "latencyEwmaMs": null, "since": null})
        };
        let body = serde_json::json!({"apiVersion": "starling/v1", "kind": "Service",
            "view": {"node": "vm-1", "bootEpoch": "1", "revision": 1, "asOf": "2026-11-22T15:31:59Z", "digest": "0",
                     "agreement": {"alive": 2, "same": 2, "behind": [], "behindCount": 0}},
            "namespace": "default", "name": "web", "hostname": "web.mesh.internal", "vip": null, "ports": [],
            "endpoints": [endpoint("vm-1"), endpoint("vm-2")], "routes": [], "traffic": null});
        let key = ServiceKey::parse("web", &Namespace::default()).unwrap();
        let filter = render::services::Filter { node: Some("vm-2".to_owned()), subset: None };
        let read = Read::Service { key, filter };
        let names = read.render(body.to_string().as_bytes(), Format::Name, &Look::plain()).unwrap();
        assert_eq!(names, "vm-2/default/web\n");
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error() {
        let error = Read::Status.render(b"[]", Format::Table, &Look::plain()).unwrap_err();
        assert_eq!(error.exit(), Exit::Bad);
    }

    #[test]
    fn a_pause_is_a_duration_of_some_length() {
        assert_eq!(pause("2s"), Ok(Duration::from_secs(2)));
        assert!(pause("99ms").is_err() && pause("2").is_err());
    }
}
