#!/bin/sh
# Runs the differential targets for SECONDS each, one a core, and adds what they did to LOG.md: the hours count up.
#   fuzz/hours.sh SECONDS [TARGET...]        (http_request and http_answer, where none is named)
# What was learned is made small and packed into grown/TARGET.tar.xz, where the next run begins; commit it with the log.
set -eu
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${FUZZ_TARGET_DIR:-$PWD/target}"
seconds=${1:?usage: fuzz/hours.sh SECONDS [TARGET...]}
shift
targets=${*:-http_request http_answer}
toolchain=
if rustup toolchain list | grep -q '^nightly'; then toolchain=+nightly; else export RUSTC_BOOTSTRAP=1; fi
# shellcheck disable=SC2086
for target in $targets; do cargo $toolchain fuzz build "$target"; done
built=$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/release
pids=
begun=$(mktemp)
for target in $targets; do
    mkdir -p "corpus/$target" "artifacts/$target" grown
    if [ -e "grown/$target.tar.xz" ]; then tar -xJf "grown/$target.tar.xz" -C corpus; fi
    nice -n 19 "$built/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" \
        -rss_limit_mb=512 -timeout=5 -print_final_stats=1 >"$CARGO_TARGET_DIR/$target.log" 2>&1 &
    pids="$pids $!"
done
failed=
for pid in $pids; do wait "$pid" || failed=yes; done
for target in $targets; do
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$CARGO_TARGET_DIR/$target.log")
    # Of this run: what an earlier one left may be mended.
    if [ -n "$(find "artifacts/$target" -type f -newer "$begun")" ]; then end="failed, see artifacts/$target"; else end="passed"; fi
    commit=$(git rev-parse --short HEAD)
    small=$(mktemp -d)
    mkdir "$small/$target"
    "$built/$target" -merge=1 -timeout=5 "$small/$target" "corpus/$target" >/dev/null 2>&1
    # Seeds lie beside it already.
    rm -f "$small/$target"/seed-* "$small/$target"/kept-*
    inputs=$(find "$small/$target" -type f | wc -l)
    tar --sort=name --mtime=@0 --owner=0 --group=0 -cJf "grown/$target.tar.xz" -C "$small" "$target"
    rm -rf "$small"
    printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$(date -u +%Y-%m-%d)" "$target" "$commit" "$seconds" "${runs:-0}" "$inputs" "$end" >>LOG.md
    tail -n 1 LOG.md
done
[ -z "$failed" ]
