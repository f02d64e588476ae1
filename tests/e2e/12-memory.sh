#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A stock 6.1 guest of one vCPU, without KASLR, whose symbols become a System.map; and one of four
# vCPUs with 6 GiB of memory, half of it and all of the kernel above 4 GiB, with that System.map as a
# check of its symbols.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
results_of_both=$results
results=$results_of_both/one_vcpu
guest_settings='GUEST_CPUS=1 GUEST_APPEND=nokaslr'
run_guest_job one_vcpu.job 6.1
compare_records one_vcpu
system_map=$results/System.map

results=$results_of_both/6_gib
guest_settings='GUEST_CPUS=4 GUEST_MEMORY=6144'
run_guest_job six_gib.job 6.1 "$system_map"
compare_records 6_gib
finish
