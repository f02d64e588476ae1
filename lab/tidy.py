#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""clang-tidy over what the dev preset compiles of the folders below.

    lab/tidy.py [FILE...]      after lab/build.sh dev

One line "ok tidy FILE" or "not ok tidy FILE" each, with what was found. A file that was clean is
looked at again only when it, a header of the project's that it includes, how it is compiled, the
rules or clang-tidy itself have changed; the build knows what a file includes.
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).resolve().parent.parent
BUILD = REPO / "build/dev"
CLEAN = (
    pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    / "shadowmonitor/tidy"
)
FOLDERS = ("src", "cli", "include", "examples", "payload", "tests/kvm", "bench")
TIDY = "clang-tidy-14"
IN_LARGE_PAGES = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
GCC_ONLY = re.compile(r" -f(fixed-\w+|no-crossjumping|no-tree-[\w-]+)")  # payload.cpp's


def headers_by_object():
    """What each object was made from, files of the project only."""
    found, current = {}, None
    deps = subprocess.run(
        ["ninja", "-C", BUILD, "-t", "deps"], check=True, capture_output=True, text=True
    )
    for line in deps.stdout.splitlines():
        if line.startswith(" "):
            path = (BUILD / line.strip()).resolve()
            if path.is_relative_to(REPO) and not path.is_relative_to(BUILD):
                current.append(path)
        elif ": #deps" in line:
            current = found.setdefault(line.split(":")[0], [])
    return found


def key_of(command, files, common):
    text = hashlib.sha256(common)
    text.update(command.replace(str(REPO), "").encode())
    for file in sorted(files):
        text.update(str(file.relative_to(REPO)).encode())
        text.update(hashlib.sha256(file.read_bytes()).digest())
    return text.hexdigest()[:32]


def look_at(file, clean, commands):
    """What clang-tidy says of a file; nothing if it is clean."""
    if clean.exists():
        clean.touch()
        return ""
    done = subprocess.run(
        [TIDY, "--quiet", "-p", commands, file], capture_output=True, text=True, env=IN_LARGE_PAGES
    )
    if done.returncode == 0 and not done.stdout.strip():
        clean.touch()
        return ""
    return done.stdout.strip() or done.stderr.strip() or f"status {done.returncode}"


def main():
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    headers = headers_by_object()
    CLEAN.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([TIDY, "--version"], check=True, capture_output=True).stdout
    common = version + (REPO / ".clang-tidy").read_bytes()
    wanted = {pathlib.Path(name).resolve() for name in sys.argv[1:]}
    jobs = {}
    for entry in commands:
        file = pathlib.Path(entry["file"])
        if file.suffix != ".cpp" or file.is_relative_to(BUILD):
            continue
        name = file.relative_to(REPO)
        if not any(map(name.is_relative_to, FOLDERS)) or (wanted and file not in wanted):
            continue
        made = headers.get(entry.get("output", entry["command"].split(" -o ")[1].split()[0]), [])
        jobs[name] = (file, CLEAN / key_of(entry["command"], {file, *made}, common))
    failed = not jobs
    names = sorted(jobs)
    for entry in commands:
        entry["command"] = GCC_ONLY.sub("", entry["command"])
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(int(subprocess.check_output("nproc"))) as workers,
    ):
        pathlib.Path(folder, "compile_commands.json").write_text(json.dumps(commands))
        for name, found in zip(names, workers.map(lambda n: look_at(*jobs[n], folder), names)):
            print("not ok" if found else "ok", f"tidy {name}", flush=True)
            if found:
                print(found, flush=True)
                failed = True
    return failed


sys.exit(main())
