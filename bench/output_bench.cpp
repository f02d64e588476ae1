// SPDX-License-Identifier: GPL-2.0-or-later
// What the host does per event, from the ring to the buffer of the file descriptor.
//
// Measures: four full rings of a busy guest's mix (nine system-call entries and exits to two
// switches, spread over the rings at random), read by one thread. Each benchmark adds a step
// to the one before: parsing records; merging and decoding; text, JSON lines or the summary.
// "events/s" is the rate of one host CPU, which a guest may reach before rings fill.
// Does not measure: producers at work at the same time and the cache misses that come of
// it, and the disk or terminal behind the descriptor (it is /dev/null).
//
//     output_bench [--benchmark_filter=Json]
#include "abi/config.h"
#include "abi/layout.h"
#include "src/events/merger.h"
#include "src/output/output.h"
#include <shadowmonitor/summary.h>

#include <benchmark/benchmark.h>
#include <fcntl.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace shadowmon {
namespace {

constexpr unsigned ring_count = 4;
constexpr size_t ring_size = 1 << 20;

/// Rings as a guest leaves them that has filled them while nobody was reading.
class FullRings {
  public:
    FullRings() : rings_(ring_count) {
        std::mt19937 random(1);
        const auto pick = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
        for (uint64_t tsc = 1'000'000;; tsc += 1 + pick(5000)) {
            Ring& ring = rings_[pick(ring_count)];
            if (ring.header.head + sizeof(sm_event_syscall_enter) > ring_size)
                break;
            const unsigned process = pick(40);
            switch (pick(11)) {
            case 0:
            case 1: {
                sm_body_switch body{};
                body.next_task = 0xffff888100000000 + process * 0x2000;
                body.next_tid = body.next_pid = 1000 + process;
                std::memcpy(body.next_comm, "kworker/0:1H-kb", 16);
                put(ring, SM_EVENT_SWITCH, tsc, process, body);
                break;
            }
            case 2:
            case 3:
            case 4:
            case 5:
                put(ring, SM_EVENT_SYSCALL_EXIT, tsc, process,
                    sm_body_syscall_exit{pick(300), static_cast<int64_t>(pick(4096)) - 64});
                break;
            default:
                put(ring, SM_EVENT_SYSCALL_ENTER, tsc, process,
                    sm_body_syscall_enter{
                        pick(300), {3, 0x7ffd5a3c2e10, 4096, 0, 0xffffffff, 0x55d0c0ffee00}});
            }
        }
    }

    uint64_t events() const { return events_; }

    /// All unread again.
    std::vector<RingReader> readers() {
        std::vector<RingReader> readers;
        for (unsigned i = 0; i < ring_count; ++i) {
            rings_[i].header.tail = 0;
            readers.push_back(*RingReader::make(i, &rings_[i].header, rings_[i].data));
        }
        return readers;
    }

    Merger merger() {
        return Merger(readers(), std::vector<const sm_slot*>(ring_count, &idle_slot_),
                      Decoder(*ClockMap::make({0, 1'795'427'701'000'000'000, 3'000'000})));
    }

  private:
    struct Ring {
        sm_ring header{};
        std::vector<std::byte> data = std::vector<std::byte>(ring_size);
    };

    template <typename Body>
    void put(Ring& ring, uint16_t type, uint64_t tsc, unsigned process, const Body& body) {
        sm_event_header h{};
        h.type = type;
        h.size = static_cast<uint32_t>(sizeof(h) + sizeof(body));
        h.cpu = process % 2;
        h.seq = ring.header.seq++;
        h.tsc = ring.header.last_tsc = tsc;
        h.task = 0xffff888100000000 + process * 0x2000;
        h.tid = h.pid = 1000 + process;
        h.ppid = 1;
        h.cr3 = 0x10a3c4000;
        std::memcpy(h.comm, "systemd-journal", SM_COMM_SIZE);
        std::byte* at = &ring.data[ring.header.head];
        std::memcpy(at, &h, sizeof(h));
        std::memcpy(at + sizeof(h), &body, sizeof(body));
        ring.header.head += h.size;
        ++events_;
    }

    std::vector<Ring> rings_;
    sm_slot idle_slot_{};
    uint64_t events_ = 0;
};

void report(benchmark::State& state, uint64_t events) {
    state.counters["events/s"] = benchmark::Counter(static_cast<double>(events),
                                                    benchmark::Counter::kIsIterationInvariantRate);
    state.counters["ns/event"] = benchmark::Counter(static_cast<double>(events) * 1e-9,
                                                    benchmark::Counter::kIsIterationInvariantRate |
                                                        benchmark::Counter::kInvert);
}

void read_records(benchmark::State& state) {
    FullRings rings;
    for ([[maybe_unused]] auto _ : state) {
        uint64_t sum = 0;
        for (RingReader& reader : rings.readers()) {
            reader.refresh();
            for (; const Record* record = reader.front(); reader.pop())
                sum += record->header.tsc;
        }
        benchmark::DoNotOptimize(sum);
    }
    report(state, rings.events());
}
BENCHMARK(read_records)->Name("Read");

void merge(benchmark::State& state) {
    FullRings rings;
    for ([[maybe_unused]] auto _ : state) {
        uint64_t sum = 0;
        rings.merger().poll([&](const Event& event) { sum += event.realtime_ns; });
        benchmark::DoNotOptimize(sum);
    }
    report(state, rings.events());
}
BENCHMARK(merge)->Name("Merge");

void write(benchmark::State& state, OutputFormat format) {
    FullRings rings;
    for ([[maybe_unused]] auto _ : state) {
        Sink sink = *Sink::open("/dev/null");
        const auto output = make_output(format, std::move(sink));
        rings.merger().poll([&](const Event& event) { output->event(event); });
        if (!output->flush())
            state.SkipWithError("cannot write");
    }
    report(state, rings.events());
}
BENCHMARK_CAPTURE(write, text, OutputFormat::kText)->Name("MergeText");
BENCHMARK_CAPTURE(write, json, OutputFormat::kJson)->Name("MergeJson");

void summarize(benchmark::State& state) {
    FullRings rings;
    for ([[maybe_unused]] auto _ : state) {
        SummaryCollector collector;
        rings.merger().poll([&](const Event& event) { collector.event(event); });
        benchmark::DoNotOptimize(collector);
    }
    report(state, rings.events());
}
BENCHMARK(summarize)->Name("MergeSummary");

} // namespace
} // namespace shadowmon

BENCHMARK_MAIN();
