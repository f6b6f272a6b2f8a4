#!/bin/sh
# Runs the differential targets for SECONDS each, side by side, and adds what they did to LOG.md: the hours count up.
#   fuzz/hours.sh SECONDS [TARGET...]        (http_request and http_answer, where none is named)
# They give way to all else that runs; what is written down is the CPU time that they got, in seconds.
# What was learned is made small and packed into grown/TARGET.tar.xz, where the next run begins; commit it with the log.
set -eu
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${FUZZ_TARGET_DIR:-$PWD/target}"
# What the sanitizer keeps of freed memory counts as the target's; by itself it would be half of what a run may have.
export ASAN_OPTIONS="quarantine_size_mb=64${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
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
    (
        code=0
        nice -n 19 "$built/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" \
            -rss_limit_mb=512 -timeout=20 -print_final_stats=1 >"$CARGO_TARGET_DIR/$target.log" 2>&1 || code=$?
        # The second line is of those that a shell has waited for: its user and system time.
        times >"$CARGO_TARGET_DIR/$target.times"
        exit $code
    ) &
    pids="$pids $!"
done
failed=
for pid in $pids; do wait "$pid" || failed=yes; done
for target in $targets; do
    cpu=$(awk 'NR == 2 {for (i = 1; i <= 2; i++) {split($i, t, "[ms]"); sum += 60 * t[1] + t[2]}; printf "%d", sum}' \
        "$CARGO_TARGET_DIR/$target.times")
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
    # Else a corpus of many thousand inputs fills the memory that a run may have. The next run unpacks what counts.
    find "corpus/$target" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$(date -u +%Y-%m-%d)" "$target" "$commit" "$cpu" "${runs:-0}" "$inputs" "$end" >>LOG.md
    tail -n 1 LOG.md
done
[ -z "$failed" ]
