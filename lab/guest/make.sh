#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: lab/guest/make.sh VERSION      (6.12 or 6.1)
#
# Makes a watched guest and prints the folder it is in (progress goes to stderr):
#   vmlinuz, release    Debian's stock cloud kernel, unmodified
#   initrd              busybox, the agent, the workload, the tests' programs and modules, and the
#                       module of the cooperative mode, for whoever loads it
#   guestctl            for level 1: drives the guest
#   start-guest         for level 1: starts it
# Every piece is kept in the cache and made again only when what went into it has changed.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
root=$(readlink -f "$here/../..")
version=$1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shadowmonitor/guest
mkdir -p "$cache"

# Small programs: the agent and guestctl with libc, the deterministic process without.
build_programs() {
	local dir=$1 program
	mkdir -p "$dir"
	gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static -s -o "$dir/agent" "$here/agent.c"
	gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static -s -o "$dir/guestctl" "$here/guestctl.c"
	for program in window zeros; do
		gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static -s -o "$dir/$program" "$root/tests/e2e/$program.c"
	done
	gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static -s -ffreestanding -nostdlib \
		-fno-stack-protector -o "$dir/deterministic" "$root/tests/e2e/deterministic.c"
	# 0x8000 is known to tests/e2e/compare.py as well.
	gcc -std=gnu11 -m32 -O2 -Wall -Wextra -Werror -static -s -ffreestanding -nostdlib -fno-pic \
		-no-pie -fno-stack-protector -Wl,--section-start=.call_stack=0x8000 \
		-o "$dir/compat32" "$root/tests/e2e/compat32.c"
}

# Drivers of the control channel, in loading order; those not there are built in.
channel_modules="drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_mmio
	drivers/char/virtio_console"

# For tests to load and unload: they need no device and no other module.
test_modules="drivers/block/brd drivers/block/loop arch/x86/kernel/msr"

# module_of KERNEL MODULE FILE: unpacked; nothing if the kernel has no such module.
module_of() {
	local file
	for file in "$1"/lib/modules/*/kernel/"$2".ko*; do
		case $file in
		*.ko) cp "$file" "$3" ;;
		*.ko.xz) xz -dc "$file" >"$3" ;;
		esac
	done
}

build_initrd() {
	local kernel=$1 programs=$2 initrd=$3 cooperative=$4 tree n=0 module
	tree=$(mktemp -d "$cache/tree.XXXXXX")
	mkdir -p "$tree"/{bin,dev,proc,sys,run,tmp,modules,test-modules,etc}
	install -m 755 /bin/busybox "$programs"/{agent,deterministic,compat32,window,zeros} "$tree/bin/"
	ln -s busybox "$tree/bin/sh"
	install -m 755 "$here/init" "$tree/init"
	install -m 755 "$here/workload.sh" "$tree/bin/workload"
	install -m 755 "$root/tests/e2e/truth.sh" "$tree/bin/truth"
	install -D -m 644 "$cooperative" "$tree/lib/modules/shadowmon_guest.ko"
	echo 'root::0:0::/:/bin/sh' >"$tree/etc/passwd"
	for module in $channel_modules; do
		module_of "$kernel" "$module" "$tree/modules/$n-${module##*/}.ko"
		n=$((n + 1))
	done
	for module in $test_modules; do
		module_of "$kernel" "$module" "$tree/test-modules/${module##*/}.ko"
	done
	# Not compressed: reading it is cheaper for an emulated machine than unpacking it.
	(cd "$tree" && find . | LC_ALL=C sort |
		cpio --quiet -o -H newc --reproducible -R 0:0) >"$initrd"
	rm -r "$tree"
}

inputs=$(cat "$0" "$here"/{init,agent.c,guestctl.c,workload.sh,start-guest,module.sh} \
	"$root"/guest/{Kbuild,shadowmon_guest.c} "$root"/abi/{guest_offer.h,layout.h} \
	"$root"/tests/e2e/{deterministic.c,compat32.c,window.c,zeros.c,raw.h,truth.sh} /bin/busybox | sha256sum | cut -c 1-16)
made=$cache/made-$inputs
if [ ! -e "$made/complete" ]; then
	rm -rf "$made"
	build_programs "$made/programs"
	touch "$made/complete"
fi

kernel=$("$here/kernel.sh" "$version")
image=$made/$(basename "$kernel")
if [ ! -e "$image/complete" ]; then
	module=$(basename "$kernel")
	module=$("$here/module.sh" "${module%%_*}" "${module#*_}")
	mkdir -p "$image"
	cp "$kernel"/boot/vmlinuz-* "$image/vmlinuz"
	basename "$kernel"/boot/vmlinuz-* | sed 's/^vmlinuz-//' >"$image/release"
	build_initrd "$kernel" "$made/programs" "$image/initrd" "$module"
	install -m 755 "$made/programs/guestctl" "$here/start-guest" "$image/"
	touch "$image/complete"
fi
echo "$image"
