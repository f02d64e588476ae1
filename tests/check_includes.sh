#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Holds the folders to their dependencies: abi <- {kvm, guest, payload, src}, src <- cli; within
# src/ the order of the table below. Prints each include that breaks it; exit 1 if any.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A allowed=(
    [abi]="abi"
    [guest]="abi"
    [payload]="abi payload"
    [src/base]="src/base"
    [src/guest]="abi src/base src/guest"
    [src/vm]="abi src/base src/guest src/vm"
    [src/hooks]="abi src/base src/guest src/hooks"
    [src/compartment]="abi payload src/base src/guest src/hooks src/compartment"
    [src/events]="abi src/base src/events"
    [src/output]="abi src/base src/events src/output"
    [src/control]="src/base src/vm src/control"
    [src/session]="abi payload src/base src/guest src/vm src/hooks src/compartment src/events src/output src/control src/session"
    [cli]="abi src cli"
)

bad=0
for folder in "${!allowed[@]}"; do
    while IFS=: read -r file line include; do
        path=${include#*\"}
        path=${path%%\"*}
        [[ $path == */* ]] || continue
        ok=0
        for prefix in ${allowed[$folder]}; do
            [[ $path == "$prefix"/* ]] && ok=1
        done
        if ((!ok)); then
            printf '%s:%s: %s may not include %s\n' "$file" "$line" "$folder" "$path"
            bad=1
        fi
    done < <(grep -rnE '^#include "' "$folder" --include='*.h' --include='*.cpp' --include='*.c' --include='*.S' || true)
done
exit $bad
