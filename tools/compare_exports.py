#!/usr/bin/env python3
"""Proves the export of every family with other people's software and prints a row of docs/families.md for each.

  compare_exports.py BUILD_FOLDER WORK_FOLDER [FAMILY...]

For a randomly initialised small model of each family: transformers writes it in bf16 shards, d2quant's logits are
compared with transformers' own; d2quant quantizes it (2 bits, tuned), exports the result with --to hf and --to gguf,
and transformers and llama.cpp (through llama_cpp, if it can be imported) must give the logits that d2quant gives for
the packed folder. Needs torch, transformers and safetensors, and d2quant and d2q_logits in BUILD_FOLDER.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from make_logits_golden import randomise, rope

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=420, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
             pad_token_id=None)
# Class prefix, changes to the config, options of quantize that make the result exportable.
PORTABLE = ["--no-dac", "--no-shift"]
FAMILIES = {
    "llama": ("Llama", dict(rope_parameters=rope("default")), ["--no-final-dac"]),
    "llama, biases": ("Llama", dict(attention_bias=True, mlp_bias=True, rope_parameters=rope("default")),
                      ["--no-final-dac"]),
    "llama, tied, llama3 rope": ("Llama", dict(tie_word_embeddings=True, rope_parameters=rope(
        "llama3", 5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192)), ["--no-final-dac"]),
    "llama, linear rope": ("Llama", dict(rope_parameters=rope("linear", factor=4.0)), ["--no-final-dac"]),
    "llama, yarn rope": ("Llama", dict(rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=64)), ["--no-final-dac"]),
    "mistral": ("Mistral", dict(sliding_window=None, rope_parameters=rope("default")), ["--no-final-dac"]),
    "mistral, window": ("Mistral", dict(sliding_window=9, rope_parameters=rope("default")), PORTABLE),
    "qwen2": ("Qwen2", dict(rope_parameters=rope("default", 1e6)), ["--no-dac", "--no-shift"]),
    "qwen3": ("Qwen3", dict(head_dim=32, rope_parameters=rope("default", 1e6)), PORTABLE),
    "phi3": ("Phi3", dict(sliding_window=None, rope_parameters=rope("default")), PORTABLE),
    "opt": ("OPT", dict(ffn_dim=128, num_key_value_heads=4, activation_function="relu", word_embed_proj_dim=64), []),
}
WORDS = "the values does matter word scale for of 12 and little at int quantize model table row column".split()


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stderr.strip()}")
    return result.stdout


def relative(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def make_model(folder, prefix, changes, generator):
    config = getattr(transformers, prefix + "Config")(**{**SIZES, **changes})
    model = getattr(transformers, prefix + "ForCausalLM")._from_config(config, attn_implementation="eager").eval()
    randomise(model, generator)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    shutil.copy(ROOT / "tests/data/tokenizer_smollm.json", folder / "tokenizer.json")


def transformers_logits(folder, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].float().numpy()


def llama_cpp_logits(path, ids):
    try:
        import llama_cpp
    except ImportError:
        return None
    model = llama_cpp.Llama(str(path), n_ctx=len(ids), n_batch=len(ids), logits_all=True, verbose=False, n_threads=2,
                            flash_attn=False, type_k=0, type_v=0)
    model.eval(ids)
    return np.array(model.scores[:len(ids)])


class Checker:
    def __init__(self, build, work):
        self.build, self.work = build, work
        self.generator = torch.Generator().manual_seed(7)
        picks = torch.randint(0, len(WORDS), (6000,), generator=self.generator)
        (work / "text.txt").write_text(" ".join(WORDS[i] for i in picks))
        self.ids = torch.randint(0, SIZES["vocab_size"], (48,), generator=self.generator).tolist()
        save_file({"ids": torch.tensor(self.ids, dtype=torch.int32)}, work / "ids.safetensors")

    def ours(self, model):
        out = self.work / "ours.safetensors"
        run(self.build / "tools/d2q_logits" if (self.build / "tools/d2q_logits").exists()
            else self.build / "d2q_logits", model, self.work / "ids.safetensors", out)
        return load_file(out)["logits"].numpy()

    def check(self, name):
        prefix, changes, options = FAMILIES[name]
        folder = self.work / name.replace(", ", "_").replace(" ", "_")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make_model(folder / "model", prefix, changes, self.generator)
        loaded = relative(self.ours(folder / "model"), transformers_logits(folder / "model", self.ids))
        d2quant = self.build / "d2quant"
        run(d2quant, "quantize", folder / "model", "-o", folder / "packed", "--group", 64, "--calib",
            self.work / "text.txt", "--samples", 6, "--seq", 64, "--tune", 8, "--precision", "f32", *options)
        packed = self.ours(folder / "packed")
        report = json.loads(run(d2quant, "export", folder / "packed", "--to", "hf", "--type", "f32", "-o",
                                folder / "hf", "--json"))
        exported = relative(transformers_logits(folder / "hf", self.ids), packed)
        row = [name, f"{loaded:.1e}", " ".join(options) or "-", f"{exported:.1e}", len(report["shifts_moved"])]
        return row + [self.check_gguf(folder, packed, d2quant)]

    def check_gguf(self, folder, packed, d2quant):
        try:
            run(d2quant, "export", folder / "packed", "--to", "gguf", "--type", "f32", "-o", folder / "model.gguf")
        except RuntimeError as error:
            return "refused: " + str(error).splitlines()[-1].split(": ", 1)[-1]
        reread = relative(self.ours(folder / "model.gguf"), packed)
        theirs = llama_cpp_logits(folder / "model.gguf", self.ids)
        cells = [f"reread {reread:.1e}"]
        if theirs is not None:
            cells.append(f"llama.cpp {relative(theirs, packed):.1e}")
        return ", ".join(cells)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    build, work = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    checker = Checker(build, work)
    print("| family | logits error | quantize | export hf error | shifts moved | export gguf |")
    print("|---|---|---|---|---|---|")
    for name in sys.argv[3:] or FAMILIES:
        print("| " + " | ".join(str(cell) for cell in checker.check(name)) + " |", flush=True)


if __name__ == "__main__":
    main()
