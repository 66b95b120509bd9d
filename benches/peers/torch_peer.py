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


def _conv(data, name, stride=1, padding=0):
    weight, bias = data[name], data.get(name + "b")
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding, bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))
    return layer


def _lenet(data):
    dense = lambda name: _dense(data[name], data[name + "b"])
    pool = nn.MaxPool2d(2)
    return nn.Sequential(
        _conv(data, "c0"), pool, _conv(data, "c1"), pool, nn.Flatten(), dense("f0"), nn.ReLU(), dense("f1")
    )


def _normalized(data, name, stride, padding):
    """Gains and biases start as 1 and 0 in the archive too."""
    return nn.Sequential(_conv(data, name, stride, padding), nn.BatchNorm2d(data[name].shape[0]))


class _Block(nn.Module):
    def __init__(self, data, name, stride):
        super().__init__()
        self.a, self.b = _normalized(data, name + ".a", stride, 1), _normalized(data, name + ".b", 1, 1)
        self.shortcut = nn.Identity() if stride == 1 else _normalized(data, name + ".s", stride, 0)

    def forward(self, x):
        return F.relu(self.b(F.relu(self.a(x))) + self.shortcut(x))


def _resnet20(data):
    blocks = [_Block(data, name, stride) for name, _, _, stride in W.resnet_blocks()]
    mean = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(_normalized(data, "stem", 1, 1), nn.ReLU(), *blocks, *mean, _dense(data["fc"], data["fcb"]))


def _mlp(net, data):
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
    return nn.Sequential(*layers)


class _Network(nn.Module):
    def __init__(self, workload, data):
        super().__init__()
        net = W.NETWORKS[workload]
        self.layers = {"lenet": _lenet, "resnet20": _resnet20}.get(workload, lambda data: _mlp(net, data))(data)

    def forward(self, x, y):
        z = self.layers(x)
        return F.binary_cross_entropy(torch.sigmoid(z), y) if y.is_floating_point() else F.cross_entropy(z, y)


def _train(workload, data, compiled):
    torch.manual_seed(0)
    net = W.NETWORKS[workload]
    model = _Network(workload, data).train()
    name, rate = net["opt"]
    if name == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    else:
        momentum, decay = 0.9 if name == "momentum" else 0.0, net.get("decay", 0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, weight_decay=decay, fused=True)
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
