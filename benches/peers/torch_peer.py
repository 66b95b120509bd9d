"""The workloads in PyTorch: eager with fused optimizers, or `compile`d forward and backward with the same optimizers."""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import workloads as W

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


def version():
    return f"torch {torch.__version__}"


def _dense(weight, bias):
    layer = nn.Linear(*weight.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight).t())
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


class _Network(nn.Module):
    def __init__(self, net, data):
        super().__init__()
        drop_input, drop_hidden = net.get("drop", (0.0, 0.0))
        layers = [nn.Dropout(drop_input)] if drop_input else []
        n_layers = len(net["dims"]) - 1
        for i in range(n_layers):
            layers.append(_dense(data[f"W{i}"], data[f"b{i}"]))
            if i + 1 == n_layers:
                break
            if net.get("norm"):
                layers.append(nn.BatchNorm1d(net["dims"][i + 1]))
            layers.append(ACTIVATIONS[net["act"]]())
            if drop_hidden:
                layers.append(nn.Dropout(drop_hidden))
        self.layers = nn.Sequential(*layers)

    def forward(self, x, y):
        z = self.layers(x)
        return F.binary_cross_entropy(torch.sigmoid(z), y) if y.is_floating_point() else F.cross_entropy(z, y)


def _train(workload, data, compiled):
    torch.manual_seed(0)
    net = W.NETWORKS[workload]
    model = _Network(net, data).train()
    name, rate = net["opt"]
    if name == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9 if name == "momentum" else 0.0, fused=True)
    f = torch.compile(model) if compiled else model
    batches = [(torch.from_numpy(data[f"x{i}"]), torch.from_numpy(data[f"y{i}"])) for i in range(W.N_BATCHES)]

    def step(i):
        optimizer.zero_grad(set_to_none=True)
        loss = f(*batches[i % W.N_BATCHES])
        loss.backward()
        optimizer.step()
        return loss

    return W.report(step, lambda loss: loss.item())


def _elementwise(x, w, b, v):
    inner = torch.tanh(x * w + b) * torch.sigmoid(v) + 0.5 * x * x
    return F.gelu(inner, approximate="tanh") * torch.exp(-x * x) - v


def _call(workload, data, what, compiled):
    maybe = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
    arrays = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in data.items()}
    floats = [a.requires_grad_() for k, a in arrays.items() if a.is_floating_point() and k != "dy"]

    def gradient(f):
        def both():
            out = f()
            return (out, *torch.autograd.grad(out, floats, arrays.get("dy")))

        return both

    def value(f):
        def only():
            with torch.no_grad():
                return (f(),)

        return only

    a = arrays
    if workload == "elementwise" and what == "value":
        f = maybe(_elementwise)
        run = value(lambda: f(a["x"], a["w"], a["b"], a["v"]))
    elif workload == "elementwise":
        f = maybe(lambda *args: _elementwise(*args).sum())
        run = gradient(lambda: f(a["x"], a["w"], a["b"], a["v"]))
    elif workload == "softmax-xent":
        f = maybe(F.cross_entropy)
        run = gradient(lambda: f(a["z"], a["y"]))
    elif workload == "layernorm":
        f = maybe(lambda z, g, b: F.layer_norm(z, (z.shape[1],), g, b))
        run = gradient(lambda: f(a["z"], a["g"], a["b"]))
    else:
        f = maybe(lambda z: torch.logsumexp(z, 1))
        run = value(lambda: f(a["z"]))
    check = lambda out: W.fingerprint(workload, [o.detach().numpy() for o in out])
    return W.report(lambda _: run(), check, seconds=1.5)


def run(workload, data, what, threads, variant):
    torch.set_num_threads(threads)
    compiled = variant == "compile"
    return _train(workload, data, compiled) if workload in W.NETWORKS else _call(workload, data, what, compiled)
