#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: run_fuzz.sh FUZZER SEEDS [OPTION...]
# Fuzzes for SM_FUZZ_SECONDS (20), beginning with SEEDS and with what was found before: that is kept
# in the cache, so that every clone goes on where another has stopped. OPTIONs are libFuzzer's.
set -eu
fuzzer=$1 seeds=$2
shift 2
folder=${XDG_CACHE_HOME:-$HOME/.cache}/shadowmonitor/fuzz/$(basename "$fuzzer")
mkdir -p "$folder/corpus"
# Its own status for a crash is 77, which ctest takes for a test that was skipped.
exec "$fuzzer" -max_total_time="${SM_FUZZ_SECONDS:-20}" -error_exitcode=1 -rss_limit_mb=1024 \
    -print_final_stats=1 -verbosity=1 -artifact_prefix="$folder/found." "$@" "$folder/corpus" "$seeds"
