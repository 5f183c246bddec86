#!/usr/bin/env bash
# Sees to a headless Chromium, in which tests look at the page of `gen3r view`. Where there is none and it cannot be
# installed, those tests are skipped. As root on Debian it is installed: about 100 MB to load (with what it needs of its
# own), and 300 MB on disk.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh

for name in chromium-headless-shell chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
install_debian_packages chromium-headless-shell || say "without Chromium, the tests that look at pages are skipped"
