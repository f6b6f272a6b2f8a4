#!/bin/bash
# Builds `starling` as releases are built: profile `dist`, guided by what an instrumented build did under load.
#
#   benches/dist.sh        about a quarter of an hour on two cores; the binary is target/dist-guided/starling
#
# The load is that of benches/peers/bench.sh (HTTP/1.1, HTTP/2, TCP, new connections, bulk), a minute of it, on the loopback
# of this host; it needs wrk, nginx, curl and h2load. Reading the profile takes rustc's own llvm-profdata: another version
# may not know its format. docs/adr/0036-guided-builds.md says what it brings.
set -eu

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
for program in wrk nginx curl h2load; do
  command -v $program >/dev/null || { echo "$program is missing (Debian: wrk, nginx, curl, nghttp2-client)" >&2; exit 1; }
done

cd "$root"
build() { CARGO_TARGET_DIR=$guided CARGO_INCREMENTAL=0 RUSTFLAGS=$1 cargo build --profile dist --locked -p starling --bin starling; }
echo "== a build that counts what it does" >&2
rm -rf -- "$profiles"
build "-Cprofile-generate=$profiles"
cargo build --profile dist --locked -p starling-benches --bin peers-load
echo "== a minute of load on it" >&2
STARLING=$built PEERS_LOAD=${PEERS_LOAD:-$target/dist/peers-load} "$here/peers/bench.sh" train >&2
"$profdata" merge -o "$profiles/merged" "$profiles"/*.profraw
echo "== the build that knows it" >&2
build "-Cprofile-use=$profiles/merged -Cllvm-args=-pgo-warn-missing-function=false"
mkdir -p "$target/dist-guided"
cp -- "$built" "$target/dist-guided/starling"
"$(dirname "$profdata")/llvm-strip" "$target/dist-guided/starling"
echo "$target/dist-guided/starling"
