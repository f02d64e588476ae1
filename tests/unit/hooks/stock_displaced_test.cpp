// SPDX-License-Identifier: GPL-2.0-or-later
// A sample of the instructions of a stock kernel that can be hooked, every mnemonic among them:
// executed in their place and displaced where they may run in user mode, read where not.
#include "tests/unit/hooks/execution_proof.h"
#include "tests/unit/hooks/stock_kernel.h"

#include <cinttypes>
#include <cstdlib>
#include <map>
#include <sched.h>

namespace shadowmon::test {
namespace {

constexpr size_t least_instructions = 20'000;
constexpr size_t most_per_mnemonic = 1'000;

using StockDisplaced = StockKernelHooks;

uint64_t hash_of(const std::vector<std::byte>& bytes, uint64_t seed) {
    uint64_t hash = 0xcbf29ce484222325 ^ seed;
    for (std::byte b : bytes)
        hash = (hash ^ static_cast<uint64_t>(b)) * 0x100000001b3;
    return hash ^ hash >> 29;
}

/// Per mnemonic those whose bytes have the smallest hashes: all different, evenly chosen.
using Sample = std::map<ZydisMnemonic, std::map<uint64_t, Gva>>;

void offer(Sample& sample, Gva at, const Displaced& displaced, uint64_t seed) {
    auto& chosen = sample[displaced.instructions.front().info.mnemonic];
    chosen.emplace(hash_of(displaced.bytes, seed), at);
    if (chosen.size() > most_per_mnemonic)
        chosen.erase(std::prev(chosen.end()));
}

TEST_F(StockDisplaced, SampleHasTheSameEffects) {
    const char* wanted = std::getenv("SM_SEED");
    uint64_t seed = wanted ? std::strtoull(wanted, nullptr, 0) : 1;
    std::printf("%s, seed %" PRIu64 " (SM_SEED)\n", kernel_->release.c_str(), seed);
    Sample sample;
    size_t hookable = 0;
    const CodeMap& map = planner_->code().map;
    for (Gva at = map.start(); at < map.end(); at = at + 1) {
        if (!map.is_start(at))
            continue;
        Judgement judgement = planner_->judge(at);
        if (judgement.refusal != Refusal::none)
            continue;
        offer(sample, at, planner_->displaced(at, judgement), seed);
        hookable++;
    }
    size_t chosen = 0;
    for (const auto& [mnemonic, instructions] : sample)
        chosen += instructions.size();
    std::printf("%zu different ones of %zu that can be hooked, %zu mnemonics\n", chosen, hookable,
                sample.size());
    EXPECT_GE(chosen, least_instructions);

    EXPECT_TRUE(in_child([&] {
        // CPUID and RDTSCP tell the CPU.
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        sched_setaffinity(0, sizeof(one), &one);
        ExecutionProof proof(seed);
        for (const auto& [mnemonic, instructions] : sample)
            for (const auto& [hash, at] : instructions)
                proof.check(planner_->displaced(at, planner_->judge(at)));
        std::puts(proof.table().c_str());
        for (const std::string& difference : proof.differences())
            std::puts(difference.c_str());
        auto total = proof.total();
        return total.different == 0 && total.executed >= least_instructions ? 0 : 1;
    }));
}

} // namespace
} // namespace shadowmon::test
