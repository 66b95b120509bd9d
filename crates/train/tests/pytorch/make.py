"""Writes the files of `crates/train/tests/pytorch.rs`: weights as PyTorch saves them, inputs, and the outputs of its modules.

Needs `torch` and `safetensors`. Run it in this folder: `python make.py`.
"""

import json

import torch
from safetensors.torch import save_file
from torch import nn


class All(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 3, padding_idx=2)
        self.rnn = nn.RNN(3, 4, batch_first=True)
        self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(3, 4, num_layers=2, batch_first=True)
        self.gates = nn.GRU(3, 4, bias=False, bidirectional=True, batch_first=True)
        self.conv = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 2, 3, stride=2, padding=1, output_padding=1)
        self.head = nn.Linear(160, 5)
        self.last = nn.LayerNorm(5)
        self.scale = nn.Parameter(torch.full([5], 1.5))

    def forward(self, letters, maps, h0, c0):
        x = self.embed(letters)
        lstm, (h, c) = self.lstm(x, (h0, c0))
        gru, h_gru = self.gru(x)
        y = self.up(self.norm(self.conv(maps)))
        return {
            "embed": x,
            "rnn": self.rnn(x)[0],
            "lstm": lstm,
            "lstm.h": h,
            "lstm.c": c,
            "gru": gru,
            "gru.h": h_gru,
            "gates": self.gates(x)[0],
            "up": y,
            "last": self.last(self.head(y.flatten(1))) * self.scale,
        }


def dense(tensors):
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


torch.manual_seed(5)
model = All().eval()
for name, value in [*model.named_parameters(), *model.named_buffers()]:
    if "norm" in name or "last" in name:
        if value.is_floating_point():
            value.data = torch.rand_like(value) + 0.5
inputs = {
    "letters": torch.randint(0, 7, (2, 5)),
    "maps": torch.randn(2, 4, 7, 9),
    "h0": torch.randn(4, 2, 4),
    "c0": torch.randn(4, 2, 4),
}
expected = {f"in.{name}": value for name, value in inputs.items()}
outputs = model(*inputs.values())
expected |= {f"full.{name}": value for name, value in outputs.items()}
save_file(dense(model.state_dict()), "full.safetensors")

# The same in half precision, in two files beside an index: the first of bfloat16, the second of float16.
state = dense(model.state_dict())
names = sorted(state)
weight_map = {}
for part, (dtype, of_part) in enumerate([(torch.bfloat16, names[::2]), (torch.float16, names[1::2])], 1):
    file = f"half-{part:05}-of-00002.safetensors"
    half = {name: state[name].to(dtype) if state[name].is_floating_point() else state[name] for name in of_part}
    save_file(half, file)
    weight_map |= dict.fromkeys(half, file)
    state |= {name: value.to(state[name].dtype) for name, value in half.items()}
with open("half.safetensors.index.json", "w") as index:
    json.dump({"metadata": {"total_size": 2}, "weight_map": weight_map}, index, indent=1)
model.load_state_dict(state)
expected |= {f"half.{name}": value for name, value in model(*inputs.values()).items()}
save_file(dense(expected), "expected.safetensors")
