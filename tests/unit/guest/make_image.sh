#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Makes the memory images that the guest introspection tests read: boots a stock
# Debian kernel (KASLR on, two vCPUs, busybox) in stock QEMU without
# virtualization, and keeps its RAM and registers twice: idle in the kernel, and
# with both vCPUs computing in user mode. What the guest says about itself
# (its /proc/kallsyms, /proc/version, BTF, MSRs) is kept beside as ground truth.
#
#   make_image.sh SERIES VARIANT      SERIES: 6.1 or 6.12
#                                     VARIANT: nopti, pti or la57 (5 levels, pti)
#
# Prints the folder. It is cached, keyed by package version and by this script.
# Exit status 77: a tool that this needs is not installed.
set -euo pipefail

series=${1:?series: 6.1 or 6.12}
variant=${2:?variant: nopti, pti or la57}
root=${XDG_CACHE_HOME:-$HOME/.cache}/shadowmonitor/guest-images
ram_mib=256
boot_limit=${SM_IMAGE_TIMEOUT:-900}

die() { echo "make_image: $*" >&2; exit 1; }
skip() { echo "make_image: $*" >&2; exit 77; }

for tool in qemu-system-x86_64 cpio dpkg-deb apt-cache gzip busybox; do
    command -v "$tool" >/dev/null || skip "$tool is missing (apt-get install qemu-system-x86 cpio busybox-static)"
done
if ldd "$(command -v busybox)" >/dev/null 2>&1; then
    skip "busybox is not static (apt-get install busybox-static)"
fi

kernel=$("$(dirname "$0")/../../../lab/guest/kernel.sh" "$series")

case $variant in
nopti) cpu=max,la57=off append=pti=off ;;
pti) cpu=max,la57=off append=pti=on ;;
la57) cpu=max,la57=on append=pti=on ;;
*) die "unknown variant $variant" ;;
esac

key=$(sha256sum "$0" | cut -c1-12)
out=$root/$(basename "$kernel")_${variant}_$key
mkdir -p "$root"
exec 9>"$root/lock"
flock 9
if [ -e "$out/complete" ]; then
    echo "$out"
    exit 0
fi

work=$(mktemp -d "$root/partial.XXXXXX")
qemu_pid=
finish() {
    if [ -n "$qemu_pid" ]; then
        kill "$qemu_pid" 2>/dev/null || true
        wait "$qemu_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

# The guest's user land.
msr=$(echo "$kernel"/lib/modules/*/kernel/arch/x86/kernel/msr.ko*)
init=$work/initramfs
mkdir -p "$init"/{bin,dev,proc,sys,truth}
cp "$(command -v busybox)" "$init/bin/busybox"
case $msr in
*.xz) xz -dc "$msr" >"$init/msr.ko" ;;
*) cp "$msr" "$init/msr.ko" ;;
esac
cat >"$init/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty raw -echo
echo 0 >/proc/sys/kernel/kptr_restrict
cat /proc/kallsyms >/truth/kallsyms
cat /proc/version >/truth/version
cp /sys/kernel/btf/vmlinux /truth/btf
insmod /msr.ko
msr() { # CPU NUMBER: its value in hexadecimal
    dd if=/dev/cpu/$1/msr bs=8 count=1 iflag=skip_bytes skip=$2 2>/dev/null |
        od -A n -t x8 | tr -d ' '
}
for cpu in 0 1; do
    echo "lstar $cpu $(msr $cpu 3221225602)"
    echo "gs_base $cpu $(msr $cpu 3221225729)"
done >/truth/msr
tar -C /truth -cf - . | gzip -1 >/truth.tar.gz
stty -F /dev/ttyS1 raw -echo
cat /truth.tar.gz >/dev/ttyS1
rm -r /truth /truth.tar.gz
echo SM-READY
read -r answer
(while :; do :; done) &
(while :; do :; done) &
(while :; do :; done) &
echo SM-BUSY
read -r answer
poweroff -f
INIT
chmod +x "$init/init"
(cd "$init" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"

# QEMU: console and monitor are pairs of pipes.
for pipe in console monitor; do
    mkfifo "$work/$pipe.in" "$work/$pipe.out"
done
qemu-system-x86_64 -accel tcg -cpu "$cpu" -smp 2 -m "${ram_mib}M" -nodefaults -no-user-config \
    -display none -no-reboot -kernel "$kernel"/boot/vmlinuz-* -initrd "$work/initrd.gz" \
    -append "console=ttyS0 quiet panic=-1 $append" \
    -chardev "pipe,id=console,path=$work/console" -serial chardev:console \
    -serial "file:$work/truth.tar.gz" \
    -chardev "pipe,id=monitor,path=$work/monitor" -mon chardev=monitor,mode=readline \
    </dev/null >"$work/qemu.log" 2>&1 9>&- &
qemu_pid=$!
# Opened for reading and writing, so that neither side waits for the other to open.
exec 3<>"$work/console.in" 4<>"$work/console.out" 5<>"$work/monitor.in" 6<>"$work/monitor.out"

wait_console() { # MARKER
    local line
    while read -r -t "$boot_limit" line <&4; do
        line=${line%$'\r'}
        echo "$line" >>"$work/console.log"
        case $line in *"$1"*) return 0 ;; esac
    done
    tail -5 "$work/console.log" >&2 || true
    die "the guest did not say $1 in $boot_limit s"
}

# One monitor command; its output, without echo and prompts. The command that
# follows it is unknown to the monitor, and its error message marks the end.
monitor() {
    local line
    printf '%s\nsm_mark\n' "$1" >&5
    while read -r -t 60 line <&6; do
        line=${line%$'\r'}
        case $line in
        "unknown command: 'sm_mark'"*) return 0 ;;
        "(qemu)"*) ;;
        *) printf '%s\n' "$line" ;;
        esac
    done
    die "QEMU's monitor did not answer '$1'"
}

snapshot() { # NAME
    monitor "info registers -a" >"$work/$1.regs"
    monitor "pmemsave 0 $((ram_mib << 20)) \"$work/$1.full\"" >&2
    cp --sparse=always "$work/$1.full" "$work/$1.mem"
    rm "$work/$1.full"
}

user_cpus() { monitor "info registers -a" | grep -c 'CPL=3' || true; }

wait_console SM-READY
# Idle means: no vCPU in user mode and all halted.
for try in $(seq 200); do
    monitor stop >/dev/null
    monitor "info registers -a" >"$work/now"
    [ "$(grep -c 'HLT=1' "$work/now")" -eq 2 ] && break
    monitor cont >/dev/null
    [ "$try" -lt 200 ] || die "the guest never became idle"
done
snapshot idle
monitor cont >/dev/null
echo go >&3
wait_console SM-BUSY
for try in $(seq 200); do
    monitor stop >/dev/null
    [ "$(user_cpus)" -eq 2 ] && break
    monitor cont >/dev/null
    [ "$try" -lt 200 ] || die "the guest never was in user mode on both vCPUs"
done
snapshot user
monitor cont >/dev/null
echo go >&3
wait "$qemu_pid" || die "QEMU failed: $(cat "$work/qemu.log")"
qemu_pid=

mkdir "$work/out"
gzip -t "$work/truth.tar.gz" || die "the guest's own tables came out cut"
tar -C "$work/out" -xzf "$work/truth.tar.gz"
mv "$work"/{idle,user}.{mem,regs} "$work/console.log" "$work/out/"
touch "$work/out/complete"
rm -rf "$out" "$root/$(basename "$kernel")_${variant}_"*
mv "$work/out" "$out"
echo "$out"
