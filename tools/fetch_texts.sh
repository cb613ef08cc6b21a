#!/bin/sh
# Makes two different English texts from Debian packages, without installing them:
# .models/calibration.txt (the Jargon File) and .models/evaluation.txt (quotations).
set -eu
cd "$(dirname "$0")/.."

[ -f .models/calibration.txt ] && [ -f .models/evaluation.txt ] && exit 0
work=$PWD/.models/texts.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root dict-jargon fortunes >/dev/null)
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work"; done
# A dictionary file is gzip; entries are indented and separated by blank lines.
gzip -dc <"$work"/usr/share/dictd/jargon.dict.dz >"$work"/jargon
(cd "$work"/usr/share/games/fortunes && cat art men-women people science wisdom work) >"$work"/quotations
sed 's/^ *//' "$work"/jargon >.models/calibration.txt
sed -e 's/^%$//' -e 's/\t/ /g' "$work"/quotations >.models/evaluation.txt
