/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The first and the last instruction of every page of .text, and of the last bytes of
 * the gate's page. The first one leads back to the main view, for a guest that puts a
 * VMFUNC at the end of a page of its own and maps a page of the payload behind it. The
 * last one catches what runs through the NOPs that fill a page. payload.ld places them.
 */
.macro leave_section name
    .section \name, "ax", @progbits
    .byte   0xe9 /* always five bytes */
    .long   sm_gate_back - . - 4
.endm

leave_section .gate_last
leave_section .page_first.0
leave_section .page_last.0
leave_section .page_first.1
leave_section .page_last.1
leave_section .page_first.2
leave_section .page_last.2
leave_section .page_first.3
leave_section .page_last.3
leave_section .page_first.4
leave_section .page_last.4

.section .note.GNU-stack, "", @progbits
