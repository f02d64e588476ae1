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
    { grep -rnE '^#include [<"]' "$folder" --include='*.h' --include='*.cpp' --include='*.c' --include='*.S' || true; } |
        awk -v folder="$folder" -v allowed="${allowed[$folder]}" '
        BEGIN { count = split(allowed, prefixes, " ") }
        {
            match($0, /#include [<"][^>"]*/)
            quoted = substr($0, RSTART + 9, 1) == "\""
            path = substr($0, RSTART + 10, RLENGTH - 10)
            # A header of the C++ standard library.
            if (folder == "include" && !quoted && path ~ /^[a-z_]+$/)
                next
            if (path ~ /^shadowmonitor\//)
                path = "include/" path
            if (folder != "include" && (path !~ /\// || (!quoted && path !~ /^include\//)))
                next
            for (i = 1; i <= count; i++)
                if (index(path, prefixes[i] "/") == 1)
                    next
            split($0, place, ":")
            printf "%s:%s: %s may not include %s\n", place[1], place[2], folder, path
            bad = 1
        }
        END { exit bad }' || bad=1
done
exit $bad
