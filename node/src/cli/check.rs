//! `starling check`: what is in order at this host, and what is not. Asks the agent; where none answers, looks at what this
//! host's agent would start from, since a host whose certificate has ended has no agent to ask. Before anything is installed,
//! `--pre` looks at the host itself.

mod pre;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;
use starling_config::ConfigDir;
use starling_identity::{NodeIdentity, TrustBundle, UnixTime, new_record_key};
use starling_model::codes;

use crate::api::views::{API_VERSION, CheckLine, CheckReport, Envelope, kind};
use crate::checks::{self, Certificates, bad};
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::leave::duration;
use crate::cli::load::{Request, configuration};
use crate::cli::look::{Look, Mark, Tone};
use crate::cli::table::clean;
use crate::cli::trust::now;
use crate::cli::{install, output};
use crate::files::{self, FileError};
use crate::folder::Folder;
use crate::identity_folder;

/// Pause between two questions with `--wait`.
const PAUSE: Duration = Duration::from_millis(250);

/// Flags of `starling check`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    /// Before anything is installed: kernel, ports, UDP, clock, limits and names of this host; no agent is asked
    #[arg(long, conflicts_with_all = ["wait", "address"])]
    pre: bool,
    /// Asks again until nothing is wrong; ends with 6 when something still is
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration, requires = "wait")]
    timeout: Duration,
    /// Form of the answer; short shows problems only
    #[arg(short, long, value_enum, default_value = "table", env = "STARLING_OUTPUT", value_name = "FORM")]
    output: Form,
    /// Configuration folder of the agent that is asked; its socket is in it
    #[arg(long, value_name = "DIR")]
    pub(super) config_dir: Option<PathBuf>,
}

/// Form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// For people, with what each code stands for
    Wide,
    /// Problems only
    Short,
    /// The agent's answer, byte for byte
    Json,
    /// The same as YAML
    Yaml,
    /// Codes of what is not in order, one on each line
    Name,
}

/// Whose agent is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// One that was named by its address: it may be anywhere, and files of this host say nothing of it.
    Named,
    /// This host's, or that of a configuration folder on it.
    ThisHosts,
}

/// What is found without an agent, in the envelope of the agent's own report; nobody's view.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unseen<'a> {
    api_version: &'a str,
    kind: &'a str,
    #[serde(flatten)]
    report: &'a CheckReport,
}

/// Runs the command. Ends with 1 when something is wrong, with 3 when no agent answered; what somebody should look at is no
/// error.
pub(crate) fn run(client: &Client, whose: Whose, args: &CheckArgs, look: &Look) -> Result<Exit, CliError> {
    if args.pre {
        let report = CheckReport::new(pre::lines(&config_dir(args))?);
        show(args, look, &report, None)?;
        return Ok(exit(&report));
    }
    let began = Instant::now();
    loop {
        let asked = client.ask(Ask::get("/v1/checks"));
        let is_over = !args.wait || began.elapsed() >= args.timeout;
        let answer = match asked {
            Ok(answer) => answer,
            // With --wait it may be starting.
            Err(error) if error.exit() == Exit::NoAgent && !is_over => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) if error.exit() == Exit::NoAgent && whose == Whose::ThisHosts => {
                return without_agent(args, look, error);
            }
            Err(error) => return Err(error),
        };
        let report: Envelope<CheckReport> = serde_json::from_slice(&answer.body).map_err(|error| {
            CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(error.to_string())
        })?;
        if report.body.errors > 0 && !is_over {
            std::thread::sleep(PAUSE);
            continue;
        }
        show(args, look, &report.body, Some(&answer.body))?;
        let found = exit(&report.body);
        return Ok(if args.wait && found == Exit::Bad { Exit::TimedOut } else { found });
    }
}

/// The report in the form that is wanted; `body` is how an agent sent it.
fn show(args: &CheckArgs, look: &Look, report: &CheckReport, body: Option<&[u8]>) -> Result<Exit, CliError> {
    let json = || match body {
        Some(body) => Ok(body.to_vec()),
        None => output::to_json(&Unseen { api_version: API_VERSION, kind: kind::CHECK_REPORT, report }),
    };
    match args.output {
        Form::Table => output::print(&render(report, look, Titles::Hidden)),
        Form::Wide => output::print(&render(report, look, Titles::Shown)),
        Form::Short => output::print(&short(report, look)),
        Form::Json => output::print_body(&json()?),
        Form::Yaml => output::print_yaml(&json()?),
        Form::Name => output::print(&names(report)),
    }
}

fn names(report: &CheckReport) -> String {
    report.items.iter().filter(|line| !line.code.is_empty()).map(|line| format!("{}\n", clean(&line.code))).collect()
}

fn exit(report: &CheckReport) -> Exit {
    if report.errors > 0 { Exit::Bad } else { Exit::Done }
}

fn config_dir(args: &CheckArgs) -> ConfigDir {
    ConfigDir::new(args.config_dir.clone().unwrap_or_else(|| PathBuf::from(ConfigDir::STANDARD)))
}

/// What the files say. They are read as the agent reads them, and nothing is written.
fn without_agent(args: &CheckArgs, look: &Look, no_agent: CliError) -> Result<Exit, CliError> {
    let Ok(loaded) = configuration(&Request { dir: config_dir(args), flags: Vec::new() }) else {
        return Err(no_agent);
    };
    let (trust, state) = (loaded.config.trust, loaded.config.state);
    if trust.join("bundle.trust").symlink_metadata().is_err() {
        // Nothing was ever installed here: that there is no agent is all there is to say.
        return Err(no_agent);
    }
    let mut lines = of_files(&trust, &state, now());
    lines.push(bad("gossip", codes::NO_AGENT, no_agent.what().to_owned()));
    show(args, look, &CheckReport::new(lines), None)?;
    Ok(Exit::NoAgent)
}

/// Bundle, chain and key as they lie there.
fn of_files(trust: &Path, state: &Path, now: UnixTime) -> Vec<CheckLine> {
    let bundle_path = trust.join("bundle.trust");
    let bundle = match files::read_public(&bundle_path) {
        Ok(bytes) => TrustBundle::parse(&bytes),
        Err(error) => return vec![bad("trust", codes::BUNDLE_INVALID, told(&error))],
    };
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(error) => {
            return vec![bad("trust", error.code(), format!("{}: {}", bundle_path.display(), told(&error)))];
        }
    };
    let mut lines = Vec::new();
    match identity_files(state) {
        Ok((chain, key)) => match NodeIdentity::load(&bundle, &chain, &key, &new_record_key(), now) {
            Ok(node) => lines.extend(
                checks::certificates(&Certificates {
                    now,
                    not_after: node.certificate_not_after(),
                    is_ending: crate::tasks::identity::is_chain_ending(&node, now),
                    is_chained: true,
                    is_revoked: false,
                    leaf: (node.certificate_not_after(), now),
                })
                .into_iter()
                .take(1),
            ),
            Err(error) => {
                lines.push(bad("trust", error.code(), format!("the identity cannot be used: {}", told(&error))))
            }
        },
        Err(error) => {
            let code = match &error {
                FileError::Unsafe { .. } => codes::SECRET_UNSAFE,
                FileError::Io { .. } | FileError::TooLarge { .. } | FileError::NotText { .. } => {
                    codes::IDENTITY_MISSING
                }
            };
            // With a shared issuer the agent makes it at its first start.
            if !(bundle.shared_issuer && error.is_missing()) {
                lines.push(bad("trust", code, told(&error)));
            }
        }
    }
    lines.push(checks::bundles(bundle.sequence, &install::short_fingerprint(&bundle), &[]));
    lines.push(checks::issuer(bundle.shared_issuer));
    lines
}

/// Chain and key of the identity, out of a folder that is the agent's.
fn identity_files(state: &Path) -> Result<(String, zeroize::Zeroizing<String>), FileError> {
    let folder = identity_folder::used(&Folder::open(state)?)?.ok_or_else(|| FileError::Io {
        action: "open",
        path: state.join("identity"),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    Ok((folder.read_public_text("chain.pem")?, folder.read_secret_text("issuing.key")?))
}

fn told(error: &dyn std::error::Error) -> String {
    causes(error).map_or_else(|| error.to_string(), |causes| format!("{error}: {causes}"))
}

/// Whether a line says what its code stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Titles {
    Hidden,
    Shown,
}

/// What a code stands for.
fn title(code: &str) -> Option<&'static str> {
    Some(codes::find(code.strip_prefix("ST")?.parse().ok()?)?.title)
}

/// All lines under their groups, then the sum.
fn render(report: &CheckReport, look: &Look, titles: Titles) -> String {
    let mut text = String::new();
    let mut group = "";
    for line in &report.items {
        if line.group != group {
            group = &line.group;
            text.push_str(&format!("{}\n", clean(group)));
        }
        text.push_str(&one(line, look));
        if let Some(title) = title(&line.code).filter(|_| titles == Titles::Shown) {
            text.push_str(&format!("    {}\n", look.paint(&format!("{}: {title}", line.code), Tone::Dim)));
        }
    }
    text.push_str(&format!("Result: {}\n", sum(report)));
    text
}

/// Problems without groups; nothing at all when there are none.
fn short(report: &CheckReport, look: &Look) -> String {
    report.items.iter().filter(|line| line.level != "ok").map(|line| one(line, look)).collect()
}

fn one(line: &CheckLine, look: &Look) -> String {
    let mark = match line.level.as_str() {
        "ok" => Mark::Good,
        "error" => Mark::Bad,
        _ => Mark::Warn,
    };
    let mut text = format!("{} {}", look.painted_mark(mark), clean(&line.text));
    if !line.code.is_empty() {
        text.push_str(&format!("   {}", look.paint(&clean(&line.code), Tone::Dim)));
    }
    text.push('\n');
    if !line.help.is_empty() {
        text.push_str(&format!("    {}\n", look.paint(&clean(&line.help), Tone::Dim)));
    }
    text
}

fn sum(report: &CheckReport) -> String {
    let plural = |count: u64, what: &str| if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
    let mut parts = Vec::new();
    if report.errors > 0 {
        parts.push(plural(report.errors, "error"));
    }
    if report.warnings > 0 {
        parts.push(plural(report.warnings, "warning"));
    }
    parts.push(format!("{} ok", report.ok));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use starling_identity::{IssuingCa, NewTrustDomain, create_trust_domain};
    use starling_model::{NodeName, TrustDomain};

    use super::*;

    const DAY: u64 = 86_400;

    struct Host {
        folder: tempfile::TempDir,
        domain: NewTrustDomain,
    }

    impl Host {
        fn new(days: u32, made: UnixTime) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let domain =
                create_trust_domain(&TrustDomain::new("prod.internal").unwrap(), "alice", false, made).unwrap();
            let host = Self { folder, domain };
            let ca = IssuingCa::load(&host.domain.bundle, &host.domain.issuer_key_pem).unwrap();
            let issued = ca.issue_node(&NodeName::new("vm-1").unwrap(), days, made).unwrap();
            std::fs::create_dir_all(host.path("trust")).unwrap();
            std::fs::create_dir_all(host.path("state/identity")).unwrap();
            std::fs::write(host.path("trust/bundle.trust"), &host.domain.bundle_file).unwrap();
            std::fs::write(host.path("state/identity/chain.pem"), issued.chain_pem).unwrap();
            files::create_secret(&host.path("state/identity/issuing.key"), issued.issuing_key_pem.as_bytes()).unwrap();
            host
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn codes(&self, now: UnixTime) -> Vec<String> {
            let lines = of_files(&self.path("trust"), &self.path("state"), now);
            lines.into_iter().map(|line| line.code).filter(|code| !code.is_empty()).collect()
        }
    }

    #[test]
    fn without_an_agent_the_files_tell_what_is_wrong_with_them() {
        let made = UnixTime(1_795_361_519);
        let host = Host::new(100, made);
        assert!(host.codes(made).is_empty());
        assert_eq!(host.codes(made.plus(81 * DAY)), ["ST0603"]);
        assert_eq!(host.codes(made.plus(101 * DAY)), ["ST0601"]);
        assert_eq!(host.codes(made.minus(2 * DAY)), ["ST0202"], "the clock is behind");
        let text = of_files(&host.path("trust"), &host.path("state"), made.minus(2 * DAY))[0].text.clone();
        assert_eq!(text.matches("2026-11-2").count(), 2, "both readings: {text}");

        let other = Host::new(100, made);
        std::fs::copy(other.path("trust/bundle.trust"), host.path("trust/bundle.trust")).unwrap();
        assert_eq!(host.codes(made), ["ST0204"], "the bundle of another mesh");
        std::fs::write(host.path("trust/bundle.trust"), "cut off").unwrap();
        assert_eq!(host.codes(made), ["ST0613"]);

        let key = other.path("state/identity/issuing.key");
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(other.codes(made), ["ST0610"]);
        std::fs::remove_file(&key).unwrap();
        std::os::unix::fs::symlink("/dev/null", &key).unwrap();
        assert_eq!(other.codes(made), ["ST0610"], "a link in its place");
        std::fs::remove_file(&key).unwrap();
        assert_eq!(other.codes(made), ["ST0611"]);
    }

    #[test]
    fn a_report_looks_as_documented() {
        let report = CheckReport::new(vec![
            checks::good("trust", "certificate 361 d left, chains to the bundle".to_owned()),
            checks::issuer(true),
            checks::differs("vm-3: other documents".to_owned()),
            bad("gossip", codes::NO_AGENT, "no agent".to_owned()),
        ]);
        assert_eq!((report.ok, report.warnings, report.errors, exit(&report)), (1, 1, 2, Exit::Bad));
        let text = render(&report, &Look::plain(), Titles::Hidden);
        assert!(text.starts_with("trust\n√ certificate 361 d left, chains to the bundle\n‼ shared issuer"), "{text}");
        assert!(text.contains("   ST0604\n    for production") && text.contains("× no agent   ST0301\n"), "{text}");
        assert!(text.ends_with("Result: 2 errors, 1 warning, 1 ok\n"), "{text}");
        let wide = render(&report, &Look::plain(), Titles::Shown);
        assert!(wide.contains("    ST0421: members use different documents\n") && !text.contains("ST0421: "), "{wide}");
        assert_eq!(names(&report), "ST0604\nST0421\nST0301\n");
        let unseen = Unseen { api_version: API_VERSION, kind: kind::CHECK_REPORT, report: &report };
        let json: serde_json::Value = serde_json::to_value(unseen).unwrap();
        assert_eq!((&json["apiVersion"], &json["kind"]), (&"starling/v1".into(), &"CheckReport".into()));
        assert_eq!((&json["errors"], json["items"].as_array().map(Vec::len)), (&2.into(), Some(4)));
        let short = short(&report, &Look::plain());
        assert!(!short.contains('√') && !short.contains("Result") && short.contains("ST0421"), "{short}");
        let fine = CheckReport::new(report.items[..1].to_vec());
        assert_eq!((exit(&fine), super::short(&fine, &Look::plain()).as_str()), (Exit::Done, ""));
    }
}
