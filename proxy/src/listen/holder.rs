//! Who holds a port? Asked of `/proc`, best effort: another user's process shows its socket but not its files.

use std::fs;

/// Processes that are looked at before the search is given up; the message is help, not a promise.
const PROCESSES_MAX: usize = 10_000;

/// The process that listens on TCP `port`, as `nginx (pid 812)`.
pub(super) fn of_port(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|table| listening_inode(&table, port).map(str::to_owned))?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX) {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.to_str() == Some(wanted.as_str())));
        if holds {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", command.trim()));
        }
    }
    None
}

/// `/proc/net/tcp`: number, local address, remote address, state (0A is LISTEN), five more columns, inode.
fn listening_inode(table: &str, port: u16) -> Option<&str> {
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let local = columns.nth(1)?;
        let state = columns.nth(1)?;
        (local.ends_with(&wanted) && state == "0A").then(|| columns.nth(5)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listening_line_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:1E3C 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 111 1 0 20 4\n   \
             1: 0100007F:1E3C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0 20 4\n";
        assert_eq!(listening_inode(table, 7_740), Some("222"));
        assert_eq!(listening_inode(table, 7_741), None);
        assert_eq!(listening_inode("", 7_741), None);
    }
}
