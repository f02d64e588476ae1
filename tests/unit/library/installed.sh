#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: installed.sh CMAKE BUILD-DIR EXAMPLES-DIR COMPILER [CXX-FLAGS]
#
# Installs a build to a fresh prefix and builds the examples against that, outside of the project.
set -euo pipefail
cmake=$1 build=$2 examples=$3 compiler=$4 flags=${5:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$cmake" --install "$build" --prefix "$work/prefix" >/dev/null
# A copy, so that nothing of the project is found beside it.
cp -r "$examples" "$work/examples"
"$cmake" -S "$work/examples" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" \
    -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS="-Wall -Wextra -Werror $flags" >/dev/null
"$cmake" --build "$work/build"
grep -q "^shadowmonitor_DIR:PATH=$work/prefix/" "$work/build/CMakeCache.txt"

"$work/prefix/bin/shadowmon" --version
# Above any pid that the kernel gives out.
status=0
said=$("$work/build/count_calls" 4194305 vfs_read 2>&1) || status=$?
echo "$said"
[[ $status -eq 1 && $said == *"there is no process 4194305"* ]]

# Each header stands by itself: compiled without flags, and so the same for every build.
[ -z "$flags" ] || exit 0
for header in "$work"/prefix/include/shadowmonitor/*.h; do
    echo "#include <shadowmonitor/$(basename "$header")>" |
        "$compiler" -std=c++20 -Wall -Wextra -Werror -fsyntax-only -I "$work/prefix/include" -x c++ -
done
