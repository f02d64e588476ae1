// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/payload_image.h"

extern "C" const std::byte sm_embedded_payload[];
extern "C" const std::byte sm_embedded_payload_end[];

namespace shadowmon {

std::span<const std::byte> embedded_payload() {
    return {sm_embedded_payload, sm_embedded_payload_end};
}

} // namespace shadowmon
