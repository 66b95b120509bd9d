"""Writes the files of `crates/train/tests/attention.rs`: what PyTorch's attention makes, its gradients, and weights of its module.

Needs `torch` and `safetensors`. Run it in this folder: `python make.py`.
"""

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

torch.manual_seed(3)
tensors = {}


def case(name, heads, kv_heads, queries, keys, **how):
    q = torch.randn(2, heads, queries, 4, requires_grad=True)
    k, v = (torch.randn(2, kv_heads, keys, 4, requires_grad=True) for _ in "kv")
    y = scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads, **how)
    dy = torch.randn_like(y)
    y.backward(dy)
    mask = how.get("attn_mask")
    for part, value in dict(q=q, k=k, v=v, y=y, dy=dy, dq=q.grad, dk=k.grad, dv=v.grad, mask=mask).items():
        if value is not None:
            tensors[f"{name}.{part}"] = value.detach().contiguous()


case("plain", 2, 2, 3, 5)
case("causal", 2, 2, 5, 5, is_causal=True, scale=0.3)
case("grouped", 4, 2, 4, 4, is_causal=True)
padding = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 1, 0]], dtype=torch.bool)[:, None, None, :]
case("padded", 2, 2, 3, 5, attn_mask=padding)
case("biased", 2, 2, 3, 5, attn_mask=torch.randn(2, 2, 3, 5))

# The module, attending to itself with causality and to another sequence with padding.
module = nn.MultiheadAttention(8, 2, batch_first=True)
for value in module.parameters():
    value.data = torch.randn_like(value) * 0.5
x, memory = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
hidden = torch.tensor([[0, 0, 1], [0, 0, 0]], dtype=torch.bool)
causal = nn.Transformer.generate_square_subsequent_mask(5)
tensors |= {f"module.{name}": value.detach() for name, value in module.state_dict().items()}
tensors |= {"x": x, "memory": memory, "seen": ~hidden}
tensors["self"] = module(x, x, x, attn_mask=causal, need_weights=False, is_causal=True)[0].detach()
tensors["cross"] = module(x, memory, memory, key_padding_mask=hidden, need_weights=False)[0].detach()

# A block of PyTorch's encoder, norms before and after.
for norm_first in (True, False):
    block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=norm_first).eval()
    at = "before" if norm_first else "after"
    tensors |= {f"{at}.{name}": value.detach() for name, value in block.state_dict().items()}
    with torch.no_grad():
        tensors[f"{at}"] = block.train()(x)
save_file({name: value.contiguous() for name, value in tensors.items()}, "expected.safetensors")
