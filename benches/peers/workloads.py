"""What the systems compute, and how a step is timed. Both match `cotangent bench` (crates/train/src/workloads.rs, bench.rs).

Weights are stored (inputs, outputs), filters (outputs, inputs, rows, columns), pictures channels first. Batches rotate. Losses of the first five steps are reported, so that a wrong program
cannot look fast.
"""
import resource
import time

import numpy as np

N_BATCHES = 4
SEED = 1234

# batch, widths (None: convolutions), activation, optimizer (name, rate), dropout of the input and of hidden layers, batch norm;
# what is added to gradients, in multiples of all parameters
NETWORKS = {
    "xor": dict(batch=4, dims=[2, 8, 1], act="tanh", opt=("sgd", 0.5)),
    "mlp-s": dict(batch=32, dims=[784, 128, 10], act="relu", opt=("momentum", 0.01)),
    "mlp-m": dict(batch=128, dims=[784, 1024, 1024, 10], act="relu", opt=("adam", 1e-3)),
    "mlp-l": dict(batch=256, dims=[784, 2048, 2048, 2048, 10], act="relu", opt=("momentum", 0.01), drop=(0.2, 0.5)),
    "bn-mlp": dict(batch=128, dims=[784, 512, 512, 512, 512, 10], act="gelu", opt=("adam", 1e-3), norm=True),
    "lenet": dict(batch=64, dims=None, opt=("momentum", 1e-3)),
    "resnet20": dict(batch=32, dims=None, opt=("momentum", 0.1), decay=1e-4),
}
ROWS = ("softmax-xent", "layernorm", "logsumexp")


def resnet_blocks():
    """Name, channels, filters and stride of every block of ResNet-20."""
    blocks, channels = [], 16
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(3):
            blocks.append((f"s{stage}b{block}", channels, filters, 2 if stage and block == 0 else 1))
            channels = filters
    return blocks


def _convolutional(workload, out, normal):
    """Puts the parameters of a convolutional network into `out`, and returns the shape of its pictures."""
    ones, zeros = (lambda n: np.ones(n, np.float32)), (lambda n: np.zeros(n, np.float32))
    filters = lambda o, i, size: normal((o, i, size, size), (2.0 / (i * size * size)) ** 0.5)
    if workload == "lenet":
        for name, o, i in (("c0", 20, 1), ("c1", 50, 20)):
            out[name], out[name + "b"] = filters(o, i, 5), zeros(o)
        for name, i, o in (("f0", 800, 500), ("f1", 500, 10)):
            out[name], out[name + "b"] = normal((i, o), (2.0 / i) ** 0.5), zeros(o)
        return (1, 28, 28)

    def normalized(name, o, i, size):
        out[name], out[name + ".g"], out[name + ".h"] = filters(o, i, size), ones(o), zeros(o)

    normalized("stem", 16, 3, 3)
    for name, i, o, stride in resnet_blocks():
        normalized(name + ".a", o, i, 3)
        normalized(name + ".b", o, o, 3)
        if stride != 1:
            normalized(name + ".s", o, i, 1)
    out["fc"], out["fcb"] = normal((64, 10), 0.125), zeros(10)
    return (3, 32, 32)


def arrays(workload, n, m):
    """All arrays of a workload by name: parameters, and inputs (numbered if there are several batches)."""
    random = np.random.default_rng(SEED)
    normal = lambda shape, std=1.0: (random.standard_normal(shape) * std).astype(np.float32)
    out = {}
    if workload == "elementwise":
        return {name: normal(n) for name in "xwbv"}
    if workload in ROWS:
        out["z"] = normal((m, n))
        if workload == "softmax-xent":
            out["y"] = random.integers(0, n, m)
        if workload == "layernorm":
            out |= {"g": normal(n), "b": normal(n), "dy": normal((m, n))}
        return out
    net = NETWORKS[workload]
    dims = net["dims"] or []
    example, classes = ((dims[0],), dims[-1]) if dims else (_convolutional(workload, out, normal), 10)
    for i, (inputs, outputs) in enumerate(zip(dims, dims[1:])):
        out[f"W{i}"] = normal((inputs, outputs), ((1.0 if net["act"] == "tanh" else 2.0) / inputs) ** 0.5)
        out[f"b{i}"] = np.zeros(outputs, np.float32)
        if net.get("norm") and i + 2 < len(dims):
            out[f"g{i}"], out[f"h{i}"] = np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    for i in range(N_BATCHES):
        if workload == "xor":
            bits = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
            out[f"x{i}"], out[f"y{i}"] = bits, np.array([[0], [1], [1], [0]], np.float32)
        else:
            out[f"x{i}"], out[f"y{i}"] = normal((net["batch"], *example)), random.integers(0, classes, net["batch"])
    return out


def fingerprint(workload, results):
    """The number that `cotangent bench` prints as `check`: the sum of all elements (of their sizes, for work on rows)."""
    results = [np.asarray(result, np.float64) for result in results]
    if workload == "elementwise":
        return float(sum(result.sum() for result in results if result.ndim == 1))
    return float(sum(np.abs(result).sum() for result in results))


def time_steps(step, seconds=2.5, warm=0.5):
    """Median, least and 90th percentile in ms of single steps; `step` returns when its work is done."""
    now = time.perf_counter
    start, count = now(), 0
    while count < 5 or now() - start < warm:
        step()
        count += 1
    times, start = [], now()
    while len(times) < 50_000:
        before = now()
        step()
        after = now()
        times.append(after - before)
        elapsed = after - start
        if (len(times) >= 30 and elapsed >= seconds) or (len(times) >= 12 and elapsed > 12) or elapsed > 60:
            break
    times.sort()
    at = lambda share: times[int(len(times) * share)] * 1e3
    return dict(median_ms=at(0.5), min_ms=times[0] * 1e3, p90_ms=at(0.9), steps=len(times))


def report(step, loss, seconds=2.5, per_call=1):
    """Times `step(i)`; `loss(handle)` waits for what it returned and gives its loss."""
    start = time.perf_counter()
    first_loss = loss(step(0))
    first = time.perf_counter() - start
    losses, state = [first_loss], [1]
    for i in range(1, 5):
        losses.append(loss(step(i)))
    state[0] = 5

    def one():
        step(state[0])
        state[0] += 1

    times = time_steps(one, seconds)
    times = {k: v / per_call if k.endswith("_ms") else v for k, v in times.items()}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return dict(times, loss_first5=losses, first_step_ms=first * 1e3, peak_rss_mib=rss)
