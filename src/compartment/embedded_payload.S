/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The payload's ELF file as data of the host program. SM_PAYLOAD_FILE comes from CMake. */
	.section .rodata
	.balign 16
	.globl sm_embedded_payload
	.globl sm_embedded_payload_end
sm_embedded_payload:
	.incbin SM_PAYLOAD_FILE
sm_embedded_payload_end:
	.section .note.GNU-stack, "", @progbits
