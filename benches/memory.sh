#!/bin/bash
# What agents hold of their host's memory, on the loopback of one host: docs/measurements/memory.md.
#
#   benches/memory.sh [rounds]    idle agents, idle connections, known services: three rounds, about five minutes
#   benches/memory.sh heap        what holds it, by valgrind's massif: about four minutes
#
# Each writes its part of the page, and leaves the other one. STARLING, PEERS_LOAD and CONTROL name other binaries than those
# that it builds, PROFILE another profile than dist, REPORT another file. `heap` needs valgrind and a binary with symbols, so
# it builds profile release. Run it on a machine that has nothing else to do. What the page says about the figures (behind
# its last rule) is written by people and stays.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
part=memory
[ "${1:-}" = heap ] && { part=heap; shift; }
rounds=${1:-3} profile=${PROFILE:-$([ $part = heap ] && echo release || echo dist)}
built=${CARGO_TARGET_DIR:-$root/target}/$profile
report=${REPORT:-$root/docs/measurements/memory.md}
starling=${STARLING:-$built/starling} load=${PEERS_LOAD:-$built/peers-load} control=${CONTROL:-$built/control}

if [ $part = heap ] && ! command -v vgdb >/dev/null; then echo "valgrind is missing" >&2; exit 1; fi
if [ -z "${STARLING:-}" ] || [ -z "${PEERS_LOAD:-}" ] || [ -z "${CONTROL:-}" ]; then
  (cd "$root" && cargo build --profile "$profile" -p starling -p starling-benches --bin starling --bin peers-load --bin control) || exit 1
fi

# Agents raise their own limit; the load has none that does.
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
work=$(mktemp -d /tmp/starling-memory.XXXXXX) || exit 1
trap 'rm -rf -- "$work"' EXIT
"$control" $part "starling=$starling" "load=$load" "work=$work" "rounds=$rounds" > "$work/table.md" || exit 1

environment() {
  cat <<END
* date: $(date -u +%Y-%m-%dT%H:%MZ)
* machine: $(awk -F': ' '/^model name/ {print $2; exit}' /proc/cpuinfo), $(nproc) cores, $(awk '/^MemTotal/ {printf "%.0f GiB", $2 / 2 ^ 20}' /proc/meminfo), $(uname -sr), $(getconf GNU_LIBC_VERSION)
* starling: $("$starling" version 2>/dev/null | head -1) $(cd "$root" && git rev-parse --short HEAD 2>/dev/null), profile $profile
END
}

memory() {
  cat <<END
# Memory of agents

    benches/memory.sh $rounds

Written by this command up to the rule, "What holds it" by \`benches/memory.sh heap\`; do not edit. Two agents of one mesh,
client → A ═mutual TLS═> B → server, with the configuration of \`benches/peers/bench.sh\` (one HTTPRoute with two backends,
access log, hybrid key exchange). Nobody scrapes them.

$(environment)
* rounds: $rounds; cells are medians, with the smallest and the largest in brackets where these differ
* figures: \`/proc/PID/status\` and \`/proc/PID/smaps\`; KiB and MiB are 1,024 and 1,048,576 bytes. RssAnon is an agent's own memory; RssFile
  is its program and libraries, which the kernel drops when it needs the room. The kernel's own memory for sockets is in none.
* every row of connections and of services is a fresh pair, left alone for 5 s before it is looked at and after each change

Idle connections: each carried one HTTP/1.1 request, one after the other, and then stays open; more than 8,000 come in through
two listeners. Known services: members signed by their own keys, each with a credential, announce services and that these are ready.
One QUIC node (lowest priority of the host) knows them and dials A, which checks every one, passes them on to B, and writes them to
disk. None of them exists but that node: A and B dial them in vain, so a few are doubted or dead when the agents are looked at.

END
  cat "$work/table.md"
}

heap() {
  cat <<END
## What holds it

    benches/memory.sh heap

Agent A executed by valgrind's massif, which is asked for all that is allocated at a moment, by the calls that allocated it; a row is
what was there more than before the connections, or the members. An allocation counts for its innermost caller that
\`benches/control/holders.rs\` has a word for. Bytes are those asked for, whether they were ever written or not; what the allocator
keeps of memory that was given back is not in it.

$(environment), $(valgrind --version)

END
  cat "$work/table.md"
}

# The part that was measured, the other one as it stood, and what people wrote behind the rule.
[ -f "$report" ] || : > "$report"
sed -n '/^## What holds it$/q; /^---$/q; p' "$report" > "$work/memory.md"
sed -n '/^## What holds it$/,/^---$/p' "$report" | sed '/^---$/d' > "$work/heap.md"
sed -n '/^---$/,$p' "$report" > "$work/said.md"
$part > "$work/$part.md"
sed -i -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$work/memory.md" "$work/heap.md"
{
  cat "$work/memory.md"
  for other in heap said; do [ -s "$work/$other.md" ] && { echo; cat "$work/$other.md"; }; done
} > "$work/page.md"
mkdir -p "$(dirname "$report")" && cp "$work/page.md" "$report" && cat "$report"
