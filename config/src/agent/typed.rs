//! From the merged layers to typed settings, with the rules that hold between settings.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use starling_model::{Namespace, NodeName, PortName, ServiceKey, ServiceName, codes};

use super::{
    AccessLogSettings, AgentConfig, ApiSettings, ConfigDir, DataSettings, Defaults, DnsSettings, GatewayListen,
    GatewaySettings, ListenAddress, LogSettings, MeshSettings, MetricsSettings, OutboundSettings, TcpAccess,
    UpstreamSpec, access_log, settings,
};
use crate::problem::Problem;
use crate::schema::{Bad, Field, Shape, join};
use crate::source::At;
use crate::tree::{self, Node, Table, Value};
use crate::values;

/// Most fixed entrances: each is a listening socket.
const UPSTREAMS_MAX: usize = 256;

/// Types every value; `None` when one of them is missing or wrong, which the checks before have told already.
pub(crate) fn config(dir: ConfigDir, merged: &Table, problems: &mut Vec<Problem>) -> Option<AgentConfig> {
    let upstreams = upstreams(merged, problems);
    cross_checks(merged, &upstreams, problems);
    Some(AgentConfig {
        dir,
        node_name: get(merged, &["node_name"], values::name(NodeName::new))?,
        trust: get(merged, &["trust"], values::path)?,
        state: get(merged, &["state"], values::path)?,
        mesh: MeshSettings {
            listen: get(merged, &["mesh", "listen"], values::mesh_listen)?,
            advertise: get(merged, &["mesh", "advertise"], values::dialled),
            seeds: get(merged, &["mesh", "seeds"], values::seeds)?,
            labels: get(merged, &["mesh", "labels"], values::labels)?,
            preset: get(merged, &["mesh", "preset"], settings::preset)?,
            ready_timeout: get(merged, &["mesh", "ready_timeout"], settings::ready_timeout)?,
        },
        api: ApiSettings {
            socket: get(merged, &["api", "socket"], values::socket_path)?,
            listen: get(merged, &["api", "listen"], values::loopback)?,
            tcp: get(merged, &["api", "tcp"], settings::tcp_access)?,
            hosts: get(merged, &["api", "hosts"], values::hosts)?,
            token_file: get(merged, &["api", "token_file"], values::path),
        },
        dns: DnsSettings {
            listen: get(merged, &["dns", "listen"], values::or_off(values::loopback))?,
            domain: get(merged, &["dns", "domain"], values::domain)?,
            forward: get(merged, &["dns", "forward"], settings::resolvers)?,
        },
        outbound: OutboundSettings {
            http: get(merged, &["outbound", "http"], values::or_off(values::loopback))?,
            vip_cidr: get(merged, &["outbound", "vip_cidr"], values::range)?,
            vip: get(merged, &["outbound", "vip"], values::or_off(values::loopback))?,
            vip_listeners: get(merged, &["outbound", "vip_listeners"], settings::services)?,
            session_key_file: get(merged, &["outbound", "session_key_file"], values::path),
        },
        gateway: GatewaySettings {
            listen: match get(merged, &["gateway", "listen"], values::or_off(values::ip)) {
                None => GatewayListen::OfMesh,
                Some(None) => GatewayListen::Off,
                Some(Some(address)) => GatewayListen::At(address),
            },
        },
        upstreams: upstreams.into_iter().map(|(spec, _)| spec).collect(),
        metrics: MetricsSettings { listen: get(merged, &["metrics", "listen"], values::or_off(values::address))? },
        log: LogSettings {
            filter: get(merged, &["log", "filter"], |node| values::text(node).map(str::to_owned))?,
            format: get(merged, &["log", "format"], settings::log_format)?,
        },
        access_log: AccessLogSettings {
            to: get(merged, &["access_log", "to"], access_log::to)?,
            format: get(merged, &["access_log", "format"], access_log::format)?,
            only: get(merged, &["access_log", "only"], access_log::only)?,
        },
        data: DataSettings {
            threads: get(merged, &["data", "threads"], settings::threads)
                .and_then(|threads| usize::try_from(threads).ok())
                .and_then(NonZeroUsize::new),
        },
    })
}

fn get<T>(table: &Table, path: &[&str], parse: impl Fn(&Node) -> Result<T, Bad>) -> Option<T> {
    tree::lookup(table, path).and_then(|node| parse(node).ok())
}

fn upstreams(merged: &Table, problems: &mut Vec<Problem>) -> Vec<(UpstreamSpec, At)> {
    let Some(node) = tree::lookup(merged, &["upstream"]) else { return Vec::new() };
    let Value::Array(nodes) = &node.value else { return Vec::new() };
    if nodes.len() > UPSTREAMS_MAX {
        let message = format!("{} upstreams, at most {UPSTREAMS_MAX} are allowed", nodes.len());
        problems.push(Problem { place: node.at.place(), ..Problem::new(codes::BAD_SETTING, message) });
    }
    nodes.iter().take(UPSTREAMS_MAX).filter_map(upstream).collect()
}

fn upstream(node: &Node) -> Option<(UpstreamSpec, At)> {
    let table = node.value.as_table()?;
    let namespace = match table.get("namespace") {
        Some(entry) => values::name(Namespace::new)(&entry.node).ok()?,
        None => Namespace::default(),
    };
    let listen = table.get("listen")?;
    let spec = UpstreamSpec {
        service: ServiceKey::new(namespace, get(table, &["service"], values::name(ServiceName::new))?),
        port: get(table, &["port"], values::name(PortName::new)),
        listen: values::listen_address(&listen.node).ok()?,
        source: get(table, &["as"], settings::service),
    };
    Some((spec, listen.node.at.clone()))
}

/// Rules between settings: a token needs its file, and no two listeners share an address.
fn cross_checks(merged: &Table, upstreams: &[(UpstreamSpec, At)], problems: &mut Vec<Problem>) {
    let tcp = get(merged, &["api", "tcp"], settings::tcp_access);
    if tcp == Some(TcpAccess::Token) && tree::lookup(merged, &["api", "token_file"]).is_none() {
        problems.push(Problem {
            place: tree::lookup(merged, &["api", "tcp"]).and_then(|node| node.at.place()),
            help: Some(
                "name a file with mode 0640 that holds the token: token_file = \"/etc/starling/api.token\"".into(),
            ),
            ..Problem::new(codes::BAD_SETTING, "api.tcp = \"token\" needs api.token_file")
        });
    }
    let mut taken: Vec<(String, ListenAddress)> = Vec::new();
    let mut take = |key: String, address: ListenAddress, at: Option<&At>| {
        if let Some((holder, held)) = taken.iter().find(|(_, held)| collide(held, &address)) {
            problems.push(Problem {
                place: at.and_then(At::place),
                help: Some("give each listener an address of its own".into()),
                ..Problem::new(codes::BAD_SETTING, format!("{key} = \"{address}\" is taken by {holder} = \"{held}\""))
            });
        }
        taken.push((key, address));
    };
    let mut fixed = |path: &[&str], address: Option<SocketAddr>| {
        if let Some(address) = address {
            take(path.join("."), ListenAddress::Tcp(address), tree::lookup(merged, path).map(|node| &node.at));
        }
    };
    fixed(&["mesh", "listen"], get(merged, &["mesh", "listen"], values::mesh_listen));
    if tcp != Some(TcpAccess::Off) {
        fixed(&["api", "listen"], get(merged, &["api", "listen"], values::loopback));
    }
    for (path, parse) in
        [(["outbound", "http"], values::loopback as fn(&Node) -> _), (["metrics", "listen"], values::address)]
    {
        fixed(&path, get(merged, &path, values::or_off(parse)).flatten());
    }
    if let Some(socket) = get(merged, &["api", "socket"], values::socket_path) {
        let at = tree::lookup(merged, &["api", "socket"]).map(|node| &node.at);
        take("api.socket".to_owned(), ListenAddress::Unix(socket), at);
    }
    for (number, (spec, at)) in upstreams.iter().enumerate() {
        take(format!("upstream[{number}].listen"), spec.listen.clone(), Some(at));
    }
}

/// True when both cannot be bound at once. Port 0 never collides: the system chooses.
fn collide(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => {
            let every = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || (every && a.is_ipv4() == b.is_ipv4()))
        }
        (ListenAddress::Unix(a), ListenAddress::Unix(b)) => a == b,
        (ListenAddress::Tcp(_), ListenAddress::Unix(_)) | (ListenAddress::Unix(_), ListenAddress::Tcp(_)) => false,
    }
}

/// Settings that somebody changed although nothing acts on them yet.
pub(crate) fn warnings(merged: &Table, defaults: &Defaults) -> Vec<Problem> {
    let mut warnings = Vec::new();
    idle(settings::TOP, merged, defaults, "", &mut warnings);
    warnings
}

fn idle(fields: &[Field], table: &Table, defaults: &Defaults, path: &str, warnings: &mut Vec<Problem>) {
    for field in fields {
        let Some(entry) = table.get(field.name) else { continue };
        let key = join(path, field.name);
        match (&field.shape, &entry.node.value, field.later) {
            (Shape::Table(inner), Value::Table(inside), _) => idle(inner, inside, defaults, &key, warnings),
            (_, value, Some(later)) => {
                let path: Vec<&str> = key.split('.').collect();
                let default = tree::lookup(&defaults.table, &path).map(|node| node.value.to_toml());
                if default.as_deref() != Some(value.to_toml().as_str()) {
                    warnings.push(Problem {
                        place: entry.node.at.place(),
                        help: Some(format!("it takes effect together with {later}, in a later release")),
                        ..Problem::new(codes::SETTING_IDLE, format!("{key} has no effect in this release"))
                    });
                }
            }
            _ => {}
        }
    }
}
