//! `starling check --pre`: the host before anything is installed on it. What the system says is gathered here and judged by
//! pure functions; a port is tried by binding it, and let go again.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit};
use starling_config::{AgentConfig, ConfigDir, SeedAddress, TcpAccess};
use starling_model::codes;

use crate::api::views::CheckLine;
use crate::checks::{bad, good, odd};
use crate::cli::errors::CliError;
use crate::cli::load::{Request, configuration};
use crate::ports::{Transport, bind_error};
use crate::run::OPEN_FILES_MIN;

/// What is advised above 50 nodes.
const UDP_BUFFER_BYTES: u64 = 4 << 20;
/// The kernel tells from here on to which control group a socket belongs (INET_DIAG_CGROUP_ID), which `unit` needs.
const KERNEL_MIN: (u32, u32) = (5, 9);

/// All lines, by the settings of this host as they are.
///
/// # Errors
/// Settings that are there and cannot be used.
pub(super) fn lines(dir: &ConfigDir) -> Result<Vec<CheckLine>, CliError> {
    // The name comes with the identity: what this host is called meanwhile does not matter.
    let flags = vec![("node_name".to_owned(), "new".to_owned())];
    let config = configuration(&Request { dir: dir.clone(), flags })?.config;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut lines = vec![kernel(&read("/proc/sys/kernel/osrelease"))];
    lines.extend(ports(&config));
    lines.push(udp_buffer(&read("/proc/sys/net/core/rmem_max")));
    lines.push(clock(&timedatectl()));
    lines.push(open_files(getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard)));
    lines.push(names(&config.mesh.seeds, |host| host.to_socket_addrs().map(drop).map_err(|error| error.to_string())));
    Ok(lines)
}

fn kernel(release: &str) -> CheckLine {
    let mut numbers = release.trim().split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let shown = release.trim();
    if (major, minor) >= KERNEL_MIN {
        return good("host", format!("Linux {shown}"));
    }
    let (least, less) = KERNEL_MIN;
    odd(
        "host",
        format!("Linux {shown}: `unit` of an instance needs {least}.{less}"),
        "callers are then told by run_as, their user, alone",
    )
}

/// Each address that the agent would bind.
fn ports(config: &AgentConfig) -> Vec<CheckLine> {
    let mesh = config.mesh.listen;
    let udp = UdpSocket::bind(mesh).map(drop);
    let mut all = vec![port("mesh.listen", mesh, Transport::Udp, udp)];
    let api = (config.api.tcp != TcpAccess::Off).then_some(("api.listen", config.api.listen));
    let http = config.outbound.http.map(|address| ("outbound.http", address));
    let tcp = [Some(("mesh.listen", mesh)), api, http].into_iter().flatten();
    all.extend(
        tcp.map(|(setting, address)| port(setting, address, Transport::Tcp, TcpListener::bind(address).map(drop))),
    );
    all
}

fn port(setting: &str, address: SocketAddr, transport: Transport, bound: std::io::Result<()>) -> CheckLine {
    match bound {
        Ok(()) => {
            let word = match transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            };
            good("host", format!("{address}/{word} is free ({setting})"))
        }
        Err(error) => {
            let told = bind_error(setting, address, transport, &error);
            CheckLine { help: told.help, ..bad("host", told.code, told.what) }
        }
    }
}

fn udp_buffer(rmem_max: &str) -> CheckLine {
    match rmem_max.trim().parse::<u64>() {
        Ok(bytes) if bytes >= UDP_BUFFER_BYTES => {
            good("host", format!("UDP receive buffer of up to {} KiB", bytes / 1_024))
        }
        Ok(bytes) => {
            let text = format!("UDP receive buffer is {} KiB; 4 MiB advised above 50 nodes", bytes / 1_024);
            bad("host", codes::UDP_BUFFER, text)
        }
        Err(_) => {
            odd("host", "the UDP receive buffer is not told here".to_owned(), "see net.core.rmem_max on the host")
        }
    }
}

/// What systemd says of the clock; empty where it says nothing.
fn timedatectl() -> String {
    let said = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    said.ok()
        .filter(|said| said.status.success())
        .map_or_else(String::new, |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn clock(synchronised: &str) -> CheckLine {
    match synchronised {
        "yes" => good("host", "the clock is synchronised".to_owned()),
        "no" => CheckLine {
            level: "warning".to_owned(),
            help: "switch it on: timedatectl set-ntp true; a clock that is off by a day is refused by all".to_owned(),
            ..bad("host", codes::CLOCKS_DIFFER, "the clock is not synchronised".to_owned())
        },
        _ => odd(
            "host",
            "whether the clock is synchronised is not told here".to_owned(),
            "compare it with another host's: date -u; a clock that is off by a day is refused by all",
        ),
    }
}

fn open_files(hard: u64) -> CheckLine {
    if hard < OPEN_FILES_MIN {
        return bad("host", codes::FILE_LIMIT, format!("at most {hard} open files, {OPEN_FILES_MIN} are advised"));
    }
    good("host", format!("up to {hard} open files"))
}

/// Seeds are looked up as the agent will.
fn names(seeds: &[SeedAddress], look_up: impl Fn(&str) -> Result<(), String>) -> CheckLine {
    let hosts = seeds.iter().filter_map(|seed| match seed {
        SeedAddress::Host(host) if host.parse::<SocketAddr>().is_err() => Some(host.as_str()),
        SeedAddress::Host(_) | SeedAddress::Service(_) => None,
    });
    let hosts: Vec<&str> = hosts.collect();
    let failed: Vec<String> =
        hosts.iter().filter_map(|host| look_up(host).err().map(|why| format!("{host}: {why}"))).collect();
    if failed.is_empty() {
        let text = match hosts.len() {
            0 => "no seed is a name that has to be looked up".to_owned(),
            count => format!("{count} names of seeds are found"),
        };
        return good("host", text);
    }
    odd("host", format!("names of seeds are not found: {}", failed.join("; ")), "see /etc/resolv.conf and mesh.seeds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &CheckLine, level: &str, code: &str, part: &str) {
        assert_eq!((line.level.as_str(), line.code.as_str()), (level, code), "{line:?}");
        assert!(line.text.contains(part) && line.group == "host", "{line:?}");
        assert_eq!(line.help.is_empty(), level == "ok", "{line:?}");
    }

    #[test]
    fn what_the_system_says_is_judged() {
        check(&kernel("6.1.0-18-amd64\n"), "ok", "", "6.1.0");
        check(&kernel("5.9.0"), "ok", "", "5.9");
        check(&kernel("5.8.18"), "warning", "", "needs 5.9");
        check(&kernel(""), "warning", "", "needs 5.9");
        check(&udp_buffer("4194304\n"), "ok", "", "4096 KiB");
        check(&udp_buffer("4194303\n"), "warning", "ST0711", "4 MiB advised");
        check(&udp_buffer(""), "warning", "", "not told");
        check(&clock("yes"), "ok", "", "synchronised");
        check(&clock("no"), "warning", "ST0202", "not synchronised");
        check(&clock(""), "warning", "", "not told");
        check(&open_files(OPEN_FILES_MIN), "ok", "", "open files");
        check(&open_files(OPEN_FILES_MIN - 1), "warning", "ST0712", "advised");
    }

    #[test]
    fn a_port_that_is_taken_is_told_with_its_holder() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let line = port("api.listen", address, Transport::Tcp, TcpListener::bind(address).map(drop));
        check(&line, "error", "ST0701", &format!("{address}/tcp (api.listen) is taken by"));
        let free = UdpSocket::bind("127.0.0.1:0").map(drop);
        check(&port("mesh.listen", address, Transport::Udp, free), "ok", "", "/udp is free (mesh.listen)");
    }

    #[test]
    fn seeds_by_name_are_looked_up() {
        let seeds = |all: &[&str]| all.iter().map(|seed| SeedAddress::Host((*seed).to_owned())).collect::<Vec<_>>();
        let found = |host: &str| if host.starts_with("vm-1") { Ok(()) } else { Err("unknown".to_owned()) };
        check(&names(&seeds(&["10.0.0.1:7740"]), found), "ok", "", "no seed is a name");
        check(&names(&seeds(&["vm-1:7740"]), found), "ok", "", "1 names");
        check(&names(&seeds(&["vm-1:7740", "vm-2:7740"]), found), "warning", "", "vm-2:7740: unknown");
    }
}
