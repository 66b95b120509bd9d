"""The process of NumPy and its BLAS: a shape a line in, its times a line out. The first line out names both."""
import sys
import time

import numpy as np

SAMPLE = 50e-6  # as in time.rs, where the same steps stand


def measure(call, length):
    clock = time.perf_counter

    def sample(n):
        start = clock()
        for _ in range(n):
            call()
        return (clock() - start) / n

    start, one = clock(), sample(1)
    while clock() - start < length / 6:
        one = sample(min(max(int(SAMPLE / one), 1), 100_000))
    n = int(SAMPLE / one) + 1
    times, passed = [], 0.0
    while passed < length or len(times) < 5:
        times.append(sample(n))
        passed += times[-1] * n
    times.sort()
    return times[len(times) // 2], times[0]


blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
print(f"NumPy {np.__version__} with {blas['name']} {blas['version']}", flush=True)
for line in sys.stdin:
    elem, *numbers = line.split()
    batch, m, k, n, a_t, b_t, milliseconds = map(int, numbers)
    dtype = np.float32 if elem == "f32" else np.float64
    random = np.random.default_rng(0)
    outer = (batch,) if batch > 1 else ()

    def operand(rows, cols, transposed):
        stored = (cols, rows) if transposed else (rows, cols)
        array = random.standard_normal(outer + stored).astype(dtype)
        return array.swapaxes(-1, -2) if transposed else array

    a, b, c = operand(m, k, a_t), operand(k, n, b_t), np.empty(outer + (m, n), dtype)
    median, best = measure(lambda: np.matmul(a, b, out=c), milliseconds * 1e-3)
    print(f"{median:e} {best:e} 0 0", flush=True)
