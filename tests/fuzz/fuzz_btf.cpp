// SPDX-License-Identifier: GPL-2.0-or-later
//
// Btf::parse, and thereby libbpf, on hostile bytes; then all that is asked of it.
#include "src/guest/btf.h"

#include <bpf/btf.h>

using namespace shadowmon;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    auto btf = Btf::parse(std::as_bytes(std::span(data, size)));
    if (!btf)
        return 0;
    for (const char* path : {"pid", "comm", "list.next", "in_union_b", "none"})
        (void)btf->member("task_struct", path);
    unsigned count = btf__type_cnt(btf->raw());
    for (unsigned id = 1; id < count && id < 64; ++id) {
        const btf_type* type = btf__type_by_id(btf->raw(), id);
        if (!btf_is_composite(type))
            continue;
        const char* name = btf__name_by_offset(btf->raw(), type->name_off);
        for (unsigned i = 0; i < btf_vlen(type) && i < 32; ++i)
            (void)btf->member(name, btf__name_by_offset(btf->raw(), btf_members(type)[i].name_off));
    }
    return 0;
}
