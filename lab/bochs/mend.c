// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Mends what Debian's Bochs does otherwise than a processor.
 *
 * A VM entry blocks virtual NMIs if the guest's interruptibility state says so, and must not if it
 * says otherwise (Intel SDM vol. 3, "Loading Non-Register State" of VM entries). Bochs 2.7 leaves
 * them as they were on that CPU: if one vCPU goes while its NMIs are blocked, the next one there has
 * them blocked, until it happens to do an IRET.
 */
#include "program.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char load_name[] = "_ZN8BX_CPU_C26VMenterLoadCheckGuestStateEPm";

enum { virtual_nmi = 0x80 };

/* Where the mask of blocked events is, counted from its CPU. */
static uint32_t blocked_at;

static uint32_t (*load_guest_state)(char* cpu, uint64_t* qualification);

static uint32_t load_unblocked(char* cpu, uint64_t* qualification)
{
    uint32_t blocked;

    memcpy(&blocked, cpu + blocked_at, sizeof(blocked));
    blocked &= ~(uint32_t)virtual_nmi;
    memcpy(cpu + blocked_at, &blocked, sizeof(blocked));
    return load_guest_state(cpu, qualification);
}

void mend_begin(void)
{
    static const uint8_t load[] = {0x8b, 0x83}; /* mov blocked(%rbx),%eax */
    static const uint8_t block[] = {0x89, 0xc2,        /* mov %eax,%edx */
                                    0x0c, virtual_nmi, /* or $0x80,%al */
                                    0x83, 0xca, 0x01}; /* or $1,%edx: NMIs if they are not virtual */
    enum { reach = 8192 };
    uint8_t* function = program_function(load_name);

    for (uint8_t* at = function; at && at < function + reach && at + 16 <= text_end; at++) {
        if (!memcmp(at, load, sizeof(load)) && !memcmp(at + 6, block, sizeof(block)))
            memcpy(&blocked_at, at + sizeof(load), sizeof(blocked_at));
    }
    if (!blocked_at) {
        fprintf(stderr, "lab/bochs: %s is another one\n", load_name);
        return;
    }
    load_guest_state = (uint32_t(*)(char*, uint64_t*))(void*)function;
    redirect_calls(load_name, (void*)load_unblocked);
}
