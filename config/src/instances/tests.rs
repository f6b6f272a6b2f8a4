use proptest::prelude::*;

use super::*;
use crate::problem::render;

/// The documented sample, without the two fields that exclude each other.
const SAMPLE: &str = r#"# /etc/starling/services.d/orders.toml: what runs on this host; one table per port of a service
#:schema /usr/share/starling/schema/service-instance.json
[[instance]]
service   = "orders"
namespace = "default"                    # the default
name      = "orders-v2"                  # unique on this node; default: the service's name
port      = "http"                       # which port of the service; default: its only one
protocol  = "http"                       # http | grpc | tcp
address   = "127.0.0.1:8080"
labels    = { version = "v2" }
weight    = 100
run_as    = "orders"                     # only this user (uid) may call as the service
# unit    = "orders.service"             # or: only processes of this systemd unit; announced while it is active
health    = { http = "/healthz", interval = "5s", timeout = "1s", unhealthy = 3, healthy = 2 }
"#;

const SMALL: &str = "[[instance]]\nservice = \"db\"\nprotocol = \"tcp\"\naddress = \"127.0.0.1:5432\"\n";

fn one(text: &str) -> InstanceSpec {
    let mut specs = parse_instances("a.toml", text).unwrap_or_else(|told| panic!("{text}\n{}", render(&told)));
    assert_eq!(specs.len(), 1);
    specs.remove(0)
}

#[test]
fn the_documented_sample_parses() {
    let spec = one(SAMPLE);
    assert_eq!(spec.key().to_string(), "default/orders");
    assert_eq!(one(&SMALL.replace("tcp", "detect")).protocol, Protocol::Detect);
    assert_eq!(spec.name.as_str(), "orders-v2");
    assert_eq!(spec.labels.to_string(), "version=v2");
    assert_eq!(spec.run_as, Some(RunAs::User("orders".into())));
    let health = spec.health.unwrap();
    assert_eq!(health.probe, HealthProbe::Http("/healthz".into()));
    assert_eq!((health.interval, health.timeout), (INTERVAL_DEFAULT, TIMEOUT_DEFAULT));
    assert_eq!((health.unhealthy.get(), health.healthy.get()), (3, 2));
}

#[test]
fn defaults_come_from_service_and_protocol() {
    let spec = one(SMALL);
    assert_eq!((spec.name.as_str(), spec.port.as_str(), spec.weight.get()), ("db", "tcp", 100));
    assert_eq!((spec.key().to_string().as_str(), &spec.health), ("default/db", &None));
    let quick = one(&format!("{SMALL}health = {{ tcp = true, interval = \"200ms\" }}\n")).health.unwrap();
    assert_eq!((quick.probe, quick.timeout), (HealthProbe::Tcp, Duration::from_millis(200)));
}

#[test]
fn slips_are_told_at_their_place() {
    let check = |line: &str, place: (usize, usize), code: starling_model::Code, note: &str| {
        let text = format!("{SMALL}{line}\n");
        let told = parse_instances("a.toml", &text).expect_err(line);
        assert_eq!(told.len(), 1, "{line}: {told:?}");
        assert_eq!((told[0].line(), told[0].column()), (Some(place.0), Some(place.1)), "{}", told[0]);
        assert_eq!(told[0].code, code, "{line}");
        assert_eq!(told[0].note.as_deref().unwrap_or(""), note, "{line}");
    };
    let (unknown, bad) = (codes::UNKNOWN_SETTING, codes::BAD_SETTING);
    check("wieght = 1", (5, 1), unknown, "did you mean `weight`?");
    check("adress = \"127.0.0.1:1\"", (5, 1), unknown, "did you mean `address`?");
    check("helth = { tcp = true }", (5, 1), unknown, "did you mean `health`?");
    check("runas = \"a\"", (5, 1), unknown, "did you mean `run_as`?");
    check("namspace = \"a\"", (5, 1), unknown, "did you mean `namespace`?");
    check("interval = \"1s\"", (5, 1), unknown, "did you mean `health.interval`?");
    check("health = { htpp = \"/a\" }", (5, 12), unknown, "did you mean `http`?");
    check("health = { http = \"healthz\" }", (5, 19), bad, "did you mean \"/healthz\"?");
    check("health = { tcp = true, timeuot = \"1s\" }", (5, 24), unknown, "did you mean `timeout`?");
    check("health = { tcp = true, interval = \"1s\", timeout = \"2s\" }", (5, 51), bad, "");
    check("health = { http = \"/\", tcp = true }", (5, 30), bad, "");
    check("health = { interval = \"1s\" }", (5, 10), bad, "");
    check("health = { grpc = \"a\" }", (5, 19), bad, "");
    check("health = { tcp = 5432 }", (5, 18), bad, "the address is the instance's own");
    check("health = { tcp = true, healthy = 0 }", (5, 34), bad, "");
    check("health = { tcp = true, interval = \"1ms\" }", (5, 35), bad, "");
    check("health = \"/healthz\"", (5, 10), bad, "");
    check("namespace = \"node\"", (5, 13), bad, "");
    check("weight = 1000001", (5, 10), bad, "");
    check("weight = -1", (5, 10), bad, "");
    check("run_as = \"a\"\nunit = \"a.service\"", (6, 8), bad, "");
    check("run_as = 5000000000", (5, 10), bad, "");
    check("labels = { \"a b\" = \"c\" }", (5, 20), bad, "");
    check("name = \"Db 1\"", (5, 8), bad, "did you mean \"db-1\"?");

    let check_required = |text: &str, note: &str| {
        let told = parse_instances("a.toml", text).expect_err(text);
        assert!(told.iter().any(|problem| problem.note.as_deref() == Some(note)), "{told:?}");
    };
    check_required("[[instance]]\n", "`service` is missing");
    check_required("[[instance]]\nservice = \"a\"\naddress = \"127.0.0.1:1\"", "`protocol` is missing");
    check_required("[instance]\nservice = \"a\"", "write [[instance]]");
    check_required("[[instances]]\nservice = \"a\"", "did you mean `instance`?");
    let told = parse_instances("a.toml", &SMALL.replace("127.0.0.1", "0.0.0.0")).unwrap_err();
    assert_eq!(told[0].note.as_deref(), Some("did you mean \"127.0.0.1:5432\"?"));
}

#[test]
fn a_broken_file_withholds_only_its_own_instances() {
    let files = [
        ("c.toml".to_owned(), SAMPLE.replace("run_as ", "unit ")),
        ("a.toml".to_owned(), SMALL.to_owned()),
        ("b.toml".to_owned(), "[[instance]\n".to_owned()),
        (
            "d.toml".to_owned(),
            format!("{SMALL}\n[[instance]]\nservice = \"e\"\nprotocol = \"tcp\"\naddress = \"[::1]:1\"\n"),
        ),
    ];
    let all = parse_services(&files);
    let names: Vec<&str> = all.instances.iter().map(|instance| instance.spec.name.as_str()).collect();
    assert_eq!(names, ["db", "orders-v2", "e"]);
    assert_eq!(all.problems.len(), 2, "{:?}", all.problems);
    assert!(all.problems[1].message.contains("instance db is already at a.toml:1"), "{:?}", all.problems);
    assert_eq!(all.problems[1].file(), Some("d.toml"));
    assert_eq!(all.warnings.len(), 1);
    assert_eq!(all.warnings[0].code, codes::SETTING_IDLE);
    assert!(parse_services(&[("c.toml".to_owned(), SAMPLE.to_owned())]).warnings.is_empty());
    assert_eq!(all.instances[1].line, 3);
}

#[test]
fn a_node_announces_no_more_instances_than_its_record_holds() {
    let text = |count: usize| {
        (0..count)
            .map(|n| {
                format!(
                    "[[instance]]\nservice = \"a\"\nname = \"a-{n}\"\nprotocol = \"tcp\"\naddress = \"127.0.0.1:1\"\n"
                )
            })
            .collect::<String>()
    };
    assert_eq!(parse_instances("a.toml", &text(256)).unwrap().len(), 256);
    let all = parse_services(&[("a.toml".to_owned(), text(257))]);
    assert_eq!((all.instances.len(), all.problems.len()), (256, 1));
}

#[test]
fn json_has_the_same_fields_and_rules() {
    let spec: InstanceSpec = serde_json::from_str(
        r#"{"service": "orders", "protocol": "http", "address": "127.0.0.1:8080", "labels": {"version": "v2"},
            "health": {"http": "/healthz", "interval": "2s"}}"#,
    )
    .unwrap();
    assert_eq!((spec.name.as_str(), spec.port.as_str()), ("orders", "http"));
    let written = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<InstanceSpec>(&written).unwrap(), spec);
    assert_eq!(
        serde_json::from_str::<InstanceSpec>(&serde_json::to_string(&one(SAMPLE)).unwrap()).unwrap(),
        one(SAMPLE)
    );

    let refuse = |json: &str, why: &str| {
        let told = serde_json::from_str::<InstanceSpec>(json).expect_err(json).to_string();
        assert!(told.contains(why), "{json}: {told}");
    };
    refuse(r#"{"sevice": "a", "protocol": "tcp", "address": "127.0.0.1:1"}"#, "unknown field `sevice`");
    refuse(r#"{"service": "a", "address": "127.0.0.1:1"}"#, "missing field `protocol`");
    refuse(r#"{"service": "A", "protocol": "tcp", "address": "127.0.0.1:1"}"#, "is not a DNS label");
    refuse(r#"{"service": "a", "protocol": "tcp", "address": "0.0.0.0:1"}"#, "address cannot be connected to");
    refuse(r#"{"service": "a", "protocol": "tcp", "address": "127.0.0.1:0"}"#, "address has port 0");
    refuse(r#"{"service": "a", "protocol": "tcp", "address": "127.0.0.1:1", "health": {}}"#, "health needs http");
    refuse(
        r#"{"service": "a", "protocol": "tcp", "address": "127.0.0.1:1", "health": {"tcp": true, "interval": "soon"}}"#,
        "health.interval is not a duration",
    );
    refuse(r#"{"service": "a", "protocol": "tcp", "address": "127.0.0.1:1", "weight": 1000001}"#, "is over 1000000");
    refuse(r#"{"service": "a", "protocol": "tcp", "address": "127.0.0.1:1", "run_as": "a b"}"#, "run_as is no user");
}

#[test]
fn the_name_in_the_path_is_the_instance_s_name() {
    let form = |json: &str| serde_json::from_str::<InstanceForm>(json).unwrap();
    let path = InstanceName::new("orders-v2").unwrap();
    let bare = form(r#"{"service": "orders", "protocol": "http", "address": "127.0.0.1:8080"}"#);
    assert_eq!(bare.clone().resolve(Some(&path)).unwrap().name, path);
    assert_eq!(bare.resolve(None).unwrap().name.as_str(), "orders");
    let other = form(r#"{"service": "orders", "name": "b", "protocol": "http", "address": "127.0.0.1:8080"}"#);
    assert_eq!(other.resolve(Some(&path)).unwrap_err().to_string(), "name is b, but the request is for orders-v2");
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|[\n\t\\[\\]={}\",.#]){0,200}") {
        if let Err(told) = parse_instances("a.toml", &text) {
            let _ = render(&told);
        }
    }

    #[test]
    fn no_mutation_of_the_sample_panics(at in 0_usize..SAMPLE.len(), insert in "(\\PC|[\n\\[\\]={}\"]){0,4}", cut in 0_usize..6) {
        let head: String = SAMPLE.chars().take(at).collect();
        let tail: String = SAMPLE.chars().skip(at + cut).collect();
        if let Err(told) = parse_instances("a.toml", &format!("{head}{insert}{tail}")) {
            let _ = render(&told);
        }
    }
}
