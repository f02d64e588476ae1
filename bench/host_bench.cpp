// SPDX-License-Identifier: GPL-2.0-or-later
/// The payload's event writer and the host's ring reader, compiled for this machine and timed in
/// nanoseconds. What they show is whether a change made the logic slower and how writer and reader
/// compare; they say nothing of a gate, a VMFUNC or an exit (event_cost counts those in the lab).
#include "payload/handler.h"
#include "src/events/ring_reader.h"
#include "tests/support/task_offsets.h"

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

using namespace shadowmon::payload;

constexpr uint32_t ring_size = 1 << 20;
constexpr uint64_t event_rip = 0x1000;
constexpr uint32_t body_capacity = 2;

/// A guest whose memory is this process's. One window covers it, as the direct map does.
class HostMachine {
  public:
    HostMachine() {
        memory_ = std::make_unique<Memory>();
        config_.slots = 1;
        config_.ring_size = ring_size;
        config_.hook_capacity = body_capacity;
        config_.task_size = 0x1000;
        config_.nr_windows = 1;
        config_.windows[0] = {address(memory_.get()), sizeof(Memory)};
        config_.offsets = shadowmon::task_offsets(0);
        memory_->current = address(memory_->task);
        put(memory_->task + config_.offsets.task_real_parent, address(memory_->task));
        put(memory_->task + config_.offsets.task_cred, address(memory_->cred));
        auto* frame = reinterpret_cast<uint64_t*>(memory_->stack + 0x3000);
        frame[SM_ASM_FRAME_RIP / 8] = event_rip;
        slot_->guest_rsp = address(frame);
        sm_derive(&config_);
    }

    void set_hook(uint16_t type) {
        hook_ = {event_rip, 1, type, 0, 0x1001, 0x1002};
        regs_.rsi = address(memory_->task);
        regs_.rdi = type == SM_EVENT_SWITCH ? regs_.rsi : address(memory_->stack + 0x3f00);
    }
    void event(uint64_t tsc) {
        slot_->tsc = tsc;
        benchmark::DoNotOptimize(handle_event<IntEntry>(*this, *slot_, tsc, 0));
    }
    sm_ring& ring() { return *ring_; }
    std::span<const std::byte> data() const { return {data_.get(), ring_size}; }

    const SavedRegs& saved_regs(const sm_slot&) const { return regs_; }
    uint64_t from_start(uint64_t at) const { return at - config_.derived.start; }
    bool is_below_limit(uint64_t from_start) const { return from_start < config_.derived.limit; }
    const sm_config& config() const { return config_; }
    const sm_hook* hooks() const { return &hook_; }
    const sm_hook* hook_at(uint64_t offset) const { return at_offset(hooks(), offset); }
    uint64_t offset_of(const sm_hook* hook) const { return address(hook) - address(hooks()); }
    uint32_t tsc_aux() const { return 0; }
    sm_ring& ring_of(const sm_slot&) const { return *ring_; }
    uint8_t* ring_data(sm_ring&) const { return reinterpret_cast<uint8_t*>(data_.get()); }
    uint64_t* counters_of(sm_ring&) const { return counters_.get(); }
    uint64_t& irq_count(uint32_t) const { return *irq_count_; }
    sm_limit& limit_of(const sm_hook&) const { return *limit_; }
    uint64_t cr3() const { return 0; }
    uint64_t gs_base() const { return address(&memory_->current); }
    uint64_t call_host(uint64_t) const { return 1; }
    template <class T> T load(Gva at) const {
        return *reinterpret_cast<const volatile T*>(raw(at));
    }
    template <class T> T load(Gva base, uint64_t from_base, uint64_t offset) const {
        return load<T>(base + from_base + offset);
    }
    uint64_t load_u32(Gva at) const { return load<uint32_t>(at); }
    uint64_t load_int(Gva base, uint64_t from_base, uint64_t offset) const {
        return static_cast<uint64_t>(
            int64_t{static_cast<int32_t>(load<uint32_t>(base, from_base, offset))});
    }

  private:
    struct Memory {
        alignas(stack_block_size) uint8_t stack[stack_block_size];
        uint8_t task[0x2000];
        uint8_t cred[0x2000];
        uint64_t current;
        uint8_t rest[0x2000];
    };
    static uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }
    static void put(uint8_t* at, uint64_t value) { memcpy(at, &value, sizeof(value)); }

    std::unique_ptr<Memory> memory_;
    sm_config config_{};
    sm_hook hook_{};
    SavedRegs regs_{};
    std::unique_ptr<sm_slot> slot_ = std::make_unique<sm_slot>();
    std::unique_ptr<sm_ring> ring_ = std::make_unique<sm_ring>();
    std::unique_ptr<uint64_t[]> counters_ =
        std::make_unique<uint64_t[]>(SM_COUNTERS * body_capacity);
    std::unique_ptr<uint64_t> irq_count_ = std::make_unique<uint64_t>();
    std::unique_ptr<sm_limit> limit_ = std::make_unique<sm_limit>();
    std::unique_ptr<std::byte[]> data_ = std::make_unique<std::byte[]>(ring_size);
};

/// One event from lookup to commit, on the fast path, into a ring that is never full. Does not
/// include the gate, cold caches or a reader on another CPU.
void write_event(benchmark::State& state) {
    HostMachine machine;
    const auto type = static_cast<uint16_t>(state.range(0));
    machine.set_hook(type);
    uint64_t tsc = 0;
    for ([[maybe_unused]] auto _ : state) {
        machine.event(++tsc);
        machine.ring().tail = machine.ring().head;
    }
    if (machine.ring().recorded[type] != static_cast<uint64_t>(state.iterations()))
        state.SkipWithError("events were lost");
    state.SetItemsProcessed(state.iterations());
}

/// Reading a ring full of records of one type: refresh, check, copy, release. Does not include
/// merging, decoding or output, nor the transfer of cache lines from another CPU. The pass that
/// fills the ring is not timed.
void read_ring(benchmark::State& state) {
    HostMachine machine;
    const auto type = static_cast<uint16_t>(state.range(0));
    machine.set_hook(type);
    auto reader = shadowmon::RingReader::make(0, &machine.ring(), machine.data());
    if (!reader)
        return state.SkipWithError("no reader");
    uint64_t tsc = 0, records = 0;
    for ([[maybe_unused]] auto _ : state) {
        state.PauseTiming();
        for (int i = 0; i < 5000; i++)
            machine.event(++tsc);
        state.ResumeTiming();
        reader->refresh();
        while (reader->front()) {
            reader->pop();
            records++;
        }
        reader->release();
    }
    if (reader->broken() || records != tsc)
        state.SkipWithError("not every record was read");
    state.SetItemsProcessed(static_cast<int64_t>(records));
}

BENCHMARK(write_event)
    ->Arg(SM_EVENT_SYSCALL_ENTER)
    ->Arg(SM_EVENT_SYSCALL_EXIT)
    ->Arg(SM_EVENT_SWITCH);
BENCHMARK(read_ring)->Arg(SM_EVENT_SYSCALL_ENTER)->Arg(SM_EVENT_SYSCALL_EXIT)->Arg(SM_EVENT_SWITCH);

} // namespace

BENCHMARK_MAIN();
