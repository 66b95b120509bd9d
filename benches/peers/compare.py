#!/usr/bin/env python3
"""Cotangent beside JAX and PyTorch: the same arrays, one process a system, rounds interleaved, medians, a table.

    python compare.py                                    # all workloads, one and two threads, every system installed
    python compare.py --workloads mlp-m --threads 2 --systems cotangent,jax-scan --rounds 5

A workload may carry its sizes: `elementwise:value:4194304` (what, elements), `layernorm:512x1024` (rows × columns).
A row of the table is the median over the rounds of each system's median step; the last column is the fastest peer's time
divided by Cotangent's, so above 1 Cotangent is faster.
"""
import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile

import workloads as W

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SYSTEMS = ["cotangent", "jax", "jax-scan", "torch", "torch-compile"]
DEFAULT = [
    "xor", "mlp-s", "mlp-m", "mlp-l", "bn-mlp", "lenet", "resnet20",
    "elementwise:value:16384", "elementwise:gradient:16384", "elementwise:value:4194304", "elementwise:gradient:4194304",
    "softmax-xent:4096x1024", "softmax-xent:512x1024", "layernorm:4096x1024", "layernorm:512x1024", "logsumexp:4096x1024",
]


def parse(text):
    """A workload with its sizes: name, what, n, m."""
    name, *rest = text.split(":")
    if name == "elementwise":
        what, n = rest if len(rest) == 2 else ("gradient", "1048576")
        return name, what, int(n), 0
    if name in W.ROWS:
        m, n = (rest[0] if rest else "4096x1024").split("x")
        return name, "", int(n), int(m)
    if name not in W.NETWORKS:
        sys.exit(f"workload: one of {', '.join([*W.NETWORKS, 'elementwise', *W.ROWS])} required, got `{name}`")
    return name, "", 0, 0


def child(args):
    """One system, one workload, in this process."""
    import numpy as np

    threads = args.threads_of_child
    system, _, variant = args.child.partition("-")
    if system == "jax":
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    peer = importlib.import_module(f"{system}_peer")
    name, what, _, _ = parse(args.workloads)
    with np.load(args.arrays) as archive:
        data = {key: archive[key] for key in archive.files}
    print(json.dumps(dict(peer.run(name, data, what, threads, variant), version=peer.version())))


def measure(system, workload, threads, archive, binary):
    """Runs one system in its own process and returns its figures, or None with a word about why."""
    name, what, n, m = parse(workload)
    env = dict(os.environ)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        env[variable] = str(threads)
    if system == "cotangent":
        command = [binary, "bench", "--workload", name, "--threads", str(threads), "--json", "--load", archive]
        command += ["--what", what, "--n", str(n)] if name == "elementwise" else []
        command += ["--m", str(m), "--n", str(n)] if name in W.ROWS else []
    else:
        command = [sys.executable, os.path.join(HERE, "compare.py"), "--child", system, "--workloads", workload]
        command += ["--threads-of-child", str(threads), "--arrays", archive]
    with tempfile.TemporaryDirectory() as cache:
        env["TORCHINDUCTOR_CACHE_DIR"] = cache
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(f"{system} {workload} {threads}T failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(lines[-1])


def show(ms):
    """A time in the unit that suits it."""
    if ms is None:
        return ""
    return f"{ms * 1e3:.3g} µs" if ms < 1 else f"{ms:.3g} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(DEFAULT))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", default=os.path.join(ROOT, "target", "release", "cotangent"))
    parser.add_argument("--json", help="also write every figure to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--threads-of-child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--arrays", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args)

    import numpy as np

    if not os.path.exists(args.binary):
        sys.exit(f"{args.binary} is missing: run `cargo build --release -p cotangent-cli`")
    modules = {"jax": "jax", "torch": "torch"}
    installed = lambda system: system == "cotangent" or importlib.util.find_spec(modules[system.split("-")[0]])
    systems = [system for system in args.systems.split(",") if installed(system)]
    print("| workload | threads | " + " | ".join(systems) + " | fastest peer / Cotangent |")
    print("|---" * (len(systems) + 3) + "|")
    kept = []
    for workload in args.workloads.split(","):
        name, _, n, m = parse(workload)
        for threads in map(int, args.threads.split(",")):
            rounds = {system: [] for system in systems}
            with tempfile.TemporaryDirectory() as folder:
                archive = os.path.join(folder, "arrays.npz")
                np.savez(archive, **W.arrays(name, n, m))
                for _ in range(args.rounds):
                    for system in systems:
                        if system == "jax-scan" and name not in W.NETWORKS:
                            continue
                        figures = measure(system, workload, threads, archive, args.binary)
                        if figures:
                            rounds[system].append(figures)
                            kept.append(dict(figures, system=system, workload=workload, threads=threads))
            compare_results(workload, rounds)
            median = {s: statistics.median(f["median_ms"] for f in r) if r else None for s, r in rounds.items()}
            peers = [v for s, v in median.items() if s != "cotangent" and v]
            ours = median.get("cotangent")
            ratio = f"{min(peers) / ours:.2f}" if peers and ours else ""
            cells = " | ".join(show(median[system]) for system in systems)
            print(f"| `{workload}` | {threads} | {cells} | {ratio} |", flush=True)
            if args.json:
                with open(args.json, "w", encoding="utf-8") as file:
                    json.dump(kept, file, indent=1)


def compare_results(workload, rounds):
    """Says so if first losses, or sums of results, differ by more than rounding; dropout draws other numbers in each system."""
    if "drop" in W.NETWORKS.get(workload, {}):
        return
    first = {}
    for system, figures in rounds.items():
        found = [f.get("check") or (f.get("loss_first5") or [None])[0] for f in figures]
        if found and found[0] is not None:
            first[system] = found[0]
    if first and max(first.values()) - min(first.values()) > 1e-4 * max(map(abs, first.values())):
        print(f"{workload}: results differ: {first}", file=sys.stderr)


if __name__ == "__main__":
    main()
