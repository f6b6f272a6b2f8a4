//! Propositions about services: which instances and ports they have, by document or by announcement.

use std::sync::Arc;

use super::world::{Ask, World, findings, http_route, key};
use crate::*;

fn endpoints(table: &RouteTable, service: &str) -> Vec<String> {
    table.service(&key(service)).unwrap().endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect()
}

fn core(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn a_selector_picks_by_labels_whatever_name_an_instance_announced() {
    let yaml = format!(
        "{}{}",
        core("front", "{selector: {app: web}, ports: [{port: 80}]}"),
        core("named", "{selector: {service: orders, tier: a}, ports: [{port: 80}]}"),
    );
    let world = World::new(&yaml)
        .node("vm-1", &["a orders app=web,tier=a", "b orders app=db,tier=b", "c other/orders app=web"])
        .node("vm-2", &["d admin app=web,tier=a,service=orders"]);
    let table = world.table();
    assert_eq!(endpoints(&table, "front"), ["vm-1/default/a", "vm-2/default/d"], "of its own namespace only");
    assert_eq!(endpoints(&table, "named"), ["vm-1/default/a"], "an instance's own label `service` does not count");
    let Decision::Forward(choice) = Ask::new("front", "GET /").decide(&table, 1) else {
        panic!("there is an endpoint")
    };
    let endpoint = choice.endpoint();
    assert_eq!(choice.service.key, key("front"));
    assert!([key("orders"), key("admin")].contains(&endpoint.service), "streams name what was announced");
    assert_eq!(table.resolve_host("front.mesh.internal").unwrap().key, key("front"));
}

#[test]
fn an_instance_serves_a_port_by_its_name_its_number_or_its_target() {
    let ports = "{ports: [{name: web, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: manage}, {name: same, port: 82, targetPort: 8080}]}";
    let instances = ["a orders:web", "b orders:8080", "c orders:80", "d orders:manage", "e orders:elsewhere"];
    let world = World::new(&core("orders", ports)).node("vm-1", &instances);
    let table = world.table();
    let check = |port: &str, want: &[&str]| {
        let mut found: Vec<String> = (0..200)
            .map(|seed| super::world::told(&Ask::new("orders", "GET /").port(port).decide(&table, seed)))
            .collect();
        found.sort();
        found.dedup();
        assert_eq!(found, want.iter().map(|name| format!("-> vm-1/default/{name}")).collect::<Vec<_>>(), "{port}");
    };
    check("web", &["a", "b", "c"]);
    check("80", &["a", "b", "c"]);
    check("admin", &["d"]);
    check("same", &["b"]);
    check("manage", &["d"]);
    assert_eq!(Ask::new("orders", "GET /").port("elsewhere").told(&table), "NoPort 404");
    assert_eq!(table.service(&key("orders")).unwrap().admissible_len(), 4, "what no port lists is not offered");
}

#[test]
fn a_service_with_one_port_takes_instances_that_name_none() {
    let starling = "apiVersion: starling/v1\nkind: Service\nmetadata: {name: orders}\nspec: {ports: [{name: api, port: 80, protocol: grpc}]}\n";
    let table = World::new(starling).node("vm-1", &["a orders:http", "b orders:manage"]).table();
    assert_eq!(Ask::new("orders", "GET /").told(&table), "-> vm-1/default/a");
    let service = table.service(&key("orders")).unwrap();
    assert_eq!(
        (service.ports.len(), service.protocol(None)),
        (1, starling_model::Protocol::Grpc),
        "as the document says"
    );
    let by_announced = Ask::new("orders", "GET /").port("http").told(&table);
    assert_eq!(by_announced, "-> vm-1/default/a", "a configuration that names it so still finds it");
}

#[test]
fn a_described_service_exists_without_instances() {
    let yaml = core("orders", "{ports: [{port: 80}]}");
    let world = World::new(&yaml);
    assert_eq!(Ask::new("orders", "GET /").told(&world.table()), "NoEndpoint 503");
    // A route to a port that nobody could have announced yet is not an error.
    let route = http_route("a", "front", "[{backendRefs: [{name: bare, port: 1234}]}]");
    let bare = "---\napiVersion: starling/v1\nkind: Service\nmetadata: {name: bare}\nspec: {}\n";
    let world = World::new(&format!("{route}{bare}")).node("vm-1", &["f front"]);
    assert_eq!(Ask::new("front", "GET /").told(&world.table()), "default/a #0 NoEndpoint 503");
}

#[test]
fn of_an_announced_service_one_port_takes_any_number_and_several_take_theirs() {
    let route = |port: &str| http_route("a", "front", &format!("[{{backendRefs: [{{name: orders{port}}}]}}]"));
    let ask = || Ask::new("front", "GET /");
    let one = |port: &str| World::new(&route(port)).node("vm-1", &["f front", "a orders:web"]).table();
    for port in ["", ", port: 80", ", port: 9999"] {
        assert_eq!(ask().told(&one(port)), "default/a #0 -> vm-1/default/a", "{port}");
    }
    let two =
        |port: &str| World::new(&route(port)).node("vm-1", &["f front", "a orders:http", "b orders:8080"]).table();
    assert_eq!(ask().told(&two(", port: 8080")), "default/a #0 -> vm-1/default/b");
    assert_eq!(ask().told(&two(", port: 80")), "default/a #0 InvalidBackend 500");
    assert_eq!(ask().told(&two("")), "default/a #0 -> vm-1/default/a", "the port that is named like the frontend's");
}

#[test]
fn a_route_is_attached_to_all_ports_or_to_the_one_it_names() {
    let route = |name: &str, parent: &str| {
        format!(
            "---\napiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{kind: Service, name: orders{parent}}}]\n  rules: [{{backendRefs: [{{name: db}}]}}]\n"
        )
    };
    let described = core("orders", "{ports: [{name: web, port: 80}, {name: admin, port: 81}]}");
    let instances = ["a orders:web", "b orders:admin", "d db"];
    let check = |service: &str, parent: &str, port: Option<&str>, routed: bool| {
        let table = World::new(&format!("{service}{}", route("r", parent))).node("vm-1", &instances).table();
        let ask = Ask::new("orders", "GET /");
        let ask = port.map_or(ask.clone(), |port| ask.port(port));
        assert_eq!(ask.told(&table).starts_with("default/r"), routed, "{service} {parent} {port:?}");
    };
    for service in ["", described.as_str()] {
        check(service, "", Some("web"), true);
        check(service, "", None, true);
        check(service, ", sectionName: web", Some("web"), true);
        check(service, ", sectionName: web", Some("admin"), false);
        check(service, ", sectionName: web", None, false);
    }
    check(&described, ", port: 80", Some("web"), true);
    check(&described, ", port: 80", Some("80"), true);
    check(&described, ", port: 80", Some("admin"), false);
    check("", ", port: 80", Some("web"), false);
    let alone = |parent: &str| World::new(&route("r", parent)).node("vm-1", &["a orders:web", "d db"]).table();
    assert!(
        Ask::new("orders", "GET /").told(&alone(", port: 80")).starts_with("default/r"),
        "one port takes any number"
    );
    assert!(Ask::new("orders", "GET /").port("web").told(&alone(", port: 80")).starts_with("default/r"));
    assert!(!Ask::new("orders", "GET /").told(&alone(", sectionName: other")).starts_with("default/r"));
    let table = World::new(&format!("{described}{}", route("r", ", port: 90"))).node("vm-1", &instances).table();
    let told = "HTTPRoute default/r /spec/parentRefs/0: ST0433 NoMatchingParent: Service default/orders has no port that this names";
    assert_eq!(findings(&table), [told]);
}

/// What changed is made anew, and nothing else; the result is the same as if all were.
#[test]
fn a_change_makes_anew_what_depends_on_it_alone() {
    let yaml = format!(
        "{}{}{}",
        core("front", "{selector: {app: web}, ports: [{port: 80}]}"),
        core("back", "{selector: {app: db}, ports: [{port: 80}]}"),
        http_route("a", "orders", "[{backendRefs: [{name: db, subset: {v: \"1\"}}]}]"),
    );
    let mut world = World::new(&yaml)
        .node("vm-1", &["o orders app=web"])
        .node("vm-2", &["d db app=db,v=1"])
        .node("vm-3", &["x other app=none"]);
    let before = world.table();
    let same = |a: &RouteTable, b: &RouteTable, name: &str| {
        Arc::ptr_eq(a.service(&key(name)).unwrap(), b.service(&key(name)).unwrap())
    };
    world.unready("vm-1");
    let after = world.table_after(&before);
    assert!(Arc::ptr_eq(&before.rules, &after.rules) && Arc::ptr_eq(&before.directory, &after.directory));
    let kept = |name: &str| same(&before, &after, name);
    assert!(!kept("orders") && !kept("front"), "the instance is theirs");
    assert!(kept("db") && kept("back") && kept("other"));
    assert_eq!(after.service(&key("front")).unwrap().admissible_len(), 0);

    // An instance that begins to match, and one that goes for good.
    let world = world.node("vm-3", &["x other app=web"]).node("vm-2", &[]);
    let later = world.table_after(&after);
    assert_eq!(endpoints(&later, "front"), ["vm-1/default/o", "vm-3/default/x"]);
    assert!(endpoints(&later, "back").is_empty());
    assert!(later.service(&key("db")).is_none() && !same(&after, &later, "front"));
    assert_eq!(later.services, world.table().services);
    assert_eq!(findings(&later), findings(&world.table()), "that nobody knows db any more is told");
    assert_eq!(findings(&later).len(), 1);

    // Other documents: pools stay where what concerns them stays.
    let mut other = World { documents: super::world::in_use(&yaml.replace("app: db", "app: none")), ..world };
    let newer = other.table_after(&later);
    assert!(same(&later, &newer, "front") && !same(&later, &newer, "back"));
    assert_ne!(later.digest(), newer.digest());
    other.documents.clear();
    let bare = other.table_after(&newer);
    assert!(same(&newer, &bare, "orders") && bare.service(&key("front")).is_none());
}

#[test]
fn a_document_that_takes_the_last_endpoint_from_a_used_service_is_told() {
    use crate::guard::emptied;
    let front = |label: &str| core("front", &format!("{{selector: {{app: {label}}}, ports: [{{port: 80}}]}}"));
    let registry = ["a orders app=web", "b stock app=db"];
    let with = |yaml: &str| World::new(yaml).node("vm-1", &registry).table();
    let (web, db, none) = (with(&front("web")), with(&front("db")), with(&front("wbe")));
    let used = |index: EndpointIndex| index == web.service(&key("orders")).unwrap().endpoints[0].index;
    assert_eq!(emptied(&web, &none, &used), Some(key("front")));
    assert_eq!(emptied(&web, &with(""), &used), Some(key("front")), "without its document it does not exist");
    assert_eq!(emptied(&web, &db, &used), None, "another endpoint serves it");
    assert_eq!(emptied(&none, &db, &used), None);
    assert_eq!(emptied(&none, &none, &used), None, "it had none before");
    assert_eq!(emptied(&db, &none, &used), None, "stock has no traffic");
    assert_eq!(emptied(&web, &none, &|_| false), None);
    let mut unready = World::new(&front("web")).node("vm-1", &registry);
    unready.unready("vm-1");
    assert_eq!(
        emptied(&unready.table(), &none, &|_| true),
        None,
        "of endpoints that may not be used there is none to lose"
    );
}
