#!/bin/bash
# Builds `starling` as releases are built: profile `dist`, guided by what an instrumented build did under load, and then laid
# out anew by what the finished program did under the same load.
#
#   benches/dist.sh        about twenty minutes on two cores; the binary is target/dist-guided/starling
#
# The load is that of benches/peers/bench.sh (HTTP/1.1, HTTP/2, TCP, new connections, bulk), twice a minute of it, on the
# loopback of this host; it needs wrk, nginx, curl and h2load. Reading the profile takes rustc's own llvm-profdata: another
# version may not know its format. The layout is made by LLVM's BOLT (tried: version 22; BOLT names another one than
# the newest in /usr/bin).
# docs/adr/0036-guided-builds.md and 0037-layout-of-the-binary.md say what each brings.
set -eu
# One order for sort, join and comm.
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
guided=$target/guided
built=$guided/dist/starling
profiles=$guided/profiles

find_profdata() { ls "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata 2>/dev/null | head -1; }
if [ -z "$(find_profdata)" ] && command -v rustup >/dev/null; then rustup component add llvm-tools; fi
profdata=$(find_profdata)
if [ -z "$profdata" ]; then
  echo "rustc's llvm-profdata is missing: rustup component add llvm-tools" >&2
  exit 1
fi
bolt=${BOLT:-$(ls /usr/bin/llvm-bolt /usr/bin/llvm-bolt-[0-9]* 2>/dev/null | sort -V | tail -1)}
merge=${bolt/llvm-bolt/merge-fdata}
if ! command -v "$bolt" >/dev/null || ! command -v "$merge" >/dev/null; then
  echo "llvm-bolt is missing (Debian: bolt-22 and libbolt-22-dev)" >&2
  exit 1
fi
for program in wrk nginx curl h2load; do
  command -v $program >/dev/null || { echo "$program is missing (Debian: wrk, nginx, curl, nghttp2-client)" >&2; exit 1; }
done

cd "$root"
# BOLT reads symbols and relocations, and neither is shipped.
build() {
  CARGO_TARGET_DIR=$guided CARGO_INCREMENTAL=0 CARGO_PROFILE_DIST_STRIP=none CARGO_PROFILE_DIST_DEBUG=none RUSTFLAGS=$1 \
    cargo build --profile dist --locked -p starling --bin starling
}
load() { STARLING=$1 PEERS_LOAD=${PEERS_LOAD:-$target/dist/peers-load} "$here/peers/bench.sh" train >&2; }
echo "== a build that counts what it does" >&2
rm -rf -- "$profiles"
build "-Cprofile-generate=$profiles"
cargo build --profile dist --locked -p starling-benches --bin peers-load
echo "== a minute of load on it" >&2
load "$built"
"$profdata" merge -o "$profiles/merged" "$profiles"/*.profraw
echo "== the build that knows it" >&2
# In the order of their files: BOLT sorts what it may move, and the rest stays side by side.
unsorted="-Clink-arg=-Wl,--emit-relocs -Clink-arg=-Wl,--no-call-graph-profile-sort"
build "-Cprofile-use=$profiles/merged -Cllvm-args=-pgo-warn-missing-function=false $unsorted"
echo "== a minute of load on it, counted" >&2
# The cryptography stays where it is, byte for byte: by the names that its library has in the program.
symbols() { "$(dirname "$profdata")/llvm-nm" --defined-only "$@" 2>/dev/null | awk '$2 ~ /^[tTwW]$/ {print $3, $1}'; }
symbols "$guided"/dist/build/aws-lc-sys-*/out/*crypto.a | cut -d' ' -f1 | sort -u > "$guided/cryptography"
symbols "$built" | sort | join - "$guided/cryptography" | sort > "$guided/placed"
{ echo 'aws_lc_.*'; awk '!/^aws_lc_/ {print $1 "(/.*)?"}' "$guided/placed" | sort -u; } > "$guided/kept"
"$bolt" "$built" -o "$guided/counting" -instrument -instrumentation-file="$profiles/layout" -instrumentation-file-append-pid \
  -skip-funcs-file="$guided/kept" > "$guided/bolt.log" 2>&1
load "$guided/counting"
"$merge" "$profiles"/layout.*.fdata -o "$profiles/laid" 2>> "$guided/bolt.log"
echo "== its layout" >&2
mkdir -p "$target/dist-guided"
"$bolt" "$built" -o "$target/dist-guided/starling" -data="$profiles/laid" -reorder-blocks=ext-tsp -reorder-functions=cdsort \
  -split-functions -split-all-cold -split-eh -icf=1 -use-gnu-stack -no-huge-pages -skip-funcs-file="$guided/kept" \
  >> "$guided/bolt.log" 2>&1
moved=$(symbols "$target/dist-guided/starling" | sort | join - "$guided/cryptography" | sort | comm -23 - "$guided/placed" | head -5)
if [ ! -s "$guided/placed" ] || [ -n "$moved" ]; then
  echo "the layout moved cryptography, or none was found: $moved" >&2
  rm -f -- "$target/dist-guided/starling"
  exit 1
fi
"$(dirname "$profdata")/llvm-strip" "$target/dist-guided/starling"
echo "$target/dist-guided/starling"
