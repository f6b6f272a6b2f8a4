//! The table as rows: what people are shown is what holds.

use super::world::{World, http_route, key};
use crate::*;

fn rows(table: &RouteTable, service: &str) -> Vec<String> {
    let rows = table.rows(table.service(&key(service)).unwrap()).into_iter().map(|row| {
        let port = row.port.map(|port| format!("{port} ")).unwrap_or_default();
        let side = match &row.side {
            Side::Producer => String::new(),
            Side::Consumer(namespace) => format!("for {namespace} "),
            Side::Gateway(gateway) => format!("at {gateway} "),
        };
        let told = row.rule.map_or_else(|| "built in".to_owned(), |rule| format!("{rule} ({})", rule.rule));
        format!("{port}{side}{} {told}", row.order)
    });
    rows.collect()
}

fn world(yaml: &str) -> World {
    World::new(yaml).node("vm-1", &["orders-1 orders version=v1", "admin-1 admin"]).node("vm-2", &["db-1 db:tcp"])
}

#[test]
fn rows_stand_in_the_order_in_which_they_are_tried() {
    let yaml = http_route(
        "a",
        "orders",
        "[{name: all, backendRefs: [{name: orders}]}, {name: testers, matches: [{path: {value: /shop/}, method: GET, \
         headers: [{name: X-Canary, value: always}], queryParams: [{name: v, type: RegularExpression, value: \"[12]\"}]}, \
         {path: {type: Exact, value: /}}], backendRefs: [{name: admin}]}]",
    );
    let table = world(&yaml).table();
    let want = [
        "1 path exactly / (HTTPRoute default/a rule testers)",
        "2 path prefix /shop and method GET and x-canary = \"always\" and query v ~ [12] (HTTPRoute default/a rule testers)",
        "3 path prefix / (HTTPRoute default/a rule all)",
    ];
    assert_eq!(rows(&table, "orders"), want);
    assert_eq!(rows(&table, "admin"), ["1 built in"]);
}

#[test]
fn ports_and_callers_with_rules_of_their_own_have_rows_of_their_own() {
    let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\nspec: {ports: [{name: web, port: 80}, {name: admin, port: 81}]}\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web}\nspec:\n  \
        parentRefs: [{kind: Service, group: \"\", name: orders, port: 80}]\n  rules: [{backendRefs: [{name: orders, port: 80}]}]\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: mine, namespace: shop}\nspec:\n  \
        parentRefs: [{kind: Service, group: \"\", name: orders, namespace: default, port: 80}]\n  \
        rules: [{backendRefs: [{name: admin, namespace: default}]}]\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: db}\nspec:\n  \
        parentRefs: [{kind: Service, group: \"\", name: db}]\n  rules: [{backendRefs: [{name: db}]}]\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: calls}\nspec:\n  \
        parentRefs: [{kind: Service, group: \"\", name: admin}]\n  rules: [{matches: [{method: {service: shop.Orders}}], \
        backendRefs: [{name: admin}]}, {backendRefs: [{name: admin}]}]\n";
    let table = world(yaml).table();
    let want = [
        "web 1 path prefix / (HTTPRoute default/web rule 0)",
        "web for shop 1 path prefix / (HTTPRoute shop/mine rule 0)",
        "admin 1 built in",
    ];
    assert_eq!(rows(&table, "orders"), want);
    assert_eq!(rows(&table, "db"), ["1 every connection (TCPRoute default/db rule 0)"]);
    let want = [
        "1 a gRPC call of service shop.Orders and method any (GRPCRoute default/calls rule 0)",
        "2 a gRPC call of service any and method any (GRPCRoute default/calls rule 1)",
    ];
    assert_eq!(rows(&table, "admin"), want);
}

#[test]
fn backends_without_an_endpoint_are_told_and_those_without_a_share_are_not() {
    let yaml = http_route(
        "a",
        "orders",
        "[{backendRefs: [{name: orders, subset: {version: v1}}, {name: orders, subset: {version: v3}}, \
         {name: orders, subset: {version: v4}, weight: 0}, {name: nobody}]}]",
    );
    let told = |world: World| {
        let table = world.table();
        let troubled = table.troubled_backends().into_iter();
        troubled
            .map(|one| format!("{} {}: {} {:?}", one.rule, one.by.pointer(one.rule.id.rule), one.target, one.trouble))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        told(world(&yaml)),
        ["HTTPRoute default/a rule 0 /spec/rules/0/backendRefs/1: default/orders {version=v3} NoEndpoint"]
    );
    assert_eq!(told(world(&yaml).node("vm-3", &["orders-3 orders version=v3"])), [""; 0]);
}

#[test]
fn backends_are_looked_at_by_their_port_and_by_what_it_speaks() {
    use super::world::Ask;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: two}\nspec: {ports: [{name: web, port: 80}, {name: admin, port: 81}]}\n---\n";
    let route = http_route(
        "a",
        "orders",
        "[{matches: [{path: {value: /db}}], backendRefs: [{name: db}]}, \
         {matches: [{path: {value: /web}}], backendRefs: [{name: two, port: 80}]}, \
         {matches: [{path: {value: /admin}}], backendRefs: [{name: two, port: 81}]}, \
         {matches: [{path: {value: /mixed}}], backendRefs: [{name: mixed}]}, \
         {matches: [{path: {value: /none}}], backendRefs: [{name: many, port: 9}]}]",
    );
    let tcp = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: db}\nspec:\n  \
               parentRefs: [{kind: Service, group: \"\", name: orders, port: 5}]\n  rules: [{backendRefs: [{name: db}]}]\n";
    let world = World::new(&format!("{service}{route}{tcp}"))
        .node("vm-1", &["orders-1 orders", "db-1 db:tcp", "two-1 two:web", "many-1 many:a", "many-2 many:b"])
        .node("vm-2", &["mixed-1 mixed:main version=1", "db-2 db:tcp"]);
    let table = world.table();
    let told: Vec<String> = table
        .troubled_backends()
        .iter()
        .map(|one| format!("{} {} {:?}", one.rule.id.rule, one.target, one.trouble))
        .collect();
    assert_eq!(told, ["0 default/db Bytes", "2 default/two:81 NoEndpoint", "4 default/many:9 NoPort"]);
    let ask = |path: &str| Ask::new("orders", &format!("GET {path}")).told(&table);
    assert_eq!(ask("/db"), "default/a #0 InvalidBackend 500", "whatever instances it has");
    assert_eq!(
        (ask("/web").as_str(), ask("/admin").as_str()),
        ("default/a #1 -> vm-1/default/two-1", "default/a #2 NoEndpoint 503")
    );
    let mixed = "default/a #3 -> vm-2/default/mixed-1";
    assert_eq!((ask("/mixed").as_str(), ask("/none").as_str()), (mixed, "default/a #4 InvalidBackend 500"));
    // Instances that are not ready still say what they speak.
    let mut unready = world;
    unready.unready("vm-1");
    unready.unready("vm-2");
    assert_eq!(Ask::new("orders", "GET /db").told(&unready.table()), "default/a #0 InvalidBackend 500");
}
