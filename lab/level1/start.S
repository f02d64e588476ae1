/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel is told at its PVH entry: struct hvm_start_info, the initrd, the memory map and
 * the command line (file "cmdline"). Assembled per run with INITRD, INITRD_SIZE, MEMORY and ENTRY.
 */
#define RAM 1
#define RESERVED 2

start_info:
        .long   0x336ec578, 1           /* magic, version */
        .long   0, 1                    /* flags, modules */
        .quad   modules, cmdline
        .quad   0                       /* RSDP: not needed, the kernel has no ACPI */
        .quad   memory_map
        .long   (memory_map_end - memory_map) / 24, 0
modules:
        .quad   INITRD, INITRD_SIZE, 0, 0
memory_map:
        .quad   0, 0x9f000
        .long   RAM, 0
        .quad   0x9f000, 0x61000
        .long   RESERVED, 0
        .quad   0x100000, MEMORY - 0x100000
        .long   RAM, 0
memory_map_end:
cmdline:
        .incbin "cmdline"
        .byte   0
        .org    0xffc
        .long   ENTRY
