"""One run of 32 agents of one kind, or the page about many runs.

    serf.py run PEER AGENTS ROUND     inside a network namespace of its own; one line of JSON on standard output
    serf.py report RESULTS            Markdown on standard output

Both kinds are watched alike: by the lines that each agent logs about members, as they come out of its pipe. Bytes are
what the namespace's loopback carried, headers of IP included; nothing else uses it. CPU is what the kernel accounts to
the agents' threads.
"""

import json
import os
import re
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time

QUICK = bool(os.environ.get("QUICK"))
SETTLE_S = 5 if QUICK else 20
REST_S = 10 if QUICK else 30
PAUSED = 8
PAUSE_S = 5
CYCLES = 2 if QUICK else 6
KILLS = 1 if QUICK else 3
PATIENCE_S = 90


class Serf:
    """`serf agent`, LAN profile, encrypted, with a snapshot file as Starling keeps its state."""

    name = "serf"
    joined = re.compile(rb"serf: EventMemberJoin: (\S+)")
    failed = re.compile(rb"serf: EventMemberFailed: (\S+)")

    def __init__(self, folder, count):
        self.folder = folder
        self.key = subprocess.run(["serf", "keygen"], capture_output=True, text=True, check=True).stdout.strip()
        package = subprocess.run(["dpkg-query", "-W", "-f=${Version}", "serf"], capture_output=True, text=True)
        self.version = package.stdout or "not from a package"

    def command(self, number):
        ip = f"127.1.0.{number}"
        command = ["serf", "agent", f"-node=vm-{number}", f"-bind={ip}:7946", f"-rpc-addr={ip}:7373", "-profile=lan",
                   f"-encrypt={self.key}", f"-snapshot={self.folder}/vm-{number}.snapshot"]
        return command + (["-join=127.1.0.1:7946"] if number > 1 else [])


class Starling:
    """`starling agent`, preset lan, with everything that an agent has: certificates, store, proxy, API."""

    name = "starling"
    joined = re.compile(rb'"member alive","node":"([\w-]+)')
    failed = re.compile(rb'"member failed","node":"([\w-]+)')

    def __init__(self, folder, count):
        self.folder, self.binary = folder, os.environ["STARLING"]
        self.version = self.run("--version").strip()
        self.run("trust", "init", "--trust-domain", "bench.internal", "--operator", "alice", "--out", "op")
        for number in range(1, count + 1):
            name, ip = f"vm-{number}", f"127.1.0.{number}"
            self.run("trust", "issue", "node", name, "--dir", "op")
            config = f"{folder}/{name}"
            os.makedirs(f"{config}/services.d")
            with open(f"{config}/agent.toml", "w") as file:
                file.write(f'node_name = "{name}"\n[mesh]\nlisten = "{ip}:7740"\nadvertise = "{ip}:7740"\n'
                           f'preset = "lan"\n[api]\nlisten = "{ip}:7741"\n[outbound]\nhttp = "{ip}:7780"\n')
            self.run("join", f"op/{name}.join", "--config-dir", config, "--no-start")

    def run(self, *arguments):
        done = subprocess.run([self.binary, *arguments], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"starling {arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def command(self, number):
        command = [self.binary, "agent", "--config-dir", f"{self.folder}/vm-{number}"]
        return command + (["--seed", "127.1.0.1:7740"] if number > 1 else [])


class Run:
    def __init__(self, kind, count):
        self.kind, self.count = kind, count
        self.processes, self.views, self.failures = {}, {}, []
        self.selector, self.rest = selectors.DefaultSelector(), {}

    def start(self, number):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STARLING")}
        process = subprocess.Popen(self.kind.command(number), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, env=environment)
        os.set_blocking(process.stdout.fileno(), False)
        self.selector.register(process.stdout, selectors.EVENT_READ, number)
        self.processes[number], self.rest[number] = process, b""
        self.views[number] = {f"vm-{number}"}

    def look(self, seconds, until=lambda: False):
        """Reads what the agents say for so long, or until something holds. True when it held."""
        end = time.monotonic() + seconds
        while not until():
            left = end - time.monotonic()
            if left <= 0:
                return False
            for key, _ in self.selector.select(min(left, 0.05)):
                self.read(key.fileobj, key.data)
        return True

    def read(self, pipe, number):
        text = pipe.read()
        if not text:
            self.selector.unregister(pipe)
            return
        now = time.monotonic()
        lines = (self.rest[number] + text).split(b"\n")
        self.rest[number] = lines.pop()
        for line in lines:
            for what, pattern in (("join", self.kind.joined), ("fail", self.kind.failed)):
                found = pattern.search(line)
                if not found:
                    continue
                subject = found.group(1).decode().rstrip(":")
                if what == "join":
                    self.views[number].add(subject)
                else:
                    self.views[number].discard(subject)
                    self.failures.append((now, number, subject))

    def all_see_all(self):
        return all(len(view) == self.count for view in self.views.values()) and len(self.views) == self.count

    def cpu(self):
        """Seconds of all threads of all agents."""
        total = 0
        for process in self.processes.values():
            try:
                for thread in os.listdir(f"/proc/{process.pid}/task"):
                    with open(f"/proc/{process.pid}/task/{thread}/schedstat") as file:
                        total += int(file.read().split()[0])
            except OSError:
                pass
        return total / 1e9

    def memory(self, what):
        values = []
        for process in self.processes.values():
            with open(f"/proc/{process.pid}/smaps_rollup") as file:
                values.append(int(re.search(rf"^{what}:\s+(\d+)", file.read(), re.M).group(1)) / 1024)
        return statistics.median(values)

    def stop(self):
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()


def wire():
    """Bytes that the loopback carried so far."""
    with open("/proc/net/dev") as file:
        return int(re.search(r"^\s*lo:\s*(\d+)", file.read(), re.M).group(1))


class Meter:
    def __init__(self, run):
        self.run, self.cpu, self.bytes, self.at = run, run.cpu(), wire(), time.monotonic()

    def per_agent(self):
        """CPU seconds, bytes and seconds since the start, the first two per agent."""
        count = self.run.count
        return (self.run.cpu() - self.cpu) / count, (wire() - self.bytes) / count, time.monotonic() - self.at


def measure(run, figures):
    run.start(1)
    run.look(3)
    meter = Meter(run)
    for number in range(2, run.count + 1):
        run.start(number)
    if not run.look(PATIENCE_S, run.all_see_all):
        sys.exit("not all see all: " + str({number: len(view) for number, view in run.views.items()}))
    cpu, wired, took = meter.per_agent()
    figures.update(all_see_all_s=took, join_cpu_ms=cpu * 1e3, join_kb=wired / 1e3)

    run.look(SETTLE_S)
    meter = Meter(run)
    run.look(REST_S)
    cpu, wired, took = meter.per_agent()
    figures.update(rest_cpu_percent=cpu / took * 100, rest_kb_s=wired / took / 1e3,
                   rss_mib=run.memory("Rss"), pss_mib=run.memory("Pss"), anonymous_mib=run.memory("Anonymous"))

    paused = list(range(run.count - PAUSED + 1, run.count + 1))
    names = {f"vm-{number}" for number in paused}
    before, meter = len(run.failures), Meter(run)
    for _ in range(CYCLES):
        for signal_number in (signal.SIGSTOP, signal.SIGCONT):
            for number in paused:
                os.kill(run.processes[number].pid, signal_number)
            run.look(PAUSE_S)
    cpu, wired, took = meter.per_agent()
    gone = run.failures[before:]
    figures.update(pause_cpu_percent=cpu / took * 100, pause_kb_s=wired / took / 1e3,
                   pause_evictions=len(gone),
                   pause_evictions_of_healthy=sum(subject not in names for _, _, subject in gone),
                   pause_evictions_at_healthy=sum(number not in paused for _, number, _ in gone))
    figures["pause_healed"] = run.look(PATIENCE_S, run.all_see_all)

    last, median = [], []
    for number in range(2, 2 + KILLS):
        run.look(3)
        process, name, before = run.processes.pop(number), f"vm-{number}", len(run.failures)
        process.kill()
        process.wait()
        at = time.monotonic()
        run.views.pop(number)
        def known():
            return {who for _, who, subject in run.failures[before:] if subject == name} >= set(run.processes)
        if not run.look(PATIENCE_S, known):
            sys.exit(f"not all know that {name} is dead")
        times = sorted(when - at for when, _, subject in run.failures[before:] if subject == name)
        last.append(times[-1])
        median.append(times[len(times) // 2])
    figures.update(kill_last_s=statistics.median(last), kill_median_s=statistics.median(median))
    # Of what was held dead in the whole run, the killed ones were.
    killed = {f"vm-{number}" for number in range(2, 2 + KILLS)}
    figures["wrong_deaths_elsewhere"] = sum(subject not in killed for _, _, subject in run.failures) - len(gone)


def run(peer, count, number):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="serf-bench-") as folder:
        kind = {"serf": Serf, "starling": Starling}[peer](folder, count)
        load = os.getloadavg()[0]
        running = Run(kind, count)
        figures = {"peer": peer, "round": number, "agents": count, "version": kind.version, "load": load,
                   "at": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())}
        try:
            measure(running, figures)
        finally:
            running.stop()
        print(json.dumps(figures))


ROWS = [
    ("all_see_all_s", "start of 31 agents until all see all, s", 2),
    ("join_cpu_ms", "CPU until then, ms per agent", 0),
    ("join_kb", "bytes until then, KB per agent", 0),
    ("rest_cpu_percent", "CPU at rest, % of one core per agent", 3),
    ("rest_kb_s", "bytes at rest, KB/s per agent", 2),
    ("pause_cpu_percent", "CPU while 8 pause in 5 s blocks, % per agent", 3),
    ("pause_kb_s", "bytes meanwhile, KB/s per agent", 2),
    ("pause_evictions", "views that held a paused or healthy agent dead", 0),
    ("pause_evictions_of_healthy", "of these, about agents that never paused", 0),
    ("pause_evictions_at_healthy", "of these, at agents that never paused", 0),
    ("kill_median_s", "kill -9 known to half of the others, s", 2),
    ("kill_last_s", "kill -9 known to all others, s", 2),
    ("rss_mib", "resident memory, MiB per agent", 1),
    ("pss_mib", "proportional memory, MiB per agent", 1),
    ("anonymous_mib", "anonymous memory (heap, stacks), MiB per agent", 1),
]


def report(path):
    with open(path) as file:
        runs = [json.loads(line) for line in file if line.strip()]
    of = {peer: [one for one in runs if one["peer"] == peer] for peer in ("starling", "serf")}
    first = runs[0]
    notes = os.path.join(os.path.dirname(os.path.abspath(__file__)), "serf-notes.md")
    print("# Membership, side by side with Serf\n")
    print("Written by `benches/peers/serf.sh`; the notes below the table are `benches/peers/serf-notes.md`. "
          f"{first['agents']} agents of each kind in turn on the loopback of one host with {os.cpu_count()} cores, "
          "one kind at a time. Cells are medians over the rounds [smallest-largest]. Serf: LAN profile, encrypted, with "
          "a snapshot file. Starling: preset lan, the whole agent with proxy, API and store. Bytes are those of IP.\n")
    print(f"* date: {first['at']}\n* starling: {of['starling'][0]['version']}\n* serf: {of['serf'][0]['version']}")
    print(f"* rounds: {len(of['starling'])}, interleaved; load of the machine before each run: "
          + ", ".join(f"{one['load']:.1f}" for one in runs)
          + (f"\n* phases shortened by QUICK=1: rest {REST_S} s, {CYCLES} pauses, {KILLS} kill" if QUICK else "") + "\n")
    print("| Figure | starling | serf | starling ÷ serf |\n|---|---:|---:|---:|")
    for key, text, digits in ROWS:
        def cell(peer):
            values = [one[key] for one in of[peer]]
            return (f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]",
                    statistics.median(values))
        (ours, our), (theirs, their) = cell("starling"), cell("serf")
        print(f"| {text} | {ours} | {theirs} | {our / their:.2f} |" if their else f"| {text} | {ours} | {theirs} | - |")
    if os.path.exists(notes):
        with open(notes) as file:
            print("\n" + file.read().rstrip())


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        report(sys.argv[2])
