#!/bin/bash
# What control work of an agent does to its traffic, on the loopback of one host: docs/measurements/control-path.md.
#
#   benches/control.sh [rounds] [seconds]    five rounds of seven windows of six seconds each, about five minutes
#
# STARLING, PEERS_LOAD and CONTROL name other binaries than those that it builds, PROFILE another profile than dist, REPORT
# another file. MEMBERS is how many members are joined. Run it on a machine that has nothing else to do. What the page says
# about the figures (behind its last rule) is written by people and stays.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
rounds=${1:-5} seconds=${2:-6} profile=${PROFILE:-dist}
built=${CARGO_TARGET_DIR:-$root/target}/$profile
report=${REPORT:-$root/docs/measurements/control-path.md}
starling=${STARLING:-$built/starling} load=${PEERS_LOAD:-$built/peers-load} control=${CONTROL:-$built/control}

if [ -z "${STARLING:-}" ] || [ -z "${PEERS_LOAD:-}" ] || [ -z "${CONTROL:-}" ]; then
  (cd "$root" && cargo build --profile "$profile" -p starling -p starling-benches --bin starling --bin peers-load --bin control) || exit 1
fi

work=$(mktemp -d /tmp/starling-control.XXXXXX) || exit 1
trap 'rm -rf -- "$work"' EXIT
"$control" run "starling=$starling" "load=$load" "work=$work" "rounds=$rounds" "secs=$seconds" "members=${MEMBERS:-1000}" > "$work/table.md" || exit 1

{
  cat <<END
# Control work beside traffic

    benches/control.sh $rounds $seconds

Written by this command up to the rule; do not edit. Two agents of one mesh, client → A ═mutual TLS═> B → server, with the
configuration of \`benches/peers/bench.sh\` (one HTTPRoute with two backends, access log, hybrid key exchange) and 2,000 requests/s
over 16 connections, each timed from when it was due. Each round starts a fresh pair. Cells are smallest–median–largest of the
rounds; quiet is the mean of the first and the last window of the same round. Lag is \`starling_loop_lag_seconds\` of both agents,
ten samples a second of each data thread; a quantile is told by the upper bound of its bucket. CPU is what the scheduler counts
for the threads \`starling-data-*\` of both agents. Clients, server, both agents and whoever plays the peers share the cores.

* date: $(date -u +%Y-%m-%dT%H:%MZ)
* machine: $(awk -F': ' '/^model name/ {print $2; exit}' /proc/cpuinfo), $(nproc) cores, $(awk '/^MemTotal/ {printf "%.0f GiB", $2 / 2 ^ 20}' /proc/meminfo), $(uname -sr)
* starling: $("$starling" version 2>/dev/null | head -1) $(cd "$root" && git rev-parse --short HEAD 2>/dev/null), profile $profile
* rounds: $rounds of $seconds s for each window, but that of a join is the join alone (its latencies are of all $seconds s); rebuilds, scrapes and handshakes take turns in their order

The 1,000 members are signed by their own keys, each with a credential and one announced instance of 100 services. One QUIC node
(lowest priority of the host) knows them and dials A, which takes in and checks every one and passes them on to B. None of them
exists but that node: A and B dial them in vain, about one a second, so all windows after the join have doubts and deaths in
them. A document is applied by the command line; a Prometheus scrapes every 5 to 15 s, here it is a hundred times as often. Handshakes
are mutual TLS connections to A's data port, closed at once, as if a mesh of 1,000 came back within 5 s.

END
  cat "$work/table.md"
} > "$work/page.md"
# What people wrote behind the rule stays.
[ -f "$report" ] && sed -n '/^---$/,$p' "$report" > "$work/said.md" && [ -s "$work/said.md" ] && { echo; cat "$work/said.md"; } >> "$work/page.md"
mkdir -p "$(dirname "$report")" && cp "$work/page.md" "$report" && cat "$report"
