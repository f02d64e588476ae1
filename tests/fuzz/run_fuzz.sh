#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# run_fuzz.sh TARGET BINARY MAKE_SEEDS FOLDER: fuzzes for SM_FUZZ_SECONDS (20) from seeds
# made of SM_GUEST_IMAGE; what was found interesting stays in FOLDER for the next run.
# libFuzzer's own status for a crash is 77, which ctest takes for a test that was skipped.
set -euo pipefail
target=$1 binary=$2 make_seeds=$3 folder=$4
mkdir -p "$folder/corpus" "$folder/found"
"$make_seeds" "$folder/seeds"
exec "$binary" -max_total_time="${SM_FUZZ_SECONDS:-20}" -timeout=20 -rss_limit_mb=2048 \
    -error_exitcode=1 -max_len=20000 -print_final_stats=1 -verbosity=1 -artifact_prefix="$folder/found/" \
    "$folder/corpus" "$folder/seeds/$target"
