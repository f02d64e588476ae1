// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The TLB, which the machine flushes at every VM entry, exit and VMFUNC, is flushed and filled again
 * quickly: what is in use is known, and page tables are read without a search for who has that memory.
 * What the emulated machine does stays the same.
 *
 * What is not found in the binary is left as it is; the lab is slower then.
 */
#include "program.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char flush_name[] = "_ZN8BX_CPU_C9TLB_flushEv";
/* Fills the entry that it is given, and nothing else does. */
static const char fill_name[] = "_ZN8BX_CPU_C16translate_linearEP12bx_TLB_entrymjj";

static const char restored_name[] = "_ZN8BX_CPU_C19after_restore_stateEv";

static const char breakpoint_name[] = "_ZN8BX_CPU_C18hwbreakpoint_checkEmjj";

/* For page tables above all. */
static const char read_name[] = "_ZN8BX_CPU_C20access_read_physicalEmjPv";
/* Where in Bochs' own memory that is; NULL where it is not simply memory. */
static const char address_name[] = "_ZN8BX_CPU_C14getHostMemAddrEmj";

/*
 * A flush of the TLB marks all of its 3,072 entries invalid, 120 KiB, which does the host's caches no
 * good either. Here each CPU's entries are noted as they come into use, and a flush marks those.
 */
struct tlb_entry {
    uint64_t page; /* all ones: invalid */
    uint64_t others[2];
    uint32_t access;
    uint32_t others_too[3];
};
_Static_assert(sizeof(struct tlb_entry) == 40, "as in the program");

enum { max_cpus = 8, max_used = 4096 };

static struct tlb {
    char* cpu;
    unsigned count;
    int all_of_it; /* to be flushed: not all that is in use was noted */
    struct tlb_entry* used[max_used];
} tlbs[max_cpus];

/* Where entries are, counted from their CPU: of data, and of instructions. */
static struct {
    uint32_t start, end;
} parts[2];

static struct tlb* tlb_of(char* cpu)
{
    for (unsigned i = 0; i < max_cpus; i++) {
        if (tlbs[i].cpu == cpu)
            return &tlbs[i];
        if (tlbs[i].cpu)
            continue;
        tlbs[i].cpu = cpu;
        tlbs[i].all_of_it = 1;
        return &tlbs[i];
    }
    fprintf(stderr, "lab/bochs: more than %d CPUs\n", max_cpus);
    abort();
}

/* Before an entry is filled. One that is valid has been noted when it became so. */
static void note_use(char* cpu, struct tlb_entry* entry)
{
    struct tlb* tlb = tlb_of(cpu);

    if (~entry->page)
        return;
    if (tlb->count < max_used)
        tlb->used[tlb->count++] = entry;
    else
        tlb->all_of_it = 1;
}

static void invalidate(struct tlb_entry* entry)
{
    entry->page = ~UINT64_C(0);
    entry->access = 0;
}

static void flush_used(char* cpu)
{
    struct tlb* tlb = tlb_of(cpu);

    if (tlb->all_of_it) {
        for (unsigned i = 0; i < 2; i++)
            for (uint32_t at = parts[i].start; at < parts[i].end; at += sizeof(struct tlb_entry))
                invalidate((struct tlb_entry*)(cpu + at));
    } else {
        for (unsigned i = 0; i < tlb->count; i++)
            invalidate(tlb->used[i]);
    }
    tlb->count = 0;
    tlb->all_of_it = 0;
}

/* The two loops of a flush from %rax to %rdx, which are set right before. */
static void flush_quickly(void)
{
    static const uint8_t loop[] = {0x48, 0xc7, 0x00, 0xff, 0xff, 0xff, 0xff,   /* movq $-1,(%rax) */
                                   0x48, 0x83, 0xc0, 0x28,                     /* add $40,%rax */
                                   0xc7, 0x40, 0xf0, 0x00, 0x00, 0x00, 0x00};  /* movl $0,-16(%rax) */
    static const uint8_t to_rax[] = {0x48, 0x8d, 0x87}, to_rdx[] = {0x48, 0x8d, 0x97}; /* lea of %rdi */
    enum { compare = 3, jump = 2, whole = sizeof(loop) + compare + jump, reach = 128 };
    uint8_t *flush = program_function(flush_name), *fill = program_function(fill_name);
    uint8_t *found[2] = {NULL, NULL}, *at, *near = room_near(64);
    unsigned loops = 0, starts = 0, ends = 0;

    for (at = flush; flush && at < flush + reach && at + whole <= text_end; at++) {
        if (!memcmp(at, to_rax, sizeof(to_rax)) && starts < 2)
            memcpy(&parts[starts++].start, at + sizeof(to_rax), sizeof(uint32_t));
        if (!memcmp(at, to_rdx, sizeof(to_rdx)) && ends < 2)
            memcpy(&parts[ends++].end, at + sizeof(to_rdx), sizeof(uint32_t));
        if (memcmp(at, loop, sizeof(loop)) || at[whole - jump] != 0x75 || at[whole - 1] != (uint8_t)-whole)
            continue;
        if (loops < 2)
            found[loops] = at;
        loops++;
        if (starts != loops || ends != loops)
            break;
    }
    if (loops != 2 || starts != 2 || ends != 2 || !fill || !near) {
        fprintf(stderr, "lab/bochs: %s is another one\n", flush_name);
        return;
    }
    /* The first calls flush_used; of the second nothing is left. */
    memset(found[0], 0x90, whole);
    memset(found[1], 0x90, whole);
    at = put(found[0], "\x57", 1); /* push %rdi */
    at = put_load(at, (void*)flush_used);
    put(at, "\xff\xd0\x5f", 3); /* call *%rax; pop %rdi */

    at = put(near, "\x57\x56\x52\x51\x41\x50", 6); /* push %rdi, %rsi, %rdx, %rcx, %r8 */
    at = put_load(at, (void*)note_use);
    at = put(at, "\xff\xd0\x41\x58\x59\x5a\x5e\x5f", 8); /* call *%rax; pop all */
    put_jump(at, fill);
    change_calls(fill_name, put_target, near);
}

/* Where DR0 to DR3 and DR7 are, counted from their CPU. */
static uint32_t dr0_at, dr7_at;

/* Whether a debug register names something on that page, for one of two kinds of access. */
static int has_breakpoint(char* cpu, uint64_t address, unsigned kind, unsigned other_kind)
{
    uint32_t kinds;
    uint64_t place;

    memcpy(&kinds, cpu + dr7_at, sizeof(kinds));
    kinds >>= 16;
    if (!kinds && kind && other_kind)
        return 0;
    for (unsigned i = 0; i < 4; i++, kinds >>= 4) {
        memcpy(&place, cpu + dr0_at + i * sizeof(place), sizeof(place));
        if (((kinds & 3) == kind || (kinds & 3) == other_kind) && (place ^ address) < 4096)
            return 1;
    }
    return 0;
}

/* It is asked each time an entry of the TLB is filled, and takes its time. */
static void look_for_breakpoints_quickly(void)
{
    static const uint8_t load_dr7[] = {0x41, 0x8b, 0x80},    /* mov dr7(%r8),%eax */
        load_dr[] = {0x49, 0x8b, 0x8c, 0xd0};                /* mov dr0(%r8,%rdx,8),%rcx */
    enum { reach = 160 };
    uint8_t* look = program_function(breakpoint_name);

    for (uint8_t* at = look; at && at < look + reach && at + reach <= text_end; at++) {
        if (!memcmp(at, load_dr7, sizeof(load_dr7)))
            memcpy(&dr7_at, at + sizeof(load_dr7), sizeof(dr7_at));
        if (!memcmp(at, load_dr, sizeof(load_dr)))
            memcpy(&dr0_at, at + sizeof(load_dr), sizeof(dr0_at));
    }
    if (!dr7_at || !dr0_at) {
        fprintf(stderr, "lab/bochs: %s is another one\n", breakpoint_name);
        return;
    }
    redirect_calls(breakpoint_name, (void*)has_breakpoint);
}

/*
 * Memory above the first megabyte and below the devices stays where Bochs has it once that is known.
 * (Two things could make it other memory, and do not in the lab: A20 off, and page tables or a VMCS on
 * the page that is some guest's virtual APIC.)
 */
enum { page_bits = 12, page_size = 1 << page_bits, places = 4096 };
static const uint64_t lowest = 1 << 20, highest = UINT64_C(3) << 30;
static struct {
    uint64_t page;    /* its number */
    const char* data; /* NULL: none */
} known[places];
static void (*read_anything)(char* cpu, uint64_t address, unsigned size, void* data);
static char* (*address_of)(char* cpu, uint64_t address, unsigned access);

/* NULL if it is not simply memory. */
static const char* page_of(char* cpu, uint64_t address)
{
    enum { for_reading = 0 };
    uint64_t page = address >> page_bits;
    unsigned place = page % places;

    if (known[place].page == page && known[place].data)
        return known[place].data;
    if (address < lowest || address >= highest)
        return NULL;
    known[place].data = address_of(cpu, page << page_bits, for_reading);
    known[place].page = page;
    return known[place].data;
}

static void read_quickly(char* cpu, uint64_t address, unsigned size, void* data)
{
    unsigned offset = address % page_size;
    const char* page = page_of(cpu, address);

    if (!page || offset + size > page_size)
        read_anything(cpu, address, size, data);
    else if (size == sizeof(uint64_t))
        memcpy(data, page + offset, sizeof(uint64_t));
    else
        memcpy(data, page + offset, size);
}

static void read_memory_quickly(void)
{
    read_anything = (void (*)(char*, uint64_t, unsigned, void*))program_function(read_name);
    address_of = (char* (*)(char*, uint64_t, unsigned))program_function(address_name);
    if (!read_anything || !address_of) {
        fprintf(stderr, "lab/bochs: no %s\n", read_anything ? address_name : read_name);
        return;
    }
    redirect_calls(read_name, (void*)read_quickly);
}

static void (*after_restore)(char* cpu);

/*
 * A CPU's kept state has the entries of its TLB, but not where in Bochs' own memory the pages are now.
 * What follows flushes them all; none of them has been noted.
 */
static void flush_restored(char* cpu)
{
    tlb_of(cpu)->all_of_it = 1;
    after_restore(cpu);
}

void walk_begin(void)
{
    flush_quickly();
    after_restore = (void (*)(char*))program_function(restored_name);
    redirect_calls(restored_name, (void*)flush_restored);
    look_for_breakpoints_quickly();
    read_memory_quickly();
}
