"""The workloads in JAX: one jitted step with donated state, optax optimizers; `scan` is 100 steps inside one call.

XLA takes as many threads as the process may use cores, so the caller holds the process to those cores.
"""
import jax
import jax.numpy as jnp
import optax
from jax import lax

import workloads as W

STEPS_PER_SCAN = 100
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}
OPTIMIZERS = {"sgd": optax.sgd, "momentum": lambda rate: optax.sgd(rate, momentum=0.9), "adam": optax.adam}


def version():
    return f"jax {jax.__version__}"


def _dropout(x, share, key, layer):
    kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - share, x.shape)
    return jnp.where(kept, x / (1 - share), 0.0)


def _network(net, n_layers):
    drop_input, drop_hidden = net.get("drop", (0.0, 0.0))

    def loss(params, stats, x, y, key):
        new = {}
        if drop_input:
            x = _dropout(x, drop_input, key, n_layers)
        for i in range(n_layers):
            x = x @ params[f"W{i}"] + params[f"b{i}"]
            if i + 1 == n_layers:
                break
            if net.get("norm"):
                mean = x.mean(0)
                var = ((x - mean) ** 2).mean(0)
                n = x.shape[0]
                old = stats[f"g{i}"]
                new[f"g{i}"] = (0.9 * old[0] + 0.1 * mean, 0.9 * old[1] + 0.1 * var * (n / (n - 1)))
                x = (x - mean) * lax.rsqrt(var + 1e-5) * params[f"g{i}"] + params[f"h{i}"]
            x = ACTIVATIONS[net["act"]](x)
            if drop_hidden:
                x = _dropout(x, drop_hidden, key, i)
        if y.dtype == jnp.float32:
            p = jax.nn.sigmoid(x)
            return -(y * jnp.log(p) + (1 - y) * jnp.log1p(-p)).mean(), new
        return optax.softmax_cross_entropy_with_integer_labels(x, y).mean(), new

    return loss


def _train(workload, data, scan):
    net = W.NETWORKS[workload]
    n_layers = len(net["dims"]) - 1
    params = {k: jnp.array(v) for k, v in data.items() if k[0] in "Wbgh"}
    stats = {k: (jnp.zeros_like(v), jnp.ones_like(v)) for k, v in params.items() if k[0] == "g"}
    optimizer = OPTIMIZERS[net["opt"][0]](net["opt"][1])
    loss = _network(net, n_layers)
    batches = [(jnp.array(data[f"x{i}"]), jnp.array(data[f"y{i}"])) for i in range(W.N_BATCHES)]
    needs_key = "drop" in net

    def step(state, x, y):
        params, stats, inner, key = state
        key, sub = jax.random.split(key) if needs_key else (key, key)
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, x, y, sub)
        updates, inner = optimizer.update(grads, inner, params)
        return (optax.apply_updates(params, updates), stats, inner, key), value

    state = [(params, stats, optimizer.init(params), jax.random.key(0))]
    if scan:
        xs, ys = jnp.stack([b[0] for b in batches]), jnp.stack([b[1] for b in batches])
        one = lambda state, j: step(state, xs[j % W.N_BATCHES], ys[j % W.N_BATCHES])
        many = jax.jit(lambda state: lax.scan(one, state, jnp.arange(STEPS_PER_SCAN)), donate_argnums=0)

        def run(_):
            state[0], losses = many(state[0])
            return losses.block_until_ready()

        result = W.report(run, lambda losses: float(losses[0]), per_call=STEPS_PER_SCAN)
        result["loss_first5"] = result["loss_first5"][:1]
        return result
    jitted = jax.jit(step, donate_argnums=0)

    def run(i):
        state[0], value = jitted(state[0], *batches[i % W.N_BATCHES])
        jax.block_until_ready(state[0])
        return value

    return W.report(run, float)


def _elementwise(x, w, b, v):
    inner = jnp.tanh(x * w + b) * jax.nn.sigmoid(v) + 0.5 * x * x
    return jax.nn.gelu(inner, approximate=True) * jnp.exp(-x * x) - v


def _layer_norm(z, gain, bias):
    centered = z - z.mean(-1, keepdims=True)
    return centered * lax.rsqrt((centered * centered).mean(-1, keepdims=True) + 1e-5) * gain + bias


def _layer_norm_both(z, gain, bias, dy):
    out, back = jax.vjp(_layer_norm, z, gain, bias)
    return (out, *back(dy))


def _xent(z, y):
    return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()


def _call(workload, data, what):
    f, names = {
        "value": (_elementwise, "xwbv"),
        "gradient": (jax.value_and_grad(lambda *a: _elementwise(*a).sum(), argnums=(0, 1, 2, 3)), "xwbv"),
        "softmax-xent": (jax.value_and_grad(_xent), "zy"),
        "layernorm": (_layer_norm_both, ["z", "g", "b", "dy"]),
        "logsumexp": (lambda z: jax.nn.logsumexp(z, 1), "z"),
    }[what if workload == "elementwise" else workload]
    jitted, args = jax.jit(f), [jnp.array(data[name]) for name in names]
    check = lambda out: W.fingerprint(workload, jax.tree.leaves(out))
    return W.report(lambda _: jax.block_until_ready(jitted(*args)), check, seconds=1.5)


def run(workload, data, what, threads, variant):
    if workload in W.NETWORKS:
        return _train(workload, data, variant == "scan")
    return _call(workload, data, what)
