//! From a massif snapshot to kinds of objects: each allocation is counted for the innermost of its callers that we have a
//! word for.

use std::collections::BTreeMap;

use crate::Done;

/// Part of a call as massif writes it, `function (file.rs:line)`, and what is allocated there, in our words. Of two that fit
/// one call the first counts. A word that fits nothing any more shows as bytes of [`UNNAMED`].
const KINDS: &[(&str, &str)] = &[
    // ---- of a connection
    ("OwnedTasks", "its task: the future with all that lives across a wait"),
    ("RegistrationSet::allocate", "its place in tokio's list of sockets"),
    ("take_buffer (tcp.rs", "read buffers for connections between agents, two kept by each data thread"),
    ("(buffers.rs", "read buffers of HTTP/1.1 and TLS, kept by each data thread"),
    ("(door.rs", "its door: switches and requests under way"),
    ("(server.rs", "its HTTP/1.1 reader and writer, and the deadline of the next request"),
    ("(outbound.rs", "what it leads to: service, route, worker"),
    // ---- of members and services
    ("take (registry.rs", "registry: the numbers of endpoints"),
    ("attach (registry.rs", "registry: which endpoints a service has"),
    ("(registry.rs", "registry: what each member announces"),
    ("(pools.rs", "route table: services with endpoints, ports and pools"),
    ("directory (compile.rs", "route table: services by name and by host"),
    ("(compile.rs", "route table: the rest"),
    ("ages (routes.rs", "since when each endpoint is as it is"),
    ("Records::services", "copies of records for the route table's task and for the API's view"),
    ("health (records.rs", "copies of records for the route table's task and for the API's view"),
    ("News::view", "the API's view of members"),
    ("view_of", "the API's view of members"),
    ("(payload.rs", "gossip: records as read"),
    ("read_message (wire.rs", "gossip: records and credentials as signed"),
    ("insert (records.rs", "gossip: the table of records"),
    ("starling_gossip::", "gossip: members and the rest"),
    ("tell_member", "events for people, at most the last 4,096"),
    ("(story.rs", "events for people, at most the last 4,096"),
    ("Events::tell", "events for people, at most the last 4,096"),
    ("(loads.rs", "loads of endpoints"),
    ("sled::", "store: what sled keeps of what is on disk"),
    ("(persist.rs", "store: what was written last"),
    ("quinn", "QUIC"),
    ("rustls", "TLS"),
];

/// Where no caller has a word.
const UNNAMED: &str = "other";

/// Bytes by kind of object; after a subtraction there may be fewer than none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    kinds: BTreeMap<&'static str, i64>,
    /// What the allocator adds: heads of blocks, and bytes up to the next multiple of 16.
    padding: i64,
}

impl Holders {
    pub(crate) fn total(&self) -> i64 {
        self.kinds.values().sum()
    }

    pub(crate) fn padding(&self) -> i64 {
        self.padding
    }

    /// What came since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut gained = self.clone();
        for (kind, bytes) in &before.kinds {
            *gained.kinds.entry(kind).or_default() -= bytes;
        }
        gained.padding -= before.padding;
        gained
    }

    /// The largest first.
    pub(crate) fn largest(&self) -> Vec<(&'static str, i64)> {
        let mut all: Vec<_> = self.kinds.iter().map(|(kind, bytes)| (*kind, *bytes)).collect();
        all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        all
    }
}

/// Sums the one detailed tree of a snapshot. In it ` n2: 96 0x1F: alloc::x (y.rs:3)` is a call, two deep, of which two other
/// places are callers, which stand below it one deeper; what has none is a whole path.
pub(crate) fn sum(text: &str) -> Done<Holders> {
    let (mut holders, mut path): (Holders, Vec<&str>) = (Holders::default(), Vec::new());
    for line in text.lines() {
        if let Some(bytes) = line.strip_prefix("mem_heap_extra_B=") {
            holders.padding = bytes.parse()?;
        }
        let words = line.trim_start_matches(' ');
        let Some((callers, rest)) = words.strip_prefix('n').and_then(|rest| rest.split_once(": ")) else { continue };
        let Some((bytes, call)) = rest.split_once(' ') else { continue };
        path.truncate(line.len() - words.len());
        path.push(call);
        if callers == "0" {
            *holders.kinds.entry(kind(&path)).or_default() += bytes.parse::<i64>()?;
        }
    }
    Ok(holders)
}

fn kind(path: &[&str]) -> &'static str {
    // Calls of the standard library have our types in their names.
    let mut ours = path.iter().filter(|call| !call.contains("(library/"));
    let word = |call: &&str| KINDS.iter().find(|(part, _)| call.contains(part)).map(|(_, word)| *word);
    ours.find_map(word).unwrap_or(UNNAMED)
}

#[cfg(test)]
mod tests {
    use super::sum;

    const TEXT: &str = "mem_heap_B=160\nmem_heap_extra_B=16\nheap_tree=detailed\nn2: 160 (heap allocation functions) malloc\n \
        n2: 100 0x1: alloc (alloc.rs:9)\n  n0: 60 0x2: take (registry.rs:2)\n  n1: 40 0x3: push (vec.rs:3)\n   \
        n0: 40 0x4: starling_routing::x (pools.rs:1)\n n0: 60 0x5: main (main.rs:4)\n";

    #[test]
    fn an_allocation_counts_for_its_innermost_caller_with_a_word() {
        let held = sum(TEXT).unwrap();
        let expected = [
            ("other", 60),
            ("registry: the numbers of endpoints", 60),
            ("route table: services with endpoints, ports and pools", 40),
        ];
        assert_eq!(held.largest(), expected);
        assert_eq!((held.total(), held.padding()), (160, 16));
        assert_eq!(held.since(&held).total(), 0);
    }
}
