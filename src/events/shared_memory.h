// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>

namespace shadowmon {

// Words that the payload and this process write and read at the same time. The builtins
// take pointers to const, which std::atomic_ref does not in C++20.

template <typename T> T load_acquire(const T* word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

template <typename T> void store_release(T* word, T value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

} // namespace shadowmon
