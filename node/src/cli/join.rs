//! `starling join FILE`: gives this host its identity, then starts the agent where systemd runs it.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use starling_config::{ConfigDir, Loaded, Origin};
use starling_identity::{IssuingCa, JoinFile, TrustBundle};
use starling_model::{SpiffeId, codes};
use zeroize::Zeroizing;

use crate::api::views::{Envelope, Member, MemberList, Status, StatusProblem};
use crate::cli::address::Address;
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit, causes};
use crate::cli::install::{self, BundleThere, Places, Present, Trust};
use crate::cli::leave::duration;
use crate::cli::load::{Request, configuration};
use crate::cli::output;
use crate::files::{self, FileError};

/// The packaged unit.
const UNIT: &str = "starling.service";

/// Pause between two looks at an agent that is starting.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Flags of `starling join`.
#[derive(Args, Clone, Debug)]
pub(crate) struct JoinArgs {
    /// The join file that the operator made (starling trust issue node NAME), which is deleted when it has done its work; or
    /// the trust/ folder of a shared issuer, which stays, and where the agent makes this host's identity at its start
    #[arg(value_name = "FILE|FOLDER")]
    file: PathBuf,
    /// Folder of the configuration
    #[arg(long, value_name = "DIR", default_value = ConfigDir::STANDARD)]
    config_dir: PathBuf,
    /// Folder of what the agent keeps [default: /var/lib/starling, or DIR/state]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Installs only; the agent is not started
    #[arg(long)]
    no_start: bool,
    /// Replaces an identity that this host has already
    #[arg(long)]
    replace: bool,
    /// Takes the trust bundle of the file although it does not follow from the one that this host holds. Whoever made it says
    /// from then on who is in the mesh: compare the fingerprints that are printed, to the last digit
    #[arg(long)]
    new_trust: bool,
    /// How long to wait until the started agent is alive
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

impl JoinArgs {
    fn trust(&self) -> Trust {
        if self.new_trust { Trust::New } else { Trust::Proven }
    }
}

/// Whose trust this host has from now on. What nothing here speaks for is told whole, since a person has to compare it.
fn trust_lines(bundle: &TrustBundle, there: BundleThere) -> String {
    let sequence = bundle.sequence;
    match there {
        BundleThere::Older => {
            let short = install::short_fingerprint(bundle);
            format!("trust      {short}   bundle {sequence}, which follows from the one held before\n")
        }
        BundleThere::Newer => {
            format!("trust      {}   the bundle that this host holds stays\n", install::short_fingerprint(bundle))
        }
        BundleThere::None | BundleThere::Unproven => format!(
            "{}           nothing on this host proves them: compare with the operator's, by another way than the file came\n           \
             (there:  starling trust inspect trust/bundle.trust)\n",
            install::fingerprints(bundle)
        ),
    }
}

/// Runs the command.
pub(crate) fn run(args: &JoinArgs) -> Result<Exit, CliError> {
    if args.file.join("bundle.trust").symlink_metadata().is_ok() {
        return shared(args);
    }
    let (text, open) = read(&args.file)?;
    let join = JoinFile::parse(&text).map_err(|error| {
        let what = format!("{} cannot be used", args.file.display());
        let cause = causes(&error).map_or_else(|| error.to_string(), |causes| format!("{error}: {causes}"));
        CliError::coded(Exit::Refused, error.code(), what).cause(cause)
    })?;
    drop(text);
    if let Some(error) = open.filter(|_| join.issuing_key_pem.is_some()) {
        return Err(error.into());
    }
    let bundle = TrustBundle::parse(&join.bundle_file).map_err(|error| install::bundle_error(&args.file, &error))?;

    let (places, note) = places(args, &join)?;
    let present = if args.replace { Present::Replace } else { Present::Keep };
    let ready = install::check(&join, &bundle, &places, present, args.trust())?;
    install::install(&join, &places, &ready)?;
    let wrote_settings = install::agent_toml(&join, &places)?;

    let mut text = format!("identity   {}\n", SpiffeId::node(&bundle.trust_domain, &join.node));
    text.push_str(&trust_lines(&bundle, ready.bundle));
    let mut wrote = Vec::new();
    if wrote_settings {
        wrote.push(places.agent_toml().display().to_string());
    }
    wrote.push(format!("{}/", places.trust.display()));
    wrote.push(format!("{}/ (0600)", places.identity().display()));
    text.push_str(&format!("wrote      {}\n", wrote.join(", ")));
    // A bearer secret must not lie about once it has done its work; an error here must be seen, but undoes nothing.
    match std::fs::remove_file(&args.file) {
        Ok(()) => text.push_str(&format!("deleted    {}\n", args.file.display())),
        Err(error) => {
            let shown = args.file.display();
            let what = if join.issuing_key_pem.is_some() { "holds a secret and" } else { "is used and" };
            output::message(&format!("warning: {shown} {what} could not be deleted: {error}\n"));
        }
    }
    // The settings as they are now: those written just now, or those that were there and stay.
    let via = seeds(&configuration(&named(args, &join))?);
    text.push_str(&via_line(&via, &places));
    if let Some(note) = note {
        text.push_str(&format!("note       {note}\n"));
    }
    output::print(&text)?;
    start(args, &places, &via)
}

/// Joins by the folder of a shared issuer, which stays: it is the same for every host.
fn shared(args: &JoinArgs) -> Result<Exit, CliError> {
    let dir = &args.file;
    let path = dir.join("bundle.trust");
    let file = files::read_public(&path)?;
    let bundle = TrustBundle::parse(&file).map_err(|error| install::bundle_error(&path, &error))?;
    if !bundle.shared_issuer {
        let what = format!("{} is no folder of a shared issuer", dir.display());
        return Err(CliError::coded(Exit::Refused, codes::JOIN_FILE_INVALID, what)
            .cause("its trust bundle says that each node has an identity of its own"));
    }
    let key = files::read_secret_text(&dir.join("issuer.key"))?;
    IssuingCa::load(&bundle, &key).map_err(|error| {
        let what = format!("{} cannot be used", dir.display());
        CliError::coded(Exit::Refused, codes::JOIN_FILE_INVALID, what).cause(error.to_string())
    })?;
    let loaded = configuration(&plain(args))?;
    let config = &loaded.config;
    let places = Places { config: args.config_dir.clone(), trust: config.trust.clone(), state: config.state.clone() };
    let there = install::install_shared(&bundle, &file, &key, &places, args.trust())?;
    let via = seeds(&loaded);
    output::print(&format!(
        "identity   {}   made by the agent at its start\n\
         {}wrote      {}/\n{}\
         warning    shared issuer: any host can pose as any node ({})\n",
        SpiffeId::node(&bundle.trust_domain, &config.node_name),
        trust_lines(&bundle, there),
        places.trust.display(),
        via_line(&via, &places),
        codes::SHARED_ISSUER,
    ))?;
    start(args, &places, &via)
}

/// Reads the file, which may belong to the user for whom root joins, but which nobody else may change, since the trust
/// bundle in it is believed. That others can read it is told besides: it matters where a key is inside.
fn read(path: &Path) -> Result<(Zeroizing<String>, Option<FileError>), CliError> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let no =
        |action: &'static str| move |source| CliError::from(FileError::Io { action, path: path.to_owned(), source });
    let unsafe_file = |why: String, help: String| FileError::Unsafe { path: path.to_owned(), why, help };
    let shown = path.display();
    let file: File = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
            return Err(unsafe_file("is a symbolic link".to_owned(), "name the file itself".to_owned()).into());
        }
        Err(error) => return Err(no("open")(error)),
    };
    let metadata = file.metadata().map_err(no("inspect"))?;
    if !metadata.file_type().is_file() {
        let help = "copy the file itself to this host".to_owned();
        return Err(unsafe_file("is not a regular file".to_owned(), help).into());
    }
    let (owner, us) = (metadata.uid(), geteuid().as_raw());
    if owner != us && us != 0 {
        let help = format!("chown {us} {shown}");
        return Err(unsafe_file(format!("belongs to uid {owner}, not to us (uid {us})"), help).into());
    }
    let mode = metadata.mode() & 0o7777;
    let open =
        |what: &str| unsafe_file(format!("has mode {mode:04o}: others can {what} it"), format!("chmod 600 {shown}"));
    if mode & 0o022 != 0 {
        return Err(open("change").into());
    }
    let readable = (mode & 0o077 != 0).then(|| open("reach"));
    let mut text = Zeroizing::new(String::new());
    let expected = usize::try_from(metadata.len().min(files::SECRET_BYTES_MAX)).unwrap_or(0);
    text.reserve_exact(expected.saturating_add(1));
    file.take(files::SECRET_BYTES_MAX).read_to_string(&mut text).map_err(|source| {
        if source.kind() == std::io::ErrorKind::InvalidData {
            CliError::coded(Exit::Refused, codes::JOIN_FILE_INVALID, format!("{shown} cannot be used"))
                .cause("it is not a join file, or it is damaged or cut off")
        } else {
            no("read")(source)
        }
    })?;
    Ok((text, readable))
}

/// The settings of this host.
fn plain(args: &JoinArgs) -> Request {
    let mut flags = Vec::new();
    flags.extend(args.state_dir.as_ref().map(|dir| ("state".to_owned(), dir.display().to_string())));
    Request { dir: ConfigDir::new(&args.config_dir), flags }
}

/// The same with the name in the file.
fn named(args: &JoinArgs, join: &JoinFile) -> Request {
    let mut request = plain(args);
    request.flags.push(("node_name".to_owned(), join.node.to_string()));
    request
}

/// Where the agent dials.
fn seeds(loaded: &Loaded) -> Vec<String> {
    loaded.config.mesh.seeds.iter().map(ToString::to_string).collect()
}

/// How this host will reach the mesh.
fn via_line(seeds: &[String], places: &Places) -> String {
    if seeds.is_empty() {
        let file = places.agent_toml();
        let file = file.display();
        return format!(
            "via        no seed: this host waits until a member dials it, or name one as mesh.seeds in {file}\n"
        );
    }
    format!("via        {}\n", seeds.join(", "))
}

/// Where the parts go by the settings of this host, and what a person should know about its name.
fn places(args: &JoinArgs, join: &JoinFile) -> Result<(Places, Option<String>), CliError> {
    let loaded = configuration(&named(args, join))?;
    let places = Places { config: args.config_dir.clone(), trust: loaded.config.trust, state: loaded.config.state };
    // Without the flag: what the agent would call itself.
    let note = match configuration(&plain(args)) {
        Ok(plain) => name_conflict(&plain, join, &places)?,
        // Only the host's name is unusable, or the line above had failed, too; the settings written below name the node.
        Err(_) => None,
    };
    Ok((places, note))
}

/// What the agent that was started says of itself.
fn own_status(client: &Client) -> Option<Envelope<Status>> {
    serde_json::from_slice(&client.ask(Ask::get("/v1/status")).ok()?.body).ok()
}

/// The agent found its name alive at another address: it stays out, and waiting changes nothing.
fn name_taken(problems: &[StatusProblem]) -> Option<CliError> {
    let problem = problems.iter().find(|problem| problem.code == codes::NAME_TAKEN.to_string())?;
    Some(
        CliError::coded(Exit::Refused, codes::NAME_TAKEN, "this host's agent stays out of the mesh")
            .cause(problem.detail.clone()),
    )
}

fn name_conflict(loaded: &Loaded, join: &JoinFile, places: &Places) -> Result<Option<String>, CliError> {
    let held = &loaded.config.node_name;
    if *held == join.node {
        return Ok(None);
    }
    match loaded.origin("node_name") {
        Some(Origin::Default) | None => {
            // A file is there, so none is written: it has to be completed.
            let complete = places.agent_toml().symlink_metadata().is_ok();
            Ok(complete.then(|| {
                format!(
                    "this host is called {held}: put node_name = \"{}\" into {}",
                    join.node,
                    places.agent_toml().display()
                )
            }))
        }
        Some(origin) => {
            let what = format!("the file is for {}, this host is called {held}", join.node);
            Err(CliError::coded(Exit::Refused, codes::JOIN_FILE_INVALID, what)
                .cause(format!("node_name is set in {origin}")))
        }
    }
}

fn start(args: &JoinArgs, places: &Places, via: &[String]) -> Result<Exit, CliError> {
    let standard = ConfigDir::new(&args.config_dir).is_standard();
    let systemd = Path::new("/run/systemd/system").is_dir() && geteuid().is_root();
    let unit = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"]
        .iter()
        .any(|dir| Path::new(dir).join(UNIT).exists());
    if args.no_start || !standard || !systemd || !unit {
        let state = args.state_dir.as_ref().map(|dir| format!(" --state-dir {}", dir.display())).unwrap_or_default();
        return output::print(&format!("next:  starling agent --config-dir {}{state}\n", places.config.display()));
    }
    let begun = Instant::now();
    let status = Command::new("systemctl").args(["restart", UNIT]).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(_) | Err(_) => {
            return Err(CliError::plain(Exit::Bad, format!("{UNIT} did not start"))
                .help([format!("see why:  journalctl -u {UNIT}")]));
        }
    }
    output::print(&format!("started    {UNIT}\n"))?;
    let client = Client::new(Address::choose(None, None))?;
    loop {
        if let Ok(answer) = client.ask(Ask::get("/readyz"))
            && answer.status == 200
        {
            break;
        }
        if let Some(error) = own_status(&client).and_then(|status| name_taken(&status.body.problems)) {
            return Err(error);
        }
        if begun.elapsed() > args.timeout {
            let waited = starling_config::duration::format(args.timeout);
            return Err(CliError::plain(Exit::TimedOut, format!("the agent is not ready after {waited}"))
                .help(["it goes on by itself; see what it waits for:  starling status"]));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    let answer = client.ask(Ask::get("/v1/members"))?;
    let members: Option<MemberList> = serde_json::from_slice(&answer.body).ok();
    let alive: Vec<Member> = members.map(|list| list.body.items).unwrap_or_default();
    let alive: Vec<Member> = alive.into_iter().filter(|member| member.state == "alive").collect();
    output::print(&joined(via, &alive, begun.elapsed()))
}

/// The seeds that are members now; all of them where none is known by its address, as with names.
fn joined(via: &[String], alive: &[Member], took: Duration) -> String {
    let is_met = |seed: &&String| alive.iter().any(|member| member.address.as_ref() == Some(*seed));
    let mut met: Vec<&str> = via.iter().filter(is_met).map(String::as_str).collect();
    if met.is_empty() {
        met.extend(via.iter().map(String::as_str));
    }
    let via = if met.is_empty() { String::new() } else { format!("via {} ", met.join(", ")) };
    let (count, took) = (alive.len(), took.as_secs_f64());
    format!("joined     {via}in {took:.2} s; {count} members alive\nnext:  starling members\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_mesh_is_reached_is_told() {
        let places = Places { config: "/etc/starling".into(), trust: "/t".into(), state: "/s".into() };
        let seeds = ["10.0.0.11:7740".to_owned(), "vm-9:7740".to_owned()];
        assert_eq!(via_line(&seeds, &places), "via        10.0.0.11:7740, vm-9:7740\n");
        assert!(
            via_line(&[], &places).contains("no seed") && via_line(&[], &places).contains("/etc/starling/agent.toml")
        );
        let member: Member = serde_json::from_value(serde_json::json!({"name": "vm-1", "address": "10.0.0.11:7740",
            "state": "alive", "bootEpoch": "1", "incarnation": 0, "since": "", "lastSeen": null, "self": false,
            "rtt": null, "version": null, "protocol": {"min": 1, "max": 1}, "labels": {}, "services": [],
            "config": null, "trust": null, "suspicion": null, "certificate": null}))
        .unwrap();
        let took = Duration::from_millis(310);
        let text = joined(&seeds, &[member], took);
        assert_eq!(text, "joined     via 10.0.0.11:7740 in 0.31 s; 1 members alive\nnext:  starling members\n");
        assert!(joined(&seeds, &[], took).starts_with("joined     via 10.0.0.11:7740, vm-9:7740 in"));
        assert!(joined(&[], &[], took).starts_with("joined     in 0.31 s"));
    }

    #[test]
    fn a_name_that_is_alive_elsewhere_ends_the_wait_with_its_code() {
        let problem = |code: &str| StatusProblem {
            code: code.to_owned(),
            level: "error".to_owned(),
            detail: "another node is alive as \"vm-2\"".to_owned(),
            help: String::new(),
        };
        assert!(name_taken(&[problem("ST0604"), problem("")]).is_none());
        let error = name_taken(&[problem("ST0604"), problem("ST0203")]).unwrap();
        assert_eq!((error.exit(), error.code()), (Exit::Refused, Some(codes::NAME_TAKEN)));
    }
}
