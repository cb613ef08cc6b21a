#!/bin/sh
# Quantizes a small real model to 3 and to 2 bits, then shows what that cost: demo.sh D2QUANT
# Calibration and evaluation texts are different ones. Few samples: minutes, not the best quality.
set -eu
d2quant=$(realpath "$1")
cd "$(dirname "$0")/.."

model=$(sh tools/fetch_small_model.sh)
sh tools/fetch_texts.sh
# `auto` of eval is f32, the reference; this shows differences far above bf16's rounding.
precision=f32
"$d2quant" info | grep -q 'faster in bf16' && precision=bf16
ppl() {
  "$d2quant" eval ppl "$1" --text .models/evaluation.txt --ctx 1024 --windows 16 \
    --precision $precision --json | sed -n 's/.*"perplexity": \([0-9.]*\).*/\1/p'
}

for bits in 3 2; do
  echo "Quantizing to $bits bits ..."
  "$d2quant" quantize "$model" -o ".models/demo-${bits}bit" --bits $bits --group 64 \
    --calib .models/calibration.txt --preset fast --samples 8 --seq 1024 --overwrite
done

echo "Measuring perplexity ..."
original=$(ppl "$model")
three=$(ppl .models/demo-3bit)
two=$(ppl .models/demo-2bit)
size() { du -sk --apparent-size "$1" | cut -f 1; }
echo
echo "model          kB on disk   perplexity"
printf 'original       %10s   %10.2f\n' "$(size "$model")" "$original"
printf '3 bits         %10s   %10.2f\n' "$(size .models/demo-3bit)" "$three"
printf '2 bits         %10s   %10.2f\n' "$(size .models/demo-2bit)" "$two"

prompt='The three most important things that we know about the sea are'
for folder in "$model" .models/demo-3bit .models/demo-2bit; do
  echo
  echo "--- $folder: $prompt"
  "$d2quant" run "$folder" -p "$prompt" -n 60 --temp 0.7 --repeat-penalty 1.1 --seed 1
done
