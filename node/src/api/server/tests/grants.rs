//! Who may not serve what is shown wherever somebody looks, and what documents would take out of use is told before.

use serde_json::{Value, json};
use starling_model::{
    Announcement, Digest, DocumentVersion, Generation, HealthEntry, HealthRecord, InstanceName, KeyId, Labels,
    MemberState, Namespace, NodeName, PortName, Protocol, Readiness, ServiceKey, ServicesRecord, Weight,
};
use starling_routing::{Documents, InUse, MemberFact, Registry, TableSettings, compile};

use super::*;
use crate::tasks::gossip::{History, MeshCommand};

const GRANT: &str = "apiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {name: g}\nspec: {nodes: [{node: vm-1}], services: [{service: orders}]}\n";

/// `orders` on vm-1 and vm-2, `web` on vm-1, with these documents in use.
fn table(yaml: &str) -> starling_routing::RouteTable {
    let version = DocumentVersion { generation: Generation::FIRST, signer: KeyId(1), hash: Digest([1; 32]) };
    let mut registry = Registry::new();
    for (name, services) in [("vm-1", vec!["orders", "web"]), ("vm-2", vec!["orders"])] {
        let node = NodeName::new(name).unwrap();
        let address = "127.0.0.1:7740".parse().ok();
        registry.member(&MemberFact { node: node.clone(), state: MemberState::Alive, address });
        let announce = |service: &&str| Announcement {
            instance: InstanceName::new(service).unwrap(),
            service: ServiceKey::parse(service, &Namespace::default()).unwrap(),
            port: PortName::new("http").unwrap(),
            protocol: Protocol::Http,
            labels: Labels::default(),
            weight: Weight::default(),
        };
        let instances: Vec<Announcement> = services.iter().map(announce).collect();
        let ready = |one: &Announcement| HealthEntry { instance: one.instance.clone(), readiness: Readiness::Ready };
        registry.health(&node, &HealthRecord { entries: instances.iter().map(ready).collect() });
        registry.services(&node, &ServicesRecord { instances });
    }
    let documents = Documents::new(InUse::read("a.yaml", yaml, version, "k1").unwrap());
    compile(&documents, &registry, &TableSettings { domain: "mesh.internal".to_owned() }, None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ungranted_endpoints_are_shown_with_the_reason_and_counted() {
    let fixture = Fixture::start().await;
    fixture.state.shared.publish(Arc::new(table(GRANT)));
    let (_, orders) = fixture.ask("GET", "/v1/services/default/orders", "").await;
    let told = |at: usize| {
        let one = &orders["endpoints"][at];
        (one["health"].clone(), one["reason"]["code"].clone(), one["share"].clone())
    };
    assert_eq!(told(0), (json!("healthy"), Value::Null, json!(1.0)), "{orders}");
    assert_eq!(told(1), (json!("ungranted"), json!("not_granted"), json!(0.0)), "{orders}");
    let (_, web) = fixture.ask("GET", "/v1/services/default/web", "").await;
    let web = &web["endpoints"][0];
    assert_eq!((&web["health"], &web["reason"]["code"]), (&json!("healthy"), &json!("unnamed")), "{web}");
    let (_, status) = fixture.ask("GET", "/v1/status", "").await;
    let ungranted = |problem: &&Value| problem["code"] == "ST0612";
    let problems: Vec<&Value> = status["problems"].as_array().unwrap().iter().filter(ungranted).collect();
    let details: Vec<&str> = problems.iter().map(|problem| problem["detail"].as_str().unwrap()).collect();
    assert_eq!(
        details,
        [
            "orders on vm-2 gets no traffic of default/orders: its node is not granted the service (ST0612)",
            "no grant names default/web: any member may announce and call as them"
        ]
    );
    assert_eq!((&status["services"]["endpoints"], &status["services"]["endpointsHealthy"]), (&json!(3), &json!(2)));
    crate::api::services::count_endpoints(&fixture.state);
    let mut text = String::new();
    let mut registry = prometheus_client::registry::Registry::default();
    fixture.state.shared.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let series = "service=\"orders\",subset=\"none\",health=\"ungranted\"} 1";
    assert!(text.contains(series), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_which_endpoints_a_grant_removes() {
    let mut fixture = Fixture::start().await;
    fixture.state.shared.publish(Arc::new(table("")));
    fixture.mesh_answers(|command| {
        let MeshCommand::History { reply, .. } = command else { panic!("{command:?}") };
        reply.send(History::default()).unwrap();
    });
    let (status, run) = fixture.ask("POST", "/v1/config/dry-run", &json!({"source": GRANT}).to_string()).await;
    let want = json!([{
        "documentKind": "ServiceGrant", "documentNamespace": "default", "documentName": "g", "namespace": "default",
        "service": "orders", "endpoints": ["vm-2/default/orders"], "count": 1, "detail": "vm-2 not granted"
    }]);
    assert_eq!((status, &run["removes"]), (200, &want), "{run}");
    let kept = GRANT.replace("node: vm-1", "node: vm-*");
    let (_, run) = fixture.ask("POST", "/v1/config/dry-run", &json!({"source": kept}).to_string()).await;
    assert_eq!(run["removes"], json!([]), "{run}");
    let other = fixture.state.shared.table.load().documents().len();
    assert_eq!(other, 0, "nothing is kept");
}
