#!/usr/bin/env python3
"""Writes tests/data/block_gradients.safetensors: a block's output and gradients by PyTorch's autograd, in float64.

For block 1 of some models of tests/data/logits_*, with shifts on both norms, and the loss sum(y * d_y) on two sequences:
`MODEL.x`, `MODEL.d_y`, `MODEL.y` [tokens, hidden], `MODEL.attention_norm.shift` and `MODEL.mlp_norm.shift` (inputs), and
`MODEL.gradient.NAME` for x, each linear's weight and bias, and gain and shift of both norms; f32. Needs torch and
safetensors; run from anywhere: tools/make_block_gradient_golden.py [OUTPUT_FOLDER]
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

CASES = ["llama", "mistral_window", "qwen2", "qwen3"]
SEQUENCES, LENGTH = 2, 20


def rms_norm(x, gain, epsilon, shift=0.0):
    return gain * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) + shift


def rotate(x, theta):
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequencies
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def block(x, p, config):
    heads, kv_heads, epsilon = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    theta = (config.get("rope_parameters") or config)["rope_theta"]

    def linear(name, value):
        y = value @ p[name + ".weight"].T
        return y + p[name + ".bias"] if name + ".bias" in p else y

    def split(name, count, norm=None):
        y = linear(name, h).view(SEQUENCES, LENGTH, count, -1).transpose(1, 2)
        return rms_norm(y, p[norm], epsilon) if norm in p else y

    h = rms_norm(x, p["attention_norm.gain"], epsilon, p["attention_norm.shift"])
    q = rotate(split("q_proj", heads, "q_norm"), theta)
    k = rotate(split("k_proj", kv_heads, "k_norm"), theta).repeat_interleave(heads // kv_heads, 1)
    v = split("v_proj", kv_heads).repeat_interleave(heads // kv_heads, 1)
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    visible = (distance >= 0) & (distance < (config.get("sliding_window") or LENGTH))
    scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf)
    x = x + linear("o_proj", (scores.softmax(-1) @ v).transpose(1, 2).reshape(SEQUENCES, LENGTH, -1))
    h = rms_norm(x, p["mlp_norm.gain"], epsilon, p["mlp_norm.shift"])
    return x + linear("down_proj", torch.nn.functional.silu(linear("gate_proj", h)) * linear("up_proj", h))


def case(folder, generator):
    config = json.loads((folder / "config.json").read_text())
    prefix = "model.layers.1."
    parameters = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix + "self_attn.").removeprefix(prefix + "mlp.").removeprefix(prefix)
        renamed = {"input_layernorm.weight": "attention_norm.gain", "post_attention_layernorm.weight": "mlp_norm.gain",
                   "q_norm.weight": "q_norm", "k_norm.weight": "k_norm"}
        parameters[renamed.get(name, name)] = value.double()
    hidden = config["hidden_size"]
    random = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    # As f32, so that the test starts from the same numbers.
    inputs = {"x": random(SEQUENCES, LENGTH, hidden), "d_y": random(SEQUENCES, LENGTH, hidden),
              "attention_norm.shift": 0.3 * random(hidden), "mlp_norm.shift": 0.3 * random(hidden)}
    inputs = {name: value.float().double() for name, value in inputs.items()}
    d_y = inputs.pop("d_y")
    parameters.update(inputs)
    for value in parameters.values():
        value.requires_grad_(True)
    y = block(parameters["x"], parameters, config)
    (y * d_y).sum().backward()
    result = {name: inputs[name] for name in inputs} | {"y": y, "d_y": d_y}
    result |= {"gradient." + name: value.grad for name, value in parameters.items() if name not in ("q_norm", "k_norm")}
    flat = lambda value: value.detach().float().reshape(-1, value.shape[-1]).contiguous()
    return {name: flat(value) for name, value in result.items()}


def main():
    data = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else data
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name in CASES:
        tensors |= {f"{name}.{key}": value for key, value in case(data / f"logits_{name}", generator).items()}
    save_file(tensors, output / "block_gradients.safetensors")


if __name__ == "__main__":
    main()
