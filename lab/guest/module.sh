#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: lab/guest/module.sh PACKAGE VERSION      (of a linux-image: its name and its version)
#
# Builds the guest's module, guest/, against Debian's headers of exactly this kernel and prints
# where it is. The headers come with `apt-get download` and are unpacked, never installed. Both
# are kept in the cache.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
root=$(readlink -f "$here/../..")
headers=${1/#linux-image-/linux-headers-}
version=$2
module_sources=("$root"/guest/{Kbuild,shadowmon_guest.c})
abi_sources=("$root"/abi/{guest_offer.h,layout.h})
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shadowmonitor/guest
mkdir -p "$cache"

download() { apt-get -qq -o APT::Sandbox::User=root download "$@" >&2; }

# The headers lie in three packages, which find each other from /usr/src and /usr/lib.
fetch_headers() {
	local dir=$1 package needs deb
	(
		cd "$dir"
		download "$headers=$version"
		needs=$(dpkg-deb -f ./*.deb Depends | tr ',' '\n' |
			sed -nE 's/^ *(linux-headers-[^ ]*-common|linux-kbuild-[^ ]*).*/\1/p')
		for package in $needs; do
			download "$package=$version"
		done
		for deb in *.deb; do
			dpkg-deb -x "$deb" .
		done
		rm -- *.deb
	)
	# The one path in them that counts from the root.
	sed -i 's,^include /usr/src/,include $(dir $(realpath $(lastword $(MAKEFILE_LIST))))../,' \
		"$dir/usr/src/$headers/Makefile"
}

build_module() {
	local dir=$1
	mkdir "$dir/guest" "$dir/abi"
	cp "${module_sources[@]}" "$dir/guest/"
	cp "${abi_sources[@]}" "$dir/abi/"
	# BTF of a module needs the kernel's own, which not all headers have.
	make -s -C "$tree/usr/src/$headers" M="$dir/guest" CONFIG_DEBUG_INFO_BTF_MODULES= modules >&2
	objcopy --strip-debug "$dir/guest/shadowmon_guest.ko" "$dir/shadowmon_guest.ko"
	rm -r "$dir/guest" "$dir/abi"
}

# made TARGET COMMAND: TARGET is made by COMMAND in a folder of another name, and then is there whole.
part=
trap '[ -z "$part" ] || rm -rf "$part"' EXIT
made() {
	[ ! -d "$1" ] || return 0
	part=$(mktemp -d "$cache/part.XXXXXX")
	"$2" "$part"
	chmod 755 "$part"
	# Another one may have made it meanwhile.
	mv -T "$part" "$1" 2>/dev/null || rm -r "$part"
	part=
}

tree=$cache/${headers}_$version
[ -d "$tree" ] || echo "guest: fetching $headers $version" >&2
made "$tree" fetch_headers
key=$({
	cat "$0" "${module_sources[@]}" "${abi_sources[@]}"
	gcc-12 --version
} | sha256sum | cut -c 1-16)
module=$cache/module-$key-${headers}_$version
[ -d "$module" ] || echo "guest: building shadowmon_guest for ${headers#linux-headers-}" >&2
made "$module" build_module
echo "$module/shadowmon_guest.ko"
