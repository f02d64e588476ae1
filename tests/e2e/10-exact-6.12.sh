#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Everything a stock 6.12 guest does between two marks is seen exactly, interrupts with their
# handlers and how long they took as well; nothing is lost, and the guest is afterwards what it was
# before.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
run_exact 6.12
finish
