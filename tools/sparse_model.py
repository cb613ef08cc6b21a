#!/usr/bin/env python3
"""Writes a model folder of a large shape whose weights are a hole in a file: something to plan with, not to run.

  tools/sparse_model.py FOLDER [--layers 80] [--vocabulary 262144] [--context 131072]
  d2quant quantize FOLDER -o anything --calib self --dry-run

The other sizes are LLaMA-3.1 70B's. 145 GB of bf16 take some KiB of disk where the file system has sparse files.
"""

import argparse
import json
import pathlib
import struct


def shapes(args, hidden=8192, inner=28672, key=1024):
    yield "model.embed_tokens.weight", [args.vocabulary, hidden]
    for layer in range(args.layers):
        block = f"model.layers.{layer}."
        yield block + "input_layernorm.weight", [hidden]
        yield block + "post_attention_layernorm.weight", [hidden]
        for name, rows, columns in (("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", key, hidden),
                                    ("self_attn.v_proj", key, hidden), ("self_attn.o_proj", hidden, hidden),
                                    ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden),
                                    ("mlp.down_proj", hidden, inner)):
            yield f"{block}{name}.weight", [rows, columns]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [args.vocabulary, hidden]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--vocabulary", type=int, default=262144)
    parser.add_argument("--context", type=int, default=131072)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", hidden_size=8192,
                  intermediate_size=28672, num_hidden_layers=args.layers, num_attention_heads=64,
                  num_key_value_heads=8, head_dim=128, vocab_size=args.vocabulary,
                  max_position_embeddings=args.context, rms_norm_eps=1e-5, rope_theta=500000.0,
                  tie_word_embeddings=False, torch_dtype="bfloat16")
    (args.folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    header, offset = {}, 0
    for name, shape in shapes(args):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = dict(dtype="BF16", shape=shape, data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(args.folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


if __name__ == "__main__":
    main()
