//! Arguments in, exit code and message out; nothing here needs an agent.

use clap::CommandFactory as _;

use super::*;

fn parse(words: &[&str]) -> Result<Starling, clap::Error> {
    let words = ["starling"].iter().chain(words);
    command().try_get_matches_from(words).and_then(|mut found| Starling::from_arg_matches_mut(&mut found))
}

fn complaint(words: &[&str]) -> String {
    let error = parse(words).unwrap_err();
    let arguments: Vec<OsString> = ["starling"].iter().chain(words).map(OsString::from).collect();
    usage::as_ours(&error, &usage::more(&arguments, &Starling::command())).render(&Look::plain())
}

#[test]
fn the_tree_of_commands_is_sound() {
    Starling::command().debug_assert();
}

#[test]
fn unknown_words_get_the_nearest_known_one() {
    for (words, what, near) in [
        (vec!["membres"], "error[ST0101]: unknown command `membres`", "did you mean `members`?"),
        (vec!["status", "--outptu", "json"], "error[ST0101]: unknown flag `--outptu`", "did you mean `--output`?"),
        (vec!["agent", "--sed", "x"], "error[ST0101]: unknown flag `--sed`", "did you mean `--seed`?"),
        (vec!["status", "-o", "jsn"], "error[ST0101]: unknown value of", "did you mean `json`?"),
        (vec!["trust", "inti"], "error[ST0101]: unknown command `inti`", "did you mean `init`?"),
        (vec!["members", "--state", "aliv"], "error[ST0101]: unknown value of", "did you mean `alive`?"),
    ] {
        let text = complaint(&words);
        assert!(text.starts_with(what) && text.contains(near), "{words:?}: {text}");
    }
}

#[test]
fn wrong_values_say_what_is_wrong_and_where_to_read_on() {
    for (words, part) in [
        (vec!["members", "--address", "ftp://x"], "is not an agent's address"),
        (vec!["services", "Orders"], "is not a DNS label"),
        (vec!["members", "-n", "node"], "reserved"),
        (vec!["members", "--label", "zone"], "KEY=VALUE"),
        (vec!["agent", "--set", "mesh.preset"], "KEY=VALUE"),
        (vec!["trust", "issue", "node"], "missing <NAME>"),
        (vec!["trust", "issue", "node", "vm_2"], "is not a DNS label"),
        (vec!["trust", "init", "--out", "x"], "missing --trust-domain <TD>"),
        (vec!["join"], "missing <FILE|FOLDER>"),
        (vec!["services", "--node", "vm-1"], "missing <SERVICE>"),
        (vec!["status", "extra"], "extra"),
        (vec!["status", "-w=5"], "duration"),
        (vec!["demo", "--exit-after", "soon"], "duration"),
        (vec!["completions", "powerfish"], "powerfish"),
        (vec!["status", "-o", "qqqq"], "known values: table, wide"),
    ] {
        let text = complaint(&words);
        assert!(text.starts_with("error") && text.contains(part), "{words:?}: {text}");
        assert!(text.contains("  help:  "), "{words:?}: {text}");
    }
}

#[test]
fn a_complaint_looks_like_every_error() {
    assert_eq!(
        complaint(&["members", "--state", "aliv"]),
        "error[ST0101]: unknown value of --state `aliv`\n\
         \x20 help:  did you mean `alive`?\n\
         \x20        its flags:  starling members --help\n"
    );
    assert_eq!(
        complaint(&["trust", "init", "--out", "x"]),
        "error: missing --trust-domain <TD>\n\
         \x20 help:  usage:  starling trust init --trust-domain <TD> --out <DIR>\n\
         \x20        its flags:  starling trust init --help\n"
    );
}

#[test]
fn wrong_usage_exits_2_and_help_exits_0() {
    let exit = |words: &[&str]| {
        let words: Vec<OsString> = ["starling"].iter().chain(words).map(OsString::from).collect();
        run(&words)
    };
    assert_eq!(exit(&["membres"]), Exit::Usage);
    assert_eq!(exit(&["trust", "issue"]), Exit::Usage);
    assert_eq!(exit(&["help", "membres"]), Exit::Usage);
    assert_eq!(exit(&["help", "ST9999"]), Exit::NotFound);
    assert_eq!(exit(&["--address", "unix:///nowhere/api.sock", "members"]), Exit::NoAgent);
    assert_eq!(
        exit(&["--address", "unix:///nowhere/api.sock", "members", "--state", "alive", "-o", "json"]),
        Exit::Usage
    );
    assert_eq!(exit(&["join", "/nowhere/vm-1.join"]), Exit::NotFound);
    assert_eq!(exit(&["trust", "inspect", "/nowhere/bundle.trust"]), Exit::NotFound);
    for good in [&["help"][..], &["--help"], &["--version"], &["version"], &["help", "exit-codes"], &["help", "trust"]]
    {
        assert_eq!(exit(good), Exit::Done, "{good:?}");
    }
}

#[test]
fn flags_that_go_everywhere_go_before_and_after_the_command() {
    for words in [["--address", "http://h:1", "members"], ["members", "--address", "http://h:1"]] {
        assert_eq!(parse(&words).unwrap().global.address, Some("http://h:1".parse().unwrap()));
    }
}

#[test]
fn watching_takes_a_pause_or_none() {
    let watch = |words: &[&str]| match parse(words).unwrap().command {
        Some(Command::Members(args)) => args.watch.watch.map(|pause| pause.as_millis()),
        other => panic!("{other:?}"),
    };
    assert_eq!(watch(&["members"]), None);
    assert_eq!(watch(&["members", "-w"]), Some(2_000));
    assert_eq!(watch(&["members", "-w=500ms"]), Some(500));
    assert_eq!(watch(&["members", "--watch=1s", "--state", "alive"]), Some(1_000));
}

#[test]
fn completions_name_the_commands_and_hide_what_is_hidden() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Starling::command(), "starling", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("members") && script.contains("issue"), "{shell}");
    }
}

/// A flag that would do nothing is wrong usage: whoever typed it meant something.
#[test]
fn flags_of_the_trust_commands_that_do_not_apply_are_refused() {
    let hash = format!("SHA256:{}", "0a".repeat(32));
    let sign = |words: &[&str]| parse(&[&["trust", "sign"], words].concat()).is_ok();
    assert!(sign(&["a.csr"]) && sign(&["a.csr", "--request-key", &hash, "--ttl", "30d", "--seed", "a", "--replace"]));
    assert!(sign(&[
        "--renew",
        "vm-1",
        "--wait",
        "--timeout",
        "1s",
        "--own-head",
        "--root-key",
        "x",
        "--config-dir",
        "d"
    ]));
    assert!(sign(&["--renew-all", "--dir", "d", "--key", "k"]));
    for renews in [&["--renew", "vm-1"][..], &["--renew-all"]] {
        for idle in [&["a.csr"][..], &["--request-key", &hash], &["--ttl", "30d"], &["--seed", "a"], &["--replace"]] {
            assert!(!sign(&[renews, idle].concat()), "{renews:?} {idle:?}");
        }
    }
    for idle in [&["--wait"][..], &["--timeout", "1s"], &["--own-head"], &["--root-key", "x"], &["--config-dir", "d"]] {
        assert!(!sign(&[&["a.csr"], idle].concat()), "{idle:?}");
    }
    for bad in ["", "SHA256:0a", "0a0a", &hash[..70], "SHA512:00"] {
        assert!(!sign(&["a.csr", "--request-key", bad]), "{bad:?}");
    }
    let status = |words: &[&str]| parse(&[&["trust", "rotate", "--status"], words].concat()).is_ok();
    assert!(status(&["--no-headers"]) && parse(&["trust", "rotate", "--begin", "--no-headers"]).is_err());
    for idle in [&["--force"][..], &["--wait"], &["--root-key", "x"], &["--own-head"]] {
        assert!(!status(idle), "{idle:?}");
    }
    let check = |words: &[&str]| parse(&[&["check"], words].concat()).is_ok();
    assert!(check(&["--wait", "--timeout", "1s"]) && check(&["--pre", "-o", "wide"]) && check(&["-o", "name"]));
    assert!(!check(&["--pre", "--wait"]) && !check(&["--timeout", "1s"]));
    assert!(!check(&["--pre", "--address", "http://h:1"]), "it looks at this host");
}
