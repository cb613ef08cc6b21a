#!/bin/sh
# Encoding speed of one thread beside PyPI's tokenizers, by processor time, ids compared on the way:
#   bench/tokenizers.sh PYTHON D2Q_TOKENIZE FOLDER TEXT [MODEL.gguf]
# TEXT is English; it is repeated to 12 MB. FOLDER gets the tokenizers that are trained on it.
set -eu
python=$1 program=$2 folder=$3 text=$4
tools=$(dirname "$0")/../tools
mkdir -p "$folder"
long="$folder/english.txt"
: > "$long"
while [ "$(wc -c < "$long")" -lt 12000000 ]; do cat "$text" >> "$long"; done
"$python" "$tools/compare_tokenizers.py" --program "$program" --train "$folder" --repeats 3 "$long"
if [ $# -gt 4 ]; then
  "$python" "$tools/compare_tokenizers.py" --program "$program" --model "$5" --repeats 3 "$long"
fi
