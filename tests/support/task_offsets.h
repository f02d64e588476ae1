/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a made guest keeps what the payload reads of a task: about as stock kernels do. */
#pragma once

#include "abi/config.h"

namespace shadowmon {

/* current: from GS base, of the pointer to the running task. */
constexpr sm_offsets task_offsets(uint32_t current) {
    return {.current_task = current,
            .task_pid = 0x9a0,
            .task_tgid = 0x9a4,
            .task_real_parent = 0x9b0,
            .task_cred = 0xb78,
            .task_comm = 0xb88,
            .task_state = 0x18,
            .cred_uid = 8};
}

} // namespace shadowmon
