# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# For the end-to-end tests on the host: sourced, then `run_job`, then `finish`.
#
# A test prints `ok NAME` and `not ok NAME` lines, of the job in the lab and of what is
# checked afterwards, and fails if one is not ok or if the job did not come to its end.
set -u
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
root=$(readlink -f "$here/../..")
shadowmon=${SHADOWMON:-$root/build/dev/cli/shadowmon}
results=${RESULTS:-${XDG_CACHE_HOME:-$HOME/.cache}/shadowmonitor/e2e/$(basename "$0" .sh)${GUEST:+.$GUEST}}
failed=0

not_ok() {
	echo "not ok $1"
	shift
	[ $# -eq 0 ] || printf '    %s\n' "$@"
	failed=1
}

# Words that the job finds in files of those names, beside it.
settings=$(mktemp -d)
preparation=$(mktemp -d)
trap 'rm -r "$settings" "$preparation"' EXIT
# setting NAME WORD
setting() { echo "$2" >"$settings/$1"; }

# run_job JOB GUEST-VERSION [FILE...]: its output goes through, its results are in $results. The
# version is a setting of the job.
after=
run_job() {
	local job=$1 version=$2 status
	shift 2
	setting version "$version"
	rm -rf "$results"
	mkdir -p "$results"
	if [ ! -x "$shadowmon" ]; then
		not_ok shadowmon_is_built "$shadowmon is not there; build it, or name it with SHADOWMON"
		finish
	fi
	# shellcheck disable=SC2086
	"$root/lab/run" ${LAB_RUN_ARGS:-} ${after:+--after "$after"} --guest "$version" --out "$results" \
		"$here/$job" "$here/job.sh" "$(command -v cmp)" "$(command -v nice)" "$shadowmon" "$settings"/* "$@" 2>&1 | tee "$results.log"
	status=${PIPESTATUS[0]}
	grep -q '^not ok ' "$results.log" && failed=1
	# A check whose command is missing compares nothing with nothing.
	grep -q ': not found$' "$results.log" &&
		not_ok "${job%.job}_has_its_commands" "$(grep -m 1 ': not found$' "$results.log")"
	if ! grep -q '^end of job' "$results.log"; then
		not_ok "${job%.job}_came_to_its_end" "status of the lab: $status"
	elif [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
		not_ok "${job%.job}_level1_unharmed" "status of the lab: $status"
	fi
}

# The same, in a guest that is up and has worked already. What $guest_settings holds was set for its
# start (lab/guest/start-guest).
guest_settings=
run_guest_job() {
	after=$preparation/guest.job
	{
		[ -z "$guest_settings" ] || echo "export $guest_settings"
		cat "$here/guest.job"
	} >"$after"
	run_job "$@"
}

# compare_records NAME: what the guest recorded and what the monitor did are equal.
compare_records() {
	python3 -B "$here/compare.py" "$results" "$results/events.json" |
		sed -E "s/^(ok|not ok) (.*)/\1 \2_$1/"
	[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
}

# run_exact GUEST-VERSION [PLACE]: PLACE is for --place. Without it, interrupts are compared as well.
run_exact() {
	setting place "${2:-auto}"
	run_guest_job exact.job "$1" "$here/cooperative.sh"
	compare_records "$1"
	[ $# -gt 1 ] || python3 -B "$here/compare_irq.py" "$results" "$results/events.json" || failed=1
}

finish() {
	exit "$failed"
}
