// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kallsyms.h"
#include "src/hooks/refusal.h"

#include <string_view>
#include <vector>

namespace shadowmon {

/// What may carry no hook whatever its instructions are: known by the kernel's symbols.
class OffLimits {
  public:
    /// Fails if the kernel does not say where its entry code is.
    static Result<OffLimits> find(const Kallsyms& symbols);

    /// By address: entry code, noinstr code, code for booting.
    Refusal at(Gva gva) const;

    /// By a function's name.
    static Refusal named(std::string_view function);

  private:
    struct Range {
        Gva start;
        Gva end;
        Refusal why;
    };
    std::vector<Range> ranges_;
};

/// True for functions that jump to where a register says.
bool is_indirect_thunk(std::string_view function);

} // namespace shadowmon
