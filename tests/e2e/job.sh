# SPDX-License-Identifier: GPL-2.0-or-later
# For the end-to-end jobs at level 1 (busybox sh): sourced by each.
# Times are level 1's: an emulated second is a number of instructions.
# shellcheck shell=sh
: "${OUT:=/out}"
log=$OUT/shadowmon.log
: >"$log"

say() { echo "# $(cut -d. -f1 /proc/uptime) s: $*"; }
ok() { echo "ok $1"; }
not_ok() {
	echo "not ok $1"
	shift
	[ $# -eq 0 ] || printf '    %s\n' "$@"
}
# check NAME COMMAND...
check() {
	check_name=$1
	shift
	if "$@"; then ok "$check_name"; else not_ok "$check_name" "failed: $*"; fi
}
# The job cannot go on.
give_up() {
	not_ok "$@"
	tail -n 20 "$log"
	exit 1
}

# wait_until SECONDS COMMAND...: also a function, which the lab's wait_for cannot call.
wait_until() {
	wait_end=$(($(cut -d. -f1 /proc/uptime) + $1))
	shift
	until "$@"; do
		[ "$(cut -d. -f1 /proc/uptime)" -lt "$wait_end" ] || return 1
		usleep 200000
	done
}

boot() { # VERSION
	say "guest $1 boots"
	vmm=$(start-guest "$1") || give_up guest_starts
	guestctl -t 5000 wait || give_up guest_boots
	say "guest is up"
}

# The guest that guest.job has left running.
take_guest() {
	vmm=$(cat /run/guest/guest/pid) && kill -0 "$vmm" && guest true || give_up guest_runs
	say "guest is there"
}

guest() { guestctl -t 3000 run "$1"; }

# trace NAME [ARGUMENTS...]: starts shadowmon, waits until events flow. $monitor is its pid.
trace() {
	trace_name=$1
	shift
	rm -f /run/ready
	echo "== $trace_name" >>"$log"
	shadowmon -v trace --vm "$vmm" --ready-file /run/ready "$@" 2>>"$log" &
	monitor=$!
	wait_until 600 attached_or_ended
	[ -e /run/ready ]
}
# Whether the monitor that was started last said something like PATTERN.
said() { awk -v name="== $trace_name" 'seen; $0 == name { seen = 1 }' "$log" | grep -qE "$1"; }
said_nothing_of() { ! said "$1"; }
attached_or_ended() { [ -e /run/ready ] || ! kill -0 "$monitor" 2>/dev/null; }

# The load in the guest has two threads on level 1's one CPU; the command is not to wait for them.
hooks() { ./nice -n -15 timeout 1000 shadowmon hooks "$@" --vm "$vmm" 2>&1; }

# Waits for the monitor to end by itself; its exit code is in $code.
monitor_ends() {
	wait_until 2000 monitor_is_gone || kill -KILL "$monitor"
	wait "$monitor"
	code=$?
}
monitor_is_gone() { ! kill -0 "$monitor" 2>/dev/null; }
detach() {
	kill -INT "$monitor"
	monitor_ends
	[ "$code" -eq 0 ]
}

# What `truth start` is given, and what the guest does meanwhile.
truth_of=
work='deterministic && compat32 && workload 1'
# A function to call while the guest is watched and has done its work.
while_watched=:

# watched_work NAME [ARGUMENTS...]: all of the work is watched in block mode, while the guest's own
# kernel keeps the same record. Both records are in $OUT then, for compare.py.
watched_work() {
	work_name=$1
	shift
	trace "exact_$work_name" --on-full block --format json --output "$OUT/events.json" --summary "$@" ||
		give_up "attach_$work_name"
	ok "attach_$work_name"
	say "watched"
	check "guest_works_watched_$work_name" guest \
		"truth start $truth_of && window sh -c '$work'; status=\$?; truth stop /tmp/truth; exit \$status"
	$while_watched
	say "detaching"
	check "detach_$work_name" detach
	for file in trace stats hist-syscalls hist-switches; do
		guestctl get "/tmp/truth/$file" "$OUT/$file" || not_ok "guest_record_${work_name}_$file"
	done
}

qmp() { guestctl -t 600 qmp "$1"; }
hmp() {
	qmp "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"$1\"}}" |
		sed 's/^{"return": "//; s/"}\r*$//; s/\\r\\n/\n/g'
}

# The guest's own text and read-only data as level 1's QEMU sees them, the interrupt
# descriptors, and the entry of the kernel's page tables that leads to the compartment.
# Kernels patch themselves (static keys): to be compared after the same has run in the guest.
snapshot() { # FILE
	snapshot_file=$1
	guest "grep -E 'Kernel (code|rodata)' /proc/iomem" |
		sed -n 's/^ *\([0-9a-f]*\)-\([0-9a-f]*\) : Kernel \(.*\)$/\1 \2 \3/p' |
		while read -r begin end what; do
			qmp "{\"execute\":\"pmemsave\",\"arguments\":{\"val\":$((0x$begin)),\"size\":$((0x$end - 0x$begin + 1)),\"filename\":\"$snapshot_file.$what\"}}" >/dev/null
		done
	[ "$(stat -c %s "$snapshot_file.code")" -gt 8000000 ] || return 1
	idt=$(hmp 'info registers' | sed -n 's/^IDT= *\([0-9a-f]*\) .*/\1/p')
	{
		hmp "x /512gx 0x$idt"
		echo "entry 509: $(compartment_entry)"
	} >"$snapshot_file.tables"
	grep -q "entry 509: 0x" "$snapshot_file.tables"
}
compartment_entry() {
	cr3=$(hmp 'info registers' | sed -n 's/.*CR3=\([0-9a-f]*\).*/\1/p')
	# With page-table isolation the kernel's table is the lower one of a pair.
	pgd=$((0x$cr3 & 0xffffffffe000))
	pud=$(($(word_at $((pgd + 511 * 8))) & 0xffffffffff000))
	word_at $((pud + 509 * 8))
}
word_at() { hmp "xp /1gx $(printf '0x%x' "$1")" | sed -n 's/^[0-9a-f]*: *//p' | tr -d ' \r'; }

# With the host's cmp: busybox' takes two calls for each of the 25 million bytes.
same_snapshots() { # FILE FILE
	for part in code rodata tables; do
		if ! ./cmp -s "$1.$part" "$2.$part"; then
			echo "    guest's $part differs (offset, before, after, octal):"
			./cmp -l "$1.$part" "$2.$part" | head -n 20
			return 1
		fi
	done
}

# The guest does all its work and has nothing to complain about.
guest_is_well() {
	guest deterministic || return 1
	complaints='BUG:|WARNING: CPU|Oops|Call Trace|Kernel panic|soft lockup|rcu_.*stall'
	! grep -E "$complaints" /run/guest/guest/console.log &&
		! guest dmesg | grep -E "$complaints"
}
