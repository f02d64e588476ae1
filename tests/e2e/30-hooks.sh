#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Hooks that the user names, on a stock guest: exact, many, and changed while it runs.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
settings=$(mktemp -d)
echo 6.12 >"$settings/version"
run_job hooks.job 6.12 "$settings/version"
rm -r "$settings"
python3 -B "$here/compare_hooks.py" "$results" "$results/hooks.json" || failed=1
finish
