#!/usr/bin/env python3
"""Compares `d2quant eval tasks` with lm-evaluation-harness on a real LLaMA model in a GGUF file.

  compare_lm_eval.py reference MODEL.gguf DATA OUT.jsonl [--tasks A,B] [--limit N] [--device cuda]
      runs the harness's own task definitions, with transformers in f32 on the weights that MODEL stands for, on the
      files that `d2quant eval tasks --data DATA` reads; appends a line an item to OUT
  compare_lm_eval.py compare OUT.jsonl OURS.jsonl
      against what `d2quant eval tasks MODEL --items OURS.jsonl` wrote: largest difference of log-likelihoods, and the
      share of items with the same choice by acc and by acc_norm; exit code 1 when one misses its bound

Needs lm-eval, torch, transformers, gguf and numpy. Nothing is downloaded.
"""

import argparse
import glob
import json
import os
import sys

TASKS = ["piqa", "hellaswag", "arc_easy", "arc_challenge", "winogrande", "rte", "openbookqa", "mmlu"]
DEFINITIONS = {"piqa": "piqa/piqa.yaml", "hellaswag": "hellaswag/hellaswag.yaml", "arc_easy": "arc/arc_easy.yaml",
               "arc_challenge": "arc/arc_challenge.yaml", "winogrande": "winogrande/default.yaml",
               "rte": "glue/rte/default.yaml", "openbookqa": "openbookqa/openbookqa.yaml"}
MAX_DIFFERENCE = 1e-2  # of log-likelihoods, absolute
MIN_AGREEMENT = 0.995  # of choices


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def original_columns(task, record):
    """A line of our files with the columns of the data set that the harness reads."""
    if task in ("arc_easy", "arc_challenge", "openbookqa") and "gold" in record:
        labels = [chr(ord("A") + i) for i in range(len(record["choices"]))]
        question = "question_stem" if task == "openbookqa" else "question"
        return {question: record[question], "choices": {"text": record["choices"], "label": labels},
                "answerKey": labels[record["gold"]]}
    if task == "hellaswag" and "gold" in record:
        return {"query": record["query"], "choices": record["choices"], "label": record["gold"]}
    return record


def data_file(data, task, splits):
    for split in splits:
        found = sorted(glob.glob(os.path.join(data, task, f"*{split}.jsonl")))
        if found:
            return found[0]
    sys.exit(f"{data}/{task}: no *{splits[0]}.jsonl")


class Splits:
    """Replaces the harness's download: the splits of one task from local records."""

    def __init__(self, splits):
        self.splits = splits

    def __call__(self, metadata=None, **arguments):
        import datasets
        return {name: datasets.Dataset.from_list(records) for name, records in self.splits.items()}


def make_task(definition, name, splits, **changes):
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml
    root = os.path.dirname(lm_eval.tasks.__file__)
    config = dict(load_yaml(os.path.join(root, definition), resolve_func=True))
    config.update(custom_dataset=Splits(splits), training_split=None, task=name, **changes)
    for split in ("validation", "test"):
        if split not in splits:
            config[f"{split}_split"] = None
    return ConfigurableTask(config=config)


def make_tasks(task, data, limit):
    """(subject, harness task) of everything that `task` consists of."""
    if task != "mmlu":
        split = "test" if task in ("arc_easy", "arc_challenge", "openbookqa") else "validation"
        path = data_file(data, task, ["test"] if split == "test" else ["val", "validation", "valid", "dev"])
        records = [original_columns(task, record) for record in read_lines(path)[:limit]]
        changes = {"process_docs": None} if task == "hellaswag" and "query" in records[0] else {}
        return [("", make_task(DEFINITIONS[task], task, {split: records}, **changes))]
    dev = read_lines(data_file(data, task, ["dev"]))
    test = read_lines(data_file(data, task, ["test"]))
    subjects = list(dict.fromkeys(record["subject"] for record in test))
    return [(subject, make_task(f"mmlu/default/mmlu_{subject}.yaml", f"mmlu_{subject}", {
        "test": [record for record in test if record["subject"] == subject][:limit],
        "dev": [record for record in dev if record["subject"] == subject]}, num_fewshot=5)) for subject in subjects]


def load_tokenizer(reader, folder, file):
    """transformers' tokenizer of a GGUF file, with the splitting of digits that its conversion leaves out: it shows
    where several spaces stand before a digit."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    field = reader.get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in ("smollm", "starcoder", "refact", "command-r"):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


def reference(arguments):
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    import lm_eval
    from gguf import GGUFReader
    from lm_eval.models.huggingface import HFLM

    from compare_logits import load_model
    folder, file = os.path.split(os.path.abspath(arguments.model))
    reader = GGUFReader(arguments.model)
    model = HFLM(pretrained=load_model(reader).to(arguments.device), batch_size=8, device=arguments.device,
                 tokenizer=load_tokenizer(reader, folder, file))
    for task in arguments.tasks.split(","):
        for subject, harness_task in make_tasks(task, arguments.data, arguments.limit):
            name = harness_task.config.task
            results = lm_eval.evaluate(model, {name: harness_task}, limit=None, bootstrap_iters=0, log_samples=True)
            samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
            with open(arguments.out, "a", encoding="utf-8") as out:
                for sample in samples:
                    scores = [float(answer[0]) for answer in sample["filtered_resps"]]
                    line = {"task": task, "subject": subject, "index": sample["doc_id"], "log_likelihoods": scores,
                            "acc": sample["acc"]}
                    if "acc_norm" in sample:
                        line["acc_norm"] = sample["acc_norm"]
                    out.write(json.dumps(line) + "\n")


def compare(arguments):
    ours = {(line["task"], line["subject"], line["index"]): line for line in read_lines(arguments.ours)}
    rows, failed = {}, False
    for line in read_lines(arguments.reference):
        found = ours.get((line["task"], line["subject"], line["index"]))
        if found is None:
            continue
        row = rows.setdefault(line["task"], {"items": 0, "difference": 0.0, "same": 0, "same_norm": 0, "acc": 0.0,
                                             "our_acc": 0.0})
        theirs, mine = line["log_likelihoods"], found["log_likelihoods"]
        row["items"] += 1
        row["difference"] = max(row["difference"], *(abs(a - b) for a, b in zip(theirs, mine, strict=True)))
        row["same"] += theirs.index(max(theirs)) == found["chosen"]
        ours_acc = float(found["chosen"] == found["gold"])
        row["acc"] += line["acc"]
        row["our_acc"] += ours_acc
        ours_norm = float(found["chosen_norm"] == found["gold"])
        row["same_norm"] += line.get("acc_norm", ours_norm) == ours_norm
    print(f"{'task':14} {'items':>6} {'largest difference':>19} {'same choice':>12} {'same acc_norm':>14} {'acc':>7} {'ours':>7}")
    for task, row in rows.items():
        n = row["items"]
        print(f"{task:14} {n:6} {row['difference']:19.2e} {row['same'] / n:12.4f} {row['same_norm'] / n:14.4f} "
              f"{row['acc'] / n:7.4f} {row['our_acc'] / n:7.4f}")
        failed |= row["difference"] > MAX_DIFFERENCE or min(row["same"], row["same_norm"]) < MIN_AGREEMENT * n
    return 1 if failed or not rows else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("reference")
    run.add_argument("model")
    run.add_argument("data")
    run.add_argument("out")
    run.add_argument("--tasks", default=",".join(TASKS))
    run.add_argument("--limit", type=int, default=None)
    run.add_argument("--device", default="cpu", help="of torch: cpu or cuda")
    check = commands.add_parser("compare")
    check.add_argument("reference")
    check.add_argument("ours")
    arguments = parser.parse_args()
    return compare(arguments) if arguments.command == "compare" else reference(arguments)


if __name__ == "__main__":
    sys.exit(main())
