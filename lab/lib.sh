# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What every step of the lab shares: where things are kept, keys, progress, logs, cleaning up.
# Sourced with bash. Sets $repo and $cache. Progress goes to stderr, results to stdout.

set -euo pipefail
shopt -s inherit_errexit

lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # for those that source this
repo=$(dirname "$lab")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shadowmonitor
mkdir -p "$cache/log" "$cache/run"
export LC_ALL=C
# Compilers called by way of ccache. Paths count from the clone's root, so that each clone finds what
# another has compiled. What a source includes is what the compiler says of it (depend mode): nothing
# is preprocessed twice.
export CCACHE_DIR=$cache/ccache CCACHE_BASEDIR=$repo CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=2G CCACHE_DEPEND=1

say() { printf '%s\n' "lab: $*" >&2; }

die() {
    say "$*"
    exit 1
}

# One short word for the contents of the files and the text of the words given: `key FILE... -- WORD...`.
# A directory counts with every file under it.
key() {
    local files=() word
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    {
        for word in "$@"; do printf '%s\n' "$word"; done
        [ ${#files[@]} -eq 0 ] || find "${files[@]}" -type f -print0 | sort -z | xargs -0r sha256sum | sed "s, .*/, ,"
    } | sha256sum | cut -c1-16
}

# Version of installed Debian packages, for keys.
package_versions() { dpkg-query -W -f '${Package} ${Version}\n' "$@"; }

# Everything started with `background` and every path given to `remove_at_exit` is gone when the
# shell that called them ends, however it ends. Nothing else is ever killed. Each has a process
# group of its own, so that what it started in turn goes with it.
started=()
paths_to_remove=()
cleanup() {
    local pid
    for pid in ${started[@]+"${started[@]}"}; do
        kill -TERM -- "$pid" 2>/dev/null || true
    done
    for pid in ${started[@]+"${started[@]}"}; do
        wait "${pid#-}" 2>/dev/null || true
    done
    [ ${#paths_to_remove[@]} -eq 0 ] || rm -rf "${paths_to_remove[@]}"
}

# A subshell, as in $(...), loses the traps of its parent but not the lists: what is in them is its
# parent's to end. Who starts or makes something calls this first.
cleanup_by=
own_cleanup() {
    [ "$cleanup_by" != "$BASHPID" ] || return 0
    cleanup_by=$BASHPID
    started=()
    paths_to_remove=()
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}
own_cleanup

# Starts COMMAND in the background; its pid, which is its process group too, is in $!. With $LAB_TTY
# set it stays in the group that owns the terminal, because it has to read from it.
background() {
    own_cleanup
    if [ -n "${LAB_TTY:-}" ]; then
        "$@" </dev/null &
        started+=("$!")
        return
    fi
    set -m
    "$@" </dev/null &
    set +m
    started+=("-$!")
}

# What `background` started as PID has been waited for: whatever it left running goes too, and its
# number, which the kernel may now give to others, is forgotten.
ended() { # PID
    local pid rest=()
    for pid in "${started[@]}"; do
        case $pid in
        "$1") ;;
        "-$1") kill -TERM -- "$pid" 2>/dev/null || true ;;
        *) rest+=("$pid") ;;
        esac
    done
    started=(${rest[@]+"${rest[@]}"})
}

remove_at_exit() {
    own_cleanup
    paths_to_remove+=("$@")
}

# Runs COMMAND with its output in a log; says what is being done, every 15 s that it still is, and
# how long it took. On failure shows the end of the log: `step TEXT COMMAND...`. Do not call it
# where a failure is caught (`if`, `||`): the shell then ignores failures inside COMMAND as well.
step() {
    local text=$1 log begin=$SECONDS pid status=0
    shift
    log=$(mktemp "$cache/log/$(printf '%s' "$text" | tr -cs 'A-Za-z0-9.' - | cut -c1-40)XXXXXX.log")
    background "$@" >"$log" 2>&1
    pid=$!
    while ! timeout 15 tail --pid="$pid" -s 0.1 -f /dev/null; do
        say "$text: $((SECONDS - begin)) s: $(tail -n 1 "$log" | tr -d '\r' | cut -c1-90)"
    done
    wait "$pid" || status=$?
    ended "$pid"
    if [ $status -ne 0 ]; then
        tail -n 25 "$log" >&2
        say "$text: failed after $((SECONDS - begin)) s (status $status); log: $log"
        return $status
    fi
    [ $((SECONDS - begin)) -lt 3 ] || say "$text: done in $((SECONDS - begin)) s"
}

# Makes $cache/NAME/KEY by calling COMMAND with an empty directory as its last argument, unless it
# is there. Two that want the same wait for each other; a half-made one is never seen. Keeps the
# newest four per NAME, and what has been used within $keep_minutes. Prints the path:
# `cached NAME KEY TEXT COMMAND...`.
keep_minutes=1440
cached() {
    local name=$1 want=$2 text=$3 dir part lock
    shift 3
    dir=$cache/$name/$want
    mkdir -p "$cache/$name"
    if [ ! -d "$dir" ]; then
        exec {lock}>"$cache/$name/.lock-$want"
        flock "$lock"
        if [ ! -d "$dir" ]; then
            part=$(mktemp -d "$cache/$name/.part-XXXXXX")
            remove_at_exit "$part"
            step "$text" "$@" "$part"
            chmod 755 "$part"
            mv "$part" "$dir"
        fi
        exec {lock}>&-
    fi
    touch "$dir"
    find "$cache/$name" -mindepth 1 -maxdepth 1 -type d ! -name '.*' -mmin +"$keep_minutes" -printf '%T@ %p\n' |
        sort -rn | tail -n +5 | cut -d' ' -f2- | xargs -r rm -rf
    printf '%s\n' "$dir"
}

# From here on compilers have their memory in large pages: those that ccache calls by themselves, others
# by "$lab/compiler/in_large_pages". It saves a sixth of the time that compiling takes.
large_pages() {
    LAB_LARGE_PAGES=$(cached large-pages "$(key "$lab/compiler/large_pages.c" -- "$(gcc -dumpfullversion)")" \
        "building the library of large pages" make_large_pages)/large_pages.so
    export LAB_LARGE_PAGES CCACHE_PREFIX=$lab/compiler/in_large_pages
}

make_large_pages() {
    gcc -O2 -Wall -Wextra -shared -fPIC -o "$1/large_pages.so" "$lab/compiler/large_pages.c"
}
