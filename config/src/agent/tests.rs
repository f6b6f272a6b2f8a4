use std::time::Duration;

use proptest::prelude::*;

use starling_model::Code;

use super::*;
use crate::problem::{Place, render};

/// The documented sample, word for word.
const SAMPLE: &str = r#"#:schema /usr/share/starling/schema/agent.json
node_name = "vm-2"                       # default: host name; must equal the name in the certificate
trust     = "/etc/starling/trust"        # bundle.trust (and issuer.key with a shared issuer)
state     = "/var/lib/starling"
[mesh]
listen        = "0.0.0.0:7740"
advertise     = "10.0.0.12:7740"         # default: source address towards the seed
seeds         = ["10.0.0.11:7740", "dns+srv://_starling._udp.example.net"]
labels        = { zone = "a", rack = "r7" }
preset        = "lan"                    # lan | wan | fast (`gossip.md` 4)
ready_timeout = "30s"
[api]
socket = "/run/starling/api.sock"
listen = "127.0.0.1:7741"
tcp    = "read"                          # off | read | token
[dns]
listen = "127.0.0.1:7753"
domain = "mesh.internal"                 # .internal is reserved for private use
[outbound]
http          = "127.0.0.1:7780"         # curl -H 'Host: orders.mesh.internal' http://127.0.0.1:7780/
vip_cidr      = "127.77.0.0/16"
vip           = "127.0.0.1:7781"         # where the unit's nft rule sends TCP for vip_cidr; "off": no such entry
vip_listeners = []                       # without the rule: services that get own listeners, e.g. ["orders"]
[log]
filter = "info"
format = "auto"                          # auto: text on a terminal, journald fields under systemd, else JSON
[[upstream]]
service   = "orders"
namespace = "default"
port      = "http"                       # default: its only one
listen    = "127.0.0.1:9001"             # or "unix:/run/app/orders.sock", or an IPv6 address
as        = "web"                        # local service whose identity its calls carry; default: as above
"#;

fn agent_toml(text: &str) -> Sources {
    let file = SourceFile { path: "agent.toml".into(), text: text.into(), kind: SourceKind::AgentToml };
    Sources { files: vec![file], hostname: "vm-1".into(), ..Sources::default() }
}

fn conf_d(mut sources: Sources, path: &str, text: &str) -> Sources {
    sources.files.push(SourceFile { path: path.into(), text: text.into(), kind: SourceKind::ConfD });
    sources
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn problems(sources: Sources) -> Vec<Problem> {
    load(sources).expect_err("these sources have problems")
}

#[test]
fn the_documented_sample_loads() {
    let loaded = load(agent_toml(SAMPLE)).expect("the sample is right");
    let config = &loaded.config;
    assert_eq!(config.node_name.as_str(), "vm-2");
    assert_eq!(config.mesh.advertise, Some("10.0.0.12:7740".parse().unwrap()));
    assert_eq!(config.mesh.seeds.len(), 2);
    assert_eq!(config.mesh.labels.to_string(), "rack=r7,zone=a");
    assert_eq!(config.mesh.ready_timeout, Duration::from_secs(30));
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.service.to_string(), "default/orders");
    assert_eq!(upstream.listen, ListenAddress::Tcp("127.0.0.1:9001".parse().unwrap()));
    assert_eq!(upstream.source.as_ref().unwrap().to_string(), "default/web");
    // Values equal to the defaults are silent.
    assert_eq!(loaded.warnings, []);
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let loaded = load(Sources { hostname: "VM-7.example.net".into(), ..Sources::default() }).unwrap();
    assert_eq!(loaded.config.node_name.as_str(), "vm-7");
    assert_eq!(loaded.config.trust, PathBuf::from("/etc/starling/trust"));
    assert_eq!(loaded.config.state, PathBuf::from("/var/lib/starling"));
    assert_eq!(loaded.config.api.socket, PathBuf::from("/run/starling/api.sock"));
    assert_eq!(loaded.config.api.tcp, TcpAccess::Read);
    assert_eq!(loaded.config.data.threads, None);
    assert_eq!(loaded.warnings, []);
    assert!(loaded.origins.iter().all(|setting| setting.origin == Origin::Default));
    let keys: Vec<&str> = loaded.origins.iter().map(|setting| setting.key.as_str()).collect();
    assert_eq!(keys, settings::keys());
}

#[test]
fn another_folder_holds_its_own_state_and_socket() {
    let sources = Sources { dir: ConfigDir::new("/tmp/a"), hostname: "vm-1".into(), ..Sources::default() };
    let config = load(sources).unwrap().config;
    assert_eq!(config.state, PathBuf::from("/tmp/a/state"));
    assert_eq!(config.api.socket, PathBuf::from("/tmp/a/api.sock"));
    assert_eq!(config.trust, PathBuf::from("/tmp/a/trust"));
    assert_eq!(config.services_dir(), PathBuf::from("/tmp/a/services.d"));
    assert!(ConfigDir::new("/etc//starling/").is_standard());
}

#[test]
fn a_folder_too_long_for_a_socket_is_told_unless_the_socket_is_elsewhere() {
    let long = format!("/tmp/{}", "x".repeat(120));
    let mut sources = Sources { dir: ConfigDir::new(long), hostname: "vm-1".into(), ..Sources::default() };
    let told = problems(sources.clone());
    assert!(told[0].message.contains("the path of a Unix socket holds 107"), "{told:?}");
    sources.flags = pairs(&[("api.socket", "/tmp/a.sock")]);
    assert!(load(sources).is_ok());
}

#[test]
fn a_host_name_that_is_no_node_name_is_told_unless_one_is_set() {
    let sources = Sources { hostname: "-".into(), ..Sources::default() };
    assert!(problems(sources.clone())[0].message.contains("node_name is not set"));
    assert!(load(Sources { flags: pairs(&[("node_name", "vm-3")]), ..sources }).is_ok());
}

#[test]
fn later_layers_win_and_every_value_knows_its_origin() {
    let mut sources = agent_toml(
        "[mesh]\nseeds = [\"a:1\", \"b:2\"]\nlabels = { zone = \"a\", rack = \"r7\" }\npreset = \"wan\"\n[log]\nfilter = \"warn\"\n",
    );
    sources = conf_d(sources, "conf.d/20.toml", "[mesh]\nseeds = [\"d:4\"]\n");
    sources = conf_d(sources, "conf.d/10.toml", "[mesh]\nseeds = [\"c:3\"]\nlabels.zone = \"b\"\nlabels.row = \"1\"\n");
    sources.environment =
        pairs(&[("STARLING_LOG__FILTER", "error"), ("STARLING_API__LISTEN", "127.0.0.1:1"), ("PATH", "/bin")]);
    sources.flags = pairs(&[("api.listen", "127.0.0.1:2"), ("mesh.labels.row", "2")]);
    let loaded = load(sources).unwrap();
    let check = |key: &str, value: &str, origin: &str| {
        let setting = loaded.origins.iter().find(|setting| setting.key == key).unwrap();
        assert_eq!((setting.value.as_str(), setting.origin.to_string().as_str()), (value, origin), "{key}");
    };
    check("mesh.seeds", "[\"d:4\"]", "conf.d/20.toml:2");
    check("mesh.labels.zone", "\"b\"", "conf.d/10.toml:3");
    check("mesh.labels.rack", "\"r7\"", "agent.toml:3");
    check("mesh.labels.row", "\"2\"", "flag mesh.labels.row");
    check("mesh.preset", "\"wan\"", "agent.toml:4");
    check("log.filter", "\"error\"", "environment STARLING_LOG__FILTER");
    check("api.listen", "\"127.0.0.1:2\"", "flag api.listen");
    check("node_name", "\"vm-1\"", "default");
    assert_eq!(loaded.config.mesh.labels.to_string(), "rack=r7,row=2,zone=b");
    assert_eq!(loaded.config.mesh.preset, Preset::Wan);
    assert_eq!(loaded.config.log.filter, "error");
}

#[test]
fn variables_and_flags_read_lists_labels_numbers_and_tables() {
    let mut sources = Sources { hostname: "vm-1".into(), ..Sources::default() };
    sources.environment = pairs(&[
        ("STARLING_MESH__SEEDS", "10.0.0.11:7740, vm-2"),
        ("STARLING_MESH__LABELS", "zone=a, rack=r7"),
        ("STARLING_DATA__THREADS", "3"),
        ("STARLING__NODE_NAME", "vm-9"),
        ("STARLING_LOG", "debug"),
        ("STARLING_VIEW", "all"),
        ("STARLING__UPSTREAM", r#"[{ service = "orders", listen = "127.0.0.1:9001" }]"#),
    ]);
    let config = load(sources.clone()).unwrap().config;
    let seeds: Vec<String> = config.mesh.seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["10.0.0.11:7740", "vm-2:7740"]);
    assert_eq!(config.mesh.labels.to_string(), "rack=r7,zone=a");
    assert_eq!(config.data.threads.unwrap().get(), 3);
    assert_eq!(config.node_name.as_str(), "vm-9");
    assert_eq!(config.log.filter, "debug");
    assert_eq!(config.upstreams.len(), 1);
    sources.flags = pairs(&[("mesh.seeds", "a:1"), ("mesh.seeds", "[\"b:2\", \"c:3\"]"), ("outbound.http", "off")]);
    let config = load(sources).unwrap().config;
    assert_eq!(config.mesh.seeds.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2", "c:3"]);
    assert_eq!(config.outbound.http, None);
    assert_eq!(config.outbound.session_key_file, None);
    assert_eq!(config.gateway.listen, GatewayListen::OfMesh);
    let gateway =
        |value: &str| load(agent_toml(&format!("[gateway]\nlisten = \"{value}\""))).unwrap().config.gateway.listen;
    assert_eq!(gateway("off"), GatewayListen::Off);
    assert_eq!(gateway("192.0.2.7"), GatewayListen::At([192, 0, 2, 7].into()));
    let sealed = load(agent_toml("[outbound]\nsession_key_file = \"/etc/starling/session.key\"")).unwrap().config;
    assert_eq!(sealed.outbound.session_key_file, Some("/etc/starling/session.key".into()));
}

#[test]
fn a_variable_or_flag_that_names_no_setting_is_refused_with_the_nearest() {
    let check = |name: &str, near: Option<&str>| {
        let sources = Sources { environment: pairs(&[(name, "1")]), hostname: "vm-1".into(), ..Sources::default() };
        let told = problems(sources);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].code, codes::UNKNOWN_SETTING);
        assert_eq!(told[0].note, near.map(|near| format!("did you mean {near}?")), "{name}");
        assert!(told[0].to_string().contains(&format!("environment variable {name}")));
    };
    check("STARLING_API__LISEN", Some("STARLING_API__LISTEN"));
    check("STARLING_API_LISTEN__", Some("STARLING_API__LISTEN"));
    check("STARLING_api__listen", Some("STARLING_API__LISTEN"));
    check("STARLING_MESH__SEED", Some("STARLING_MESH__SEEDS"));
    check("STARLING__NODENAME", Some("STARLING__NODE_NAME"));
    check("STARLING__MESH", None);
    check("STARLING_BANANA__PEEL", None);

    let sources = Sources { flags: pairs(&[("mesh.lisen", "1")]), hostname: "vm-1".into(), ..Sources::default() };
    let told = problems(sources);
    assert_eq!(told[0].note.as_deref(), Some("did you mean mesh.listen?"));
}

/// One slip each: the text, the line and column of the place, the code, and what stands beside the carets.
#[test]
fn slips_are_told_at_their_place_with_the_nearest_name() {
    let check = |text: &str, place: (usize, usize), code: Code, note: &str| {
        let told = problems(agent_toml(text));
        assert_eq!(told.len(), 1, "{text:?}: {told:?}");
        let first = &told[0];
        assert_eq!((first.line(), first.column()), (Some(place.0), Some(place.1)), "{text:?}: {first}");
        assert_eq!(first.code, code, "{text:?}");
        assert_eq!(first.note.as_deref().unwrap_or(""), note, "{text:?}");
    };
    let unknown = codes::UNKNOWN_SETTING;
    let bad = codes::BAD_SETTING;
    check("nodename = \"vm-1\"", (1, 1), unknown, "did you mean `node_name`?");
    check("node-name = \"vm-1\"", (1, 1), unknown, "did you mean `node_name`?");
    check("\n\n  trsut = \"/a\"", (3, 3), unknown, "did you mean `trust`?");
    check("stat = \"/a\"", (1, 1), unknown, "did you mean `state`?");
    check("[mehs]\nlisten = \"0.0.0.0:1\"", (1, 2), unknown, "did you mean `mesh`?");
    check("[mesh]\nlisen = \"0.0.0.0:1\"", (2, 1), unknown, "did you mean `listen`?");
    check("[mesh]\nadvertize = \"10.0.0.1:1\"", (2, 1), unknown, "did you mean `advertise`?");
    check("[mesh]\nseed = [\"a:1\"]", (2, 1), unknown, "did you mean `seeds`?");
    check("[mesh]\nlable = {}", (2, 1), unknown, "did you mean `labels`?");
    check("[mesh]\npresets = \"lan\"", (2, 1), unknown, "did you mean `preset`?");
    check("[mesh]\ntimeout = \"5s\"", (2, 1), unknown, "did you mean `ready_timeout`?");
    check("[api]\nsockt = \"/a\"", (2, 1), unknown, "did you mean `socket`?");
    check("[api]\ntoken = \"/a\"", (2, 1), unknown, "did you mean `token_file`?");
    check("[dns]\ndomian = \"a\"", (2, 1), unknown, "did you mean `domain`?");
    check("[outbond]\nhttp = \"off\"", (1, 2), unknown, "did you mean `outbound`?");
    check("[outbound]\nhtpp = \"off\"", (2, 1), unknown, "did you mean `http`?");
    check("[outbound]\nvip_cird = \"127.77.0.0/16\"", (2, 1), unknown, "did you mean `vip_cidr`?");
    check("[log]\nfilters = \"info\"", (2, 1), unknown, "did you mean `filter`?");
    check("[log]\nlevel = \"info\"", (2, 1), unknown, "");
    check("listen = \"0.0.0.0:1\"", (1, 1), unknown, "did you mean `mesh.listen`?");
    check("[data]\nthread = 2", (2, 1), unknown, "did you mean `threads`?");
    check("[[upstreams]]\nservice = \"a\"", (1, 3), unknown, "did you mean `upstream`?");
    check(
        "[[upstream]]\nsevice = \"a\"\nservice = \"a\"\nlisten = \"127.0.0.1:1\"",
        (2, 1),
        unknown,
        "did you mean `service`?",
    );
    check("[mesh]\nseeds = [\"a:1\"]\n[log]\nformat = \"jsn\"", (4, 10), bad, "did you mean \"json\"?");
    check("[access_log]\nformat = \"jsn\"", (2, 10), bad, "did you mean \"json\"?");
    check("[access_log]\nto = \"access.log\"", (2, 6), bad, "");
    for only in [
        "error",
        "sample",
        "sample:",
        "sample:0",
        "sample:1.000001",
        "sample:0.0000001",
        "sample:-1",
        "sample:1e3",
        "sample:99999999999",
    ] {
        check(&format!("[access_log]\nonly = \"{only}\""), (2, 8), bad, "");
    }
    check("[mesh]\npreset = \"lann\"", (2, 10), bad, "did you mean \"lan\"?");
    check("[api]\ntcp = \"raed\"", (2, 7), bad, "did you mean \"read\"?");
    check("[mesh]\nlisten = 7740", (2, 10), bad, "put it in double quotes");
    check("[mesh]\nlisten = \":7740\"", (2, 10), bad, "did you mean \"127.0.0.1:7740\"?");
    check("[mesh]\nlisten = \"0.0.0.0\"", (2, 10), bad, "the port is missing");
    check("[mesh]\nlisten = \"0.0.0.0:99999\"", (2, 10), bad, "a port is a number up to 65535");
    check("[mesh]\nlisten = \"0.0.0.0:0\"", (2, 10), bad, "");
    check("[mesh]\nadvertise = \"0.0.0.0:7740\"", (2, 13), bad, "");
    check("[mesh]\nseeds = \"10.0.0.11:7740\"", (2, 9), bad, "did you mean [\"10.0.0.11:7740\"]?");
    check("[mesh]\nseeds = [\"a:1\", \"http://b\"]", (2, 17), bad, "");
    check("[mesh]\nseeds = [\"10.0.0.300:7740\"]", (2, 10), bad, "");
    check("[mesh]\nready_timeout = 30", (2, 17), bad, "did you mean \"30s\"?");
    check("[mesh]\nready_timeout = \"30 s\"", (2, 17), bad, "");
    check("[mesh]\nready_timeout = \"2h\"", (2, 17), bad, "");
    check("[mesh]\nlabels = { zone = 1 }", (2, 19), bad, "label values stand in double quotes");
    check("[mesh]\nlabels = { zone = \"a b\" }", (2, 19), bad, "");
    check("[api]\nlisten = \"0.0.0.0:7741\"", (2, 10), bad, "");
    check("[api]\ntcp = \"token\"", (2, 7), bad, "");
    check("[api]\nhosts = [\"a\", \"http://b\"]", (2, 15), bad, "");
    check("[outbound]\nhttp = false", (2, 8), bad, "did you mean \"off\"?");
    check("[outbound]\nvip_cidr = \"127.77.0.0/30\"", (2, 12), bad, "");
    check("[outbound]\nvip_cidr = \"10.0.0.0/16\"", (2, 12), bad, "");
    check("[outbound]\nvip_listeners = [\"Orders\"]", (2, 18), bad, "");
    check("[gateway]\nlisten = \"192.0.2.7:1\"", (2, 10), bad, "");
    check("[outbound]\nsession_key_file = 7", (2, 20), bad, "put it in double quotes");
    check("[outbound]\nsession_key = \"/a\"", (2, 1), unknown, "did you mean `session_key_file`?");
    check("[data]\nthreads = \"4\"", (2, 11), bad, "did you mean 4 without quotes?");
    check("[data]\nthreads = 0", (2, 11), bad, "");
    check("mesh = 3", (1, 8), bad, "");
    check("node_name = \"VM_1\"", (1, 13), bad, "did you mean \"vm-1\"?");
    check("[node_name]\na = 1", (1, 1), bad, "");
    check("[upstream]\nservice = \"a\"", (1, 1), bad, "write [[upstream]]");
    check("[[upstream]]\nservice = \"a\"", (1, 1), bad, "`listen` is missing");
    check(
        "[[upstream]]\nservice = \"a\"\nlisten = \"/run/a.sock\"",
        (3, 10),
        bad,
        "did you mean \"unix:/run/a.sock\"?",
    );
    check("[[upstream]]\nservice = \"a\"\nlisten = \"127.0.0.1:7741\"", (3, 10), bad, "");
    check("[[upstream]]\nservice = \"a\"\nlisten = \"127.0.0.1:7740\"", (3, 10), bad, "");
    // The parser's own findings.
    check("[mesh]\nlisten = \"0.0.0.0:1", (2, 20), bad, "");
    check("[mesh]\nlisten 5", (2, 8), bad, "");
    check("[mesh]\n[mesh]\n", (2, 2), bad, "");
    check("a = 1\na = 2\n", (2, 1), bad, "");
}

#[test]
fn all_problems_of_all_sources_come_in_one_run_in_order() {
    let mut sources = agent_toml("[log]\nformat = \"x\"\n[mesh]\nlisen = \"a\"\npreset = \"b\"\n");
    sources = conf_d(sources, "conf.d/b.toml", "[log]\nformat = \"json\"\nfoo = 1\n");
    sources = conf_d(sources, "conf.d/a.toml", "[log\n");
    sources.environment = pairs(&[("STARLING_DATA__THREADS", "many")]);
    sources.flags = pairs(&[("nod_name", "a")]);
    let told: Vec<String> = problems(sources)
        .iter()
        .map(|problem| match &problem.place {
            Some(Place::File(place)) => format!("{}:{}", place.file, place.line),
            Some(Place::Outside(place)) => place.clone(),
            None => "-".into(),
        })
        .collect();
    // A wrong value is told although a later file replaces it.
    assert_eq!(
        told,
        [
            "agent.toml:2",
            "agent.toml:4",
            "agent.toml:5",
            "conf.d/a.toml:1",
            "conf.d/b.toml:3",
            "environment variable STARLING_DATA__THREADS",
            "flag nod_name"
        ]
    );
}

#[test]
fn a_problem_looks_as_documented() {
    let text = "node_name = \"vm-1\"\n\n\n\n\n\n\n[mesh]\n# comment\nlisten = \"0.0.0.0:7740\"\nprest = \"lan\"\n";
    let told = problems(agent_toml(text));
    assert_eq!(
        render(&told),
        "error[ST0102]: unknown setting `mesh.prest`\n\
         \x20 --> agent.toml:11:1\n\
         \x20  |\n\
         10 | listen = \"0.0.0.0:7740\"\n\
         11 | prest = \"lan\"\n\
         \x20  | ^^^^^ did you mean `preset`?\n\
         \x20  |\n\
         \x20 help:  known of mesh: listen, advertise, seeds, labels, preset, ready_timeout\n\
         1 error in 1 file\n"
    );
    let told = problems(agent_toml("[outbound]\nvip_cidr = \"127.77.0.0/30\"\n"));
    assert_eq!(
        told[0].to_string(),
        "error[ST0103]: outbound.vip_cidr = \"127.77.0.0/30\" holds 4 addresses, at least 256 are needed\n\
         \x20 --> agent.toml:2:12\n\
         \x20  |\n\
         \x201 | [outbound]\n\
         \x202 | vip_cidr = \"127.77.0.0/30\"\n\
         \x20  |            ^^^^^^^^^^^^^^^\n\
         \x20  |\n\
         \x20 help:  vip_cidr is a loopback range of /24 or wider; the default is \"127.77.0.0/16\""
    );
    let sources = Sources { flags: pairs(&[("log.format", "x")]), hostname: "vm-1".into(), ..Sources::default() };
    assert_eq!(
        problems(sources)[0].to_string(),
        "error[ST0103]: log.format = \"x\" is not one of \"auto\", \"text\", \"journald\", \"json\"\n\
         \x20 --> flag log.format\n\
         \x20 help:  format is how log lines look; the default is \"auto\""
    );
}

#[test]
fn places_survive_tabs_umlauts_carriage_returns_and_byte_order_marks() {
    let told = problems(agent_toml("[mesh]\r\n\tlabels = { ort = \"München\" } # ä\r\n"));
    assert_eq!((told[0].line(), told[0].column()), (Some(2), Some(19)));
    assert!(told[0].to_string().contains("   | \t                 ^^^^^^^^^\n"), "{}", told[0]);
    let told = problems(agent_toml("\u{feff}nodename = \"a\"\n"));
    assert_eq!((told[0].line(), told[0].column()), (Some(1), Some(1)));
    let told = problems(agent_toml(&format!("trust = \"{}\"\nx = 1\n", "y".repeat(5_000))));
    assert!(told.iter().all(|problem| problem.to_string().lines().all(|line| line.len() < 300)), "{told:?}");
    let told = problems(agent_toml("node_name = \"\u{1b}[31m\"\n"));
    assert!(!told[0].to_string().contains('\u{1b}'));
}

#[test]
fn settings_that_wait_warn_only_when_changed() {
    let check = |text: &str, keys: &[&str]| {
        let loaded = load(agent_toml(text)).unwrap();
        let told: Vec<&str> = loaded.warnings.iter().filter_map(|w| w.message.split(' ').next()).collect();
        assert_eq!(told, keys, "{text}");
        assert!(loaded.warnings.iter().all(|warning| warning.to_string().starts_with("warning[ST0104]")));
    };
    check("[dns]\nlisten = \"127.0.0.1:7753\"\ndomain = \"other.internal\"", &[]);
    check("[dns]\nlisten = \"off\"\nforward = [\"192.0.2.53\"]", &["dns.listen", "dns.forward"]);
    check("[outbound]\nvip = \"off\"\nvip_listeners = [\"orders\"]", &["outbound.vip", "outbound.vip_listeners"]);
    check("[metrics]\nlisten = \"0.0.0.0:7742\"", &["metrics.listen"]);
}

#[test]
fn what_is_printed_reads_back_as_the_same_settings() {
    let mut sources = agent_toml(SAMPLE);
    sources.flags = pairs(&[("mesh.labels.a/b", "c"), ("data.threads", "2")]);
    let loaded = load(sources).unwrap();
    let printed = loaded.to_toml();
    assert!(printed.contains("# agent.toml:6"), "{printed}");
    assert!(printed.contains("# token_file is not set: the file with"), "{printed}");
    let again = load(agent_toml(&printed)).unwrap_or_else(|told| panic!("{printed}\n{}", render(&told)));
    assert_eq!(again.config, loaded.config);
}

#[test]
fn limits_hold_one_past_their_end() {
    let upstreams = |count: usize| {
        (0..count)
            .map(|n| format!("[[upstream]]\nservice = \"a\"\nlisten = \"127.0.0.1:{}\"\n", 20_000 + n))
            .collect::<String>()
    };
    assert!(load(agent_toml(&upstreams(256))).is_ok());
    assert!(problems(agent_toml(&upstreams(257)))[0].message.contains("at most 256"));
    let seeds = |count: usize| format!("[mesh]\nseeds = [{}]", "\"a:1\",".repeat(count));
    assert!(load(agent_toml(&seeds(256))).is_ok());
    assert!(problems(agent_toml(&seeds(257)))[0].message.contains("at most 256"));
    let many: String = (0..500).map(|n| format!("banana{n} = 1\n")).collect();
    assert_eq!(problems(agent_toml(&many)).len(), crate::problem::PROBLEMS_MAX + 1);
    assert!(problems(agent_toml(&"#".repeat((1 << 20) + 1)))[0].message.contains("at most 1048576 are read"));
    let deep = format!("a = {}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(!problems(agent_toml(&deep)).is_empty());
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|[\n\t\r\\[\\]={}\",.#]){0,200}") {
        if let Err(told) = load(agent_toml(&text)) {
            let _ = render(&told);
        }
    }

    #[test]
    fn no_mutation_of_the_sample_panics(at in 0_usize..SAMPLE.len(), insert in "(\\PC|[\n\\[\\]={}\"]){0,4}", cut in 0_usize..6) {
        let head: String = SAMPLE.chars().take(at).collect();
        let tail: String = SAMPLE.chars().skip(at + cut).collect();
        if let Err(told) = load(agent_toml(&format!("{head}{insert}{tail}"))) {
            prop_assert!(!told.is_empty());
            let _ = render(&told);
        }
    }

    #[test]
    fn no_variable_or_flag_panics(key in "[A-Za-z_.]{0,30}", value in "\\PC{0,40}") {
        let mut sources = Sources { hostname: value.clone(), ..Sources::default() };
        sources.environment = vec![(format!("STARLING_{key}"), value.clone())];
        sources.flags = vec![(key, value.clone()), ("mesh.labels".into(), value.clone()), ("data.threads".into(), value)];
        let _ = load(sources);
    }
}

#[test]
fn the_access_log_is_read_exactly() {
    let read = |text: &str| load(agent_toml(&format!("[access_log]\n{text}"))).unwrap().config.access_log;
    let built_in = read("");
    assert_eq!((built_in.to, built_in.format), (AccessLogTo::Journald, AccessLogFormat::Json));
    assert_eq!(built_in.only, AccessLogOnly::Errors);
    let file = read("to = \"/var/log/starling/access.log\"\nformat = \"envoy\"\nonly = \"all\"");
    assert_eq!(file.to, AccessLogTo::File("/var/log/starling/access.log".into()));
    assert_eq!((file.format, file.only), (AccessLogFormat::Envoy, AccessLogOnly::All));
    for (share, parts) in [("0.01", 10_000), ("1", 1_000_000), ("1.0", 1_000_000), ("0.000001", 1), ("0.5", 500_000)] {
        assert_eq!(read(&format!("only = \"sample:{share}\"")).only, AccessLogOnly::Sample(parts), "{share}");
    }
}
