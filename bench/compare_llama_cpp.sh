#!/usr/bin/env bash
# Speed beside llama.cpp's, on the same machine, models and threads:
#
#   bench/compare_llama_cpp.sh WORK D2QUANT SMOLLM2.gguf [prepare|measure]
#
# Builds what it needs (prepare), then measures (measure); both where neither is named.
# WORK: a folder for llama.cpp (from the source package llama-cpp-python on PyPI), the models and
# the results; what is there already is kept. D2QUANT: this program. SMOLLM2.gguf: a small model;
# the large one is random, with its tokenizer. PYTHON (default python3) needs the packages gguf and numpy.
# Prints the table of docs/performance.md; the measurements stay in WORK/results.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(realpath -m "$1"); d2quant=$(realpath "$2"); small=$(realpath "$3"); part=${4:-all}
case $part in prepare | measure | all) ;; *) echo "unknown part '$part'" >&2; exit 2 ;; esac
python=${PYTHON:-python3}; threads=${THREADS:-"1 2"}; repeats=${REPEATS:-3}
types=${TYPES:-"Q4_0 Q2_K Q2_0"}
mkdir -p "$work"

prepare() {
  if [ ! -x "$work/build/bin/llama-bench" ] || [ ! -x "$work/build/bin/llama-quantize" ]; then
    (cd "$work" && "$python" -m pip download --no-binary :all: --no-deps llama-cpp-python==0.3.36 &&
      tar xzf llama_cpp_python-*.tar.gz)
    cmake -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$work/build" -G Ninja \
      -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
      -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
    ninja -C "$work/build" llama-bench llama-quantize
  fi

  [ -f "$work/random-1b.gguf" ] ||
    "$python" tools/random_gguf.py --tokenizer-from "$small" "$work/random-1b.gguf"

  for model in 1b smol; do
    source=$small; [ $model = 1b ] && source=$work/random-1b.gguf
    for type in $types; do
      [ -f "$work/$model-$type.gguf" ] || "$work/build/bin/llama-quantize" --allow-requantize \
        "$source" "$work/$model-$type.gguf" "$type" > "$work/$model-$type.log" 2>&1
    done
  done
}

if [ "$part" != measure ]; then prepare; fi
if [ "$part" = prepare ]; then exit 0; fi

results=$work/results.jsonl; : > "$results"
record() { # model, format, threads, what, a command that prints JSON
  local key="{\"model\": \"$1\", \"format\": \"$2\", \"threads\": $3, \"what\": \"$4\", \"result\": "
  shift 4
  echo "$key$("$@" 2>/dev/null | tr -d '\n')}" >> "$results"
}
for t in $threads; do
  for model in 1b smol; do
    for type in $types; do
      record $model $type "$t" llama.cpp "$work/build/bin/llama-bench" -m "$work/$model-$type.gguf" \
        -p 512 -n 64 -t "$t" -r "$repeats" -o json
    done
    # Speed does not depend on the values, so ours are random in both shapes: sign planes of 2 and 3
    # bits, which the presets best and fast write, and uniform 2 and 4 bits; groups of 128, head and
    # embedding of 4 bits.
    shape=smollm2-135m; [ $model = 1b ] && shape=llama3.2-1b
    for format in "planes 2" "planes 3" "uniform 2" "uniform 4"; do
      ours=(--shape $shape --grid "${format% *}" --bits "${format#* }" --head-bits 4 --device cpu
        --threads "$t" --repeats "$repeats" --json)
      record $model "$format" "$t" prefill "$d2quant" bench prefill "${ours[@]}"
      record $model "$format" "$t" decode "$d2quant" bench decode "${ours[@]}" --context 1
    done
  done
done
"$python" bench/summarize_comparison.py "$results"
