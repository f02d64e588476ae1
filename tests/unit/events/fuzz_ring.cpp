// SPDX-License-Identifier: GPL-2.0-or-later
// Two rings and their slots with whatever bytes the fuzzer likes, read, merged, decoded and
// written in both formats. Proves: no fault, no endless loop, no event out of nothing, and a
// file that is JSON's and text's line by line.
//
// Input: ring headers' heads and tails, slots, then the first bytes of the rings' data; what
// is missing is 0. In between, the input says what changes while it is read.
#include "abi/config.h"
#include "abi/layout.h"
#include "src/events/merger.h"
#include "src/output/output.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <vector>

namespace {

using namespace shadowmon;

constexpr unsigned kRings = 2;
constexpr size_t kRingSize = SM_PAGE_SIZE;

void require(bool condition, const char* what) {
    if (condition)
        return;
    std::fprintf(stderr, "fuzz_ring: %s\n", what);
    std::abort();
}

/// Takes values from the input; zeros after its end.
class Input {
  public:
    Input(const uint8_t* data, size_t size) : at_(data), left_(size) {}

    void fill(void* out, size_t size) {
        const size_t part = std::min(size, left_);
        std::memset(out, 0, size);
        std::memcpy(out, at_, part);
        at_ += part;
        left_ -= part;
    }
    template <typename T> T take() {
        T value;
        fill(&value, sizeof(value));
        return value;
    }
    bool empty() const { return left_ == 0; }
    size_t left() const { return left_; }

  private:
    const uint8_t* at_;
    size_t left_;
};

struct Memory {
    sm_ring ring{};
    sm_slot slot{};
    std::vector<std::byte> data = std::vector<std::byte>(kRingSize);
};

/// A reader that starts at `tail`, or just before it if no record can begin there: then the
/// reader must refuse.
RingReader reader_from(unsigned index, Memory& memory, uint64_t tail) {
    memory.ring.tail = tail;
    Result<RingReader> reader = RingReader::make(index, &memory.ring, memory.data);
    require(reader.has_value() == (tail % 8 == 0), "the wrong tails are refused");
    return reader ? std::move(*reader) : reader_from(index, memory, tail & ~uint64_t{7});
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    Input input(bytes, size);
    std::vector<Memory> memory(kRings);
    std::vector<RingReader> rings;
    std::vector<const sm_slot*> slots;
    for (unsigned i = 0; i < kRings; ++i) {
        Memory& m = memory[i];
        rings.push_back(reader_from(i, m, input.take<uint64_t>()));
        // A head that is nearly always possible, so that records are looked at.
        m.ring.head = m.ring.tail + input.take<uint16_t>();
        m.ring.last_tsc = input.take<uint64_t>();
        m.slot.busy = input.take<uint8_t>() & 1;
        m.slot.tsc = input.take<uint64_t>();
        slots.push_back(&m.slot);
    }
    for (Memory& m : memory)
        input.fill(m.data.data(), std::min(kRingSize, input.left() / 2));

    std::chrono::nanoseconds now{};
    Merger merger(std::move(rings), std::move(slots), Decoder(*ClockMap::make({0, 0, 1})),
                  [&] { return now; });
    static const int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    const auto text = make_output(OutputFormat::kText, Sink(null_fd, "null", Sink::max_record));
    const auto json = make_output(OutputFormat::kJson, Sink(null_fd, "null", Sink::max_record));
    SummaryCollector collector;
    const auto visit = [&](const Event& event) {
        text->event(event);
        json->event(event);
        collector.event(event);
    };

    size_t seen = 0;
    size_t errors = 0;
    for (int round = 0; round < 4; ++round) {
        const size_t n = merger.poll(visit);
        // The smallest record has 96 bytes, and no more than a ring can be in a ring.
        require(n <= kRings * kRingSize / 96, "more events than a ring can hold");
        seen += n;
        errors += merger.take_errors().size();
        now += std::chrono::milliseconds(60);
        if (input.empty())
            continue;
        Memory& m = memory[input.take<uint8_t>() % kRings];
        m.ring.head += input.take<uint16_t>();
        m.slot.busy = input.take<uint8_t>() & 1;
        m.data[input.take<uint16_t>() % kRingSize] = input.take<std::byte>();
    }
    seen += merger.drain(visit);
    errors += merger.take_errors().size();
    require(!merger.holding(), "events left after the drain");
    require(errors <= kRings, "a ring found broken twice");
    for (Memory& m : memory)
        require(m.ring.tail == m.ring.head, "space not given back");

    const Summary summary = collector.summary(merger.lost());
    require(summary.events + summary.by_type[SM_EVENT_LOST] == seen, "events miscounted");
    require(text->finish(summary).has_value() && json->finish(summary).has_value(), "finish");
    return 0;
}
