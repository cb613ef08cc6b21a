#!/bin/sh
# Encoding speed of one thread beside PyPI's tokenizers, by processor time, ids compared on the way:
#   bench/tokenizers.sh PYTHON D2Q_TOKENIZE FOLDER MODEL.gguf TEXT...
# TEXT is English, taken as it is: repeating it would flatter caches of words. FOLDER gets the tokenizers that
# are trained on it; those that are there already are kept. MODEL.gguf: a real vocabulary, or - for none.
set -eu
python=$1 program=$2 folder=$3 model=$4
shift 4
tools=$(dirname "$0")/../tools
mkdir -p "$folder"
cat "$@" > "$folder/english.txt"
"$python" "$tools/compare_tokenizers.py" --program "$program" --train "$folder" --repeats 3 "$folder/english.txt"
if [ "$model" != - ]; then
  "$python" "$tools/compare_tokenizers.py" --program "$program" --model "$model" --repeats 3 "$folder/english.txt"
fi
