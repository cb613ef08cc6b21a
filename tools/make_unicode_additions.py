#!/usr/bin/env python3
"""Writes src/text/unicode_additions.inc: how the character classes of PyPI's `tokenizers` differ
from Unicode 14, the version that Debian 12's PCRE2 knows (utf8proc there knows 15), and which
characters its normal forms know.

Needs `tokenizers` and a Python whose unicodedata is version 14 (3.11).
Usage: make_unicode_additions.py OUTPUT
"""

import sys
import unicodedata

from tokenizers import Regex, normalizers
from tokenizers import pre_tokenizers as pt

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORIES = ["L", "Lu", "Ll", "Lm", "Lo", "N", "Nd", "M", "P", "S"]
PER_LINE = 4


def members(pattern):
    """Code points that match a one-character pattern."""
    kept = set()
    splitter = pt.Split(Regex(pattern), "removed")
    for start in range(0, len(CODE_POINTS), 4096):
        text = "".join(map(chr, CODE_POINTS[start : start + 4096]))
        for word, _ in splitter.pre_tokenize_str(text):
            kept.update(map(ord, word))
    return {c for c in CODE_POINTS if c not in kept}


def cut_out(splitter, pieces):
    """Code points at which a pre-tokenizer cuts "a?a" into `pieces`."""
    return {c for c in CODE_POINTS if len(splitter.pre_tokenize_str("a" + chr(c) + "a")) == pieces}


def category(prefix):
    return {c for c in CODE_POINTS if unicodedata.category(chr(c)).startswith(prefix)}


def to_ranges(code_points):
    ranges = []
    for c in sorted(code_points):
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    return ranges


def write(out, name, code_points):
    ranges = to_ranges(code_points)
    out.write(f"constexpr CodePointRange k{name}[] = {{\n")
    for start in range(0, len(ranges), PER_LINE):
        row = ", ".join(f"{{0x{a:X}, 0x{b:X}}}" for a, b in ranges[start : start + PER_LINE])
        out.write(f"    {row},\n")
    out.write("};\n")


def write_lower_case(out):
    lower = normalizers.Lowercase()
    out.write("constexpr LowerCase kLowerCaseAdditions[] = {\n")
    for c in CODE_POINTS:
        new = lower.normalize_str(chr(c))
        if len(new) == 1 and new != chr(c).lower():
            out.write(f"    {{0x{c:X}, 0x{ord(new):X}}},\n")
    out.write("};\n")


def normalizing():
    """Code points above ASCII that a normal form may change, reorder or join: those that decompose, what they
    decompose to, and marks. The tables of `tokenizers` are of Unicode 9: to it what came later is nothing special."""
    canonical, compatible = normalizers.NFD(), normalizers.NFKD()
    kept = set()
    for c in CODE_POINTS[128:]:
        if compatible.normalize_str(chr(c)) != chr(c):
            kept.add(c)
            kept.update(map(ord, canonical.normalize_str(chr(c))))
        # Marks of a class above 1 move behind one of class 1, those of class 1 before one of class 220.
        elif canonical.normalize_str(f"a{chr(c)}\u0334") != f"a{chr(c)}\u0334" or (
            canonical.normalize_str(f"a\u0323{chr(c)}") != f"a\u0323{chr(c)}"
        ):
            kept.add(c)
    return {c for c in kept if c >= 128}


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"unicodedata is {unicodedata.unidata_version}; this needs 14.0.0 (Python 3.11)")
    with open(sys.argv[1], "w") as out:
        out.write("// Made by tools/make_unicode_additions.py: tables of all categories together, nothing to read or edit.\n")
        for name in CATEGORIES:
            new = members(rf"\p{{{name}}}")
            old = category(name)
            if old - new:
                sys.exit(f"{name} lost members: the tables can only add")
            write(out, f"Additions{name}", new - old)
        write(out, "AdditionsHan", members(r"\p{Han}"))
        numeric = cut_out(pt.Digits(individual_digits=True), 3)
        write(out, "NumericAdditions", numeric - members(r"\p{N}"))
        ascii_symbols = set(map(ord, "$+<=>^`|~"))
        punctuation = cut_out(pt.Punctuation("removed"), 2)
        write(out, "PunctuationExtra", punctuation - category("P") - ascii_symbols)
        write(out, "PunctuationMissing", members(r"\p{P}") - punctuation)
        write(out, "Normalizing", normalizing())
        write_lower_case(out)


if __name__ == "__main__":
    main()
