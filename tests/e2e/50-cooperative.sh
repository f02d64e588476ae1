#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The paper's cooperative mode: the same as 10-exact-6.12.sh, in a range that a module in the guest
# has reserved and offered by a hypercall. GUEST=6.1 does the same with that one.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
run_exact "${GUEST:-6.12}" guest
finish
