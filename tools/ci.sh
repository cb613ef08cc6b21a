#!/bin/sh
# Every check of the project, the slow ones too: format, both compilers, sanitizers, clang-tidy.
# `ci.sh tidy` runs one of: format gcc clang asan-ubsan tsan tidy.
set -eu
cd "$(dirname "$0")/.."

check_format() {
  find src include tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' |
    xargs clang-format --dry-run --Werror
}
check_preset() {
  cmake --preset "$1"
  cmake --build --preset "$1"
  [ "$1" = tidy ] || ctest --preset "$1"
}

[ $# -gt 0 ] || set -- format gcc clang asan-ubsan tsan tidy
for step in "$@"; do
  case $step in
    format) check_format ;;
    gcc) check_preset dev ;;
    clang | asan-ubsan | tsan | tidy) check_preset "$step" ;;
    *) echo "ci.sh: '$step' is none of format gcc clang asan-ubsan tsan tidy" >&2; exit 2 ;;
  esac
done
