//! From the name of a seed to addresses: `HOST:PORT` by the system's resolver, `dns+srv://NAME` by its SRV records.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use rand::{Rng, RngExt as _};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long a name may take.
const LOOK_UP_DEADLINE: Duration = Duration::from_secs(5);
/// Addresses taken from one seed.
const ADDRESSES_MAX: usize = 8;
/// Of each host that an SRV record names, this many, so that one host with many addresses does not hide the others.
const ADDRESSES_PER_TARGET_MAX: usize = 2;
/// What stands before a name whose SRV records list the seeds.
const SERVICE_SCHEME: &str = "dns+srv://";

/// Looks up `HOST:PORT` or `dns+srv://NAME`. The name servers are those of the system, read anew each time.
///
/// # Errors
/// A sentence when there is no such name, or no answer in time.
pub async fn resolve(seed: &str) -> Result<Vec<SocketAddr>, String> {
    let found = async {
        match service_of(seed) {
            Some(name) => {
                let resolver = TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build);
                service(&resolver.map_err(|error| error.to_string())?, name).await
            }
            None => host(seed, ADDRESSES_MAX).await,
        }
    };
    timeout(LOOK_UP_DEADLINE, found)
        .await
        .unwrap_or_else(|_elapsed| Err("the name servers did not answer in 5 s".into()))
}

/// The name behind `dns+srv://`.
pub(super) fn service_of(seed: &str) -> Option<&str> {
    seed.strip_prefix(SERVICE_SCHEME)
}

async fn host(host: &str, most: usize) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = lookup_host(host).await.map_err(|error| error.to_string())?.take(most).collect();
    if found.is_empty() { Err("the name has no address".to_owned()) } else { Ok(found) }
}

/// One host that offers a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    priority: u16,
    weight: u16,
    host: String,
    port: u16,
}

async fn service(resolver: &TokioResolver, name: &str) -> Result<Vec<SocketAddr>, String> {
    // The name is a whole one: no search domain is tried.
    let whole = format!("{}.", name.trim_end_matches('.'));
    let answer = resolver.srv_lookup(whole).await.map_err(|error| error.to_string())?;
    let mut targets = Vec::new();
    for record in answer.answers() {
        // Others than SRV are aliases on the way.
        if let RData::SRV(srv) = &record.data
            && !srv.target.is_root()
            && srv.port != 0
        {
            // Without the dot at the end, so that the system's hosts file knows it, too.
            let host = srv.target.to_ascii().trim_end_matches('.').to_owned();
            targets.push(Target { priority: srv.priority, weight: srv.weight, host, port: srv.port });
        }
    }
    if targets.is_empty() {
        return Err("the name has no SRV record that names a host".to_owned());
    }
    let (mut addresses, mut last) = (Vec::new(), String::new());
    let order = in_order(targets, &mut rand::rng());
    for target in order {
        if addresses.len() >= ADDRESSES_MAX {
            break;
        }
        match host(&format!("{}:{}", target.host, target.port), ADDRESSES_PER_TARGET_MAX).await {
            Ok(found) => addresses.extend(found),
            Err(error) => last = format!("{}: {error}", target.host),
        }
    }
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() { Err(last) } else { Ok(addresses) }
}

/// The order in which to try: by priority, and among equals by draws that follow the weights (RFC 2782).
fn in_order(mut targets: Vec<Target>, rng: &mut impl Rng) -> Vec<Target> {
    targets.sort_by_key(|target| (target.priority, target.weight));
    let mut order = Vec::with_capacity(targets.len());
    while let Some(first) = targets.first() {
        let priority = first.priority;
        let equals = targets.iter().take_while(|target| target.priority == priority);
        let sum: u64 = equals.map(|target| u64::from(target.weight)).sum();
        let drawn = rng.random_range(0..=sum);
        let mut running = 0;
        let at = targets.iter().position(|target| {
            running += u64::from(target.weight);
            running >= drawn
        });
        order.push(targets.remove(at.unwrap_or(0)));
    }
    order
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::SRV;
    use hickory_resolver::proto::rr::{Name, Record};
    use rand::SeedableRng as _;
    use rand::rngs::ChaCha8Rng;
    use tokio::net::UdpSocket;

    use super::*;

    fn target(priority: u16, weight: u16, host: &str) -> Target {
        Target { priority, weight, host: host.to_owned(), port: 7740 }
    }

    /// RFC 2782: lower priorities first, whatever the draw; weights share the first place; zero is possible but rare.
    #[test]
    fn srv_records_are_tried_by_priority_and_weight() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut heavy, mut light) = (0, 0);
        for _ in 0..1_000 {
            let order = in_order(vec![target(2, 9, "c"), target(1, 30, "a"), target(1, 10, "b")], &mut rng);
            let hosts: Vec<&str> = order.iter().map(|target| target.host.as_str()).collect();
            assert_eq!(hosts[2], "c");
            match hosts[0] {
                "a" => heavy += 1,
                "b" => light += 1,
                other => panic!("{other} is first"),
            }
        }
        assert!((650..850).contains(&heavy) && light > 150, "{heavy} {light}");
        assert_eq!(in_order(vec![target(0, 0, "a")], &mut rng).len(), 1);
        assert!(in_order(Vec::new(), &mut rng).is_empty());
    }

    /// A name server of one name, on a port of its own.
    async fn name_server(answers: Vec<SRV>) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            for _ in 0..100 {
                let Ok((len, from)) = socket.recv_from(&mut buffer).await else { return };
                let asked = Message::from_vec(&buffer[..len]).unwrap();
                let query = asked.queries[0].clone();
                let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
                let known = query.name().to_ascii() == "_starling._udp.example.net.";
                if !known {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                for srv in answers.iter().filter(|_| known) {
                    answer.answers.push(Record::from_rdata(query.name().clone(), 60, RData::SRV(srv.clone())));
                }
                answer.queries.push(query);
                let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
            }
        });
        address
    }

    fn resolver(at: SocketAddr) -> TokioResolver {
        let mut connection = ConnectionConfig::new(ProtocolConfig::Udp);
        connection.port = at.port();
        let server = NameServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
    }

    #[tokio::test]
    async fn a_service_name_leads_to_its_hosts_and_ports() {
        let local = || Name::from_ascii("localhost.").unwrap();
        let answers =
            vec![SRV::new(2, 0, 7742, local()), SRV::new(1, 0, 7741, local()), SRV::new(0, 0, 1, Name::root())];
        let resolver = resolver(name_server(answers).await);
        let found = service(&resolver, "_starling._udp.example.net").await.unwrap();
        let ports: Vec<u16> = found.iter().map(SocketAddr::port).collect();
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        assert_eq!((ports.first(), ports.last()), (Some(&7741), Some(&7742)), "{found:?}");
        let unknown = service(&resolver, "_other._udp.example.net").await.unwrap_err();
        assert!(!unknown.is_empty());
    }

    #[tokio::test]
    async fn one_address_more_than_a_seed_has_is_not_tried() {
        let local = || Name::from_ascii("localhost.").unwrap();
        let last = u16::try_from(ADDRESSES_MAX).unwrap();
        let answers = (0..=last).map(|n| SRV::new(n, 0, 7740 + n, local())).collect();
        let resolver = resolver(name_server(answers).await);
        let found = service(&resolver, "_starling._udp.example.net").await.unwrap();
        assert_eq!(found.len(), ADDRESSES_MAX, "{found:?}");
        assert!(found.iter().all(|address| address.port() != 7740 + last), "{found:?}");
    }

    #[tokio::test]
    async fn a_service_without_hosts_says_so() {
        let resolver = resolver(name_server(vec![SRV::new(0, 0, 1, Name::root())]).await);
        let error = service(&resolver, "_starling._udp.example.net.").await.unwrap_err();
        assert!(error.contains("no SRV record"), "{error}");
    }
}
