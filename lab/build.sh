#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds ShadowMonitor on this host: `lab/build.sh PRESET [TARGET...]` (all targets by default).
# The binaries are in build/PRESET.

. "$(dirname "$0")/lib.sh"

preset=$1
shift
cd "$repo"
[ -e "build/$preset/build.ninja" ] || step "configuring ($preset)" cmake --preset "$preset" \
    -DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
targets=()
for target in "$@"; do targets+=(--target "$target"); done
step "building ($preset)" cmake --build --preset "$preset" ${targets[@]+"${targets[@]}"}
