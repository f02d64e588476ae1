#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# clang-tidy, with the checks of .clang-tidy, over what goes into the program: `lab/tidy.sh
# [FILE...]`. Reads how build/dev compiles each file. A file that passed is not looked at again
# until it, a header, the checks or clang-tidy itself have changed.

. "$(dirname "$0")/lib.sh"

cd "$repo"
[ -e build/dev/compile_commands.json ] || die "build/dev is missing: run lab/build.sh dev"
if [ $# -eq 0 ]; then
    mapfile -t files < <(git ls-files 'payload/*.cpp' 'src/*.cpp' 'cli/*.cpp')
    set -- "${files[@]}"
fi
passed=$cache/tidy
mkdir -p "$passed"
find "$passed" -type f -mtime +30 -delete

mapfile -t headers < <(git ls-files 'abi/*.h' 'payload/*.h' 'src/*.h' 'cli/*.h')
common=$(key .clang-tidy "${headers[@]}" -- "$(package_versions clang-tidy-14)")
todo=()
for file in "$@"; do
    want=$(key "$file" -- "$common" "$file")
    if [ -e "$passed/$want" ]; then touch "$passed/$want"; else todo+=("$want" "$file"); fi
done
echo "$((${#todo[@]} / 2)) of $# files have changed since they passed"
[ ${#todo[@]} -gt 0 ] || exit 0
# shellcheck disable=SC2016 # for the inner shell
printf '%s\n' "${todo[@]}" | xargs -d '\n' -n 2 -P "$(nproc)" sh -c \
    'echo "$2" && clang-tidy-14 --quiet -p build/dev "$2" 2>&1 && : >"$0/$1" || exit 1' "$passed"
