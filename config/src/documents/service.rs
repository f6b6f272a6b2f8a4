//! The core `v1` Service of Kubernetes, read as it stands: which instances it selects and which ports it has.
//!
//! What only a cluster can act on (addresses, node ports, load balancers) is left aside.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::num::NonZeroU16;

use starling_model::{Labels, PortName, codes};

use super::fields::Fields;
use super::limits::SERVICE_PORTS_MAX;
use super::text;
use crate::schema::Bad;
use crate::tree::{Node, Value};
use crate::values::{self, one_of};

/// The `spec` of a core Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreService {
    /// All of these labels must be an instance's; `None`: the instances that announce the Service's name.
    pub selector: Option<Labels>,
    /// TCP ports, each with its own number and name.
    pub ports: Vec<CorePort>,
    /// Whether a cluster would keep a client at one endpoint by its address.
    pub affinity: Affinity,
}

/// `sessionAffinity`: without effect here, but it does not go together with sessions by cookie (GEP-1619).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// None.
    #[default]
    None,
    /// By the client's address.
    ClientIp,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorePort {
    /// Needed where there are several.
    pub name: Option<PortName>,
    /// What applications connect to.
    pub port: NonZeroU16,
    /// Which port of the instance; the same number unless said otherwise.
    pub target: TargetPort,
    /// `http`, `kubernetes.io/h2c`, `kubernetes.io/ws`, `kubernetes.io/wss` or another; `None`: detected.
    pub app_protocol: Option<String>,
}

/// A port of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(NonZeroU16),
    /// By the instance's name for it.
    Name(PortName),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    Tcp,
    Other(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServiceType {
    Inside,
    ExternalName,
}

/// Right in a cluster, without meaning here.
const CLUSTER_FIELDS: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "publishNotReadyAddresses",
    "sessionAffinityConfig",
    "trafficDistribution",
];

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<CoreService> {
    const TYPES: &[(&str, ServiceType)] = &[
        ("ClusterIP", ServiceType::Inside),
        ("NodePort", ServiceType::Inside),
        ("LoadBalancer", ServiceType::Inside),
        ("ExternalName", ServiceType::ExternalName),
    ];
    if fields.optional("type", one_of(TYPES)) == Some(ServiceType::ExternalName) {
        fields.bad("type", Bad::new("is a kind of Service that this release does not have"));
    }
    let selector = fields.optional("selector", text::labels);
    let ports = fields.tables("ports", SERVICE_PORTS_MAX, port);
    fields.unique("ports", "name");
    let nameless = ports.len() > 1 && ports.iter().any(|port| port.as_ref().is_some_and(|port| port.name.is_none()));
    if nameless {
        fields.bad("ports", Bad::new("are several, so each needs a `name`"));
    }
    let ports: Vec<CorePort> = ports.into_iter().flatten().collect();
    let again = |at: usize, port: &CorePort| ports.iter().take(at).any(|earlier| earlier.port == port.port);
    if let Some((_, port)) = ports.iter().enumerate().find(|(at, port)| again(*at, port)) {
        fields.bad("ports", Bad::new(format!("name port {} twice", port.port)));
    }
    let affinity =
        fields.optional("sessionAffinity", one_of(&[("None", Affinity::None), ("ClientIP", Affinity::ClientIp)]));
    fields.ignored(CLUSTER_FIELDS);
    Some(CoreService { selector, ports, affinity: affinity.unwrap_or_default() })
}

/// `Some(None)`: right, but not carried.
#[expect(clippy::option_option, reason = "the outer one is the reader's, the inner one the port's")]
fn port(fields: &mut Fields<'_, '_>) -> Option<Option<CorePort>> {
    const PROTOCOLS: &[(&str, Carried)] =
        &[("TCP", Carried::Tcp), ("UDP", Carried::Other("UDP")), ("SCTP", Carried::Other("SCTP"))];
    let name = fields.optional("name", values::name(PortName::new));
    let port = fields.required("port", text::port);
    let target = fields.optional("targetPort", target_port);
    let protocol = fields.optional("protocol", one_of(PROTOCOLS)).unwrap_or(Carried::Tcp);
    let app_protocol = fields.optional("appProtocol", |node| values::text(node).map(str::to_owned));
    fields.ignored(&["nodePort"]);
    if let Carried::Other(word) = protocol {
        fields.warn("protocol", codes::DOCUMENT_IDLE, format!("{word} is not carried; the port is left out"));
        return Some(None);
    }
    let port = port?;
    Some(Some(CorePort { name, port, target: target.unwrap_or(TargetPort::Number(port)), app_protocol }))
}

fn target_port(node: &Node) -> Result<TargetPort, Bad> {
    match &node.value {
        Value::String(_) => values::name(PortName::new)(node).map(TargetPort::Name),
        Value::Integer(_) | Value::Boolean(_) | Value::Other(..) | Value::Array(_) | Value::Table(_) => {
            text::port(node).map(TargetPort::Number)
        }
    }
}
