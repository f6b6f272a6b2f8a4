//! The table of known settings: names, rules, and what each waits for. The order is that of the documentation.

use std::time::Duration;

use starling_model::{Namespace, NodeName, PortName, ServiceKey, ServiceName};

use super::{LogFormat, Preset, TcpAccess, access_log};
use crate::schema::{Bad, Field, Form, Shape, dotted};
use crate::tree::Node;
use crate::values;

/// Longest wait for a first sync: beyond an hour nobody waits.
const READY_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// Most data threads: beyond this, sockets and not cores are short.
const DATA_THREADS_MAX: u32 = 64;

const DNS: &str = "the DNS server";
const ADDRESSES: &str = "loopback addresses of services";

pub(crate) const TOP: &[Field] = &[
    Field::leaf("node_name", Form::Text, |node| values::name(NodeName::new)(node).map(drop))
        .rule("this node's name, the one in its certificate"),
    Field::leaf("trust", Form::Text, |node| values::path(node).map(drop)).rule("the folder of bundle.trust"),
    Field::leaf("state", Form::Text, |node| values::path(node).map(drop)).rule("the folder of what the agent keeps"),
    Field::table("mesh", MESH),
    Field::table("api", API),
    Field::table("dns", DNS_FIELDS),
    Field::table("outbound", OUTBOUND),
    Field::table("gateway", GATEWAY),
    Field::table("metrics", METRICS),
    Field::table("log", LOG),
    Field::table("access_log", ACCESS_LOG),
    Field::table("data", DATA),
    Field::tables("upstream", UPSTREAM).rule("a list of [[upstream]] tables"),
];

const MESH: &[Field] = &[
    Field::leaf("listen", Form::Text, |node| values::mesh_listen(node).map(drop))
        .rule("where gossip (UDP) and traffic (TCP) arrive, as \"ADDRESS:PORT\""),
    Field::leaf("advertise", Form::Text, |node| values::dialled(node).map(drop))
        .rule("the \"ADDRESS:PORT\" that other nodes dial; unset, it is found out"),
    Field::leaf("seeds", Form::List, |node| values::seeds(node).map(drop))
        .rule("a list of \"HOST:PORT\" of nodes that may already run"),
    Field::leaf("labels", Form::Pairs, |node| values::labels(node).map(drop))
        .rule("a table of the node's labels, like { zone = \"a\", rack = \"r7\" }"),
    Field::leaf("preset", Form::Text, |node| preset(node).map(drop)).rule("the set of gossip timings"),
    Field::leaf("ready_timeout", Form::Text, |node| ready_timeout(node).map(drop))
        .rule("how long to wait for a first answer, like \"30s\""),
];

const API: &[Field] = &[
    Field::leaf("socket", Form::Text, |node| values::socket_path(node).map(drop)).rule("the path of the Unix socket"),
    Field::leaf("listen", Form::Text, |node| values::loopback(node).map(drop))
        .rule("a loopback \"ADDRESS:PORT\" for reading"),
    Field::leaf("tcp", Form::Text, |node| tcp_access(node).map(drop)).rule("what is allowed over TCP"),
    Field::leaf("hosts", Form::List, |node| values::hosts(node).map(drop))
        .rule("a list of further names for the Host header"),
    Field::leaf("token_file", Form::Text, |node| values::path(node).map(drop))
        .rule("the file with the token of tcp = \"token\""),
];

const DNS_FIELDS: &[Field] = &[
    Field::leaf("listen", Form::Text, |node| values::or_off(values::loopback)(node).map(drop))
        .rule("a loopback \"ADDRESS:PORT\", or \"off\"")
        .later(DNS),
    Field::leaf("domain", Form::Text, |node| values::domain(node).map(drop)).rule("the zone of services"),
    Field::leaf("forward", Form::List, |node| resolvers(node).map(drop))
        .rule("a list of resolvers' addresses, like [\"192.0.2.53\"]")
        .later(DNS),
];

const OUTBOUND: &[Field] = &[
    Field::leaf("http", Form::Text, |node| values::or_off(values::loopback)(node).map(drop))
        .rule("a loopback \"ADDRESS:PORT\", or \"off\""),
    Field::leaf("vip_cidr", Form::Text, |node| values::range(node).map(drop))
        .rule("a loopback range of /24 or wider")
        .later(ADDRESSES),
    Field::leaf("vip", Form::Text, |node| values::or_off(values::loopback)(node).map(drop))
        .rule("a loopback \"ADDRESS:PORT\", or \"off\"")
        .later(ADDRESSES),
    Field::leaf("vip_listeners", Form::List, |node| services(node).map(drop))
        .rule("a list of services, like [\"orders\", \"shop/cart\"]")
        .later(ADDRESSES),
    Field::leaf("session_key_file", Form::Text, |node| values::path(node).map(drop))
        .rule("the file with the key that seals sessions' cookies, the same at all agents; unset, they are not sealed"),
];

const GATEWAY: &[Field] = &[Field::leaf("listen", Form::Text, |node| values::or_off(values::ip)(node).map(drop))
    .rule("the IP address of this host at which Gateways listen, or \"off\"; unset, that of mesh.listen")];

const METRICS: &[Field] = &[Field::leaf("listen", Form::Text, |node| values::or_off(values::address)(node).map(drop))
    .rule("an \"ADDRESS:PORT\" for a remote Prometheus, or \"off\"")
    .later("the metrics listener")];

const LOG: &[Field] = &[
    Field::leaf("filter", Form::Text, |node| values::text(node).map(drop))
        .rule("levels like \"info,starling_gossip=debug\""),
    Field::leaf("format", Form::Text, |node| log_format(node).map(drop)).rule("how log lines look"),
];

const ACCESS_LOG: &[Field] = &[
    Field::leaf("to", Form::Text, |node| access_log::to(node).map(drop))
        .rule("where lines go: \"journald\", \"stdout\" or an absolute path"),
    Field::leaf("format", Form::Text, |node| access_log::format(node).map(drop)).rule("how lines look, or \"off\""),
    Field::leaf("only", Form::Text, |node| access_log::only(node).map(drop))
        .rule("which requests are told: \"errors\", \"all\" or a share like \"sample:0.01\""),
];

const DATA: &[Field] = &[Field::leaf("threads", Form::Toml, |node| threads(node).map(drop))
    .rule("how many threads move traffic; unset, one for every two cores, at most 4")];

pub(crate) const UPSTREAM: &[Field] = &[
    Field::leaf("service", Form::Text, |node| values::name(ServiceName::new)(node).map(drop))
        .rule("the name of the service that is reached")
        .required(),
    Field::leaf("namespace", Form::Text, |node| values::name(Namespace::new)(node).map(drop))
        .rule("the service's namespace; the default is \"default\""),
    Field::leaf("port", Form::Text, |node| values::name(PortName::new)(node).map(drop))
        .rule("the name of a port of the service; unset, its only one"),
    Field::leaf("listen", Form::Text, |node| values::listen_address(node).map(drop))
        .rule("an \"ADDRESS:PORT\" or \"unix:/PATH\" for applications of this host")
        .required(),
    Field::leaf("as", Form::Text, |node| service(node).map(drop))
        .rule("the local service whose identity the calls carry"),
];

pub(crate) fn preset(node: &Node) -> Result<Preset, Bad> {
    values::one_of(&[("lan", Preset::Lan), ("wan", Preset::Wan), ("fast", Preset::Fast)])(node)
}

pub(crate) fn tcp_access(node: &Node) -> Result<TcpAccess, Bad> {
    values::one_of(&[("off", TcpAccess::Off), ("read", TcpAccess::Read), ("token", TcpAccess::Token)])(node)
}

pub(crate) fn log_format(node: &Node) -> Result<LogFormat, Bad> {
    const WORDS: &[(&str, LogFormat)] = &[
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("journald", LogFormat::Journald),
        ("json", LogFormat::Json),
    ];
    values::one_of(WORDS)(node)
}

pub(crate) fn ready_timeout(node: &Node) -> Result<Duration, Bad> {
    values::period(Duration::ZERO, READY_TIMEOUT_MAX)(node)
}

pub(crate) fn threads(node: &Node) -> Result<u32, Bad> {
    values::number(1, DATA_THREADS_MAX)(node)
}

pub(crate) fn service(node: &Node) -> Result<ServiceKey, Bad> {
    let text = values::text(node)?;
    ServiceKey::parse(text, &Namespace::default())
        .map_err(|_| Bad::new("is not a service: NAME or NAMESPACE/NAME, each 1 to 63 of a-z, 0-9 and '-'"))
}

pub(crate) fn services(node: &Node) -> Result<Vec<ServiceKey>, Bad> {
    values::list(node, service)
}

pub(crate) fn resolvers(node: &Node) -> Result<Vec<std::net::SocketAddr>, Bad> {
    values::list(node, |node| {
        let text = values::text(node)?;
        match text.parse::<std::net::IpAddr>() {
            Ok(ip) => Ok(std::net::SocketAddr::new(ip, 53)),
            Err(_) => values::address(node),
        }
    })
}

/// All dotted keys.
pub(crate) fn keys() -> Vec<String> {
    dotted(TOP, "")
}

/// The field at a path, and what of the path is left behind it (a label's name).
pub(crate) fn find<'a>(path: &'a [&'a str]) -> Option<(&'static Field, &'a [&'a str])> {
    let mut fields = TOP;
    let mut rest = path;
    loop {
        let (first, tail) = rest.split_first()?;
        let field = fields.iter().find(|field| field.name == *first)?;
        match (&field.shape, tail) {
            (Shape::Table(inner), [_, ..]) => {
                fields = inner;
                rest = tail;
            }
            (Shape::Leaf(Form::Pairs, _), _) | (_, []) => return Some((field, tail)),
            (Shape::Leaf(..) | Shape::Tables(_), _) => return None,
        }
    }
}
