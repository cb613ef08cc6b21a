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
trap 'rm -rf "$work"' EXIT

fail() {
  echo "end to end: $*" >&2
  exit 1
}
quantize() { # OUT THREADS [MORE...]
  "$d2quant" quantize "$model" -o "$1" --threads "$2" --bits 2 --group 64 --calib "$calibration" \
    --samples 8 --seq 256 "${@:3}" >/dev/null
}
perplexity() {
  "$d2quant" eval ppl "$1" --text "$evaluation" --ctx 256 --windows 16 --json |
    sed -n 's/.*"perplexity": \([0-9.e+]*\).*/\1/p'
}
holds() { awk "BEGIN { exit !($1) }"; }

# The comparisons quantize the first three blocks alone, to take seconds instead of minutes.
rest=(--keep 'layers\.([3-9]|[12][0-9])\.')
echo "end to end: two threads, then one thread, then killed and resumed; all three must be equal"
quantize "$work/two" 2 "${rest[@]}"
quantize "$work/one" 1 "${rest[@]}"
quantize "$work/killed" 2 "${rest[@]}" &
process=$!
# Killed as soon as the first blocks are on disk, wherever it is then.
until [ "$(find "$work/killed.partial" -type f 2>/dev/null | wc -l)" -ge 3 ]; do
  kill -0 $process 2>/dev/null || fail "the run that was to be killed ended by itself"
  sleep 0.2
done
kill -9 $process
wait $process 2>/dev/null || true
[ ! -e "$work/killed" ] || fail "a killed run left a folder under the final name"
quantize "$work/killed" 2 "${rest[@]}" --resume
for other in one killed; do
  for file in "$work"/two/*; do
    case $file in */d2quant.json) continue ;; esac # it holds the run's times
    cmp "$file" "$work/$other/$(basename "$file")" || fail "$other: $(basename "$file") differs"
  done
done

quantize "$work/packed" 2
original=$(perplexity "$model")
packed=$(perplexity "$work/packed")
echo "end to end: perplexity $original, at 2 bits $packed"
holds "$packed > $original" || fail "2 bits cannot be better than the original"
holds "$packed < 12 * $original" || fail "2 bits lost too much"

D2Q_TEST_MODEL=$work/packed "$build/tests/d2q_packed_test" --gtest_brief=1 ||
  fail "packed and dequantized weights disagree"
"$d2quant" run "$work/packed" -p "The capital of France is" -n 8 --temp 0 || fail "run failed"
echo "end to end: done"
