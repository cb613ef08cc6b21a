#!/usr/bin/env python3
"""Writes tests/data/golden_types.gguf and golden_types.f32: random blocks of every GGUF type that is
read, and what the `gguf` package (PyPI, 0.10 or later) dequantizes them to.

The values are concatenated in the order of the tensors. Run: tools/make_gguf_golden.py tests/data
"""
import sys
from pathlib import Path

import gguf
import numpy as np

ROWS, COLS = 2, 256
T = gguf.GGMLQuantizationType
# Type -> byte offsets of the fp16 fields in a block; every other byte may be anything.
HALF_FIELDS = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
    T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}


def random_halves(rng, n):
    """Finite fp16 of both signs, from subnormal to about 4."""
    exponent = rng.integers(0, 18, n).astype(np.uint16) << 10
    return exponent | rng.integers(0, 1024, n).astype(np.uint16) | (
        rng.integers(0, 2, n).astype(np.uint16) << 15)


def random_blocks(rng, qtype):
    weights, size = gguf.GGML_QUANT_SIZES[qtype]
    n_blocks = ROWS * COLS // weights
    blocks = rng.integers(0, 256, (n_blocks, size)).astype(np.uint8)
    for offset in HALF_FIELDS[qtype]:
        blocks[:, offset:offset + 2] = random_halves(rng, n_blocks).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def main():
    folder = Path(sys.argv[1])
    rng = np.random.default_rng(20)
    writer = gguf.GGUFWriter(folder / "golden_types.gguf", "llama")
    writer.add_uint32("test.uint32", 4000000000)
    writer.add_int32("test.int32", -5)
    writer.add_float32("test.float32", 0.5)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "h\u00e9llo")
    writer.add_array("test.strings", ["a", "", "\u4e16\u754c"])
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.floats", [0.25, -1.5])
    expected = []
    for qtype in HALF_FIELDS:
        blocks = random_blocks(rng, qtype)
        writer.add_tensor(qtype.name, blocks, raw_dtype=qtype)
        expected.append(gguf.quants.dequantize(blocks, qtype))
    f32 = rng.standard_normal((ROWS, COLS)).astype(np.float32)
    f16 = random_halves(rng, ROWS * COLS).view(np.float16).reshape(ROWS, COLS)
    bf16 = (f32.view(np.uint32) >> 16).astype(np.uint16)
    writer.add_tensor("F32", f32)
    writer.add_tensor("F16", f16)
    writer.add_tensor("BF16", bf16.view(np.uint8), raw_dtype=T.BF16)
    expected += [f32, f16.astype(np.float32), (bf16.astype(np.uint32) << 16).view(np.float32)]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.concatenate([e.astype("<f4").ravel() for e in expected]).tofile(folder / "golden_types.f32")


if __name__ == "__main__":
    main()
