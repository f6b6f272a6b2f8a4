#!/bin/sh
# Runs every fuzz target for SECONDS each (60), as many at a time as there are cores, and tells which ones failed.
#   fuzz/run-all.sh [SECONDS] [TARGET...]
# Needs cargo-fuzz. Sanitizers are an unstable option of the compiler: with the nightly toolchain where there is one, else
# with the stable one, told to allow it.
set -u
cd "$(dirname "$0")" || exit 2
export CARGO_TARGET_DIR="${FUZZ_TARGET_DIR:-$PWD/target}"
seconds=${1:-60}
[ $# -gt 0 ] && shift
case $seconds in '' | *[!0-9]* | 0) echo "usage: $0 [SECONDS] [TARGET...]" >&2; exit 2 ;; esac
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 2; }

toolchain=
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then toolchain=+nightly; else export RUSTC_BOOTSTRAP=1; fi
# shellcheck disable=SC2086
fuzz() { cargo $toolchain fuzz "$@"; }

targets=${*:-$(fuzz list)}
[ -n "$targets" ] || exit 2
if [ $# -gt 0 ]; then
    for target in $targets; do fuzz build "$target" || exit 2; done
else
    fuzz build || exit 2
fi

built=$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/release
logs=$(mktemp -d) || exit 2
export built seconds logs
# One target: its log is shown only if it fails. What a run learns goes beside the seeds and is ignored by git.
# shellcheck disable=SC2016
printf '%s\n' $targets | xargs -P "$(nproc)" -I{} sh -c '
    mkdir -p corpus/{} artifacts/{}
    if "$built/{}" corpus/{} -artifact_prefix=artifacts/{}/ -max_total_time="$seconds" \
        -rss_limit_mb=512 -timeout=5 -print_final_stats=1 >"$logs/{}" 2>&1
    then
        printf "ok    %-22s %s runs\n" {} "$(sed -n "s/^stat::number_of_executed_units: *//p" "$logs/{}")"
    else
        tail -n 60 "$logs/{}"
        printf "FAIL  %s\n" {}
        touch "$logs/failed"
    fi'
if [ -e "$logs/failed" ]; then
    echo "failed; the inputs are in fuzz/artifacts, the logs in $logs" >&2
    exit 1
fi
rm -rf "$logs"
echo "all targets passed"
