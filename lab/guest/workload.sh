#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: workload [ROUNDS]
#
# Ordinary life in a small guest: shells, pipes, files, many short processes, sockets on the
# loopback interface. All it starts has ended when it ends.
set -eu
rounds=${1:-3}
dir=/tmp/workload
rm -rf "$dir"
mkdir -p "$dir/www"

files() {
	for n in 1 2 3 4 5 6; do
		dd if=/dev/urandom of="$dir/file$n" bs=4k count=4 2>/dev/null
		cp "$dir/file$n" "$dir/copy$n"
		cmp "$dir/file$n" "$dir/copy$n"
	done
	ls -l "$dir" | wc -l >/dev/null
	cat "$dir"/copy* | sha1sum >/dev/null
	rm "$dir"/file* "$dir"/copy*
}

pipes() {
	seq 1 400 | grep 7 | sed 's/7/seven/' | sort -r | uniq | tail -n 3 >/dev/null
	echo 'one two three' | tr ' ' '\n' | while read -r word; do
		echo "$word" >>"$dir/words"
	done
	wc -l <"$dir/words" >/dev/null
	rm "$dir/words"
}

processes() {
	for n in 1 2 3 4 5 6 7 8 9 10; do
		/bin/true
		sh -c "exit $n" || :
	done
	(sh -c 'kill -TERM $$' || :) 2>/dev/null
	/bin/false || :
}

sockets() {
	seq 1 300 >"$dir/www/numbers"
	httpd -f -p 127.0.0.1:8080 -h "$dir/www" &
	server=$!
	until wget -q -O "$dir/page" http://127.0.0.1:8080/numbers 2>/dev/null; do
		kill -0 "$server"
	done
	for n in 1 2 3; do
		wget -q -O "$dir/page" http://127.0.0.1:8080/numbers
		cmp "$dir/page" "$dir/www/numbers"
	done
	wget -q -O /dev/null http://127.0.0.1:8080/absent 2>/dev/null || :
	kill "$server"
	wait "$server" || :
}

round=1
while [ "$round" -le "$rounds" ]; do
	echo "workload: round $round of $rounds"
	files
	pipes
	processes
	sockets
	round=$((round + 1))
done
rm -rf "$dir"
echo 'workload: done'
