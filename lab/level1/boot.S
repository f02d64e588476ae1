/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The disk's first sector. Kernel and initrd lie in memory when the machine is switched on (see
 * machine.sh), so all there is to do is to enter the kernel as the PVH protocol wants it: 32-bit
 * protected mode without paging, flat segments, EBX = start info. start.S is at START; its last
 * word is the kernel's entry.
 */
        .code16
        .globl  _start
_start:
        cli
        cld
        inb     $0x92, %al              /* A20 on */
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        xorw    %ax, %ax
        movw    %ax, %ds
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmp    $8, $flat

        .code32
flat:
        movl    $16, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $START, %ebx
        jmp     *0xffc(%ebx)

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9a000000ffff      /* code */
        .quad   0x00cf92000000ffff      /* data */
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .org    510
        .word   0xaa55
