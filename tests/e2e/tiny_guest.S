/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests that are not Linux, as 64 KiB of firmware each: they reach a mode of the CPU and
 * stay there. MODE 16: a firmware at work; MODE 32: a 32-bit kernel; MODE 64: another
 * 64-bit kernel, in a table of its own that maps its first 2 MiB and the firmware.
 *
 * They spin with interrupts on, all of which are masked: an emulated CPU with interrupts off
 * does not leave guest mode for the host's interrupts either, so nobody could stop it.
 */
#define CODE_AT 0xffff0000 /* the firmware ends at 4 GiB */
#define PML4 0x1000
#define PDPT 0x2000
#define LOW_PD 0x3000
#define HIGH_PD 0x4000

	.code16
	.globl _start
_start:
begin:
	mov $0xff, %al
	out %al, $0x21
	out %al, $0xa1
#if MODE > 16
	lgdtl %cs:(gdt_pointer - begin)
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $8, $(CODE_AT + protected - begin)
#else
	sti
1:	pause
	jmp 1b
#endif

	.code32
protected:
	mov $16, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
#if MODE == 64
	movl $(PDPT + 3), PML4
	movl $(LOW_PD + 3), PDPT
	movl $(HIGH_PD + 3), PDPT + 3 * 8
	movl $0x83, LOW_PD
	movl $0xffe00083, HIGH_PD + 511 * 8
	mov %cr4, %eax
	or $0x20, %eax		/* PAE */
	mov %eax, %cr4
	mov $PML4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx	/* EFER: SCE, LME */
	rdmsr
	or $0x101, %eax
	wrmsr
	mov %cr0, %eax
	or $0x80000000, %eax
	mov %eax, %cr0
	ljmpl $24, $(CODE_AT + long_mode - begin)
	.code64
long_mode:
#endif
	sti
1:	pause
	jmp 1b

	.balign 8
gdt:	.quad 0
	.quad 0x00cf9a000000ffff	/* 32-bit code */
	.quad 0x00cf92000000ffff	/* data */
	.quad 0x00af9a000000ffff	/* 64-bit code */
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.long CODE_AT + gdt - begin

	.org 0xfff0
	.code16
	jmp begin
	.org 0x10000
