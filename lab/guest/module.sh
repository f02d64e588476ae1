#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: lab/guest/module.sh PACKAGE VERSION      (of a linux-image: its name and its version)
#
# Builds the guest's module, guest/, against Debian's headers of exactly this kernel and prints
# where it is. It is kept in the cache.

. "$(dirname "$0")/../lib.sh"

headers=$("$lab/headers.sh" "${1/#linux-image-/linux-headers-}" "$2")

build() {
    local dir=$1
    mkdir "$dir/guest" "$dir/abi"
    cp "$repo"/guest/{Kbuild,shadowmon_guest.c} "$dir/guest/"
    cp "$repo"/abi/{guest_offer.h,layout.h} "$dir/abi/"
    # BTF of a module needs the kernel's own, which not all headers have.
    make -s -C "$headers" M="$dir/guest" CONFIG_DEBUG_INFO_BTF_MODULES= modules
    objcopy --strip-debug "$dir/guest/shadowmon_guest.ko" "$dir/shadowmon_guest.ko"
    rm -r "$dir/guest" "$dir/abi"
}

want=$(key "$0" "$repo"/guest/{Kbuild,shadowmon_guest.c} "$repo"/abi/{guest_offer.h,layout.h} -- \
    "$1" "$2" "$(package_versions gcc-12)")
dir=$(cached guest-module "$want" "building the guest's module for ${1#linux-image-}" build)
printf '%s\n' "$dir/shadowmon_guest.ko"
