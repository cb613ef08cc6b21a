#!/usr/bin/env python3
"""Proves every family with other people's software and prints the table of docs/families.md.

  prove_families.py BUILD_FOLDER WORK_FOLDER [--llama-cpp TREE] [--mixed MB] [--case NAME]...

For a randomly initialised small model of each case:
  hf in        transformers writes it as bf16 shards; d2quant's logits against transformers' own
  gguf in      llama.cpp's converter (TREE/conversion) writes it; d2quant's logits against the same
  quantize     2 bits, tuned, all inputs of the later columns come from the packed folder
  run          16 tokens that d2quant takes greedily from a cache, against transformers' and llama.cpp's
               on the exports
  export hf    logits of transformers on the exported folder against d2quant's on the packed one
  export gguf  logits of llama.cpp on the exported file, and of d2quant's own reader
  tokenizer    ids of the packed folder and of the exported file against PyPI's tokenizers, on MB of mixed text
  template     what the packed folder's and the file's template makes of conversations, against transformers'
Errors are max|a - b| / max|b|; the program fails when one exceeds 1e-4 or texts or tokens differ. Needs torch,
transformers, safetensors and jinja2, and d2quant, d2q_logits, d2q_tokenize and d2q_render in BUILD_FOLDER.
llama.cpp's columns need llama_cpp (llama-cpp-python), "gguf in" its source package's vendor/llama.cpp as TREE.
"""

import argparse
import contextlib
import io
import json
import logging
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import compare_tokenizers
from compare_logits import hf_name, unpermute
from make_logits_golden import randomise, rope
from make_template_golden import CONVERSATIONS

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests/data"
LIMIT = 1e-4
SIZES = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
LONGROPE = dict(original_max_position_embeddings=32, partial_rotary_factor=0.5, rope_parameters=rope(
    "longrope", partial_rotary_factor=0.5, original_max_position_embeddings=32,
    short_factor=[1.0, 1.1, 1.3, 1.5], long_factor=[1.0, 2.0, 3.5, 6.0]))
# Options of quantize that leave no shift without a place in an export.
LLAMA = ["--no-final-dac"]
OTHERS = ["--no-dac", "--no-shift"]
# Class, changes to the configuration, options of quantize, tokenizer and chat template of tests/data.
CASES = {
    "LLaMA 2": ("Llama", dict(rope_parameters=rope("default")), LLAMA, "scored", "llama2"),
    "LLaMA 3": ("Llama", dict(rope_parameters=rope("default", 500000.0)), LLAMA, "llama3", "llama3"),
    "LLaMA 3.1": ("Llama", dict(rope_parameters=LLAMA3), LLAMA, "llama3", "llama3_1"),
    "LLaMA 3.2, tied": ("Llama", dict(tie_word_embeddings=True, head_dim=32,
                                      rope_parameters={**LLAMA3, "factor": 32.0}), LLAMA, "llama3", "llama3_1"),
    "LLaMA, linear rope": ("Llama", dict(rope_parameters=rope("linear", factor=4.0)), LLAMA, "scored", "llama2"),
    "LLaMA, dynamic rope": ("Llama", dict(max_position_embeddings=40, rope_parameters=rope("dynamic", factor=2.0)),
                            LLAMA, "scored", "llama2"),
    "LLaMA, yarn rope": ("Llama", dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64)),
                         LLAMA, "llama3", "llama3"),
    "LLaMA, biases": ("Llama", dict(attention_bias=True, mlp_bias=True, rope_parameters=rope("default")), LLAMA,
                      "llama3", "llama3"),
    "SmolLM2": ("Llama", dict(tie_word_embeddings=True, rope_parameters=rope("default", 100000.0)), LLAMA, "smollm",
                "smollm"),
    "Mistral": ("Mistral", dict(sliding_window=None, rope_parameters=rope("default", 1e6)), LLAMA, "metaspace", "mistral"),
    "Mistral, window": ("Mistral", dict(sliding_window=9, rope_parameters=rope("default")), OTHERS, "scored",
                        "mistral"),
    "Qwen2": ("Qwen2", dict(rope_parameters=rope("default", 1e6)), OTHERS, "qwen2", "qwen2"),
    "Qwen3": ("Qwen3", dict(head_dim=32, rope_parameters=rope("default", 1e6)), OTHERS, "qwen2", "qwen3"),
    "Phi-3": ("Phi3", dict(sliding_window=None, rope_parameters=rope("default")), OTHERS, "scored", "phi3"),
    "Phi-3, window": ("Phi3", dict(sliding_window=9, rope_parameters=rope("default")), OTHERS, "scored", "phi3"),
    "Phi-3, longrope": ("Phi3", dict(sliding_window=None, **LONGROPE), OTHERS, "scored", "phi3"),
    "OPT": ("OPT", dict(ffn_dim=128, num_key_value_heads=4, activation_function="relu", word_embed_proj_dim=64), [],
            "gpt2", None),
}
# tokenizer.ggml.pre of the byte-level tokenizers of tests/data; the others are SentencePiece's.
PRE = {"llama3": "llama-bpe", "qwen2": "qwen2", "smollm": "smollm", "gpt2": "gpt-2"}
WORDS = "the values does matter word scale for of 12 and little at int quantize model table row column".split()
PROMPT = "The kettle was still warm when they came back, and nobody could say"


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stderr.strip()}")
    return result.stdout


def relative(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def dequantize_q2_0(tensor):
    """[rows, columns] f32 of blocks of 64: a half d, then 2-bit codes c, low bits first, for (c - 1) d."""
    blocks = np.asarray(tensor.data, dtype=np.uint8).reshape(-1, 18)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = (blocks[:, 2:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
    return ((codes.reshape(-1, 64).astype(np.float32) - 1) * scales).reshape(int(tensor.shape[1]), int(tensor.shape[0]))


def write_model(folder, prefix, changes, tokenizer, template, generator):
    """An ordinary folder with everything that belongs to a model."""
    # As released ones often are: an embedding with a few rows more than there are tokens.
    size = Tokenizer.from_file(str(DATA / f"tokenizer_{tokenizer}.json")).get_vocab_size() // 16 * 16 + 16
    config = getattr(transformers, prefix + "Config")(**{**SIZES, "vocab_size": size, **changes})
    model = getattr(transformers, prefix + "ForCausalLM")._from_config(config, attn_implementation="eager").eval()
    randomise(model, generator)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    shutil.copy(DATA / f"tokenizer_{tokenizer}.json", folder / "tokenizer.json")
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=False)
    tokens = {id: token for token, id in Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().items()}
    settings.update(bos_token=tokens[1], eos_token=tokens[2])
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template:
        shutil.copy(DATA / f"chat_templates/{template}.jinja", folder / "chat_template.jinja")


class Transformers:
    def __init__(self, folder):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()

    def logits(self, ids):
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].float().numpy()

    def greedy(self, ids, n):
        """One pass over everything for each token: no cache that could agree with another by mistake."""
        ids = list(ids)
        for _ in range(n):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[-n:]


class LlamaCpp:
    def __init__(self, path, n_ctx):
        import llama_cpp

        self.model = llama_cpp.Llama(str(path), n_ctx=n_ctx, n_batch=n_ctx, logits_all=True, verbose=False,
                                     n_threads=2, flash_attn=False, type_k=0, type_v=0)

    def logits(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return np.array(self.model.scores[: len(ids)])

    def greedy(self, ids, n):
        self.model.reset()
        self.model.eval(ids)
        taken = []
        while len(taken) < n:
            taken.append(int(self.model.scores[self.model.n_tokens - 1].argmax()))
            self.model.eval(taken[-1:])
        return taken


class Converter:
    """llama.cpp's own, told which tokenizer it has: it knows released ones by a hash of their ids."""

    def __init__(self, tree):
        sys.path[:0] = [str(tree), str(pathlib.Path(tree) / "gguf-py")]
        import conversion
        import gguf

        self.conversion, self.gguf = conversion, gguf
        logging.getLogger("hf-to-gguf").setLevel(logging.ERROR)

    def write_scores(self, model):
        tokens = json.loads((model.dir_model / "tokenizer.json").read_text())["model"]["vocab"]
        names = sorted(tokens, key=tokens.get)
        names += [f"[PAD{id}]" for id in range(len(names), model.hparams["vocab_size"])]
        writer = model.gguf_writer
        writer.add_tokenizer_model("llama")
        writer.add_token_list(names)
        writer.add_token_scores([-float(id) for id in range(len(names))])
        kinds = self.gguf.TokenType
        writer.add_token_types([kinds.UNKNOWN if t == "<unk>" else kinds.CONTROL if t == "<s>" else
                                kinds.BYTE if t.startswith("<0x") else
                                kinds.UNUSED if t.startswith("[PAD") else kinds.NORMAL for t in names])
        writer.add_unk_token_id(tokens["<unk>"])
        writer.add_bos_token_id(tokens["<s>"])

    def write(self, folder, path, pre):
        base = self.conversion.ModelBase
        name = json.loads((folder / "config.json").read_text())["architectures"][0]
        kind = self.conversion.get_model_class(name)

        class Named(kind):
            model_arch = kind.model_arch

            def set_vocab(model):
                model._set_vocab_gpt2() if pre else self.write_scores(model)

            def get_vocab_base_pre(model, tokenizer):
                return pre

        with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):
            Named(folder, self.gguf.LlamaFileType.ALL_F32, path, hparams=base.load_hparams(folder, False)).write()


class Prover:
    def __init__(self, args):
        self.build, self.work = pathlib.Path(args.build).resolve(), pathlib.Path(args.work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.generator = torch.Generator().manual_seed(7)
        self.converter = Converter(args.llama_cpp) if args.llama_cpp else None
        self.mixed = args.mixed
        self.failed = []
        picks = torch.randint(0, len(WORDS), (6000,), generator=self.generator)
        (self.work / "text.txt").write_text(" ".join(WORDS[i] for i in picks))

    def ours(self, model, ids):
        save_file({"ids": torch.tensor(ids, dtype=torch.int32)}, self.work / "ids.safetensors")
        out = self.work / "ours.safetensors"
        run(self.build / "tools/d2q_logits", model, self.work / "ids.safetensors", out)
        return load_file(out)["logits"].numpy()

    def error(self, what, a, b):
        found = relative(a, b)
        if not found <= LIMIT:
            self.failed.append(f"{what}: {found:.1e}")
        return f"{found:.0e}"

    def same(self, what, equal):
        if not equal:
            self.failed.append(what)
        return "equal" if equal else "DIFFERENT"

    def prove(self, name):
        prefix, changes, options, tokenizer, template = CASES[name]
        folder = self.work / name.replace(",", "").replace(" ", "_")
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "model").mkdir(parents=True)
        write_model(folder / "model", prefix, changes, tokenizer, template, self.generator)
        config = json.loads((folder / "model/config.json").read_text())
        ids = torch.randint(0, config["vocab_size"], (48,), generator=self.generator).tolist()
        # llama.cpp has no dynamic positions, which begin to differ where the trained length ends.
        within = ids[: config["max_position_embeddings"]]
        original = Transformers(folder / "model")
        # The short sequence first: transformers' dynamic positions do not shrink again.
        gguf_in = self.gguf_in(name, folder, within, original.logits(within), tokenizer)
        hf_in = self.error(f"{name}, hf in", self.ours(folder / "model", ids), original.logits(ids))
        program = self.build / "d2quant"
        # A random model's text is noise to it, before and after; --force says that this is meant.
        report = json.loads(run(
            program, "quantize", folder / "model", "-o", folder / "packed", "--group", 64, "--calib",
            self.work / "text.txt", "--samples", 12, "--seq", 32, "--tune", 8, "--precision", "f32", "--force",
            "--json", *options))
        cells = [name, hf_in, gguf_in, f"{report['bits_per_weight']:.2f} bits {' '.join(options)}".strip()]
        run(program, "export", folder / "packed", "--to", "hf", "--type", "f32", "-o", folder / "hf")
        exported = Transformers(folder / "hf")
        cells.append(self.error(f"{name}, export hf", exported.logits(ids), self.ours(folder / "packed", ids)))
        theirs, cell = self.export_gguf(name, folder, within, self.ours(folder / "packed", within))
        cells += [cell, self.check_run(name, folder, exported, theirs)]
        models = [folder / "packed"] + ([folder / "model.gguf"] if (folder / "model.gguf").exists() else [])
        cells.append(self.check_tokenizer(name, models, tokenizer))
        return cells + [self.check_template(name, models, folder / "model", template)]

    def gguf_in(self, name, folder, ids, original, tokenizer):
        if name == "OPT":
            return "llama.cpp has none"
        if self.converter is None:
            return "not run"
        if name == "Mistral, window":
            return "llama.cpp's files do not hold the window"
        self.converter.write(folder / "model", folder / "theirs.gguf", PRE.get(tokenizer))
        return self.error(f"{name}, gguf in", self.ours(folder / "theirs.gguf", ids), original)

    def export_gguf(self, name, folder, ids, packed):
        path = folder / "model.gguf"
        try:
            run(self.build / "d2quant", "export", folder / "packed", "--to", "gguf", "--type", "f32", "-o", path)
        except RuntimeError as error:
            return None, "refused: " + str(error).splitlines()[-1].split(": ", 1)[-1]
        cell = "reread " + self.error(f"{name}, reread", self.ours(path, ids), packed)
        try:
            theirs = LlamaCpp(path, len(ids) + 64)
        except ImportError:
            return None, cell
        return theirs, f"{self.error(f'{name}, export gguf', theirs.logits(ids), packed)}, {cell}"

    def check_run(self, name, folder, exported, theirs):
        reply = json.loads(run(self.build / "d2quant", "run", folder / "packed", "-p", PROMPT, "-n", 16, "--temp", 0,
                               "--ignore-eos", "--precision", "f32", "--json"))
        ids = Tokenizer.from_file(str(folder / "model/tokenizer.json")).encode(PROMPT).ids
        equal = len(reply["tokens"]) > 0
        for other in (exported, theirs):
            equal = equal and (other is None or other.greedy(ids, len(reply["tokens"])) == reply["tokens"])
        return f"{len(reply['tokens'])} {self.same(f'{name}, run', equal)}"

    def check_tokenizer(self, name, models, tokenizer):
        reference = Tokenizer.from_file(str(DATA / f"tokenizer_{tokenizer}.json"))
        specials = [token.content for token in reference.get_added_tokens_decoder().values()]
        equal, notes = True, io.StringIO()
        for model in models:
            # GGUF cannot say that only a text's first word gets a mark: behind special tokens they differ.
            first_only = tokenizer == "metaspace" and model.suffix == ".gguf"
            text = compare_tokenizers.mixed_bytes(int(self.mixed * 1e6), WORDS, [] if first_only else specials, 1)
            with tempfile.NamedTemporaryFile(suffix=".txt") as file, contextlib.redirect_stdout(notes):
                file.write(text)
                file.flush()
                equal &= compare_tokenizers.compare(self.build / "tools/d2q_tokenize", str(model), reference,
                                                    file.name, 1)
        if not equal:
            print(notes.getvalue(), file=sys.stderr)
        return f"{tokenizer} {self.same(f'{name}, tokenizer', equal)}"

    def check_template(self, name, models, original, template):
        if template is None:
            return "-"
        tokenizer = transformers.AutoTokenizer.from_pretrained(original)
        contexts, expected = [], []
        for conversation in CONVERSATIONS.values():
            if not conversation["messages"]:
                continue  # transformers refuses it before the template sees it
            variables = {key: conversation[key] for key in conversation if key not in ("messages", "tools")}
            context = dict(messages=conversation["messages"], tools=conversation.get("tools"), variables=variables)
            try:
                expected.append(tokenizer.apply_chat_template(
                    conversation["messages"], tools=context["tools"], add_generation_prompt=True, tokenize=False,
                    **variables))
            except Exception:  # the template refuses it, or its expressions fail: so must ours
                expected.append(None)
            contexts.append(context)
        (self.work / "contexts.json").write_text(json.dumps(contexts))
        equal = True
        for model in models:
            found = json.loads(run(self.build / "tools/d2q_render", model, self.work / "contexts.json"))
            equal &= [item.get("text") for item in found] == expected
        return f"{template} {len(expected)} {self.same(f'{name}, template', equal)}"


    def prove_portable(self):
        """--grid portable: every linear of the Q2_0 file is the packed one to the bit."""
        prefix, changes, options, tokenizer, template = CASES["SmolLM2"]
        folder = self.work / "portable"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "model").mkdir(parents=True)
        write_model(folder / "model", prefix, changes, tokenizer, template, self.generator)
        program = self.build / "d2quant"
        run(program, "quantize", folder / "model", "-o", folder / "packed", "--grid", "portable", "--group", 64,
            "--calib", self.work / "text.txt", "--samples", 12, "--seq", 32, "--precision", "f32", "--force", *options)
        run(program, "export", folder / "packed", "--to", "hf", "--type", "f32", "-o", folder / "hf")
        run(program, "export", folder / "packed", "--to", "gguf", "--type", "q2_0", "-o", folder / "model.gguf")
        weights = {}
        for path in (folder / "hf").glob("*.safetensors"):
            weights.update(load_file(path))
        n_equal = n = 0
        for tensor in self.converter.gguf.GGUFReader(str(folder / "model.gguf")).tensors:
            if tensor.tensor_type != self.converter.gguf.GGMLQuantizationType.Q2_0:
                continue
            found = dequantize_q2_0(tensor)
            for part, heads in ((".attn_q.", SIZES["num_attention_heads"]), (".attn_k.", SIZES["num_key_value_heads"])):
                if part in tensor.name:
                    found = unpermute(found, heads)
            n, n_equal = n + 1, n_equal + np.array_equal(found, weights[hf_name(tensor.name)].numpy())
        ids = torch.randint(0, 400, (48,), generator=self.generator).tolist()
        line = f"q2_0 of --grid portable: {n_equal} of {n} linears {self.same('q2_0', n_equal == n > 0)} to the bit"
        with contextlib.suppress(ImportError):
            theirs = LlamaCpp(folder / "model.gguf", 64).logits(ids)
            error = relative(theirs, self.ours(folder / "packed", ids))
            line += f"; llama.cpp's logits, its activations in 8 bits: {error:.0e}"
        return line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("work")
    parser.add_argument("--llama-cpp", metavar="TREE")
    parser.add_argument("--mixed", type=float, default=1, help="MB of text for each tokenizer")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be given again")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(2)
    prover = Prover(args)
    columns = ["family", "hf in", "gguf in", "quantize", "export hf", "export gguf", "run", "tokenizer",
               "chat template"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name in args.case or CASES:
        print("| " + " | ".join(prover.prove(name)) + " |", flush=True)
    if prover.converter and not args.case:
        print("\n" + prover.prove_portable())
    for failure in prover.failed:
        print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(1 if prover.failed else 0)


if __name__ == "__main__":
    main()
