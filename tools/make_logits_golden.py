#!/usr/bin/env python3
"""Writes tests/data/logits_*: tiny random models as HF folders, with the logits of transformers.

Each folder holds config.json, model.safetensors (f32) and golden.safetensors: `ids` [n_sequences, length] i32
and `logits` [n_sequences, length, vocab] f32 from a forward in f32 on the CPU. Needs torch, transformers and
safetensors; run from anywhere: tools/make_logits_golden.py [OUTPUT_FOLDER [CASE...]]
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

SIZES = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)


def rope(kind, theta=10000.0, **parameters):
    return {"rope_type": kind, "rope_theta": theta, **parameters}


LONGROPE = dict(
    head_dim=16, num_attention_heads=2, num_key_value_heads=1, original_max_position_embeddings=32,
    partial_rotary_factor=0.5, tie_word_embeddings=True,
    rope_parameters=rope("longrope", partial_rotary_factor=0.5, original_max_position_embeddings=32,
                         short_factor=[1.0, 1.1, 1.3, 1.5], long_factor=[1.0, 2.0, 3.5, 6.0]))

# Folder suffix: (class prefix, sequence length, changes to the config).
CASES = {
    "llama": ("Llama", 40, dict(rope_parameters=rope("default"))),
    "llama_tied": ("Llama", 40, dict(rope_parameters=rope("default", 500.0), tie_word_embeddings=True)),
    "llama_linear": ("Llama", 100, dict(rope_parameters=rope("linear", factor=4.0))),
    "llama_dynamic": ("Llama", 100, dict(rope_parameters=rope("dynamic", factor=2.0))),
    "llama_llama3": ("Llama", 100, dict(rope_parameters=rope(
        "llama3", 5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32))),
    "llama_yarn": ("Llama", 100, dict(rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.25))),
    "llama_yarn_factor": ("Llama", 100, dict(head_dim=16, rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=1024, attention_factor=1.3))),
    "mistral_window": ("Mistral", 40, dict(sliding_window=9, head_dim=12, rope_parameters=rope("default"))),
    "qwen2": ("Qwen2", 40, dict(rope_parameters=rope("default", 1e6))),
    "qwen3": ("Qwen3", 40, dict(head_dim=16, rope_parameters=rope("default", 1e6))),
    # Biases on every linear: where an export puts the shifts of norms.
    "llama_biases": ("Llama", 40, dict(attention_bias=True, mlp_bias=True, rope_parameters=rope("default"))),
    # Matrices that hold q, k, v and gate, up; a window.
    "phi3": ("Phi3", 40, dict(sliding_window=9, rope_parameters=rope("default"))),
    # Half of each head rotates; 20 tokens stay within the trained length, 40 do not.
    "phi3_short": ("Phi3", 20, LONGROPE),
    "phi3_long": ("Phi3", 40, LONGROPE),
    # LayerNorm with biases, learned positions, ReLU without a gate.
    "opt": ("OPT", 40, dict(ffn_dim=48, num_key_value_heads=4, activation_function="relu", word_embed_proj_dim=32)),
}


def randomise(model, generator):
    """Weights large enough that every part (gains, biases, positions) shows in the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                mean = 0.0 if name.endswith("bias") else 1.0
                parameter.copy_(mean + 0.3 * noise)
            elif "embed_" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(1.5 * noise / parameter.shape[1] ** 0.5)


def write_case(folder, prefix, length, changes):
    config = getattr(transformers, prefix + "Config")(**{**SIZES, **changes})
    model = getattr(transformers, prefix + "ForCausalLM")._from_config(config, attn_implementation="eager")
    model = model.to(torch.float32).eval()
    generator = torch.Generator().manual_seed(20)
    randomise(model, generator)
    ids = torch.randint(0, config.vocab_size, (2 if length < 50 else 1, length), generator=generator)
    with torch.no_grad():
        # One sequence at a time: dynamic RoPE keeps state between calls, but equal lengths agree.
        logits = torch.cat([model(row[None]).logits for row in ids])
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    settings = json.loads((folder / "config.json").read_text())
    settings.pop("transformers_version", None)
    (folder / "config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    save_file({"ids": ids.to(torch.int32), "logits": logits.contiguous()}, folder / "golden.safetensors")


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    torch.set_num_threads(1)
    for suffix in sys.argv[2:] or CASES:
        prefix, length, changes = CASES[suffix]
        write_case(output / f"logits_{suffix}", prefix, length, changes)
        print(f"logits_{suffix}")


if __name__ == "__main__":
    main()
