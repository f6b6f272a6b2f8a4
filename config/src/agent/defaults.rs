//! Every default with its reason. What depends on the folder or the host's name is put in by [`tree`].

use std::sync::Arc;

use starling_model::{NodeName, codes};

use super::{ConfigDir, Defaults, settings};
use crate::problem::Problem;
use crate::schema::{Checker, DefaultOf};
use crate::source::{At, Source};
use crate::tree::{self, Node, Table, Value};

/// The defaults that are the same everywhere.
pub(crate) const TEXT: &str = r#"
[mesh]
# UDP and TCP share the number, so a firewall needs one rule for each host.
listen        = "0.0.0.0:7740"
# A mesh of one is a mesh; everything works locally and others may name this host as their seed.
seeds         = []
labels        = {}
# One data centre is the usual case; wan costs detection time, fast costs packets.
preset        = "lan"
# Long enough for a seed that boots at the same time, short enough not to hold up a boot.
ready_timeout = "30s"

[api]
listen = "127.0.0.1:7741"
# Any local process may look, none may change anything without the socket's file permission.
tcp    = "read"
hosts  = []

[dns]
listen  = "127.0.0.1:7753"
# .internal is reserved for private use, so no public name is hidden.
domain  = "mesh.internal"
forward = []

[outbound]
http          = "127.0.0.1:7780"
# A /16 of loopback holds every service of a large mesh and meets no other program.
vip_cidr      = "127.77.0.0/16"
vip           = "127.0.0.1:7781"
vip_listeners = []

[metrics]
# Metrics are on the local API; other hosts see nothing unless they are to.
listen = "off"

[log]
filter = "info"
format = "auto"

[access_log]
# Where every host has its log already; a host without a journal loses these lines, and says so once.
to     = "journald"
format = "json"
# Little while all is well, and what is looked for when it is not.
only   = "errors"
"#;

/// The built-in layer for one folder and host.
pub(crate) fn tree(dir: &ConfigDir, hostname: &str) -> Defaults {
    let source = Arc::new(Source::Default);
    // The text is a constant that a test parses; were it broken, every setting would be missing and loading refused.
    let mut table = match tree::parse_file("defaults", TEXT) {
        Ok((_, table)) => rebase(table, &source),
        Err(_) => Table::new(),
    };
    let mut put = |path: &[&str], text: String| {
        let node = Node { value: Value::String(text), at: At::whole(&source) };
        tree::place_at(&mut table, path, node);
    };
    let within = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (state, socket) = if dir.is_standard() {
        ("/var/lib/starling".to_owned(), "/run/starling/api.sock".to_owned())
    } else {
        (within("state"), within("api.sock"))
    };
    put(&["trust"], within("trust"));
    put(&["state"], state);
    put(&["api", "socket"], socket);
    if let Some(name) = node_name(hostname) {
        put(&["node_name"], name.to_string());
    }
    Defaults { table }
}

/// A host name's first label in lower case, where that is a node name.
fn node_name(hostname: &str) -> Option<NodeName> {
    NodeName::new(&hostname.split('.').next()?.to_lowercase()).ok()
}

fn rebase(table: Table, source: &Arc<Source>) -> Table {
    let at = || At::whole(source);
    let node = |value| Node { value, at: at() };
    table
        .into_iter()
        .map(|(key, mut entry)| {
            entry.key_at = at();
            entry.node = match entry.node.value {
                Value::Table(inner) => node(Value::Table(rebase(inner, source))),
                other @ (Value::String(_)
                | Value::Integer(_)
                | Value::Other(..)
                | Value::Boolean(_)
                | Value::Array(_)) => node(other),
            };
            (key, entry)
        })
        .collect()
}

impl DefaultOf for Defaults {
    fn default_of(&self, key: &str) -> Option<String> {
        let path: Vec<&str> = key.split('.').collect();
        let node = tree::lookup(&self.table, &path)?;
        match &node.value {
            // An empty list or table as a default says nothing to a person.
            Value::Array(nodes) if nodes.is_empty() => None,
            Value::Table(_) => None,
            Value::String(_) | Value::Integer(_) | Value::Other(..) | Value::Boolean(_) | Value::Array(_) => {
                Some(node.value.to_toml())
            }
        }
    }
}

/// Derived defaults may be wrong too (a long folder, a host name that is no node name), but only when nothing higher
/// replaces them.
pub(crate) fn check_those_in_use(merged: &Table, hostname: &str, checker: &mut Checker<'_>) {
    for key in ["trust", "state", "api.socket"] {
        let path: Vec<&str> = key.split('.').collect();
        let node = tree::lookup(merged, &path).filter(|node| *node.at.source == Source::Default);
        if let (Some(node), Some((field, _))) = (node, settings::find(&path)) {
            checker.field(field, node, key);
        }
    }
    if tree::lookup(merged, &["node_name"]).is_none() {
        let shown = crate::schema::clip(hostname);
        checker.problems.push(Problem {
            help: Some("set it: node_name = \"vm-1\" in agent.toml, or --node-name vm-1".into()),
            ..Problem::new(
                codes::BAD_SETTING,
                format!("node_name is not set, and the host name {shown:?} is no node name"),
            )
        });
    }
}
