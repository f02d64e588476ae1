// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "program.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

uint8_t *text, *text_end;

static int find_text(struct dl_phdr_info* object, size_t size, void* data)
{
    (void)size;
    (void)data;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr)* part = &object->dlpi_phdr[i];

        if (part->p_type == PT_LOAD && (part->p_flags & PF_X)) {
            text = (uint8_t*)(object->dlpi_addr + part->p_vaddr);
            text_end = text + part->p_memsz;
        }
    }
    return 1; /* the first object is the program */
}

int program_find(void)
{
    dl_iterate_phdr(find_text, NULL);
    return text && dlsym(RTLD_DEFAULT, "bx_pc_system") ? 0 : -1;
}

static int protect(int rights)
{
    uintptr_t mask = sysconf(_SC_PAGESIZE) - 1;
    uintptr_t start = (uintptr_t)text & ~mask;

    return mprotect((void*)start, (uintptr_t)text_end - start, rights);
}

int program_open(void)
{
    return protect(PROT_READ | PROT_WRITE | PROT_EXEC);
}

int program_close(void)
{
    return protect(PROT_READ | PROT_EXEC);
}

void* program_object(const char* name)
{
    return dlsym(RTLD_DEFAULT, name);
}

uint8_t* program_function(const char* name)
{
    uint8_t* at = program_object(name);

    return at >= text && at < text_end ? at : NULL;
}

void change_calls(const char* name, void (*change)(uint8_t* at, const void* what), const void* what)
{
    const uint8_t* called = program_function(name);
    unsigned changed = 0;

    for (uint8_t* at = text; called && at + CALL_SIZE <= text_end; at++) {
        int32_t distance;

        if (*at != 0xe8 && *at != 0xe9)
            continue;
        memcpy(&distance, at + 1, sizeof(distance));
        if (at + CALL_SIZE + distance != called)
            continue;
        change(at, what);
        changed++;
    }
    if (!changed)
        fprintf(stderr, "lab/bochs: no call of %s\n", name);
}

void put_code(uint8_t* at, const void* code)
{
    if (*at == 0xe8)
        memcpy(at, code, CALL_SIZE);
}

void put_target(uint8_t* at, const void* target)
{
    int32_t distance = (int32_t)((const uint8_t*)target - (at + CALL_SIZE));

    memcpy(at + 1, &distance, sizeof(distance));
}

static uint8_t* page_near(unsigned size)
{
    enum { step = 1 << 20, tries = 1024 };
    uintptr_t start = (uintptr_t)text & ~(uintptr_t)(step - 1);

    for (unsigned i = 1; i < tries; i++) {
        void* page = mmap((void*)(start - (uintptr_t)i * step), size, PROT_READ | PROT_WRITE | PROT_EXEC,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

        if (page != MAP_FAILED)
            return page;
    }
    perror("lab/bochs: no page near the program");
    return NULL;
}

uint8_t* room_near(unsigned size)
{
    enum { page_size = 4096 };
    static uint8_t* page;
    static unsigned used;
    uint8_t* room;

    if (!page)
        page = page_near(page_size);
    if (!page || used + size > page_size)
        return NULL;
    room = page + used;
    used += size;
    return room;
}

uint8_t* put(uint8_t* at, const void* code, unsigned size)
{
    memcpy(at, code, size);
    return at + size;
}

uint8_t* put_load(uint8_t* at, const void* value)
{
    uint64_t bits = (uintptr_t)value;

    at = put(at, "\x48\xb8", 2);
    return put(at, &bits, sizeof(bits));
}

uint8_t* put_jump(uint8_t* at, const void* target)
{
    return put(put_load(at, target), "\xff\xe0", 2);
}

void redirect_calls(const char* name, const void* target)
{
    uint8_t* jump = room_near(16);

    if (!jump)
        return;
    put_jump(jump, target);
    change_calls(name, put_target, jump);
}
