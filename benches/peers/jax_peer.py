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


def _batch_norm(x, gain, bias, stats, new, name):
    """Over all axes but the last; running statistics go into `new`."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    var = ((x - mean) ** 2).mean(axes)
    n = x.size // mean.size
    old = stats[name]
    new[name] = (0.9 * old[0] + 0.1 * mean, 0.9 * old[1] + 0.1 * var * (n / (n - 1)))
    return (x - mean) * lax.rsqrt(var + 1e-5) * gain + bias


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
                x = _batch_norm(x, params[f"g{i}"], params[f"h{i}"], stats, new, f"g{i}")
            x = ACTIVATIONS[net["act"]](x)
            if drop_hidden:
                x = _dropout(x, drop_hidden, key, i)
        if y.dtype == jnp.float32:
            p = jax.nn.sigmoid(x)
            return -(y * jnp.log(p) + (1 - y) * jnp.log1p(-p)).mean(), new
        return optax.softmax_cross_entropy_with_integer_labels(x, y).mean(), new

    return loss


def _conv(x, filters, stride=1, border=0):
    sides, axes = [(border, border)] * 2, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, filters, (stride, stride), sides, dimension_numbers=axes)


def _lenet(params, stats, x):
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = pool(_conv(x, params["c0"]) + params["c0b"])
    x = pool(_conv(x, params["c1"]) + params["c1b"]).reshape(x.shape[0], -1)
    return jax.nn.relu(x @ params["f0"] + params["f0b"]) @ params["f1"] + params["f1b"], {}


def _resnet20(params, stats, x):
    new = {}

    def normalized(x, name, stride, border):
        x = _conv(x, params[name], stride, border)
        return _batch_norm(x, params[f"{name}.g"], params[f"{name}.h"], stats, new, f"{name}.g")

    x = jax.nn.relu(normalized(x, "stem", 1, 1))
    for name, _, _, stride in W.resnet_blocks():
        inner = normalized(jax.nn.relu(normalized(x, f"{name}.a", stride, 1)), f"{name}.b", 1, 1)
        x = jax.nn.relu(inner + (x if stride == 1 else normalized(x, f"{name}.s", stride, 0)))
    return x.mean((1, 2)) @ params["fc"] + params["fcb"], new


def _convolutional(forward):
    def loss(params, stats, x, y, key):
        logits, new = forward(params, stats, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

    return loss


def _channels_last(data):
    """Filters, pictures, and the rows of lenet's first dense layer, as XLA's CPU backend likes them."""
    turned = {}
    for name, value in data.items():
        if value.ndim == 4:
            value = value.transpose((0, 2, 3, 1) if name[0] == "x" else (2, 3, 1, 0))
        elif name == "f0":
            value = value.reshape(50, 4, 4, 500).transpose(1, 2, 0, 3).reshape(800, 500)
        turned[name] = value
    return turned


def _train(workload, data, scan):
    net = W.NETWORKS[workload]
    data = data if net["dims"] else _channels_last(data)
    params = {k: jnp.array(v) for k, v in data.items() if not (k[0] in "xy" and k[1:].isdigit())}
    gains = [k for k in params if k.endswith(".g") or k[0] == "g"]
    stats = {k: (jnp.zeros_like(params[k]), jnp.ones_like(params[k])) for k in gains}
    optimizer = OPTIMIZERS[net["opt"][0]](net["opt"][1])
    if "decay" in net:
        optimizer = optax.chain(optax.add_decayed_weights(net["decay"]), optimizer)
    convolutional = {"lenet": _lenet, "resnet20": _resnet20}.get(workload)
    loss = _convolutional(convolutional) if convolutional else _network(net, len(net["dims"]) - 1)
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
