#!/bin/sh
# Makes two different English texts from Debian packages, without installing them:
# .models/calibration.txt (the Jargon File) and .models/evaluation.txt (quotations and verse).
set -eu
cd "$(dirname "$0")/.."

[ -f .models/calibration.txt ] && [ -f .models/evaluation.txt ] && exit 0
work=$PWD/.models/texts.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
(cd "$work" && apt-get download -qq dict-jargon fortunes >/dev/null)
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work"; done
# A dictionary file is gzip; entries are indented and separated by blank lines.
gzip -dc <"$work"/usr/share/dictd/jargon.dict.dz | sed 's/^ *//' >.models/calibration.txt
fortunes=$work/usr/share/games/fortunes
cat "$fortunes"/literature "$fortunes"/people "$fortunes"/science "$fortunes"/wisdom "$fortunes"/work |
  sed -e 's/^%$//' -e 's/\t/ /g' >.models/evaluation.txt
