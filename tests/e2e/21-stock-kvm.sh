#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A host whose KVM is Linux' own, without the extension: shadowmon says so and leaves the VM alone.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
built=$("$root/lab/kernel.sh") && stock=$("$here/stock_kvm.sh") || exit 1
made=$(mktemp -d)
mkdir -p "$made/kernel/modules"
ln -s "$built"/kernel.{img,end} "$made/kernel/"
ln -s "$built/modules/irqbypass.ko" "$stock"/*.ko "$made/kernel/modules/"
gcc -c -DMODE=64 -o "$made/tiny.o" "$here/tiny_guest.S" &&
	objcopy -O binary -j .text "$made/tiny.o" "$made/tiny64" || exit 1
LAB_RUN_ARGS="${LAB_RUN_ARGS:-} --kernel $made/kernel" run_job stock-kvm.job 6.12 "$made/tiny64"
rm -r "$made"
finish
