"""``fuselage serve`` under load, against a handler that calls the session once a request.

    python benchmarks/serve_load.py BUNDLE [--clients 32] [--seconds 10] [--rounds 3]
    python benchmarks/serve_load.py BUNDLE --soak [--requests 10000]

Texts have log-normal lengths (median 32, sigma 0.8, 5 to 256 tokens; fixed seed). Both servers run
the bundle's own engine and take turns; the clients are a process of their own. `--soak` mixes good
requests with broken ones and prints what became of them and of the server's memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from load.clients import Load, run_clients
from load.servers import Server, fuselage_server, peer_server
from load.soak import soak

WORDS = ("time", "way", "year", "work", "day", "world", "life", "part", "house", "night")


def lognormal_texts(count: int, median: float, sigma: float) -> list[str]:
    """Texts of so many tokens each, special tokens included; every word is one token."""
    rng = np.random.default_rng(20)
    lengths = np.clip(np.round(rng.lognormal(np.log(median), sigma, count)), 5, 256).astype(int)
    return [" ".join(rng.choice(WORDS, length - 2)) for length in lengths]


def measured(server: Server, texts: list[str], clients: int, seconds: float) -> tuple[Load, float]:
    """One round, and the CPU milliseconds of the server for each good answer."""
    before = server.cpu_seconds()
    load = run_clients(server.port, texts, clients, seconds)
    return load, (server.cpu_seconds() - before) / max(1, len(load.latencies)) * 1e3


def compare(bundle: Path, clients: int, seconds: float, rounds: int) -> None:
    """Rounds of both servers in turn."""
    texts = lognormal_texts(512, 32, 0.8)
    rates: dict[str, list[float]] = {"fuselage": [], "peer": []}
    firsts: dict[str, dict[int, bytes]] = {"fuselage": {}, "peer": {}}
    with fuselage_server(bundle) as own, peer_server(bundle) as peer:
        servers = {"fuselage": own, "peer": peer}
        for server in servers.values():
            run_clients(server.port, texts, clients, 1.0)
        for number in range(rounds):
            for name, server in servers.items():
                load, cpu = measured(server, texts, clients, seconds)
                rates[name].append(load.rate)
                firsts[name] |= load.first
                print(
                    f"round {number} {name:9} {load.rate:7.1f} answers/s  p50 "
                    f"{load.percentile(50):7.1f} ms  p99 {load.percentile(99):7.1f} ms  "
                    f"{cpu:6.2f} CPU-ms/answer  {dict(load.statuses)}",
                    flush=True,
                )
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    print(f"throughput ratio: median {statistics.median(ratios):.2f}, each {np.round(ratios, 2)}")
    both = firsts["fuselage"].keys() & firsts["peer"].keys()
    worst = max(
        float(np.abs(np.subtract(*(json.loads(found[which]) for found in firsts.values()))).max())
        for which in both
    )
    print(f"largest difference of {len(both)} answers: {worst:.1e}")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    if options.soak:
        with fuselage_server(options.bundle, "--max-body", "0.25", "--timeout", "5") as server:
            soak(server, lognormal_texts(64, 12, 0.5), options.requests, options.clients)
    else:
        compare(options.bundle, options.clients, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
