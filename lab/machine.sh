#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs level 1 in Bochs once.
#
#   lab/machine.sh --kernel DIR --initrd FILE --jobs FILE[:FILE...] --run DIR [--keep DIR]
#                  [--cpus N] [--memory MB] [--ips N] [--append WORDS]
#                  [--limit SECONDS] [--begin MARK --end MARK] [--tty DEVICE]
#   lab/machine.sh --state DIR --jobs ... --run DIR [--cpus N] [--limit SECONDS] [--begin ... --end ...]
#
# DIR of --kernel is what kernel.sh prints. With --keep the machine ends when a job has asked to keep
# its state, which is in that DIR then; with --state the machine goes on from there (--cpus is as it
# was). The job's output appears on stdout as it comes: what the machine says between the two marks.
# Everything stays in the run directory:
#   live.txt      all that the machine said, with Bochs' own lines
#   console.txt   level 1's console (kernel messages)
#   status.txt    what level1/init tells, one word a line
#   results.tar   what the jobs leave
#   bochs.log
# Ends with 0 if level 1 told its end, or that its state is kept; 124 if SECONDS (wall clock) were over; 125 if the machine
# stopped before, or gave no sign of life for long; then the last lines of the console are shown.
#
# How the machine starts: the BIOS would read kernel and initrd in a minute. Instead they are loaded
# straight into RAM by optramimage1, uncompressed, and the kernel is entered at its PVH entry. Bochs
# keeps RAM in blocks of 128 KiB, handed out in the order of their first use, and optramimage1 fills
# the first of its blocks and runs on into the ones not handed out yet. So the debugger's start-up
# file touches each block of the image in turn before anything else can: then they are the image's.

. "$(dirname "$0")/lib.sh"

kernel='' initrd='' state='' jobs='' keep='' run='' cpus=1 memory=1024 ips=60000000 limit=900 append='' tty=''
begin=lab-begin end=lab-end
while [ $# -gt 0 ]; do
    case $1 in
    --kernel | --initrd | --state | --jobs | --keep | --run | --cpus | --memory | --ips | --limit | --append | --begin | --end | --tty)
        declare "${1#--}=$2"
        shift 2
        ;;
    *) die "machine.sh: unknown argument '$1'" ;;
    esac
done
silence_limit=240 # seconds without any sign of life; alive is told every 5 s of level 1's time

block=$((128 * 1024))
start=$((0xfe0000)) # the block before the kernel: start.S
entry=$((0x1000000))
disk_cylinders=2 # of 16 heads, 63 sectors

cd "$run"
for file in console live status; do : >$file.txt; done

make_image() {
    local initrd_at size
    initrd_at=$((($(cat "$kernel/kernel.end") + 0x1fffff) & ~0x1fffff))
    size=$(stat -c %s "$initrd")
    [ $((initrd_at + size)) -lt $((memory * 1024 * 1024 - 0x1000000)) ] ||
        die "$((size >> 20)) MiB of files do not fit into $memory MiB of memory: give --memory"
    # idle=halt: a CPU that sleeps in MWAIT does not always see the store that is to wake it, and
    # then both CPUs sleep for ever.
    printf 'console=ttyS0 quiet panic=-1 reboot=t idle=halt tsc=reliable tsc_early_khz=%d %s' \
        $((ips / 1000)) "$append" >cmdline
    gcc -c -I. -Wa,-I. -x assembler-with-cpp -o start.o "$lab/level1/start.S" \
        -Wa,--defsym,INITRD=$initrd_at,--defsym,INITRD_SIZE="$size" \
        -Wa,--defsym,MEMORY=$((memory * 1024 * 1024)),--defsym,ENTRY=$entry
    ld -e 0 -Ttext="$(printf 0x%x $start)" --oformat=binary -o ram.img start.o
    dd if="$kernel/kernel.img" of=ram.img bs=$block seek=$(((entry - start) / block)) conv=notrunc status=none
    dd if="$initrd" of=ram.img bs=$block seek=$(((initrd_at - start) / block)) conv=notrunc status=none
    gcc -m32 -nostdlib -static -Wl,-Ttext=0x7c00,--oformat=binary,--build-id=none \
        -DSTART=$start -o boot.bin "$lab/level1/boot.S"
    truncate -s $((disk_cylinders * 16 * 63 * 512)) disk.img
    dd if=boot.bin of=disk.img conv=notrunc status=none
}

# Bochs keeps with the state where it was told to read RAM from, which is over, and a list of plugins.
# Those on it are loaded in its order; the USB controller of the chipset, left out, comes by itself and
# last, as it did. In any other order the timers of the state would be those of other devices.
finish_state() {
    sed -i '/^optramimage/d; s/usb_uhci=true, //' "$keep/config"
}

go_on_from_state() {
    cp "$state/hard_drive.0.drive0.image" disk.img
    chmod u+w disk.img
    echo c >start.rc
}

write_configuration() {
    local at com1="mode=file, dev=console.txt"
    [ -z "$tty" ] || com1="mode=term, dev=$tty"
    for ((at = start; at < start + $(stat -c %s ram.img); at += block)); do
        printf 'xp /1bx 0x%x\n' "$at"
    done >start.rc
    echo c >>start.rc
    cat >bochsrc <<END
cpu: model=corei7_skylake_x, count=$cpus, ips=$ips, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest=$memory, host=$memory
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
optramimage1: file=ram.img, address=$(printf '0x%x' $start)
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=disk.img, mode=flat, cylinders=$disk_cylinders, heads=16, spt=63
boot: disk
port_e9_hack: enabled=1
com1: enabled=1, $com1
com2: enabled=1, mode=file, dev=status.txt
plugin_ctrl: iodebug=0
display_library: sdl2
sound: driver=dummy
clock: sync=none
log: bochs.log
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
END
}

# Bytes said so far on any channel.
said() { cat console.txt live.txt status.txt 2>/dev/null | wc -c; }

# Ends the machine when its time is up or when it has become silent; says which in `stopped`.
watch() {
    local pid=$1 begin_time=$SECONDS last=0 last_time=$SECONDS now
    while kill -0 "$pid" 2>/dev/null; do
        timeout 5 tail --pid="$pid" -s 0.5 -f /dev/null && break
        now=$(said)
        [ "$now" = "$last" ] || last_time=$SECONDS
        last=$now
        if [ $((SECONDS - begin_time)) -ge "$limit" ]; then
            echo "time is up ($limit s)" >stopped
        elif [ $((SECONDS - last_time)) -ge "$silence_limit" ]; then
            echo "no sign of life for $silence_limit s" >stopped
        else
            continue
        fi
        kill -KILL "$pid" 2>/dev/null
        break
    done
}

if [ -n "$state" ]; then
    go_on_from_state
    start_from=(-r "$state")
else
    make_image
    write_configuration
    start_from=(-f bochsrc)
fi
export SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy
gcc -O2 -Wall -Wextra -shared -fPIC -fvisibility=hidden -o preload.so "$lab"/bochs/*.c
# Emulated memory in large pages of the host's.
background env LD_PRELOAD="$PWD/preload.so" QUICK_BOCHS_CPUS="${QUICK_BOCHS_CPUS-$cpus}" \
    LAB_JOBS="$jobs" LAB_RESULTS=results.tar LAB_KEEP="$keep" \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    bochs-bin -q "${start_from[@]}" -rc start.rc >live.txt 2>bochs.err
machine=$!
background watch "$machine"
tail -c +1 -s 0.1 --pid="$machine" -f live.txt | sed -un "/^$begin\$/,/^$end\$/{/^$begin\$/d;/^$end\$/d;p}"
status=0
wait "$machine" || status=$?
rm -f ram.img start.o disk.img*

told() { grep -qx "$1" <(tr -d '\r' <status.txt); }
if [ -n "$keep" ] && [ $status -eq 0 ] && told kept; then
    finish_state
    exit 0
fi
if [ -z "$keep" ]; then
    ! told end || exit 0
elif told end; then
    echo "lab: the job that prepares the machine failed: $(tr -d '\r' <status.txt | grep '^job ')" >&2
    exit 1
fi
why=$(cat stopped 2>/dev/null || sed -n '/Bochs is exiting/,$p' live.txt | sed -n 2p)
[ -n "$why" ] || why=$(sed -n 's,^lab/bochs: ,,p' bochs.err | tail -n 1)
{
    echo "lab: level 1 did not reach its end: ${why:-Bochs ended}"
    echo "lab: it had told: $(tr -d '\r' <status.txt | uniq | tail -n 3 | tr '\n' ' ')"
    echo "lab: the last lines of its console ($run/console.txt):"
    tail -n 30 console.txt 2>/dev/null | tr -d '\r'
} >&2
[ ! -e stopped ] || grep -q 'sign of life' stopped || exit 124
exit 125
