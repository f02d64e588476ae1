// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "payload/ring_writer.h"
#include "src/events/ring_reader.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

namespace shadowmon::test {

/// Slots and rings in ordinary memory, and the payload's own ring writer on them, so that
/// what is tested against is the producer that runs in the shadow view.
class TestRings {
  public:
    explicit TestRings(unsigned slots, uint32_t ring_size = 0x4000) {
        config_.slots = slots;
        config_.ring_size = ring_size;
        sm_derive(&config_);
        for (unsigned i = 0; i < slots; ++i) {
            slots_.emplace_back(new_pages(sizeof(sm_slot)));
            rings_.emplace_back(new_pages(SM_RING_DATA_OFFSET + ring_size));
            slot(i).index = i;
        }
    }

    sm_slot& slot(unsigned i) const { return *reinterpret_cast<sm_slot*>(slots_[i].get()); }
    sm_ring& ring(unsigned i) const { return *reinterpret_cast<sm_ring*>(rings_[i].get()); }
    std::byte* data(unsigned i) const { return rings_[i].get() + SM_RING_DATA_OFFSET; }
    size_t ring_size() const { return config_.ring_size; }

    RingReader reader(unsigned i) const {
        return *RingReader::make(i, &ring(i), {data(i), ring_size()});
    }

    std::vector<RingReader> readers() const {
        std::vector<RingReader> readers;
        for (unsigned i = 0; i < config_.slots; ++i)
            readers.push_back(reader(i));
        return readers;
    }

    std::vector<const sm_slot*> slot_pointers() const {
        std::vector<const sm_slot*> slots;
        for (unsigned i = 0; i < config_.slots; ++i)
            slots.push_back(&slot(i));
        return slots;
    }

    /// Makes a full ring call `wait` until there is room or it returns false.
    void block(std::function<bool()> wait) {
        config_.full_mode = SM_FULL_BLOCK;
        wait_ = std::move(wait);
    }

    // What payload::RingWriter asks of a machine.
    const sm_config& config() const { return config_; }
    sm_ring& ring_of(const sm_slot& slot) const { return ring(slot.index); }
    uint8_t* ring_data(sm_ring& ring) const {
        return reinterpret_cast<uint8_t*>(&ring) + SM_RING_DATA_OFFSET;
    }
    uint64_t call_host(uint64_t) const { return wait_() ? 0 : 1; }

  private:
    struct Free {
        void operator()(std::byte* pages) const { std::free(pages); }
    };
    using Pages = std::unique_ptr<std::byte, Free>;

    static std::byte* new_pages(size_t size) {
        void* pages = std::aligned_alloc(SM_PAGE_SIZE, size);
        std::memset(pages, 0, size);
        return static_cast<std::byte*>(pages);
    }

    sm_config config_{};
    std::vector<Pages> slots_;
    std::vector<Pages> rings_;
    std::function<bool()> wait_;
};

/// One trip through the gate, step by step, so that a test can stop between any two.
class Trip {
  public:
    Trip(const TestRings& rings, unsigned slot)
        : writer_(rings, rings.slot(slot)), slot_(rings.slot(slot)) {}

    /// False if somebody else is in the slot.
    bool claim() {
        if (__atomic_exchange_n(&slot_.busy, 1u, __ATOMIC_SEQ_CST) != 0)
            return false;
        __atomic_store_n(&slot_.claims, slot_.claims + 1, __ATOMIC_RELAXED);
        return true;
    }

    /// Of the record only: what the slot says is for the test to set.
    void stamp(uint64_t tsc) { tsc_ = tsc; }

    /// Writes the record, without letting the consumer see it; false if it is lost.
    bool write(sm_event_type type, uint64_t value = 0) {
        type_ = type;
        size_ = static_cast<uint32_t>(record_size(type));
        sm_event_header* header = writer_.reserve(type, size_, payload::Stamp(tsc_, 0));
        if (!header)
            return false;
        header->task = value;
        std::memset(header + 1, 0, size_ - sizeof(*header));
        return true;
    }

    void commit() { writer_.commit(type_, size_, payload::Stamp(tsc_, 0)); }

    void release() { __atomic_store_n(&slot_.busy, 0u, __ATOMIC_RELEASE); }

  private:
    payload::RingWriter<TestRings> writer_;
    sm_slot& slot_;
    uint64_t tsc_ = 0;
    sm_event_type type_{};
    uint32_t size_ = 0;
};

/// A whole trip; false if the event is lost.
inline bool produce(const TestRings& rings, unsigned slot, uint64_t tsc,
                    sm_event_type type = SM_EVENT_SYSCALL_EXIT, uint64_t value = 0) {
    Trip trip(rings, slot);
    trip.claim();
    trip.stamp(tsc);
    const bool written = trip.write(type, value);
    if (written)
        trip.commit();
    trip.release();
    return written;
}

} // namespace shadowmon::test
