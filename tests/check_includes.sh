#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Holds the folders to their dependencies: abi <- {kvm, guest, payload, src}, include <- src, and only
# include <- {cli, examples}; within src/ the order of the table below. What is in include/ needs
# nothing but itself and the C++ standard library. Prints each include that breaks it; exit 1 if
# any.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A allowed=(
    [abi]="abi"
    [guest]="abi"
    [payload]="abi payload"
    [include]="include"
    [src/base]="include src/base"
    [src/guest]="include abi src/base src/guest"
    [src/vm]="include abi src/base src/guest src/vm"
    [src/hooks]="include abi src/base src/guest src/hooks"
    [src/compartment]="include abi payload src/base src/guest src/hooks src/compartment"
    [src/events]="include abi src/base src/events"
    [src/output]="include abi src/base src/events src/output"
    [src/control]="include src/base src/vm src/control"
    [src/session]="include abi payload src/base src/guest src/vm src/hooks src/compartment src/events src/output src/control src/session"
    [src/library]="abi include src"
    [cli]="include cli"
    [examples]="include"
)

bad=0
for folder in "${!allowed[@]}"; do
    while IFS=: read -r file line include; do
        path=$(sed -E 's/^#include [<"]([^>"]*)[>"].*/\1/' <<<"$include")
        [[ $path != shadowmonitor/* ]] || path=include/$path
        [[ $path == */* || $folder == include ]] || continue
        case $include in
        *\<*) [[ $folder == include || $path == include/* ]] || continue ;;
        esac
        ok=0
        for prefix in ${allowed[$folder]}; do
            [[ $path == "$prefix"/* ]] && ok=1
        done
        # A header of the C++ standard library.
        [[ $folder != include || ! $include =~ ^#include\ \<[a-z_]+\>$ ]] || ok=1
        if ((!ok)); then
            printf '%s:%s: %s may not include %s\n' "$file" "$line" "$folder" "$path"
            bad=1
        fi
    done < <(grep -rnE '^#include [<"]' "$folder" --include='*.h' --include='*.cpp' --include='*.c' --include='*.S' || true)
done
exit $bad
