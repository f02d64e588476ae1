#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds ShadowMonitor on this host: `lab/build.sh PRESET [TARGET...]` (all targets by default).
# The binaries are in build/PRESET.

. "$(dirname "$0")/lib.sh"

preset=$1
shift
cd "$repo"
headers=$(dirname "$("$lab/headers.sh")") # for names of system calls and errors
if ! [ -e "build/$preset/build.ninja" ] ||
    ! grep -qxF "SM_LINUX_HEADERS:PATH=$headers" "build/$preset/CMakeCache.txt"; then
    step "configuring ($preset)" cmake --preset "$preset" -DSM_LINUX_HEADERS="$headers" \
        -DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
large_pages
targets=()
for target in "$@"; do targets+=(--target "$target"); done
step "building ($preset)" cmake --build --preset "$preset" -j "$(nproc)" ${targets[@]+"${targets[@]}"}
