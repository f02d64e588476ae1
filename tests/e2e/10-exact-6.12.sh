#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Everything a stock 6.12 guest does between two marks is seen exactly, nothing is lost, and
# the guest is afterwards what it was before.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
version=$(basename "$0" .sh)
version=${version##*-}
settings=$(mktemp -d)
echo "$version" >"$settings/version"
run_job exact.job "$version" "$settings/version"
rm -r "$settings"
python3 -B "$here/compare.py" "$results" "$results/events.json" |
	sed -E "s/^(ok|not ok) (.*)/\1 \2_$version/"
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
finish
