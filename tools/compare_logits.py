#!/usr/bin/env python3
"""Compares logits with transformers' on a real LLaMA model in a GGUF file.

  compare_logits.py reference MODEL.gguf TEXT OUT.safetensors [N_TOKENS]   dequantizes MODEL into a LlamaForCausalLM
      in f32 and writes `ids` [n] i32 (bytes of TEXT through the GGUF's tokenizer) and `logits` [n, vocab] f32
  compare_logits.py compare REFERENCE.safetensors OURS.safetensors         prints max|a-b|/max|b|, the mean and the
      largest KL divergence, and both perplexities; OURS holds `logits` alone

Needs torch, transformers, gguf, numpy and safetensors.
"""

import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

MODULES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def hf_name(name):
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{MODULES[parts[2]]}.{parts[3]}"
    return {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[parts[0]] + ".weight"


def unpermute(weight, n_heads):
    """GGUF stores rotary pairs interleaved; HF stores halves."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


# gguf is imported where it is needed: tools/prove_families.py takes names from here and has llama.cpp's own gguf.
def load_model(reader):
    from gguf.quants import dequantize

    def field(name):
        return reader.fields[f"llama.{name}"].contents()

    n_heads, n_kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name:
            weight = unpermute(weight, n_heads)
        elif ".attn_k." in tensor.name:
            weight = unpermute(weight, n_kv_heads)
        state[hf_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32))
    config = transformers.LlamaConfig(
        hidden_size=field("embedding_length"), intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"), num_attention_heads=n_heads, num_key_value_heads=n_kv_heads,
        vocab_size=state["model.embed_tokens.weight"].shape[0], max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"), tie_word_embeddings="lm_head.weight" not in state,
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")})
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    model.load_state_dict(state)
    return model


def tokenize(reader, text):
    """Greedy longest match over the vocabulary: any ids of real text will do for a comparison."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    table = {token: i for i, token in enumerate(tokens)}
    text = text.replace(" ", "Ġ").replace("\n", "Ċ")
    ids, at = [], 0
    while at < len(text):
        size = next((n for n in range(24, 0, -1) if text[at:at + n] in table), 0)
        if size:
            ids.append(table[text[at:at + size]])
        at += max(size, 1)
    return ids


def reference(gguf, text_path, output, n_tokens=256):
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    ids = tokenize(reader, open(text_path, encoding="utf-8").read(200_000))[:n_tokens]
    with torch.no_grad():
        logits = load_model(reader)(torch.tensor([ids])).logits[0]
    save_file({"ids": torch.tensor(ids, dtype=torch.int32), "logits": logits.contiguous()}, output)


def compare(reference_path, ours_path):
    expected = load_file(reference_path)
    ids, a, b = expected["ids"].long(), load_file(ours_path)["logits"].double(), expected["logits"].double()
    p, q = b.log_softmax(-1), a.log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1)
    losses = [-x[:-1].gather(1, ids[1:, None]).mean() for x in (p, q)]
    print(f"tokens {len(ids)}: max|a-b|/max|b| {((a - b).abs().max() / b.abs().max()).item():.3e}, KL mean "
          f"{divergence.mean().item():.3e} max {divergence.max().item():.3e}, perplexity {losses[0].exp().item():.5f} "
          f"(transformers) {losses[1].exp().item():.5f} (ours), ratio - 1 {(losses[1] - losses[0]).expm1().item():.2e}")


if __name__ == "__main__":
    if len(sys.argv) >= 5 and sys.argv[1] == "reference":
        reference(*sys.argv[2:5], *map(int, sys.argv[5:]))
    elif len(sys.argv) == 4 and sys.argv[1] == "compare":
        compare(*sys.argv[2:])
    else:
        sys.exit(__doc__)
