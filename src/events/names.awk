# SPDX-License-Identifier: GPL-2.0-or-later
# Prints NAME(number, "text") for each "#define <prefix>text number" of the inputs.
# A system call's text goes without the prefix, an error code's with it.
$1 == "#define" && index($2, prefix) == 1 && $3 ~ /^[0-9]+$/ {
    text = prefix == "E" ? $2 : substr($2, length(prefix) + 1)
    if (text != "syscalls" && !($3 in seen)) {
        seen[$3] = 1
        printf "NAME(%d, \"%s\")\n", $3, text
    }
}
