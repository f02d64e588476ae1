#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes archives for level 1. It starts from several, one behind the other (the kernel unpacks them
# in turn), and is given jobs, each an archive, when it is up.
#
#   lab/level1.sh system                  a cached part: busybox, and what runs the job
#   lab/level1.sh qemu                    another: QEMU, and the libraries it needs
#   lab/level1.sh tree OUT TREE [PART...] everything under TREE, with the libraries that its
#                                         programs need and PARTs do not have
# Prints the archive's path.

. "$(dirname "$0")/lib.sh"

# Archives are not compressed: the machine gets them for nothing, unpacking would cost it time.
archive() { (cd "$1" && find . -mindepth 1 | sort | cpio --quiet -o -H newc -R 0:0) >"$2"; }

# Copies the shared libraries that the programs under TREE need to where they lie here, except those
# in one of the other trees already: `add_libraries TREE [OTHER...]`.
add_libraries() {
    local tree=$1 library other
    shift
    find "$tree" -type f -size +0 \( -perm -u+x -o -name '*.so*' \) -exec sh -c \
        'for f; do [ "$(head -c 4 "$f" | tail -c 3)" != ELF ] || ldd "$f" 2>/dev/null; done; true' sh {} + |
        sed -n -e 's,.*=> \(/[^ ]*\) .*,\1,p' -e 's,^[[:space:]]*\(/[^ ]*\) (.*,\1,p' | sort -u |
        while read -r library; do
            for other in "$tree" "$@"; do [ ! -e "$other$library" ] || continue 2; done
            install -D -m 755 "$library" "$tree$library"
        done
}

make_system() {
    local tree=$1/tree program
    mkdir -p "$tree"/{bin,sbin,usr/bin,usr/sbin,lab/bin,dev,root}
    install -m 755 /bin/busybox "$tree/bin/busybox"
    for program in live host; do
        gcc -O2 -Wall -Wextra -Werror -static -s -o "$tree/lab/bin/$program" "$lab/level1/$program.c"
    done
    install -m 755 "$lab/level1/wait_for" "$tree/lab/bin/wait_for"
    install -m 755 "$lab/level1/init" "$tree/init"
    archive "$tree" "$1/part.cpio"
}

make_qemu() {
    local tree=$1/tree
    mkdir -p "$tree"/usr/{bin,share/qemu}
    install -m 755 /usr/bin/qemu-system-x86_64 "$tree/usr/bin/"
    # The firmware of a microvm, a PC without display, and the loaders of -kernel.
    cp -L /usr/share/seabios/bios-microvm.bin /usr/share/seabios/bios-256k.bin \
        /usr/share/qemu/{linuxboot_dma,kvmvapic}.bin "$tree/usr/share/qemu/"
    add_libraries "$tree"
    archive "$tree" "$1/part.cpio"
}

# Where the cached part `system` or `qemu` is: part.cpio, and as a tree.
part() {
    local packages=busybox-static
    [ "$1" = system ] || packages='qemu-system-x86 qemu-system-data seabios libc6'
    # shellcheck disable=SC2086
    cached level1 "$(key "$lab/level1" -- "$(package_versions $packages)" "$1-3")" \
        "packing level 1's $1" "make_$1"
}

case ${1:-} in
system | qemu) echo "$(part "$1")/part.cpio" ;;
tree)
    parts=()
    for name in "${@:4}"; do parts+=("$(part "$name")/tree"); done
    add_libraries "$3" ${parts[@]+"${parts[@]}"}
    # Debugging information is most of a program's size, and nothing reads it there.
    find "$3" -type f -perm -u+x -size +1M -exec strip -g {} + 2>/dev/null || true
    archive "$3" "$2"
    echo "$2"
    ;;
*) die "usage: lab/level1.sh system | qemu | tree OUT TREE [PART...]" ;;
esac
