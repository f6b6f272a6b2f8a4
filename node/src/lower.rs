//! From the agent's settings to each component's own configuration.
//!
//! Every structure of settings is taken apart completely, so a new key cannot be forgotten: it either goes somewhere or
//! is named here as having no effect yet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use starling_config::{
    AccessLogFormat, AccessLogOnly, AccessLogSettings, AgentConfig, ApiSettings, DataSettings, GatewayListen,
    InstanceSpec, ListenAddress, MeshSettings, OutboundSettings, Preset, RunAs, SeedAddress, UpstreamSpec,
};
use starling_gossip::{Seed, SwimConfig};
use starling_model::ServiceKey;
use starling_proxy::access_log::Only;
use starling_proxy::access_log::format::{Format, Formatter};
use starling_proxy::{AccessLog, LocalInstances, Process, ProxyConfig, Upstream};
use starling_routing::TableSettings;

use crate::tasks::identity::Identity;
use crate::tasks::instances::{Announcer, LocalInstance, Users};

/// Stands for "somewhere else" when the system is asked which of our addresses leads there (RFC 5737).
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Timing of the protocol.
#[must_use]
pub fn swim(preset: Preset) -> SwimConfig {
    match preset {
        Preset::Lan => SwimConfig::lan(),
        Preset::Wan => SwimConfig::wan(),
        Preset::Fast => SwimConfig::fast(),
    }
}

/// Members to begin with, in the form that their names are looked up by.
#[must_use]
pub fn seeds(seeds: &[SeedAddress]) -> Vec<Seed> {
    seeds.iter().map(|seed| Seed(seed.to_string())).collect()
}

/// The same without our own address: one seed list serves all nodes.
#[must_use]
pub fn other_seeds(mesh: &MeshSettings, advertised: SocketAddr) -> Vec<Seed> {
    let ours = |seed: &Seed| seed.0.parse::<SocketAddr>().is_ok_and(|at| at == advertised || at == mesh.listen);
    seeds(&mesh.seeds).into_iter().filter(|seed| !ours(seed)).collect()
}

/// Where others reach us: as configured, or the listening address, or the address that the system would use towards
/// `seed` (any other host when there is none).
#[must_use]
pub fn advertised(mesh: &MeshSettings, bound: SocketAddr, seed: Option<SocketAddr>) -> SocketAddr {
    if let Some(address) = mesh.advertise {
        return address;
    }
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let towards = seed.unwrap_or(ELSEWHERE);
    let any: SocketAddr = if towards.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let found = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(towards)?;
        socket.local_addr()
    });
    match found {
        Ok(local) if !local.ip().is_unspecified() => SocketAddr::new(local.ip(), bound.port()),
        Ok(_) | Err(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), bound.port()),
    }
}

/// The data plane's settings.
#[must_use]
pub fn proxy(
    config: &AgentConfig,
    identity: &Identity,
    access_log: Option<AccessLog>,
    connection_age: Duration,
) -> ProxyConfig {
    // The addresses of services (vip, vip_cidr, vip_listeners) have no listener yet; the configuration says so.
    let OutboundSettings { http, vip_cidr: _, vip: _, vip_listeners: _, session_key_file: _ } = &config.outbound;
    let DataSettings { threads } = config.data;
    ProxyConfig {
        node: identity.node.node().clone(),
        trust_domain: identity.node.trust_domain().clone(),
        domain: config.dns.domain.clone(),
        data_listen: config.mesh.listen,
        http_listen: *http,
        gateway_listen: match config.gateway.listen {
            GatewayListen::OfMesh => Some(config.mesh.listen.ip()),
            GatewayListen::At(address) => Some(address),
            GatewayListen::Off => None,
        },
        upstreams: config.upstreams.iter().map(upstream).collect(),
        access_log: access_log.map(Arc::new),
        connection_age,
        threads: threads.map_or(0, std::num::NonZero::get),
    }
}

/// Which lines the access log has and how they look; `None`: it is off.
#[must_use]
pub fn access_log(settings: &AccessLogSettings, identity: &Identity) -> Option<(Only, Formatter)> {
    // Where it goes is the writer's.
    let AccessLogSettings { to: _, format, only } = settings;
    let format = match format {
        AccessLogFormat::Json => Format::Json,
        AccessLogFormat::Common => Format::Common,
        AccessLogFormat::Envoy => Format::Envoy,
        AccessLogFormat::Off => return None,
    };
    let only = match only {
        AccessLogOnly::Errors => Only::Errors,
        AccessLogOnly::All => Only::All,
        AccessLogOnly::Sample(parts) => Only::Sample(*parts),
    };
    let (node, trust_domain) = (identity.node.node().clone(), identity.node.trust_domain().clone());
    Some((only, Formatter { format, node, trust_domain }))
}

fn upstream(spec: &UpstreamSpec) -> Upstream {
    let UpstreamSpec { service, port, listen, source } = spec.clone();
    let listen = match listen {
        ListenAddress::Tcp(address) => starling_proxy::ListenAddress::Tcp(address),
        ListenAddress::Unix(path) => starling_proxy::ListenAddress::Unix(path),
    };
    Upstream { service, port, listen, source }
}

/// What the table takes from the settings.
#[must_use]
pub fn table(config: &AgentConfig) -> TableSettings {
    TableSettings { domain: config.dns.domain.clone() }
}

/// What runs here, as the data plane looks it up. `users` are those of this host that instances name.
#[must_use]
pub fn local_instances(instances: &[LocalInstance], users: &Users) -> LocalInstances {
    let process = |spec: &InstanceSpec| match (&spec.run_as, &spec.unit) {
        (Some(RunAs::Uid(uid)), _) => Some(Process::Uid(*uid)),
        (Some(RunAs::User(name)), _) => Some(users.get(name).copied().flatten().map_or(Process::Nobody, Process::Uid)),
        (None, Some(unit)) => Some(Process::Unit(unit.clone())),
        (None, None) => None,
    };
    // Where root's files say who may call as a service, nobody adds to that over the API.
    let by_file = |held: &&LocalInstance| matches!(held.announcer, Announcer::File(_)) && process(&held.spec).is_some();
    let settled: BTreeSet<ServiceKey> = instances.iter().filter(by_file).map(|held| held.spec.key()).collect();
    let callers = |held: &LocalInstance| match held.announcer {
        Announcer::Api if settled.contains(&held.spec.key()) => None,
        Announcer::Api | Announcer::File(_) => process(&held.spec),
    };
    let entry = |held: &LocalInstance| {
        let spec = &held.spec;
        let instance = starling_proxy::LocalInstance {
            service: spec.key(),
            port: spec.port.clone(),
            protocol: spec.protocol,
            address: spec.address,
            readiness: held.readiness,
            callers: callers(held),
        };
        (spec.name.clone(), instance)
    };
    instances.iter().map(entry).collect()
}

/// Hosts that the API answers to besides loopback.
#[must_use]
pub fn api_hosts(api: &ApiSettings) -> Vec<String> {
    let ApiSettings { socket: _, listen: _, tcp: _, hosts, token_file: _ } = api;
    hosts.clone()
}

/// The region of a node: its label `region`, since every key space carries one.
#[must_use]
pub fn region(mesh: &MeshSettings) -> String {
    mesh.labels.get("region").unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use starling_model::Labels;

    use super::*;

    fn mesh(listen: &str, advertise: Option<&str>) -> MeshSettings {
        MeshSettings {
            listen: listen.parse().unwrap(),
            advertise: advertise.map(|text| text.parse().unwrap()),
            seeds: Vec::new(),
            labels: Labels::default(),
            preset: Preset::Lan,
            ready_timeout: Duration::from_secs(30),
        }
    }

    #[test]
    fn the_advertised_address_is_reachable_from_the_seed() {
        let check = |listen: &str, advertise, seed: Option<&str>, want: &str| {
            let settings = mesh(listen, advertise);
            let got = advertised(&settings, settings.listen, seed.map(|text| text.parse().unwrap()));
            assert_eq!(got.to_string(), want);
        };
        check("0.0.0.0:7740", Some("10.0.0.12:7740"), None, "10.0.0.12:7740");
        check("127.0.0.3:7740", None, Some("127.0.0.1:7740"), "127.0.0.3:7740");
        check("0.0.0.0:7740", None, Some("127.0.0.1:7740"), "127.0.0.1:7740");
        let anywhere = mesh("0.0.0.0:7740", None);
        assert!(!advertised(&anywhere, anywhere.listen, None).ip().is_unspecified());
    }

    #[test]
    fn root_s_files_say_who_may_call_as_a_service_and_the_api_adds_to_no_file() {
        let held = |name: &str, announcer: Announcer, extra: &str| {
            let json =
                format!(r#"{{"service":"web","name":"{name}","protocol":"http","address":"127.0.0.1:80"{extra}}}"#);
            let spec = serde_json::from_str(&json).unwrap();
            LocalInstance { spec, announcer, readiness: starling_model::Readiness::Ready, detail: None }
        };
        let file = || Announcer::File("web.toml".to_owned());
        let users = Users::from([("web".to_owned(), Some(7)), ("gone".to_owned(), None)]);
        let callers = |all: &[LocalInstance]| -> Vec<Option<Process>> {
            local_instances(all, &users).iter().map(|(_, instance)| instance.callers.clone()).collect()
        };
        let named = [
            held("a", file(), r#","run_as":"web""#),
            held("b", file(), r#","run_as":"gone""#),
            held("c", file(), r#","unit":"web.service""#),
            held("d", file(), ""),
            held("e", Announcer::Api, r#","run_as":1000"#),
        ];
        let unit = Some(Process::Unit("web.service".to_owned()));
        assert_eq!(callers(&named), [Some(Process::Uid(7)), Some(Process::Nobody), unit, None, None]);
        assert_eq!(callers(&named[3..]), [None, Some(Process::Uid(1000))], "no file says who");
    }

    #[test]
    fn seeds_keep_their_form() {
        let both = [SeedAddress::Host("vm-1:7740".to_owned()), SeedAddress::Service("_starling._udp.x".to_owned())];
        assert_eq!(seeds(&both), ["vm-1:7740", "dns+srv://_starling._udp.x"].map(|seed| Seed(seed.to_owned())));
    }
}
