#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: run_fuzz.sh FUZZER SEEDER FOLDER
# Fuzzes for SM_FUZZ_SECONDS (20); what was found interesting stays in FOLDER for the next run.
set -eu
fuzzer=$1 seeder=$2 folder=$3
mkdir -p "$folder/corpus"
"$seeder" "$folder/seeds"
exec "$fuzzer" -max_total_time="${SM_FUZZ_SECONDS:-20}" -max_len=512 -timeout=10 \
    -rss_limit_mb=1024 -error_exitcode=1 -print_final_stats=1 -verbosity=1 \
    -artifact_prefix="$folder/found." "$folder/corpus" "$folder/seeds"
