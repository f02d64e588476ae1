#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A stock 6.1 guest of one vCPU, without KASLR, whose symbols become a System.map; and one of four
# vCPUs with 6 GiB of memory, half of it and all of the kernel above 4 GiB, with that System.map as a
# check of its symbols.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
run_job memory.job 6.1
results=$results/one_vcpu compare_records one_vcpu
compare_records 6_gib
finish
