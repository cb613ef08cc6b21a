#!/bin/sh
# Installs the Debian packages that are missing: install_dependencies.sh [build|demo]...
# docs/dependencies.md says what each is for. Does nothing, and needs no rights, when all are there.
set -eu

build='g++ make cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev
  libutf8proc-dev libxxhash-dev libopenblas-dev liblapacke-dev libdnnl-dev ocl-icd-opencl-dev libgtest-dev libgmock-dev'
demo='python3-pip ca-certificates gzip'

wanted=
for set in "${@:-build}"; do
  case $set in
    build) wanted="$wanted $build" ;;
    demo) wanted="$wanted $demo" ;;
    *) echo "install_dependencies.sh: '$set' is not build or demo" >&2; exit 2 ;;
  esac
done

missing=
for package in $wanted; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "missing packages; as root: apt-get install$missing" >&2
    exit 1
  }
  as_root=sudo
fi
echo "Installing:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086 # a list of names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
