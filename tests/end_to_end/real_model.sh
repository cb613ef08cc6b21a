#!/bin/bash
# A real model from end to end: real_model.sh BUILD_FOLDER MODEL.gguf CALIBRATION.txt EVALUATION.txt
# Bounds are wide: they catch a broken step, not a small loss of quality (docs/results.md measures that).
set -euo pipefail
build=$(realpath "$1")
model=$(realpath "$2")
calibration=$(realpath "$3")
evaluation=$(realpath "$4")
d2quant=$build/d2quant
work=$(mktemp -d)
process=
finish() {
  if [ -n "$process" ]; then kill -9 "$process" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap finish EXIT

fail() {
  echo "end to end: $*" >&2
  exit 1
}
say() { echo "end to end, ${SECONDS} s: $*"; }
options=(--bits 2 --group 64 --calib "$calibration" --seed 1)
quantize() { # OUT THREADS [MORE...]
  "$d2quant" quantize "$model" -o "$1" --threads "$2" "${options[@]}" "${@:3}" >/dev/null
}
perplexity() { # MODEL [MORE...]
  "$d2quant" eval ppl "$1" --text "$evaluation" --ctx 512 --json "${@:2}" |
    sed -n 's/.*"perplexity": \([0-9.e+]*\).*/\1/p'
}
holds() { awk "BEGIN { exit !($1) }"; }

# The comparisons quantize the first blocks alone, to take seconds instead of minutes.
part=(--preset paper --samples 4 --seq 256 --keep 'layers\.([4-9]|[12][0-9])\.')
# The folders have one name in three places: the model card is headed with it.
mkdir "$work/two" "$work/one" "$work/killed"
say "two threads, then one thread, then killed and resumed; all three must be equal"
quantize "$work/two/model" 2 "${part[@]}"
quantize "$work/one/model" 1 "${part[@]}"
# Not through the function: its subshell would be killed instead of the program.
"$d2quant" quantize "$model" -o "$work/killed/model" --threads 2 "${options[@]}" "${part[@]}" >/dev/null &
process=$!
# Killed inside a block, with two blocks on disk at least, wherever it is then.
until [ "$(find "$work/killed/model.partial" -name 'model-*.safetensors' 2>/dev/null | wc -l)" -ge 2 ]; do
  kill -0 $process 2>/dev/null || fail "the run that was to be killed ended by itself"
  sleep 0.05
done
kill -9 $process
wait $process 2>/dev/null || true
process=
[ ! -e "$work/killed/model" ] || fail "a killed run left a folder under the final name"
quantize "$work/killed/model" 2 "${part[@]}" --resume
for other in one killed; do
  diff <(ls "$work/two/model") <(ls "$work/$other/model") || fail "$other: other files"
  for file in "$work"/two/model/*; do
    cmp "$file" "$work/$other/model/$(basename "$file")" || fail "$other: $(basename "$file") differs"
  done
done

say "the whole model at 2 bits"
quantize "$work/packed" 2 --samples 16 --seq 512 --tune 4 --end-tune 4
original=$(perplexity "$model" --windows 16)
packed=$(perplexity "$work/packed" --windows 16)
say "perplexity $original, at 2 bits $packed"
holds "$packed > $original" || fail "2 bits cannot be better than the original"
holds "$packed < 8 * $original" || fail "2 bits lost too much"

say "packed weights against dequantized ones, and the fastest kernels against scalar ones"
D2Q_TEST_MODEL=$work/packed D2Q_TEST_TEXT=$evaluation "$build/tests/d2q_packed_test" --gtest_brief=1 ||
  fail "packed and dequantized weights disagree"
fastest=$(perplexity "$work/packed" --windows 1)
scalar=$(perplexity "$work/packed" --windows 1 --isa scalar)
holds "($fastest - $scalar)^2 < (0.001 * $scalar)^2" || fail "perplexity $fastest, with scalar kernels $scalar"
"$d2quant" run "$work/packed" -p "The capital of France is" -n 8 --temp 0 || fail "run failed"
say "done"
