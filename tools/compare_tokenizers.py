#!/usr/bin/env python3
"""Compares d2q_tokenize with PyPI's `tokenizers`, id by id, on whole texts.

The reference is built here from the model: a GGUF's own tokens and merges (or scores) behind the
pre-tokenizer that tokenizer.ggml.pre names, or a tokenizer.json. With --train, tokenizers of every
kind are trained on the texts first, as tools/make_tokenizer_golden.py has them but larger, and
written to a folder; those that it holds already are kept. Speeds are of processor time, on one
thread. Needs `tokenizers`, `numpy`, and `gguf` for GGUF.

Usage: compare_tokenizers.py --program build/dev/tools/d2q_tokenize [--mixed MB]
                             (--model M | --train FOLDER [--scale N] [--kind K]...) TEXT...
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import make_tokenizer_golden as kinds
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers
from tokenizers import pre_tokenizers as pt

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


def split_then_bytes(pattern):
    return pt.Sequence(
        [
            pt.Split(Regex(pattern), "isolated"),
            pt.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def reference_from_gguf(path):
    import gguf

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    if fields["tokenizer.ggml.model"].contents() == "llama":
        return reference_from_scores(fields, tokens)
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    pre = fields["tokenizer.ggml.pre"].contents()
    vocab = {token: id for id, token in enumerate(tokens)}
    llama3 = pre == "llama-bpe"
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=llama3))
    if pre == "smollm":
        tokenizer.pre_tokenizer = pt.Sequence(
            [pt.Digits(individual_digits=True), pt.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    elif pre == "gpt-2":
        tokenizer.pre_tokenizer = pt.ByteLevel(add_prefix_space=False, use_regex=True)
    elif llama3:
        tokenizer.pre_tokenizer = split_then_bytes(kinds.LLAMA3)
    elif pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = split_then_bytes(kinds.QWEN2)
    else:
        sys.exit(f"{path}: no reference for the pre-tokenizer '{pre}'")
    add_tokens(tokenizer, tokens, types)
    return tokenizer


def add_tokens(tokenizer, tokens, types):
    for token, kind in zip(tokens, types):
        if kind in (CONTROL, UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])


def reference_from_scores(fields, tokens):
    vocab = {token: id for id, token in enumerate(tokens)}
    scores = fields["tokenizer.ggml.scores"].contents()
    merges = [tuple(pair) for pair in kinds.merges_from_scores(vocab, scores)]
    unknown = tokens[fields["tokenizer.ggml.unknown_token_id"].contents()]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    add_tokens(tokenizer, tokens, fields["tokenizer.ggml.token_type"].contents())
    return tokenizer


def write_scored_gguf(document, path):
    """The GGUF of a SentencePiece model with the vocabulary of a tokenizer.json."""
    import gguf

    vocab = document["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    types = [6 if t.startswith("<0x") and len(t) == 6 else NORMAL for t in tokens]
    types[vocab["<unk>"]] = UNKNOWN
    types[vocab["<s>"]] = CONTROL
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(id) for id in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_unk_token_id(vocab["<unk>"])
    writer.add_bos_token_id(vocab["<s>"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def train(folder, texts, scale, chosen):
    """Writes a tokenizer of each kind, or of the chosen ones; the paths."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prose = "".join(pathlib.Path(t).read_bytes().decode("utf-8", "replace")[:4_000_000] for t in texts)
    kinds.training.update(prose=prose, scale=scale)
    paths = []
    for name in chosen or kinds.MAKERS:
        make = kinds.MAKERS[name]
        path = folder / f"{name}.json"
        if not path.exists():
            path.write_text(make().to_str())
        paths.append(str(path))
        if name == "scored":
            paths.append(str(folder / "scored.gguf"))
            write_scored_gguf(json.loads(path.read_text()), paths[-1])
    return paths


def mixed_bytes(size, words, specials, seed):
    """Text of every kind that has broken a tokenizer, malformed UTF-8 included."""
    rng = random.Random(seed)
    blocks = [
        (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F),
        (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x218F),
        (0x2190, 0x27BF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFE00, 0xFE0F),
        (0xFF00, 0xFFEF), (0x10000, 0x1FFFF), (0x1F300, 0x1FAFF), (0x2EBF0, 0x323AF), (0xE0020, 0xE007F),
    ]  # fmt: skip
    spaces = " \t\n\r\x0b\x0c\x85\xa0\u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000\ufeff\u200b"
    contractions = ["'s", "'T", "'re", "'VE", "'ll", "'\u017f", "\u2019s", "n't", "''d"]
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"

    def piece():
        kind = rng.randrange(14)
        if kind < 4:
            return " ".join(rng.choice(words) for _ in range(rng.randrange(1, 12))).encode()
        if kind == 4:
            low, high = rng.choice(blocks)
            return "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 9))).encode()
        if kind == 5:
            return (rng.choice(spaces) * rng.choice([1, 1, 2, 3, 4, 8, 17, 70])).encode()
        if kind == 6:
            return "".join(rng.choice(spaces) for _ in range(rng.randrange(1, 6))).encode()
        if kind == 7:
            return str(rng.randrange(10 ** rng.randrange(1, 20))).encode()
        if kind == 8:
            return (rng.choice(words) + rng.choice(contractions)).encode()
        if kind == 9:
            return rng.choice([family, "\U0001f1e9\U0001f1ea", "e\u0301\u0323", "\u0f73\u0f71"]).encode()
        if kind == 10:
            return rng.randbytes(rng.randrange(1, 8))
        if kind == 11:
            return rng.choice(specials).encode() if specials else b"<|"
        if kind == 12:
            line = "\t" * rng.randrange(5) + f"if ({rng.choice(words)}[{rng.randrange(99)}] != 0x{rng.randrange(4096):x}) {{"
            return (line + rng.choice(["\n", "\r\n", "\n\n\n", ""])).encode()
        if rng.randrange(200) == 0:
            return "".join(rng.choice(words) for _ in range(rng.randrange(1, 3000))).encode()
        return bytes(rng.choice(b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(rng.randrange(1, 9)))

    out = bytearray()
    while len(out) < size:
        out += piece()
        if rng.randrange(3):
            out += b" "
    return bytes(out)


def compare(program, model, reference, path, repeats):
    text = pathlib.Path(path).read_bytes().decode("utf-8", errors="replace")
    seconds = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        expected = reference.encode(text, add_special_tokens=False).ids
        seconds = min(seconds, time.process_time() - start)
    expected = np.array(expected, dtype=np.int32)
    with tempfile.NamedTemporaryFile() as ids:
        run = [program, model, path, ids.name, str(repeats)]
        ours = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
        found = np.fromfile(ids.name, dtype="<i4")
    n = min(len(found), len(expected))
    different = np.nonzero(found[:n] != expected[:n])[0]
    rate = len(text.encode()) / seconds / 1e6
    print(f"{path}: {ours}; reference {len(expected)} ids, {rate:.1f} MB/s: ", end="", flush=True)
    if len(different) == 0 and len(found) == len(expected):
        print("equal")
        return True
    at = int(different[0]) if len(different) else n
    window = slice(max(0, at - 4), at + 6)
    print(f"DIFFERENT from token {at} on")
    for name, ids in (("ours", found), ("reference", expected)):
        print(f"  {name}: {[reference.id_to_token(int(i)) for i in ids[window]]}")
    return False


def compare_model(model, args):
    if model.endswith(".gguf"):
        reference = reference_from_gguf(model)
    else:
        reference = Tokenizer.from_file(model)
    equal = True
    for path in args.texts:
        equal &= compare(args.program, model, reference, path, args.repeats)
    if args.mixed:
        words = list(set(pathlib.Path(args.texts[0]).read_text(errors="replace").split()))
        words.sort()
        specials = [token.content for token in reference.get_added_tokens_decoder().values()]
        with tempfile.NamedTemporaryFile(suffix=".txt") as file:
            file.write(mixed_bytes(int(args.mixed * 1e6), words, specials, args.seed))
            file.flush()
            equal &= compare(args.program, model, reference, file.name, args.repeats)
    return equal


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model")
    model.add_argument("--train", metavar="FOLDER")
    parser.add_argument("--scale", type=int, default=20, help="tokens of --train, in units of ~450")
    parser.add_argument("--kind", action="append", choices=kinds.MAKERS, help="with --train, only this one")
    parser.add_argument("--mixed", type=float, default=0, help="MB of generated text to add")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("texts", nargs="+")
    args = parser.parse_args()
    equal = True
    for path in [args.model] if args.model else train(args.train, args.texts, args.scale, args.kind):
        print(path, flush=True)
        equal &= compare_model(path, args)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
