#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Thousands of changes of hooks on a running guest under load, by the public library; what the hooks
# that stay record is held against the guest's own record. GUEST and CHANGES choose another guest and
# another number.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
build=$(dirname "$(dirname "$shadowmon")")
setting changes "${CHANGES:-2000}"
run_guest_job churn.job "${GUEST:-6.12}" "$build/tests/e2e/hook_churn" "$build/examples/count_calls"
python3 -B "$here/compare_hooks.py" "$results" "$results/hooks.json" || failed=1
finish
