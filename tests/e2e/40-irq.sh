#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Every interrupt of a stock 6.12 guest is seen as its own tracepoints see it, with its handler and
# how long it took. GUEST=6.1 does the same with that one.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
run_job irq.job "${GUEST:-6.12}"
python3 -B "$here/compare_irq.py" "$results" "$results/events.json" || failed=1
finish
