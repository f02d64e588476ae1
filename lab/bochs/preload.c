// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is preloaded into Debian's bochs-bin begins here: mend.c, quick.c with walk.c, host_port.c
 * and keep.c.
 */
#include "program.h"

#include <stdio.h>

__attribute__((constructor)) static void begin(void)
{
    if (program_find())
        return; /* some other process */
    if (program_open()) {
        perror("lab/bochs");
        return;
    }
    mend_begin();
    quick_begin();
    host_port_begin();
    program_close();
}
