#!/bin/sh
# Quantizes a model in the ways that METHOD.md's table compares and measures each on two texts.
#
#   bench/paper_table.sh MODEL CALIBRATION WIKITEXT2_TEST C4 OUT [ROW:SEED ...]
#
# Rows: fp, paper, gptq, gptaq, paper3 (default: all of them, seeds 0 and 1). Protocol: group 64, 64
# windows of 2048 calibration tokens, perplexity at 2048 without overlap. Results: OUT/ROW.SEED.json
# (the quantization report) and OUT/ROW.SEED.{wiki,c4}.json; a line a row on stdout. A row whose results
# are there is not run again. D2QUANT names the program, THREADS the threads (default: all).
set -eu
model=$1 calibration=$2 wiki=$3 c4=$4 out=$5
shift 5
program=${D2QUANT:-build/release/d2quant}
threads=${THREADS:-0}
precision=${PRECISION:-bf16}
mkdir -p "$out"
[ $# -gt 0 ] || set -- fp:0 paper:0 gptq:0 gptaq:0 paper3:0 paper:1 gptq:1 gptaq:1 paper3:1

measure() { # NAME MODEL
  for text in wiki c4; do
    [ "$text" = wiki ] && file=$wiki || file=$c4
    [ -s "$out/$1.$text.json" ] && continue
    "$program" --device "${DEVICE:-cpu}" --threads "$threads" eval ppl "$2" --text "$file" --precision "$precision" --json >"$out/$1.$text.json.part"
    mv "$out/$1.$text.json.part" "$out/$1.$text.json"
  done
}
value() { sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" "$1" | head -n 1; }

for job in "$@"; do
  row=${job%:*} seed=${job#*:} name=${job%:*}.${job#*:}
  case $row in
    fp) measure "$name" "$model" ;;
    paper) flags="--bits 2" ;;
    paper3) flags="--bits 3" ;;
    gptq) flags="--bits 2 --method gptq --rotate none" ;;
    gptaq) flags="--bits 2 --method gptaq" ;;
    *) echo "unknown row '$row'" >&2; exit 2 ;;
  esac
  if [ "$row" != fp ]; then
    if [ ! -s "$out/$name.json" ]; then
      # shellcheck disable=SC2086
      "$program" --device "${DEVICE:-cpu}" --threads "$threads" quantize "$model" -o "$out/$name" --overwrite --preset paper --group 64 --samples 64 --seq 2048 \
        --calib "$calibration" --seed "$seed" --precision "$precision" $flags --json "$out/$name.json"
    fi
    measure "$name" "$out/$name"
    printf '%s seed %s: wiki2 %s c4 %s  %s bits/weight, %s s, peak %s bytes\n' "$row" "$seed" "$(value "$out/$name.wiki.json" perplexity)" \
      "$(value "$out/$name.c4.json" perplexity)" "$(value "$out/$name.json" bits_per_weight)" \
      "$(sed -n 's/^  "seconds": *\([0-9.]*\).*/\1/p' "$out/$name.json")" "$(value "$out/$name.json" peak_memory_bytes)"
  else
    printf 'fp: wiki2 %s c4 %s\n' "$(value "$out/$name.wiki.json" perplexity)" "$(value "$out/$name.c4.json" perplexity)"
  fi
done
