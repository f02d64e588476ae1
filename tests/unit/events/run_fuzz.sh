#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: run_fuzz.sh FUZZER CORPUS SEEDER SECONDS
# Runs a libFuzzer target on a corpus that is kept from run to run, started by SEEDER.
set -eu
fuzzer=$1 corpus=$2 seeder=$3 seconds=$4
mkdir -p "$corpus"
"$seeder" "$corpus"
exec "$fuzzer" -max_total_time="$seconds" -max_len=13000 -timeout=5 -rss_limit_mb=1024 \
    -print_final_stats=1 -artifact_prefix="$corpus.found." -verbosity=1 "$corpus"
