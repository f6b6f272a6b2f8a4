//! Who holds a port: from `/proc`, for the error that a person reads when an address is taken.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use starling_model::codes;

use crate::run::AgentError;

/// Which table of `/proc/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Listening streams.
    Tcp,
}

/// State of a listening TCP socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The error of a bind that failed: ST0701 with the holder, ST0715 below 1024, else what the system said.
#[must_use]
pub fn bind_error(setting: &str, address: SocketAddr, transport: Transport, error: &std::io::Error) -> AgentError {
    let word = match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    let cause = Some(error.to_string());
    if error.kind() == std::io::ErrorKind::AddrInUse {
        let holder = holder(address, transport).unwrap_or_else(|| "another process".to_owned());
        return AgentError {
            code: codes::PORT_TAKEN,
            what: format!("{address}/{word} ({setting}) is taken by {holder}"),
            cause,
            help: format!("stop {holder}, or choose another address: {setting} = \"IP:PORT\" in agent.toml"),
        };
    }
    let what = format!("{address}/{word} ({setting}) cannot be bound");
    if error.kind() == std::io::ErrorKind::PermissionDenied && address.port() < 1024 {
        return AgentError { code: codes::PORT_FORBIDDEN, what, cause, help: codes::PORT_FORBIDDEN.help.to_owned() };
    }
    let help = format!("choose an address of this host: {setting} = \"IP:PORT\" in agent.toml");
    AgentError { code: codes::PORT_TAKEN, what, cause, help }
}

/// `nginx (process 812)`, if `/proc` tells; other users' processes are visible to root only.
#[must_use]
pub fn holder(address: SocketAddr, transport: Transport) -> Option<String> {
    let tables: &[&str] = match transport {
        Transport::Udp => &["/proc/net/udp", "/proc/net/udp6"],
        Transport::Tcp => &["/proc/net/tcp", "/proc/net/tcp6"],
    };
    let mut inodes = Vec::new();
    for table in tables {
        inodes.extend(inodes_of(&fs::read_to_string(table).unwrap_or_default(), address.port(), transport));
    }
    let pid = process_of(&inodes)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim()))
}

/// Inodes of the sockets at a port: `sl local rem st tx:rx tr:tm retrnsmt uid timeout inode …`.
fn inodes_of(table: &str, port: u16, transport: Transport) -> Vec<String> {
    let wanted = format!("{port:04X}");
    let sockets = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let state = *fields.get(3)?;
        let fits = local_port == wanted && (transport == Transport::Udp || state == LISTEN);
        let inode = fields.get(9)?;
        fits.then(|| (*inode).to_owned())
    });
    sockets.collect()
}

fn process_of(inodes: &[String]) -> Option<u32> {
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for entry in fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds =
            |path: &Path| fs::read_link(path).is_ok_and(|link| links.iter().any(|held| link == Path::new(held)));
        if descriptors.filter_map(Result::ok).any(|descriptor| holds(&descriptor.path())) {
            return Some(pid);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let us = format!("(process {})", std::process::id());
        let found = holder(tcp.local_addr().unwrap(), Transport::Tcp).unwrap();
        assert!(found.ends_with(&us), "{found}");
        let found = holder(udp.local_addr().unwrap(), Transport::Udp).unwrap();
        assert!(found.ends_with(&us), "{found}");
    }

    #[test]
    fn a_taken_port_is_told_with_setting_and_holder() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let error = TcpListener::bind(address).unwrap_err();
        let told = bind_error("api.listen", address, Transport::Tcp, &error);
        assert_eq!(told.code, codes::PORT_TAKEN);
        assert!(told.what.contains(&address.to_string()) && told.what.contains("api.listen"), "{}", told.what);
        assert!(told.what.contains("(process "), "{}", told.what);
    }

    #[test]
    fn tables_are_read_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1E3C 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1\n\
            1: 0100007F:1E3C 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 222 1\n\
            2: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 333 1\n";
        assert_eq!(inodes_of(table, 7740, Transport::Tcp), ["111"]);
        assert_eq!(inodes_of(table, 7740, Transport::Udp), ["111", "222"]);
        assert!(inodes_of("garbage\n\n1 2 3", 7740, Transport::Tcp).is_empty());
    }
}
