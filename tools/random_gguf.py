#!/usr/bin/env python3
"""Writes a GGUF model of a known shape with random f16 weights: something to time, not to read.

    tools/random_gguf.py --shape llama-3.2-1b --tokenizer-from model.gguf random-1b.gguf

The tokenizer is another GGUF file's, its vocabulary filled up to the shape's size. Needs the
packages gguf and numpy.
"""
import argparse

import gguf
import numpy as np

SHAPES = {
    # hidden, intermediate, layers, heads, kv heads, head dim, vocabulary
    "llama-3-8b": (4096, 14336, 32, 32, 8, 128, 128256),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, 128256),
    "smollm2-135m": (576, 1536, 30, 9, 3, 64, 49152),
}


class RandomValues:
    """Gaussian f16 values, cut from one pool: their bits do not matter for speed, their count does."""

    def __init__(self, seed):
        self.pool = np.random.default_rng(seed).standard_normal(1 << 24, dtype=np.float32)
        self.position = 0

    def matrix(self, rows, cols):
        values = np.empty(rows * cols, dtype=np.float16)
        done = 0
        while done < values.size:
            count = min(values.size - done, self.pool.size - self.position)
            part = self.pool[self.position : self.position + count]
            values[done : done + count] = part / np.sqrt(cols)
            done += count
            self.position = (self.position + count) % self.pool.size
        return values.reshape(rows, cols)


def copy_tokenizer(reader, writer, vocabulary):
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer."):
            continue
        value = field.contents()
        if name == "tokenizer.ggml.tokens":
            value = value + [f"<unused_{i}>" for i in range(vocabulary - len(value))]
        elif name == "tokenizer.ggml.token_type":
            value = value + [int(gguf.TokenType.UNUSED)] * (vocabulary - len(value))
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.2-1b")
    parser.add_argument("--tokenizer-from", required=True, metavar="GGUF")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    hidden, mlp, layers, heads, kv_heads, head_dim, vocabulary = SHAPES[args.shape]

    writer = gguf.GGUFWriter(args.output, "llama")
    writer.add_name(f"random {args.shape}")
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    copy_tokenizer(gguf.GGUFReader(args.tokenizer_from), writer, vocabulary)

    random = RandomValues(args.seed)
    ones = np.ones(hidden, dtype=np.float32)
    writer.add_tensor("token_embd.weight", random.matrix(vocabulary, hidden))
    for layer in range(layers):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", ones)
        writer.add_tensor(block + "attn_q.weight", random.matrix(heads * head_dim, hidden))
        writer.add_tensor(block + "attn_k.weight", random.matrix(kv_heads * head_dim, hidden))
        writer.add_tensor(block + "attn_v.weight", random.matrix(kv_heads * head_dim, hidden))
        writer.add_tensor(block + "attn_output.weight", random.matrix(hidden, heads * head_dim))
        writer.add_tensor(block + "ffn_norm.weight", ones)
        writer.add_tensor(block + "ffn_gate.weight", random.matrix(mlp, hidden))
        writer.add_tensor(block + "ffn_up.weight", random.matrix(mlp, hidden))
        writer.add_tensor(block + "ffn_down.weight", random.matrix(hidden, mlp))
    writer.add_tensor("output_norm.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
