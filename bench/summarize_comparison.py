#!/usr/bin/env python3
"""The table of bench/compare_llama_cpp.sh from its results.jsonl."""
import json
import sys


def main():
    rows = {}
    for line in open(sys.argv[1]):
        entry = json.loads(line)
        row = rows.setdefault((entry["model"], entry["threads"], entry["format"]), {})
        result = entry["result"]
        if entry["what"] == "llama.cpp":
            for test in result:
                row["prefill" if test["n_prompt"] else "decode"] = test["avg_ts"], test["stddev_ts"]
                row["bytes"] = test["model_size"]
        else:
            result = result.get("generating", result)
            rate = result["tokens_per_second"]
            row[entry["what"]] = rate["median"], rate["deviation"]
            if entry["what"] == "decode":
                row["bytes"] = result["bytes_per_token"]
                row["share"] = result["bytes_per_second"] / result["read_bytes_per_second"]["median"]
    print("| model | threads | format | MB a token | prefill 512, tokens/s | decode 64, tokens/s |"
          " of a read loop |")
    print("|---|---|---|---|---|---|---|")
    for (model, threads, name), row in rows.items():
        share = f"{100 * row['share']:.0f}%" if "share" in row else ""
        cells = ["{:.1f} ± {:.1f}".format(*row[what]) if what in row else ""
                 for what in ("prefill", "decode")]
        print(f"| {model} | {threads} | {name} | {row['bytes'] / 1e6:.0f} | {cells[0]} | {cells[1]} |"
              f" {share} |")


if __name__ == "__main__":
    main()
