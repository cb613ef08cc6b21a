#!/bin/sh
# Checks the CUDA device on a machine with a GPU, in less than ten minutes:
#   gpu_check.sh BUILD MODEL CALIBRATION.txt EVALUATION.txt
# BUILD holds d2quant and d2q_kernels_test, built with -DD2Q_CUDA=ON; MODEL is a small one. A line for
# each step: PASS, FAIL or SKIP, the step, its seconds. Logs stay in BUILD/gpu_check.
set -u
[ $# -eq 4 ] || { echo "usage: $0 BUILD MODEL CALIBRATION.txt EVALUATION.txt" >&2; exit 2; }
build=$1 model=$2 calibration=$3 evaluation=$4
logs=$build/gpu_check
mkdir -p "$logs"
failed=0

report() { # STATUS STEP SECONDS [REMARK]
  printf '%-4s  %-46s %5s s  %s\n' "$1" "$2" "$3" "${4:-}"
  if [ "$1" = FAIL ]; then failed=1; fi
}

# step NAME LIMIT COMMAND...: passes when the command does within LIMIT seconds.
step() {
  name=$1 limit=$2
  shift 2
  log=$logs/$(echo "$name" | tr -c 'a-z0-9\n' '_').log
  begin=$(date +%s)
  timeout "$limit" "$@" >"$log" 2>&1
  code=$?
  seconds=$(($(date +%s) - begin))
  if [ $code -eq 0 ] && grep -q 'SKIPPED' "$log"; then
    report FAIL "$name" $seconds "skipped: $(grep -m 1 'no usable GPU' "$log")"
  elif [ $code -eq 0 ]; then
    report PASS "$name" $seconds
  elif [ $code -eq 124 ]; then
    report FAIL "$name" $seconds "stopped after $limit s, see $log"
  else
    report FAIL "$name" $seconds "exit code $code, see $log"
    grep -E '^\[  FAILED|Invalid|Race|error:' "$log" | sort -u | head -n 8 | sed 's/^/      /'
  fi
  return $code
}

# sanitize TOOL LIMIT FILTER: the kernels' tests under one of compute-sanitizer's tools.
sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    report SKIP "$1" 0 "no compute-sanitizer"
    return
  fi
  step "$1" "$2" compute-sanitizer --tool "$1" --error-exitcode 9 \
    "$build/d2q_kernels_test" --gtest_filter="$3"
}

perplexity() { # NAME DEVICE PRECISION MODEL; prints the number
  step_log=$logs/ppl_$1.json
  timeout 120 "$build/d2quant" --device "$2" eval ppl "$4" --text "$evaluation" --ctx 512 \
    --windows 8 --precision "$3" --json >"$step_log" 2>"$step_log.err"
  sed -n 's/.*"perplexity": \([0-9.e+]*\).*/\1/p' "$step_log"
}

# agree NAME EXPECTED FOUND PERCENT
agree() {
  if [ -z "$2" ] || [ -z "$3" ]; then
    report FAIL "$1" - "a perplexity is missing, see $logs"
  elif awk "BEGIN { d = $3 / $2 - 1; exit !(d < $4 / 100 && d > -$4 / 100) }"; then
    report PASS "$1" - "cpu $2, cuda $3"
  else
    report FAIL "$1" - "cpu $2, cuda $3, more than $4 % apart"
  fi
}

"$build/d2quant" info | grep '^cuda'
step 'a gpu is found' 60 sh -c "'$build/d2quant' info --json | tr -d ' \n' |
  grep -q '\"cuda\":{\"available\":true'" || exit 1
step 'kernels against the cpu' 150 "$build/d2q_kernels_test" --gtest_filter='Cuda*'
gradients='CudaGradients.of_attention_share*:CudaGradients.squared*:CudaGradients.of_a_norm*'
sanitize memcheck 120 "$gradients:CudaGradients.of_scales*:CudaForward.*:CudaAttention.shares*:CudaAttention.masks*:CudaDecode.gates*:CudaDecode.attention*:CudaLinear.packed_codes*:CudaLinear.dense*:CudaSolver.*"
sanitize racecheck 90 "$gradients:CudaForward.norms*:CudaForward.mirror*:CudaForward.cross*:CudaAttention.shares*:CudaLinear.packed_codes*:CudaSolver.Walks*"

dense=$(perplexity dense_cpu cpu f32 "$model")
agree 'perplexity of the model, f32' "$dense" "$(perplexity dense_f32 cuda f32 "$model")" 0.02
agree 'perplexity of the model, bf16' "$dense" "$(perplexity dense_bf16 cuda bf16 "$model")" 1
for device in cpu cuda; do
  step "quantize to 2 bits on $device" 150 "$build/d2quant" --device "$device" quantize "$model" \
    -o "$logs/2bit-$device" --bits 2 --group 64 --calib "$calibration" --preset fast \
    --samples 8 --seq 512 --precision f32 --overwrite
done
# The same folder on both devices, then each device's own work from end to end: codes at ties differ,
# and 8 windows of 512 tokens make much of a few codes.
packed=$(perplexity packed_cpu cpu f32 "$logs/2bit-cpu")
agree 'perplexity of the packed model' "$packed" \
  "$(perplexity packed_cuda cuda f32 "$logs/2bit-cpu")" 0.1
agree 'perplexity of what each device quantized' "$packed" \
  "$(perplexity own_cuda cuda f32 "$logs/2bit-cuda")" 10
step 'decoding a well-known shape' 60 "$build/d2quant" --device cuda bench decode \
  --shape smollm2-135m --steps 16
step 'text from the packed model' 60 "$build/d2quant" --device cuda run "$logs/2bit-cuda" \
  -p 'The sea is' -n 40 --temp 0
exit $failed
