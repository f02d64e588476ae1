// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/hooks/execution_proof.h"

#include "abi/layout.h"
#include "src/hooks/movable.h"
#include "tests/unit/hooks/piece_reader.h"

#include <csignal>
#include <cstdio>
#include <sys/wait.h>
#include <unistd.h>

namespace shadowmon::test {

namespace {

/// Each round has its own state; a branch has two ways to go.
constexpr unsigned plain_rounds = 4;
constexpr unsigned branch_rounds = 16;
constexpr size_t kept_differences = 20;
constexpr uint64_t stack_margin = 128;

constexpr Gva compartment_page(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET);
/// In the same hole of the kernel's address space, but out of reach of its text.
constexpr Gva far_page(0xffffffff00002000);

std::string text_of(const Displaced& displaced) {
    std::string text;
    for (const Instruction& instruction : displaced.instructions)
        text += (text.empty() ? "`" : "; ") + instruction.text();
    text += "`";
    for (std::byte b : displaced.bytes)
        text += fmt::format(" {:02x}", static_cast<unsigned>(b));
    return text;
}

bool has_stack(const Ending& ending) {
    uint64_t stack_pointer = ending.registers.gpr[4];
    return stack_pointer >= Fence::stack().value + stack_margin &&
           stack_pointer <= Fence::stack().value + Fence::stack_size - stack_margin;
}

/// The two halves of the address space: what bit 47 says, all above it say.
bool canonical(uint64_t address) {
    uint64_t above = address >> 47;
    return above == 0 || above == 0x1ffff;
}

} // namespace

void ExecutionProof::check(const Displaced& displaced) {
    Tally& tally = tallies_[ZydisMnemonicGetString(displaced.instructions.front().info.mnemonic)];
    switch (not_for_user_mode(displaced).empty() ? execute(displaced) : read(displaced)) {
    case Outcome::executed:
        tally.executed++;
        break;
    case Outcome::faulted:
        tally.faulted++;
        break;
    case Outcome::read:
        tally.read++;
        break;
    case Outcome::different:
        tally.different++;
        break;
    }
}

ExecutionProof::Outcome ExecutionProof::different(const Displaced& displaced,
                                                  const std::string& how) {
    if (differences_.size() < kept_differences)
        differences_.push_back(text_of(displaced) + ": " + how);
    return Outcome::different;
}

ExecutionProof::Outcome ExecutionProof::execute(const Displaced& displaced) {
    bool clean = false;
    bool branches = flow_of(displaced.instructions.back()) == Flow::branch;
    unsigned rounds = branches ? branch_rounds : plain_rounds;
    for (unsigned round = 0; round < rounds; round++) {
        auto code = bring_into_fence(displaced, random_);
        if (!code)
            return read(displaced);
        Registers start = choose_state(*code, fence_, random_);
        bool interrupts = round % 2;
        Ending original =
            fence_.run(Fence::original(), code->bytes, start, interrupts, Fence::Guard::off);
        if (original.signal == SIGILL)
            return read(displaced);
        // The STI of a piece is done by a signal handler, from which not every machine can
        // return with such a stack pointer.
        if (interrupts && !canonical(original.registers.gpr[4]))
            continue;
        // Leaving for afar takes a stack, which the kernel always has.
        bool far = (round & 2) && has_stack(original);
        Gva at = far ? Fence::far_piece() : Fence::near_piece();
        auto piece = displace(*code, at, interrupts);
        if (!piece)
            return different(*code, piece.error().message());
        if (damage_)
            damage_(*piece);
        // The gate always comes with interrupts off.
        Ending moved = fence_.run(at, *piece, start, false, Fence::Guard::on);
        auto difference = compare({*code, start, original, moved, at, piece->size()}, fence_);
        if (!difference.empty())
            return different(*code, fmt::format("{} (round {})", difference, round));
        clean |= original.signal == SIGTRAP;
    }
    return clean ? Outcome::executed : Outcome::faulted;
}

ExecutionProof::Outcome ExecutionProof::read(const Displaced& displaced) {
    for (Gva at : {compartment_page, far_page}) {
        for (bool interrupts : {false, true}) {
            auto piece = displace(displaced, at, interrupts);
            if (!piece)
                return different(displaced, piece.error().message());
            if (damage_)
                damage_(*piece);
            auto wrong = read_piece(displaced, *piece, at, interrupts);
            if (!wrong.empty())
                return different(displaced, wrong);
        }
    }
    return Outcome::read;
}

ExecutionProof::Tally ExecutionProof::total() const {
    Tally sum;
    for (const auto& [mnemonic, tally] : tallies_) {
        sum.executed += tally.executed;
        sum.faulted += tally.faulted;
        sum.read += tally.read;
        sum.different += tally.different;
    }
    return sum;
}

std::string ExecutionProof::table() const {
    std::string out = fmt::format("{:<14}{:>10}{:>10}{:>10}{:>10}\n", "mnemonic", "executed",
                                  "faulted", "read", "different");
    auto row = [&](const std::string& name, const Tally& t) {
        out += fmt::format("{:<14}{:>10}{:>10}{:>10}{:>10}\n", name, t.executed, t.faulted, t.read,
                           t.different);
    };
    for (const auto& [mnemonic, tally] : tallies_)
        row(mnemonic, tally);
    row("all", total());
    return out;
}

bool in_child(const std::function<int()>& body) {
    std::fflush(nullptr);
    pid_t child = fork();
    if (child == 0) {
        int status = body();
        std::fflush(nullptr);
        _exit(status);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

} // namespace shadowmon::test
