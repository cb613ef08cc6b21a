#!/bin/sh
# Quantizes a model in the ways that METHOD.md's tables compare and measures each on two texts.
#
#   bench/paper_table.sh MODEL CALIBRATION WIKITEXT2_TEST C4 OUT [ROW:SEED ...]
#
# Rows: fp, paper, gptq, gptaq, paper3, best, best128, best3, fast (default: fp to paper3, seeds 0 and
# 1), or NAME=FLAGS for any others, as 'half=--preset best --alpha 0.5:0'. Protocol: group 64 unless
# the flags say otherwise, 64 windows of 2048 calibration tokens, perplexity at 2048 without overlap.
# Results: OUT/ROW.SEED.json (the quantization report) and OUT/ROW.SEED.{wiki,c4}.json; a line a row
# on stdout. A row whose results are there is not run again. D2QUANT names the program, THREADS the
# threads (default: all), DEVICE the device (default: cpu); with DROP=1 the packed folders are removed
# once measured.
set -eu
model=$1 calibration=$2 wiki=$3 c4=$4 out=$5
shift 5
program=${D2QUANT:-build/release/d2quant}
threads=${THREADS:-0}
device=${DEVICE:-cpu}
precision=${PRECISION:-bf16}
mkdir -p "$out"
[ $# -gt 0 ] || set -- fp:0 paper:0 gptq:0 gptaq:0 paper3:0 paper:1 gptq:1 gptaq:1 paper3:1

measure() { # NAME MODEL
  for text in wiki c4; do
    [ "$text" = wiki ] && file=$wiki || file=$c4
    [ -s "$out/$1.$text.json" ] && continue
    "$program" --device "$device" --threads "$threads" eval ppl "$2" --text "$file" --precision "$precision" --json >"$out/$1.$text.json.part"
    mv "$out/$1.$text.json.part" "$out/$1.$text.json"
  done
}
value() { sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" "$1" | head -n 1; }

for job in "$@"; do
  row=${job%:*} seed=${job##*:}
  case $row in
    fp) flags= ;;
    paper) flags="--preset paper --bits 2" ;;
    paper3) flags="--preset paper --bits 3" ;;
    gptq) flags="--preset paper --bits 2 --method gptq --rotate none" ;;
    gptaq) flags="--preset paper --bits 2 --method gptaq" ;;
    best) flags="--preset best --bits 2" ;;
    best128) flags="--preset best --bits 2 --group 128" ;;
    best3) flags="--preset best --bits 3" ;;
    fast) flags="--preset fast --bits 2" ;;
    *=*) flags=${row#*=} row=${row%%=*} ;;
    *) echo "unknown row '$row'" >&2; exit 2 ;;
  esac
  name=$row.$seed
  if [ "$row" = fp ]; then
    measure "$name" "$model"
    printf 'fp: wiki2 %s c4 %s\n' "$(value "$out/$name.wiki.json" perplexity)" "$(value "$out/$name.c4.json" perplexity)"
    continue
  fi
  case $flags in *--group*) group= ;; *) group="--group 64" ;; esac
  case $flags in *--samples* | *fast*) windows= ;; *) windows="--samples 64 --seq 2048" ;; esac
  if [ ! -s "$out/$name.json" ]; then
    # shellcheck disable=SC2086
    "$program" --device "$device" --threads "$threads" quantize "$model" -o "$out/$name" --overwrite $group $windows \
      --calib "$calibration" --seed "$seed" --precision "$precision" $flags --json "$out/$name.json" >/dev/null
  fi
  measure "$name" "$out/$name"
  [ "${DROP:-0}" = 0 ] || rm -rf "${out:?}/$name"
  printf '%s seed %s: wiki2 %s c4 %s  %s bits/weight, %s s, peak %s bytes\n' "$row" "$seed" "$(value "$out/$name.wiki.json" perplexity)" \
    "$(value "$out/$name.c4.json" perplexity)" "$(value "$out/$name.json" bits_per_weight)" \
    "$(sed -n 's/^  "seconds": *\([0-9.]*\).*/\1/p' "$out/$name.json")" "$(value "$out/$name.json" peak_memory_bytes)"
done
