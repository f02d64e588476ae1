// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/kvm/lib/views.h"
#include "tests/kvm/lib/vm.h"

namespace shadowmon::kvmtest {

/// The hidden region as most tests want it: the pages that layout.h names (TG_PAGE_*), filled
/// from region.S, with their rights in both views. Owns the owner's mapping of it; what it put
/// into KVM goes when the Views closes. Works on a Views fd only, so any process can use it.
class Compartment {
  public:
    /// Places and fills the region and sets its rights. ENABLE is left to the caller.
    explicit Compartment(const Views& views, Gpa gpa = default_gpa());
    /// Somewhere above RAM, and the same in every run.
    static constexpr Gpa default_gpa() { return Gpa{0x2'4000'0000}; }

    Gpa gpa(uint32_t page = 0) const { return gpa_ + page * page_size; }
    uint8_t* page(uint32_t page) const { return map_.bytes() + page * page_size; }
    volatile RegionData& data() const {
        return *reinterpret_cast<volatile RegionData*>(page(TG_PAGE_DATA));
    }
    /// Fills TG_PAGE_TABLES so that the PUD entry returned leads to the region.
    uint64_t build_tables() const;
    /// ENABLE with the whole region as the gate's range. Fatal when refused.
    void enable(uint32_t flags = 0) const;

  private:
    const Views& views_;
    Gpa gpa_;
    Mapping map_;
};

/// A long time for what takes none to speak of, in ms.
constexpr uint64_t wait_limit = 10000;

void wait_step(const char* what, uint64_t start, uint64_t limit = wait_limit);
uint64_t monotonic_ms();

/// Spins, giving way to others, until the condition holds; fatal after the limit.
template <typename Condition>
void wait_until(const char* what, Condition condition, uint64_t limit = wait_limit) {
    uint64_t start = monotonic_ms();
    while (!condition())
        wait_step(what, start, limit);
}

} // namespace shadowmon::kvmtest
