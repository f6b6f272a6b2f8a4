#!/usr/bin/env python3
"""Turns results.csv into the Markdown of docs/measurements/data-path.md, on standard output.

    report.py RESULTS_FOLDER

Cells are medians over the rounds with [smallest–largest]. Ratios are those of the medians; beside them are the smallest
and the largest ratio within one round, since what a machine does to one peer in a round it does to all of them.
"""
import csv
import statistics
import sys
from collections import defaultdict

FOLDER = sys.argv[1]
PEERS = ["direct", "floor", "starling", "envoy", "envoy-2", "haproxy-h1", "haproxy-h2", "haproxy", "haproxy-grpc"]

# Suite, title, and its figures: key, what it says, digits, and whether the direct way is subtracted.
TABLES = [
    ("l7", "HTTP/1.1", [
        ("us_32", "CPU µs per request of A and B, 32 clients", 1, False),
        ("us_256", "the same, 256 clients", 1, False),
        ("us_10k", "the same, 32 clients, 10 KiB answers", 1, False),
        ("us_2000", "the same, 2,000 requests/s", 0, False),
        ("p50_2000", "added p50 at 2,000 requests/s, µs", 0, True),
        ("p99_2000", "added p99 at 2,000 requests/s, µs", 0, True),
        ("us_new", "CPU µs per new client connection", 0, False),
        ("rate_new", "new client connections/s", 0, False),
        ("rps_32", "requests/s on the whole machine, 32 clients", 0, False),
        ("rps_256", "the same, 256 clients", 0, False),
        ("rss_idle", "memory of one idle process, MiB", 1, False),
        ("kib_connection", "KiB per idle client connection (A and B)", 1, False),
    ]),
    ("grpc", "HTTP/2 from end to end, as gRPC uses it", [
        ("us_call100", "CPU µs per call of A and B, 4 connections with 25 calls each", 1, False),
        ("rps_call100", "calls/s on the whole machine", 0, False),
    ]),
    ("l4", "TCP", [
        ("us_ping64", "CPU µs per 64 B ping-pong, 64 streams", 1, False),
        ("p50_ping64", "its p50, µs", 0, False),
        ("us_ping1", "CPU µs per 64 B ping-pong, one stream", 1, False),
        ("p50_ping1", "its p50, µs", 0, False),
        ("p99_ping1", "its p99, µs", 0, False),
        ("us_open16", "CPU µs per new stream, 16 clients", 0, False),
        ("rate_open16", "new streams/s", 0, False),
        ("p50_open1", "connect to first byte, p50, µs", 0, False),
        ("cpu_s_gib_bulk", "bulk, one stream, CPU-s per GiB", 2, False),
        ("gib_s_bulk", "bulk, one stream, GiB/s", 2, False),
    ]),
    ("apps", "Real TCP applications", [
        ("us_redis50", "redis GET, 50 clients, CPU µs per operation", 1, False),
        ("rps_redis50", "redis GET, 50 clients, operations/s", 0, False),
        ("us_pgbench8", "pgbench -S, 8 clients, CPU µs per transaction", 1, False),
        ("tps_pgbench8", "pgbench -S, 8 clients, transactions/s", 0, False),
    ]),
]
AGAINST = {
    "l7": ["envoy", "haproxy-h2", "floor"], "grpc": ["envoy", "haproxy-grpc", "floor"],
    "l4": ["envoy", "haproxy", "floor"], "apps": ["envoy", "haproxy", "floor"],
}


def read():
    """values[suite][figure][peer][round], and how many rows were left out because the machine was busy."""
    values = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    errors, busy, rounds = defaultdict(int), 0, 0
    with open(f"{FOLDER}/results.csv", encoding="utf-8") as file:
        for number, suite, peer, figure, value, machine in csv.reader(file):
            if figure.startswith("errors_"):
                errors[(suite, peer, figure.removeprefix("errors_"))] += 1
                continue
            if machine != "clean":
                busy += 1
                continue
            try:
                value = float(value)
            except ValueError:
                continue
            # Two processes make a pair; the idle memory is told for one of them.
            values[suite][figure][peer][int(number)] = value / 2048 if figure == "rss_idle" else value
            rounds = max(rounds, int(number))
    return values, errors, busy, rounds


def show(numbers, digits, middle=statistics.median):
    if not numbers:
        return "-"
    text = f"{middle(numbers):,.{digits}f}"
    if len(numbers) > 1:
        text += f" [{min(numbers):,.{digits}f}–{max(numbers):,.{digits}f}]"
    return text


def added(by_peer, peer):
    """Each round's figure without what the direct way costs in that round."""
    direct = by_peer.get("direct", {})
    return {number: value - direct[number] for number, value in by_peer.get(peer, {}).items() if number in direct}


def ratio(by_peer, other, subtract):
    """Ours to theirs, of the rounds that both were well in."""
    ours, theirs = (added(by_peer, name) if subtract else by_peer.get(name, {}) for name in ("starling", other))
    both = [(ours[number], theirs[number]) for number in ours if number in theirs and theirs[number] > 0]
    of_medians = lambda _: statistics.median(our for our, _ in both) / statistics.median(their for _, their in both)
    return show([our / their for our, their in both], 2, of_medians)


def row(cells):
    return "| " + " | ".join(cells) + " |"


def table(suite, title, figures, values):
    peers = [peer for peer in PEERS if any(peer in values[suite][figure[0]] for figure in figures)]
    if not peers:
        return []
    against = [peer for peer in AGAINST[suite] if peer in peers and "starling" in peers]
    lines = [f"## {title}", "", row(["Figure"] + peers + [f"starling ÷ {peer}" for peer in against])]
    lines.append("|---" + "|---:" * (len(peers) + len(against)) + "|")
    for key, label, digits, subtract in figures:
        by_peer = values[suite][key]
        cells = []
        for peer in peers:
            numbers = list((added(by_peer, peer) if subtract else by_peer.get(peer, {})).values())
            # The direct way has no proxies, so no CPU time of theirs; and nothing is added to it.
            idle = peer == "direct" and (subtract or key.startswith(("us_", "cpu_s")))
            cells.append("-" if idle else show(numbers, digits))
        cells += [ratio(by_peer, peer, subtract) for peer in against]
        if any(cell != "-" for cell in cells):
            lines.append(row([label] + cells))
    return lines + [""]


def main():
    values, errors, busy, rounds = read()
    lines = ["# The data path, side by side", ""]
    lines += [
        "Written by `benches/peers/bench.sh report`; do not edit. client → A ═mutual TLS═> B → server on the loopback of one",
        "host; the load generator, both proxies and the server share its cores. So rates say little elsewhere; CPU time per",
        "operation repeats within some percent, and ratios within one run carry over. `direct` is without proxies, `floor` a pair",
        "of relays that neither parse nor encrypt. Starling runs as users run it (two agents in a mesh, an HTTPRoute with two",
        "backends, metrics read every 5 s, access log, hybrid key exchange); the others run bare. Cells are medians over the rounds [smallest–largest];",
        "ratios are of medians, with the smallest and largest within one round.",
        "",
    ]
    with open(f"{FOLDER}/environment", encoding="utf-8") as file:
        lines += [f"* {name}: {value}" for name, _, value in (line.strip().partition("=") for line in file) if value.strip()]
    lines += [f"* rounds: {rounds}, interleaved", ""]
    for suite, title, figures in TABLES:
        lines += table(suite, title, figures, values)
    if busy or errors:
        lines += ["## Left out", ""]
    if busy:
        lines.append(f"* {busy} values, because the machine had something else to do")
    for (suite, peer, label), count in sorted(errors.items()):
        lines.append(f"* {suite} {peer} {label}: {count} of {rounds} runs had errors, so they count for nothing")
    print("\n".join(lines).rstrip())


main()
