#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds level 1's kernel: linux-source-6.12 with kvm/ put into it. Prints the directory that holds
#   kernel.img     vmlinux as it lies in memory from 16 MiB on
#   kernel.end     where its memory ends (bss included), a hexadecimal physical address
#   modules/       irqbypass.ko kvm.ko kvm-intel.ko
#   vmlinux, config, System.map
#
#   lab/kernel.sh [--checking] [--tree]
#
# --checking: with lockdep and KVM's own proofs. --tree: prints the build tree instead.
#
# The build tree stays in the cache, one per configuration and version of the source. A change in
# kvm/ is copied into it file by file, only where the contents differ, so that make rebuilds the
# modules (seconds) and the rest only when a header that it uses has changed.

. "$(dirname "$0")/lib.sh"

flavour=plain
print_tree=
for arg in "$@"; do
    case $arg in
    --checking) flavour=checking ;;
    --tree) print_tree=1 ;;
    *) die "kernel.sh: unknown argument '$arg'" ;;
    esac
done

package=linux-source-6.12
tarball=/usr/src/$package.tar.xz
[ -e "$tarball" ] || die "$tarball is missing: run lab/packages.sh (package $package)"
version=$(package_versions $package)
fragments=("$lab/kernel.config")
[ $flavour = plain ] || fragments+=("$lab/kernel-checking.config")

# The parts of the kernel that kvm/ touches, as the distribution ships them.
patched_parts=(arch/x86 virt include Documentation/virt)

unpack() {
    # Sources of devices and architectures that this kernel has not: only their Kconfig files stay.
    tar -x -f "$tarball" -C "$1" --strip-components=1 --no-same-owner \
        --exclude='*/arch/[!x]*/*.[chS]' --exclude='*.dts*' \
        --exclude='*/tools/testing/*' --exclude='*/tools/perf/*' \
        --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/net/*/*.[ch]' \
        --exclude='*/drivers/media/*.[ch]' --exclude='*/drivers/infiniband/*.[ch]' \
        --exclude='*/sound/*.[ch]' \
        --exclude='*/Documentation/devicetree/*' --exclude='*/Documentation/translations/*'
}

configure() {
    local line
    cat "${fragments[@]}" >"$1/.lab.config"
    make -C "$1" -s KCONFIG_ALLCONFIG="$1/.lab.config" allnoconfig
    grep '^CONFIG_' "$1/.lab.config" | while read -r line; do
        case $line in
        *=n) ! grep -q "^${line%=n}=" "$1/.config" ;;
        *) grep -qxF "$line" "$1/.config" ;;
        esac || { echo "kernel configuration: $line was not to be had" >&2 && exit 1; }
    done
}

prepare_tree() {
    unpack "$1"
    tar -c -f "$1/.pristine.tar" -C "$1" "${patched_parts[@]}"
    configure "$1"
}

# Lays kvm/ into the tree: what differs is copied, what kvm/ no longer brings is taken out.
apply_kvm() {
    local tree=$1 fresh file part
    fresh=$(mktemp -d "$tree/.apply-XXXXXX")
    tar -x -f "$tree/.pristine.tar" -C "$fresh"
    (cd "$fresh" && find . -type f | sort) >"$fresh.before"
    "$repo/kvm/apply.sh" "$fresh"
    (cd "$fresh" && find . -type f | sort) >"$fresh.after"
    comm -13 "$fresh.before" "$fresh.after" >"$fresh.added"
    if [ -e "$tree/.added" ]; then
        comm -23 "$tree/.added" "$fresh.added" | (cd "$tree" && xargs -r rm -f)
    fi
    # Only what differs, and with a new time, so that make sees what is new and nothing else.
    for part in "${patched_parts[@]}"; do
        diff -rq "$fresh/$part" "$tree/$part" || true
    done | sed -n -e "s,^Files $fresh/\\(.*\\) and .* differ\$,\\1,p" \
        -e "s,^Only in $fresh/\\([^:]*\\): \\(.*\\)\$,\\1/\\2,p" | while read -r file; do
        mkdir -p "$tree/$(dirname "$file")"
        cp -r --remove-destination "$fresh/$file" "$tree/$file"
    done
    mv "$fresh.added" "$tree/.added"
    rm -rf "$fresh" "$fresh.before" "$fresh.after"
}

build() {
    local tree=$1 out=$2 file lock end
    exec {lock}>"$tree/.lock"
    flock "$lock"
    apply_kvm "$tree"
    "$lab/compiler/in_large_pages" make -C "$tree" -j"$(nproc)" vmlinux modules
    mkdir "$out/modules"
    for file in virt/lib/irqbypass.ko arch/x86/kvm/kvm.ko arch/x86/kvm/kvm-intel.ko; do
        objcopy --strip-debug "$tree/$file" "$out/modules/$(basename "$file")"
    done
    objcopy -O binary "$tree/vmlinux" "$out/kernel.img"
    # The kernel's text is mapped from 0xffffffff80000000 on, which is physical address 0.
    end=$(awk '$3 == "_end" { print substr($1, 9) }' "$tree/System.map")
    printf '0x%x\n' $((0x$end - 0x80000000)) >"$out/kernel.end"
    cp "$tree/vmlinux" "$tree/System.map" "$out/"
    cp "$tree/.config" "$out/config"
}

tree_key=$(key "${fragments[@]}" -- "$version" "$(gcc -dumpfullversion)" unpack-1)
tree=$(cached kernel-tree "$flavour-$tree_key" "unpacking $package ($flavour)" prepare_tree)
[ -z "$print_tree" ] || { echo "$tree" && exit 0; }
mkdir -p "$cache/kernel"
large_pages
cached kernel "$flavour-$(key "$repo/kvm" "$repo/abi/kvm_views.h" "$repo/abi/guest_offer.h" -- "$tree_key" image-1)" \
    "building level 1's kernel ($flavour)" build "$tree"
