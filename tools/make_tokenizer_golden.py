#!/usr/bin/env python3
"""Writes tests/data/tokenizer_*.json: small tokenizers trained here with PyPI's `tokenizers`, and
what it makes of texts that are easy to get wrong. Texts are hex of bytes; malformed UTF-8 is read
as bytes.decode("utf-8", errors="replace").

Usage: make_tokenizer_golden.py OUTPUT_FOLDER
"""

import json
import pathlib
import random
import sys
import zlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as pt
from tokenizers import trainers

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + (
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

PROSE = """The kettle was still warm when they came back, and nobody could say who had used it. It's
the kind of question that doesn't matter until it does: we'll ask, they'll shrug, she'd rather not.
In 1987 the river rose 12.5 metres in 36 hours; the mill, the bridge and 1,204 houses were lost.
Weights are stored in groups of sixty-four, each with a scale; the rest is a matter of taste.
for (int i = 0; i < n; ++i) {
    total += values[i] * scale;  // the inner loop
}
def mean(values):
\treturn sum(values) / len(values)
Überall dröhnte es, naïve façade, coöperation. Съешь же ещё этих мягких французских булок.
天地玄黄宇宙洪荒。日本語のテキストもあります。한국어 문장도 있습니다. שלום עולם مرحبا بالعالم
नमस्ते दुनिया สวัสดีชาวโลก Ελληνικά γράμματα 😀😃🎉👍🏽
"""

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
TEXTS = [
    "",
    " ",
    "a",
    "Hello, world!",
    "The kettle's warm; they'LL say IT'S fine, we'Ve DON'T. '\u017f \u2019s ''s 's's",
    "  leading, trailing  ",
    "a  b   c    d\te\t\tf \t g",
    "line\nline\r\nline\r\r\n\n\n  indented\n \n\t\nend\n",
    "x = [1, 22, 333, 4444, 55555, 1234567890]; y = 3.14159e-10",
    "\u0661\u0662\u0663 \u0967\u0968 \u2160\u2161 \u00bd\u00b2 \u2460 \u4e09 \U00011de0 \U00016ff4 \U0001d7d8",
    "for (int i = 0; i < n; ++i) {\n    total += values[i];\n}\n",
    "#include <vector>\r\n\tstd::vector<int> v{1,2,3};\r\n",
    "天地玄黄、宇宙洪荒。「日本語」テキスト 한국어 문장",
    "\U00020000\U0002ebf0\U0003134f rare ideographs",
    f"emoji {FAMILY} \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2764\ufe0f 1\ufe0f\u20e3",
    "cafe\u0301 e\u0323\u0301 e\u0301\u0323 \u1e69 s\u0323\u0307 \u212b \u2126 \u1100\u1161\u11a8 \uac01",
    "\u0958 \u0344 \u2adc \U0001d15e \ufb1d \u0f73\u0f71 \u0f71\u0f72",
    "שָׁלוֹם עולם مَرْحَبًا ١٢٣ \u202bRTL\u202c",
    "नमस्ते दुनिया क्षत्रिय สวัสดี ខ្មែរ မြန်မာ",
    "nbsp\u00a0here nel\u0085there ogham\u1680x mvs\u180ex em\u2003x ls\u2028x nnbsp\u202fx ideo\u3000x bom\ufeffx zwsp\u200bx",
    "\u00a0\u00a0 \u3000\u3000word \u2003 \u2003",
    " " * 100 + "x" + "\n" * 40 + "\t" * 30 + " \n" * 10,
    "word" * 60,
    "a" * 300,
    "\U0001f600" * 20,
    "!?.,;:---___***===///\\\\\\|||~~~@@@###$$$%%%^^^&&&(((" + ")" * 20,
    "$100 + 20% = <tag attr=\"v\"/> a^b ~c `d` {e} [f] |g|",
    "nul\x00inside\x01\x1f\x7f",
    "<|special|> text<|special|>text <|special|>\n<|plain|>x<|plain|>",
    "a<mask>b <mask> c  <mask>  d<mask>",
    "word wordy aword word_ _word word. word\u0301 (word) word",
    "<|spec<|special|>ial|> <|special|><|special|><|specia",
    "ABC \u0130stanbul STRASSE \u1e9e \u03a3\u03a3 \u03c3\u03c2",
    "\ufb01ne \u2460 \u00bd \uff21\uff22\uff23 \u3392 \ufdfa",
    "price\u20ac100\u00a35 x\u00d7y\u00f7z \u2211\u222b \u2190\u2192",
    "\u1c89\U000105c0\U00011f02\U0001e4d0\U0002ebf0\U00031350 newer letters",
    "\u24b6\u24d0 \u200d\u200c \u203f \u2040",
    "mixed\u4e2d\u6587and English\u6df7\u5408123\u6570\u5b57abc",
]  # fmt: skip
MALFORMED = [
    b"ok \xff\xfe bad",
    b"cut \xe4\xbd",
    b"cut \xf0\x9f\x98",
    b"\xc0\xaf overlong \xe0\x80\xaf \xf0\x80\x80\xaf",
    b"\xed\xa0\x80 surrogate \xed\xbf\xbf",
    b"\xf4\x90\x80\x80 beyond \xf8\x88\x80\x80\x80",
    b"\x80\x80\x80 lone \xe4a\xbd\xa0",
    b"<|special|>\xe2\x82<|special|>",
]
INPUTS = [text.encode() for text in TEXTS] + MALFORMED

SPLIT_PATTERNS = [
    {"Regex": r"\s"},
    {"Regex": r"\s+"},
    {"String": "."},
    {"String": "ab"},
    {"Regex": r"(?=a)"},
    {"Regex": r"x*"},
    {"Regex": r"\p{N}{1,2}+"},
    {"Regex": r"a{2}?"},
    {"Regex": r"^\w+|\d$"},
    {"Regex": r"[^\S\n]+|\n"},
    {"Regex": r"(?i)THE"},
    {"Regex": r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"},
    {"Regex": r"\p{Han}+|\P{L}"},
    {"Regex": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[\u4e00-\u9fff\u3040-\u30ff]+"},
    {"Regex": r"(?<=a)b|c(?!d)"},
    {"Regex": r"\W|\D\d"},
    {"Regex": GPT2},
    {"Regex": LLAMA3},
    {"Regex": QWEN2},
]  # fmt: skip
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
SPLIT_TEXTS = [
    " a  b c ",
    "a.b..c",
    ".ab.abab..",
    "xxaxxa aaaa bbc cd 12345 6\n7 8\nThe the",
    "ABc Def\u01c5g 天地x\u3042\u30a2 \u0301e\u0301 #tag 'q' 1\u00a02\u180e3",
    "it's  IT'S 1234567 \r\n\r\n  x \t\n y!!\n",
]

NORMALIZERS = [
    {"type": "NFC"},
    {"type": "NFD"},
    {"type": "NFKC"},
    {"type": "NFKD"},
    {"type": "Lowercase"},
    {"type": "Prepend", "prepend": "\u2581"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Replace", "pattern": {"Regex": r"q*"}, "content": "-"},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {
        "type": "Sequence",
        "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": False, "strip_right": True}],
    },
]  # fmt: skip


# What the tokenizers are trained on, and how many times more tokens than the golden ones they get.
training = {"prose": PROSE, "scale": 1}


def corpus():
    if training["prose"] is not PROSE:
        return training["prose"].splitlines(keepends=True)
    return [PROSE] * 4 + TEXTS[:29]


def words(space=""):
    """Training words of SentencePiece's kind. Small tokenizers get the mark behind each word, so that tokens
    hold marks everywhere; large ones before it (`space` where no normalizer puts it there), as real ones do."""
    if training["scale"] == 1:
        return [w + " " for w in training["prose"].split()]
    return [space + w for w in training["prose"].split()]


def train(pre_tokenizer, normalizer=None, size=420, specials=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size * training["scale"],
        special_tokens=list(specials),
        initial_alphabet=pt.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def then_bytes(*stages):
    return pt.Sequence([*stages, pt.ByteLevel(add_prefix_space=False, use_regex=False)])


def special(content, **flags):
    return AddedToken(content, special=True, normalized=False, **flags)


def edit(tokenizer, change):
    document = json.loads(tokenizer.to_str())
    change(document)
    return Tokenizer.from_str(json.dumps(document))


def make_gpt2():
    tokenizer = train(pt.ByteLevel(add_prefix_space=False), specials=["<|special|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def make_llama3():
    split = pt.Split(Regex(LLAMA3), "isolated")
    tokenizer = train(then_bytes(split), specials=["<|special|>", "<|plain|>"])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|special|> $A <|plain|>:1",
                special_tokens=[("<|special|>", 0), ("<|plain|>", 1)],
            ),
        ]
    )

    def ignore_merges(document):
        document["model"]["ignore_merges"] = True
        # Words that are tokens although no merge leads to them, and old-style merges.
        for word in ("Ġkettle", "wordword", "天地"):
            alphabet = pt.ByteLevel(add_prefix_space=False, use_regex=False)
            token = word if word.startswith("Ġ") else alphabet.pre_tokenize_str(word)[0][0]
            document["model"]["vocab"].setdefault(token, len(document["model"]["vocab"]))
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]

    return edit(tokenizer, ignore_merges)


def make_qwen2():
    split = pt.Split(Regex(QWEN2), "isolated")
    tokenizer = train(then_bytes(split), normalizers.NFC())
    tokenizer.add_special_tokens([special("<|special|>")])
    tokenizer.add_tokens([AddedToken("<|plain|>", normalized=False), AddedToken("e\u0301e\u0301")])
    return tokenizer


def make_smollm():
    digits = pt.Digits(individual_digits=True)
    pre_tokenizer = pt.Sequence([digits, pt.ByteLevel(add_prefix_space=False)])
    return train(pre_tokenizer, specials=["<|special|>", "<|plain|>"])


def make_added():
    """Every flag of added tokens, behind a normalizer that changes them."""
    tokenizer = train(pt.ByteLevel(add_prefix_space=True), normalizers.Lowercase(), size=330)
    tokenizer.add_special_tokens([special("<mask>", lstrip=True), special("<|special|>", rstrip=True)])
    tokenizer.add_tokens(
        [
            AddedToken("word", single_word=True),
            AddedToken("<|PLAIN|>", normalized=True),
            AddedToken("ABC", normalized=False),
            AddedToken("<|plain|>x", normalized=True),
            AddedToken("  ", normalized=False),
            AddedToken("\u00e9t\u00e9 \u5929", lstrip=True, rstrip=True, single_word=True),
        ]
    )
    return tokenizer


def make_holes():
    """A vocabulary without some bytes: with an unknown token, runs of it not fused."""
    tokenizer = train(pt.ByteLevel(add_prefix_space=False), size=300, specials=["<unk>"])

    def change(document):
        model = document["model"]
        model["unk_token"] = "<unk>"
        removed = {c for c in model["vocab"] if len(c) == 1 and ord(c) > 0xA0 and ord(c) % 3 == 0}
        removed -= {"Ġ"}
        kept = [t for t in model["vocab"] if not removed & set(t)]
        model["vocab"] = {t: i for i, t in enumerate(sorted(kept, key=model["vocab"].get))}
        model["merges"] = [m for m in model["merges"] if not removed & set("".join(m))]

    return edit(tokenizer, change)


def make_sentencepiece():
    """BPE over characters with byte fallback, as converted from SentencePiece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500 * training["scale"],
        special_tokens=["<unk>", "<s>"],
        limit_alphabet=60 * training["scale"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(words(), trainer)

    def change(document):
        vocab = document["model"]["vocab"]
        for token in fallback:
            vocab[token] = len(vocab)
        document["post_processor"] = json.loads(
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)]).__getstate__()
        )

    return edit(tokenizer, change)


def merges_from_scores(vocab, scores):
    """How converters of SentencePiece models rank merges: by the score of what they make."""
    merges = []
    for piece in sorted(vocab, key=vocab.get):
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        pairs = [(a, b, scores[vocab[piece]]) for a, b in pairs if a in vocab and b in vocab]
        merges += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    merges.sort(key=lambda pair: (pair[2], len(pair[0]), len(pair[1])), reverse=True)
    return [[a, b] for a, b, _ in merges]


def make_scored():
    """The same vocabulary with merges that follow from scores, each token's id with a minus."""

    def change(document):
        model = document["model"]
        scores = [-float(id) for id in range(len(model["vocab"]))]
        model["merges"] = merges_from_scores(model["vocab"], scores)

    return edit(make_sentencepiece(), change)


def character_bpe(pre_tokenizer, normalizer, decoder, size=480, space=""):
    """BPE over characters, every byte a token besides."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(
        vocab_size=size * training["scale"],
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)],
        limit_alphabet=60 * training["scale"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(words(space), trainer)

    def forget_byte_tokens(document):
        document["added_tokens"] = document["added_tokens"][:3]

    return edit(tokenizer, forget_byte_tokens)


def make_metaspace():
    """As the newer conversions of SentencePiece models have it: the first word alone gets a mark."""
    mark = {"replacement": "\u2581", "prepend_scheme": "first", "split": False}
    tokenizer = character_bpe(pt.Metaspace(**mark), None, decoders.Metaspace(**mark))
    tokenizer.add_special_tokens([special("<|special|>")])
    return tokenizer


def make_gemma():
    """Spaces are marked, nothing is put in front, and text is cut behind spaces that are not there."""
    decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    split = pt.Split(" ", "merged_with_previous")
    tokenizer = character_bpe(split, normalizers.Replace(" ", "\u2581"), decoder, space=" ")
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("<|plain|>")])
    return tokenizer


def make_unigram(byte_fallback=False):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pt.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300 * training["scale"],
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus()[:4] if training["scale"] == 1 else corpus(), trainer)
    if not byte_fallback:
        return tokenizer

    def add_bytes(document):
        model = document["model"]
        model["byte_fallback"] = True
        model["vocab"] = model["vocab"][: 260 * training["scale"]] + [[f"<0x{b:02X}>", -15.0] for b in range(256)]
        decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        document["decoder"] = json.loads(decoder.__getstate__())

    return edit(tokenizer, add_bytes)


MAKERS = {
    "gpt2": make_gpt2,
    "llama3": make_llama3,
    "qwen2": make_qwen2,
    "smollm": make_smollm,
    "added": make_added,
    "holes": make_holes,
    "sentencepiece": make_sentencepiece,
    "scored": make_scored,
    "metaspace": make_metaspace,
    "gemma": make_gemma,
    "unigram": make_unigram,
    "unigram_bytes": lambda: make_unigram(byte_fallback=True),
}


def decode_cases(tokenizer, rng):
    """Random ids: characters cut in the middle, special tokens between them."""
    cases = []
    for _ in range(12):
        ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randrange(1, 16))]
        cases.append(
            {
                "ids": ids,
                "plain": tokenizer.decode(ids, skip_special_tokens=True),
                "special": tokenizer.decode(ids, skip_special_tokens=False),
            }
        )
    return cases


def golden_of(tokenizer, rng):
    encode = []
    for data in INPUTS:
        text = data.decode("utf-8", errors="replace")
        encode.append(tokenizer.encode(text, add_special_tokens=False).ids)
    framed = tokenizer.encode("kettle 12", add_special_tokens=True).ids
    return {"encode": encode, "framed": framed, "decode": decode_cases(tokenizer, rng)}


def parse_component(kind, document):
    tokenizer = json.loads(Tokenizer(models.BPE()).to_str())
    tokenizer[kind] = document
    return getattr(Tokenizer.from_str(json.dumps(tokenizer)), kind)


def split_cases():
    configs = []
    for index, pattern in enumerate(SPLIT_PATTERNS):
        full = index < 4
        for behavior in BEHAVIORS if full else ["Isolated", "Removed"]:
            for invert in [False, True] if full else [behavior == "Removed"]:
                configs.append(
                    {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
                )
    for individual in (False, True):
        configs.append({"type": "Digits", "individual_digits": individual})
    for behavior in BEHAVIORS:
        configs.append({"type": "Punctuation", "behavior": behavior})
    configs += [{"type": "Whitespace"}, {"type": "WhitespaceSplit"}]
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            mark = {"replacement": "\u2581", "prepend_scheme": scheme, "split": split}
            configs.append({"type": "Metaspace", **mark})
    configs.append({"type": "CharDelimiterSplit", "delimiter": "a"})
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    configs.append(byte_level)
    configs.append({"type": "Sequence", "pretokenizers": [byte_level, digits]})
    cases = []
    for config in configs:
        splitter = parse_component("pre_tokenizer", config)
        words = [[w for w, _ in splitter.pre_tokenize_str(text)] for text in SPLIT_TEXTS]
        cases.append({"config": config, "words": words})
    return {"texts": SPLIT_TEXTS, "cases": cases}


def normalizer_cases():
    cases = []
    for config in NORMALIZERS:
        normalizer = parse_component("normalizer", config)
        cases.append({"config": config, "results": [normalizer.normalize_str(t) for t in TEXTS]})
    return {"texts": TEXTS, "cases": cases}


def normal_form_sums():
    """A checksum of what each normal form makes of every character, alone and among marks."""
    sums = {}
    for form in ["NFC", "NFD", "NFKC", "NFKD"]:
        normalizer, crc = getattr(normalizers, form)(), 0
        for start in range(0, 0x110000, 0x1000):
            points = [chr(c) for c in range(start, start + 0x1000) if not 0xD800 <= c <= 0xDFFF]
            text = "".join(f"{c}\na\u0301{c}\u0323\u0334{c}\u0301\n" for c in points)
            crc = zlib.crc32(normalizer.normalize_str(text).encode(), crc)
        sums[form] = crc
    return sums


def class_sizes():
    """How many code points each class has."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    sizes = {}
    for name in ["L", "Lu", "Ll", "Lm", "Lo", "N", "Nd", "M", "P", "S", "Han"]:
        splitter = pt.Split(Regex(rf"\p{{{name}}}"), "removed")
        left = sum(
            len(word)
            for start in range(0, len(points), 4096)
            for word, _ in splitter.pre_tokenize_str("".join(points[start : start + 4096]))
        )
        sizes[name] = len(points) - left
    for name, splitter, pieces in (
        ("digits", pt.Digits(individual_digits=True), 3),
        ("punctuation", pt.Punctuation("removed"), 2),
        ("space", pt.WhitespaceSplit(), 2),
    ):
        sizes[name] = sum(len(splitter.pre_tokenize_str(f"a{c}a")) == pieces for c in points)
    return sizes


def write(path, document):
    path.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    rng = random.Random(7)
    golden = {"texts": [data.hex() for data in INPUTS], "tokenizers": {}}
    for name, make in MAKERS.items():
        tokenizer = make()
        write(folder / f"tokenizer_{name}.json", json.loads(tokenizer.to_str()))
        golden["tokenizers"][name] = golden_of(tokenizer, rng)
    write(folder / "tokenizer_golden.json", golden)
    write(folder / "tokenizer_splits.json", split_cases())
    write(folder / "tokenizer_normalizers.json", normalizer_cases())
    write(folder / "tokenizer_classes.json", {**class_sizes(), **normal_form_sums()})


if __name__ == "__main__":
    main()
