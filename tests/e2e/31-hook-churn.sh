#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Thousands of changes of hooks on a running guest under load, by the public library; what the hooks
# that stay record is held against the guest's own record. GUEST and CHANGES choose another guest and
# another number.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
version=${GUEST:-6.12}
build=$(dirname "$(dirname "$shadowmon")")
settings=$(mktemp -d)
echo "$version" >"$settings/version"
echo "${CHANGES:-2000}" >"$settings/changes"
# Two thousand changes take as long as the rest of what the lab has time for by default.
LAB_RUN_ARGS="--limit 2400 ${LAB_RUN_ARGS:-}"
run_job churn.job "$version" "$settings/version" "$settings/changes" \
	"$build/tests/e2e/hook_churn" "$build/examples/count_calls"
rm -r "$settings"
python3 -B "$here/compare_hooks.py" "$results" "$results/hooks.json" || failed=1
finish
