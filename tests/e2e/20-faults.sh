#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Bad input and faults: processes that are no VMM, guests that are not Linux, outputs that
# fail, a monitor killed again and again, a stock 6.1 guest that is reset and panics while watched.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
tiny=$(mktemp -d)
for mode in 16 32 64; do
	gcc -c -DMODE=$mode -o "$tiny/tiny.o" "$here/tiny_guest.S" &&
		objcopy -O binary -j .text "$tiny/tiny.o" "$tiny/tiny$mode" || exit 1
done
run_job faults.job 6.1 "$tiny/tiny16" "$tiny/tiny32" "$tiny/tiny64"
rm -r "$tiny"
finish
