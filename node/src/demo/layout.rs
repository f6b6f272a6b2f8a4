//! What runs where: addresses, ports, instances, and the files that say so to each agent.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// The demo's trust domain.
pub(super) const TRUST_DOMAIN: &str = "demo.internal";

/// Requests per second from web to orders.
pub(super) const RATE: u32 = 40;

/// How far all ports move up when one is taken.
const SHIFT: u16 = 100;

/// How often they may move; beyond this the host is not fit for a demo.
const SHIFTS_MAX: u16 = 20;

/// The ports of one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) mesh: u16,
    pub(super) api: u16,
    pub(super) http: u16,
}

impl Ports {
    /// The usual ports, moved up.
    pub(super) const fn shifted(shift: u16) -> Self {
        Self { mesh: 7740 + shift, api: 7741 + shift, http: 7780 + shift }
    }

    /// All addresses of the agent at `ip`.
    fn free(self, ip: Ipv4Addr) -> bool {
        let tcp = |port| TcpListener::bind((ip, port)).is_ok();
        tcp(self.mesh) && tcp(self.api) && tcp(self.http) && UdpSocket::bind((ip, self.mesh)).is_ok()
    }

    /// How many of them cannot be bound at `ip`.
    pub(super) fn taken(self, ip: Ipv4Addr) -> usize {
        let tcp =
            [self.mesh, self.api, self.http].iter().filter(|port| TcpListener::bind((ip, **port)).is_err()).count();
        tcp + usize::from(UdpSocket::bind((ip, self.mesh)).is_err())
    }
}

/// The loopback address of one agent, from 1.
pub(super) const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number)
}

/// The smallest shift with which all ports of all agents are free.
pub(super) fn free_shift(nodes: u8) -> Option<u16> {
    (0..=SHIFTS_MAX)
        .map(|step| step * SHIFT)
        .find(|shift| (1..=nodes).all(|number| Ports::shifted(*shift).free(address(number))))
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http,
    Tcp,
}

/// One instance of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) service: &'static str,
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) speaks: Speaks,
    /// Number of its agent, from 1.
    pub(super) node: u8,
}

impl Instance {
    /// `orders-v1@vm-2`
    pub(super) fn id(&self) -> String {
        format!("{}@vm-{}", self.name, self.node)
    }

    /// Its table in `services.d`.
    pub(super) fn toml(&self, listen: SocketAddr) -> String {
        let (protocol, check) = match self.speaks {
            Speaks::Http => ("http", "http = \"/healthz\""),
            Speaks::Tcp => ("tcp", "tcp = true"),
        };
        format!(
            "[[instance]]\nservice = \"{}\"\nname = \"{}\"\nprotocol = \"{protocol}\"\naddress = \"{listen}\"\n\
             labels = {{ version = \"{}\" }}\n\
             health = {{ {check}, interval = \"500ms\", timeout = \"500ms\", unhealthy = 2, healthy = 1 }}\n",
            self.service, self.name, self.version
        )
    }
}

/// All instances: web first, orders v1 on all others, orders v2 beside one of them, db at the end.
pub(super) fn instances(nodes: u8) -> Vec<Instance> {
    let second = nodes.min(2);
    let one = |service, name, version, speaks, node| Instance { service, name, version, speaks, node };
    let mut all = vec![one("web", "web", "v1", Speaks::Http, 1)];
    all.extend((second..=nodes).map(|node| one("orders", "orders-v1", "v1", Speaks::Http, node)));
    all.push(one("orders", "orders-v2", "v2", Speaks::Http, second));
    all.push(one("db", "db", "v1", Speaks::Tcp, nodes));
    all
}

/// The document that says which nodes may serve the demo's services and call as them.
pub(super) const GRANT: &str = "\
apiVersion: starling/v1
kind: ServiceGrant
metadata: {name: demo}
spec:
  nodes: [{node: \"vm-*\"}]
  services: [{service: web}, {service: orders}, {service: db}]
";

/// The settings of one agent.
pub(super) fn agent_toml(number: u8, ports: Ports) -> String {
    let ip = address(number);
    let Ports { mesh, api, http } = ports;
    let seeds = if number == 1 { String::new() } else { format!("seeds = [\"{}:{mesh}\"]\n", address(1)) };
    format!(
        "node_name = \"vm-{number}\"\n\n[mesh]\nlisten = \"{ip}:{mesh}\"\nadvertise = \"{ip}:{mesh}\"\n{seeds}\
         preset = \"fast\"\nready_timeout = \"5s\"\n\n[api]\nlisten = \"{ip}:{api}\"\n\n[outbound]\n\
         http = \"{ip}:{http}\"\n\n[log]\nformat = \"text\"\n"
    )
}

#[cfg(test)]
mod tests {
    use starling_config::{ConfigDir, SourceFile, SourceKind, Sources, load};

    use super::*;

    #[test]
    fn every_service_is_granted() {
        let read = starling_config::documents::parse("grant.yaml", GRANT).unwrap();
        let starling_config::documents::Spec::ServiceGrant(grant) = &read[0].spec else { panic!("{read:?}") };
        let granted: Vec<String> = grant.services.iter().map(|service| service.name.to_string()).collect();
        assert!(instances(9).iter().all(|instance| granted.iter().any(|name| name == instance.service)), "{granted:?}");
        assert!(read.len() == 1 && grant.nodes.len() == 1);
    }

    #[test]
    fn three_agents_carry_what_is_documented() {
        let ids: Vec<String> = instances(3).iter().map(Instance::id).collect();
        assert_eq!(ids, ["web@vm-1", "orders-v1@vm-2", "orders-v1@vm-3", "orders-v2@vm-2", "db@vm-3"]);
        let ids: Vec<String> = instances(1).iter().map(Instance::id).collect();
        assert_eq!(ids, ["web@vm-1", "orders-v1@vm-1", "orders-v2@vm-1", "db@vm-1"]);
    }

    #[test]
    fn agents_read_their_settings_without_a_warning() {
        for number in 1..=3 {
            let text = agent_toml(number, Ports::shifted(100));
            let file = SourceFile { path: "agent.toml".to_owned(), text, kind: SourceKind::AgentToml };
            let sources = Sources {
                files: vec![file],
                dir: ConfigDir::new("/tmp/demo/vm-1"),
                hostname: "x".to_owned(),
                ..Sources::default()
            };
            let loaded = load(sources).unwrap();
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            assert_eq!(loaded.config.api.listen.port(), 7841);
            assert_eq!(loaded.config.mesh.seeds.len(), usize::from(number != 1));
        }
    }

    #[test]
    fn instances_are_read_as_written() {
        for instance in instances(3) {
            let text = instance.toml("127.0.0.1:8080".parse().unwrap());
            let read = starling_config::parse_instances("x.toml", &text).unwrap();
            assert_eq!(read.len(), 1, "{text}");
        }
    }

    #[test]
    fn a_taken_port_moves_all() {
        let held = UdpSocket::bind((address(9), 7740));
        let shift = free_shift(9);
        assert!(shift.is_some_and(|shift| shift >= SHIFT), "{shift:?}");
        assert!(Ports::shifted(0).taken(address(9)) >= 1);
        drop(held);
    }
}
