/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where things lie in the test guest. Included by the guest's assembly and by
 * the C++ that builds and reads the guest, so that both mean the same bytes.
 *
 * The guest is one address space: the first GiB of guest-virtual memory is the
 * first GiB of guest-physical memory, and one 2 MiB range at TG_REGION_GVA,
 * where ShadowMonitor's compartment lies in a real guest, leads to the hidden
 * region. All accessed and dirty bits are set in advance.
 */
#ifndef SHADOWMONITOR_TESTS_KVM_LAYOUT_H
#define SHADOWMONITOR_TESTS_KVM_LAYOUT_H

#define TG_PAGE_SIZE 0x1000
#define TG_RAM_SIZE 0x2000000

#define TG_GDT_GPA 0x1000
#define TG_IDT_GPA 0x2000
#define TG_TSS_GPA 0x3000     /* one 0x80-byte TSS per vCPU */
#define TG_CONTEXT_GPA 0x8000 /* one page per vCPU, its GS base */
#define TG_PML4_GPA 0x10000
#define TG_PDPT_LOW_GPA 0x11000
#define TG_PD_LOW_GPA 0x12000
#define TG_PDPT_HIGH_GPA 0x13000
#define TG_PD_REGION_GPA 0x14000
#define TG_PT_REGION_GPA 0x15000
#define TG_TEXT_GPA 0x100000
#define TG_STACK_GPA 0x180000 /* TG_STACK_SIZE per vCPU, growing down from its end */
#define TG_STACK_SIZE 0x4000
#define TG_DATA_GPA 0x400000 /* from here to the end of RAM: the test's own */

#define TG_REGION_GVA 0xffffffff40000000
#define TG_REGION_MAX_PAGES 512
#define TG_REGION_PUD_INDEX 509 /* entry of TG_PDPT_HIGH_GPA that leads to the region */

#define TG_MAX_VCPUS 4

#define TG_CODE_SELECTOR 0x08
#define TG_DATA_SELECTOR 0x10
#define TG_USER_DATA_SELECTOR 0x1b
#define TG_USER_CODE_SELECTOR 0x23
#define TG_TSS_SELECTOR 0x28 /* + 16 per vCPU */

#define TG_DONE_PORT 0xe0   /* a called function has returned */
#define TG_FAULT_PORT 0xe1  /* it was ended by an exception */
#define TG_NOTIFY_PORT 0xe2 /* "I am here"; the VMM counts it and goes on */

/* Fields of the context page. */
#define TG_CTX_VECTOR 0
#define TG_CTX_ERROR 8
#define TG_CTX_RIP 16
#define TG_CTX_CR2 24
#define TG_CTX_STACK 32 /* stack to go to when an exception ends a call */
#define TG_CTX_NMIS 40
#define TG_CTX_IRQS 48
#define TG_CTX_EOI 56 /* nonzero: end interrupts at the local APIC */
#define TG_CTX_CS 64
#define TG_CTX_INTERRUPTS 72 /* NMIs and IRQs together */
#define TG_CTX_LOG 512       /* interrupted RIPs, 64 entries, oldest overwritten */
#define TG_CTX_LOG_MASK 63

/* Pages of the hidden region as the test compartment lays them out. */
#define TG_PAGE_GATE 0    /* main x, shadow rx */
#define TG_PAGE_DATA 1    /* shadow rw */
#define TG_PAGE_STACK 2   /* shadow rw */
#define TG_PAGE_SECRET 3  /* shadow rx: code and data that the main view must not have */
#define TG_PAGE_XONLY 4   /* main x, shadow rx */
#define TG_PAGE_RONLY 5   /* main r, shadow rw */
#define TG_PAGE_VE 6      /* one per vCPU, shadow rw */
#define TG_PAGE_TABLES 10 /* page-table pages, main r, shadow r: a PMD page, a PT page */
#define TG_REGION_PAGES 16

/* Fields of the data page. */
#define TG_DATA_EVENTS 0   /* INT 20 gate passes */
#define TG_DATA_INSIDE 8   /* set by a vCPU that spins in the shadow view */
#define TG_DATA_RELEASE 16 /* set by the owner to let it go */
#define TG_DATA_VE_COUNT 24
#define TG_DATA_RESUME 32  /* where gate_int20_table sends the guest */
#define TG_DATA_VE_COPY 64 /* the #VE information page as the handler found it */
#define TG_DATA_STACK 128  /* main-view stack pointer while on the region's stack */

#endif
