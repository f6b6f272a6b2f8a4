#!/bin/bash
# Compares membership side by side: Starling's agents and Serf's (memberlist with Lifeguard), on the loopback of one host.
#
#   serf.sh all  [rounds] [agents]   three interleaved rounds of 32 agents each, and docs/measurements/gossip-serf.md
#   serf.sh one  PEER     [agents]   one run of starling or serf, its figures on standard output
#   serf.sh report                   the page alone, from what was measured last
#
# Needed: root (each run has a network namespace of its own, so that its loopback carries nothing else), Python 3, and
# Serf: `apt-get install serf`. STARLING names another binary than target/release/starling. QUICK=1 shortens the phases.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$here/work/serf
target=${CARGO_TARGET_DIR:-$root/target}
export STARLING=${STARLING:-$target/release/starling}
mkdir -p "$work"

one() { # peer, agents, round
  timeout 600 unshare -n python3 "$here/serf.py" run "$1" "$2" "$3"
}

report() { python3 "$here/serf.py" report "$work/results.jsonl" > "$root/docs/measurements/gossip-serf.md"; }

case ${1:-} in
  all)
    rounds=${2:-3}; agents=${3:-32}
    : > "$work/results.jsonl"
    for round in $(seq "$rounds"); do
      for peer in starling serf; do
        echo "round $round: $peer" >&2
        one "$peer" "$agents" "$round" >> "$work/results.jsonl" || echo "round $round of $peer failed" >&2
      done
    done
    report ;;
  one) one "${2:?starling or serf}" "${3:-32}" 0 ;;
  report) report ;;
  *) sed -n '2,10p' "$0"; exit 2 ;;
esac
