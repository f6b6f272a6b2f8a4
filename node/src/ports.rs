//! Who holds a port: from `/proc`, for the error that a person reads when an address is taken.

use std::fs;
use std::net::{IpAddr, SocketAddr};
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
        inodes.extend(inodes_of(&fs::read_to_string(table).unwrap_or_default(), address, transport));
    }
    let pid = process_of(&inodes)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim()))
}

/// Inodes of the sockets in the way of `address`: `sl local rem st tx:rx tr:tm retrnsmt uid timeout inode …`.
fn inodes_of(table: &str, address: SocketAddr, transport: Transport) -> Vec<String> {
    let sockets = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.rsplit_once(':')?;
        let (ip, port) = (ip_of(ip)?, u16::from_str_radix(port, 16).ok()?);
        let state = *fields.get(3)?;
        let fits = port == address.port()
            && (ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified())
            && (transport == Transport::Udp || state == LISTEN);
        let inode = fields.get(9)?;
        fits.then(|| (*inode).to_owned())
    });
    sockets.collect()
}

/// An address as `/proc/net` writes it: one or four 32-bit words in the machine's order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..hex.len() / 8)
        .map(|at| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(IpAddr::from(*v4)),
        [_, _, _, _] => Some(IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?).to_canonical()),
        _ => None,
    }
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
    fn tables_are_read_by_address_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1E3C 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1\n\
            1: 0100007F:1E3C 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 222 1\n\
            2: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 333 1\n\
            3: 00000000000000000000000000000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 444 1\n";
        let check = |address: &str, transport, want: &[&str]| {
            assert_eq!(inodes_of(table, address.parse().unwrap(), transport), want, "{address}");
        };
        check("127.0.0.1:7740", Transport::Tcp, &["111"]);
        check("127.0.0.1:7740", Transport::Udp, &["111", "222"]);
        check("127.0.0.2:7740", Transport::Tcp, &[]);
        check("0.0.0.0:7740", Transport::Tcp, &["111"]);
        check("10.0.0.1:80", Transport::Tcp, &["444"]);
        assert!(inodes_of("garbage\n\n1 2 3", "127.0.0.1:1".parse().unwrap(), Transport::Tcp).is_empty());
    }
}
