#!/bin/sh
# Runs every fuzz target for SECONDS each (60), one after the other, and tells which ones failed.
#   fuzz/run-all.sh [SECONDS] [TARGET...]
set -u
cd "$(dirname "$0")" || exit 2
export CARGO_TARGET_DIR="$PWD/target"
seconds=${1:-60}
[ $# -gt 0 ] && shift
case $seconds in '' | *[!0-9]* | 0) echo "usage: $0 [SECONDS] [TARGET...]" >&2; exit 2 ;; esac
targets=${*:-$(cargo +nightly fuzz list)}
[ -n "$targets" ] || exit 2

for target in $targets; do
    cargo +nightly fuzz build "$target" || exit 2
done
failed=
for target in $targets; do
    echo "== $target, $seconds s"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=512 -timeout=1 -print_final_stats=1 \
        || failed="$failed $target"
done
if [ -n "$failed" ]; then
    echo "failed:$failed (inputs are in fuzz/artifacts)" >&2
    exit 1
fi
echo "all targets passed"
