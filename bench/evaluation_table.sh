#!/bin/sh
# The paper's table: quantizes a model in every way, measures each on two texts and eight tasks, and
# prints one Markdown table.
#
#   bench/evaluation_table.sh MODEL CALIBRATION WIKITEXT2_TEST C4 DATA OUT [ROW ...]
#
# Rows (default: all): fp, rtn2, gptq2, gptaq2, gptaq_rotated2, paper2, best2, and the same with 3; or
# NAME=FLAGS. DATA holds the tasks' files (d2quant eval tasks --help). OUT gets ROW (the packed
# folder), ROW.quantize.json, ROW.json (its measurements) and table.md, table.csv. A row whose
# measurements are there is not run again, so a stopped run goes on where it was.
# D2QUANT names the program, DEVICE the device (default: cpu), THREADS the threads (default: all),
# PRECISION the products (default: bf16), SEED the seed (default: 0), LIMIT the items a task and a
# subject of MMLU (default: 0, all), WINDOWS the windows a text (default: 0, all), SAMPLES and SEQ the
# calibration (default: 64 windows of 2048), TASKS the tasks (default: all); with DROP=1 a packed
# folder is removed once measured.
set -eu
[ $# -ge 6 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }
model=$1 calibration=$2 wiki=$3 c4=$4 data=$5 out=$6
shift 6
program=${D2QUANT:-build/release/d2quant}
common="--device ${DEVICE:-cpu} --threads ${THREADS:-0}"
precision=${PRECISION:-bf16}
mkdir -p "$out"
[ $# -gt 0 ] || set -- fp rtn2 gptq2 gptaq2 gptaq_rotated2 paper2 best2 rtn3 gptq3 gptaq3 gptaq_rotated3 paper3 best3

flags_of() { # ROW
  case $1 in
    rtn[23]) echo "--preset paper --method rtn --rotate none" ;;
    gptq[23]) echo "--preset paper --method gptq --rotate none" ;;
    gptaq[23]) echo "--preset paper --method gptaq --rotate none" ;;
    gptaq_rotated[23]) echo "--preset paper --method gptaq" ;;
    paper[23]) echo "--preset paper" ;;
    best[23]) echo "--preset best" ;;
    *) echo "unknown row '$1'" >&2; return 2 ;;
  esac
}

rows=
for row in "$@"; do
  case $row in
    *=*) flags=${row#*=} row=${row%%=*} ;;
    fp) flags= ;;
    *) flags="$(flags_of "$row") --bits ${row#"${row%?}"}" ;;
  esac
  rows="$rows $row"
  [ -s "$out/$row.json" ] && continue
  measured=$model run=
  if [ "$row" != fp ]; then
    measured=$out/$row run="--run $row=$out/$row.quantize.json"
    if [ ! -e "$out/$row" ]; then
      # --force: the table shows how bad a collapsed row is.
      # shellcheck disable=SC2086
      "$program" $common quantize "$model" -o "$out/$row" --overwrite --force --group 64 --samples "${SAMPLES:-64}" \
        --seq "${SEQ:-2048}" --calib "$calibration" --seed "${SEED:-0}" --precision "$precision" $flags \
        --json "$out/$row.quantize.json" >/dev/null
    fi
  fi
  # shellcheck disable=SC2086
  "$program" $common compare "$row=$measured" $run --text "wiki2=$wiki" --text "c4=$c4" --windows "${WINDOWS:-0}" \
    --tasks "${TASKS:-all}" --data "$data" --limit "${LIMIT:-0}" --precision "$precision" --format json >"$out/$row.json.part"
  mv "$out/$row.json.part" "$out/$row.json"
  [ "${DROP:-0}" = 0 ] || [ "$row" = fp ] || rm -rf "${out:?}/$row"
done

files=
for row in $rows; do files="$files $out/$row.json"; done
# shellcheck disable=SC2086
"$program" compare $files --format csv >"$out/table.csv"
# shellcheck disable=SC2086
"$program" compare $files --format markdown >"$out/table.md"
cat "$out/table.md"
