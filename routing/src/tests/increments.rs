//! The table before only saves work: whatever happened since, the result is the one that is made without it.

use proptest::prelude::*;
use proptest::sample::select;

use super::world::{Ask, World, findings, http_route, in_use, node, told};

/// What can happen to a mesh.
#[derive(Clone, Debug)]
enum Step {
    Announces(&'static str, Vec<&'static str>),
    Unready(&'static str),
    Forgotten(&'static str),
    Documents(Vec<String>),
}

const NODES: [&str; 3] = ["vm-1", "vm-2", "vm-3"];
const INSTANCES: [&str; 6] = [
    "a orders version=v1,app=web",
    "b orders:admin version=v2,app=web",
    "c back app=db",
    "d other/orders app=web",
    "e back:8080 app=web,version=v1",
    "f front",
];

fn texts() -> Vec<String> {
    let grant = |name: &str, node: &str, service: &str| {
        format!(
            "---\napiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {{name: {name}}}\nspec: {{nodes: [{{node: {node}}}], services: [{{service: {service}}}]}}\n"
        )
    };
    let service = |version: &str, name: &str, spec: &str| {
        format!("---\napiVersion: {version}\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    vec![
        service(
            "v1",
            "front",
            "{selector: {app: web}, ports: [{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8080}]}",
        ),
        service("v1", "data", "{selector: {app: db, service: back}, ports: [{port: 80}]}"),
        service(
            "starling/v1",
            "orders",
            "{subsets: {one: {version: v1}}, ports: [{name: http, port: 80, protocol: http}]}",
        ),
        http_route(
            "x",
            "orders",
            "[{backendRefs: [{name: orders, subset: {version: v1}}, {name: orders, subset: {version: v2}}]}]",
        ),
        http_route("y", "front", "[{backendRefs: [{name: back, port: 8080}, {name: data, port: 80}]}]"),
        grant("g", "vm-1", "orders"),
        grant("h", "\"*\"", "back"),
        grant("i", "vm-2", "front"),
        "---\napiVersion: starling/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {serviceGrants: Strict}\n"
            .to_owned(),
        http_route("shop/z", "orders", "[{backendRefs: [{name: orders, namespace: other, subset: {app: web}}]}]"),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let instances = proptest::sample::subsequence(&INSTANCES[..], 0..4);
    prop_oneof![
        4 => (select(&NODES[..]), instances).prop_map(|(node, instances)| Step::Announces(node, instances)),
        2 => select(&NODES[..]).prop_map(Step::Unready),
        1 => select(&NODES[..]).prop_map(Step::Forgotten),
        2 => proptest::sample::subsequence(texts(), 0..11).prop_map(Step::Documents),
    ]
}

fn take(mut world: World, step: Step) -> World {
    match step {
        Step::Announces(node, instances) => return world.node(node, &instances),
        Step::Unready(node) => world.unready(node),
        Step::Forgotten(name) => world.registry.forget(&node(name)),
        Step::Documents(texts) => world.documents = in_use(&texts.concat()),
    }
    world
}

proptest! {
    #[test]
    fn a_table_is_the_same_with_and_without_the_one_before(steps in proptest::collection::vec(step(), 1..12)) {
        let mut world = World::new(&texts().concat());
        let mut before = world.table();
        for step in steps {
            world = take(world, step);
            let (shared, whole) = (world.table_after(&before), world.table());
            prop_assert_eq!(&shared.services, &whole.services);
            prop_assert_eq!(findings(&shared), findings(&whole));
            prop_assert_eq!((shared.digest(), shared.revision()), (whole.digest(), whole.revision()));
            for service in ["orders", "front", "data", "back", "other/orders"] {
                for (seed, ask) in (0..).zip([Ask::new(service, "GET /"), Ask::new(service, "GET /").from("shop/web")]) {
                    prop_assert_eq!(told(&ask.decide(&shared, seed)), told(&ask.decide(&whole, seed)));
                    let host = format!("{service}.mesh.internal");
                    prop_assert_eq!(shared.resolve_host(&host).map(|one| &one.key), whole.resolve_host(&host).map(|one| &one.key));
                }
            }
            before = shared;
        }
    }
}
