#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The same as 10-exact-6.12.sh with a stock 6.1 guest: nothing is tied to one kernel build.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
run_exact 6.1
finish
