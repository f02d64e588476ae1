#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Hooks that the user names, on a stock 6.12 guest: exact, many, and changed while it runs. GUEST=6.1
# does the same with that one.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
run_guest_job hooks.job "${GUEST:-6.12}"
python3 -B "$here/compare_hooks.py" "$results" "$results/hooks.json" || failed=1
python3 -B "$here/compare_modules.py" "$results" "$results/hooks.json" || failed=1
finish
