// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/ring_reader.h"

#include "abi/layout.h"
#include "src/events/shared_memory.h"

#include <bit>
#include <cstring>

namespace shadowmon {
namespace {

constexpr size_t align = 8;

/// The part that every record has, also SM_EVENT_PAD.
struct Prefix {
    uint16_t type;
    uint16_t flags;
    uint32_t size;
};
static_assert(sizeof(Prefix) == align);
static_assert(offsetof(sm_event_header, size) == offsetof(Prefix, size));

constexpr size_t sizes[SM_EVENT_TYPES] = {
    0,
    sizeof(sm_event_header) + sizeof(sm_body_lost),
    sizeof(sm_event_header) + sizeof(sm_body_syscall_enter),
    sizeof(sm_event_header) + sizeof(sm_body_syscall_exit),
    sizeof(sm_event_header) + sizeof(sm_body_switch),
    sizeof(sm_event_header) + sizeof(sm_body_unknown),
    sizeof(sm_event_header) + sizeof(sm_body_hook),
    sizeof(sm_event_header) + sizeof(sm_body_irq_enter),
    sizeof(sm_event_header) + sizeof(sm_body_irq_exit),
};
static_assert(offsetof(Record, syscall_enter) == sizeof(sm_event_header));

RingReader::TypeCounts load_counts(const uint64_t (&counts)[SM_EVENT_TYPES]) {
    RingReader::TypeCounts copy;
    for (size_t type = 0; type < copy.size(); ++type)
        copy[type] = load_acquire(&counts[type]);
    return copy;
}

} // namespace

size_t record_size(unsigned type) { return type < SM_EVENT_TYPES ? sizes[type] : 0; }

Result<RingReader> RingReader::make(unsigned index, sm_ring* ring,
                                    std::span<const std::byte> data) {
    if (!std::has_single_bit(data.size()) || data.size() < SM_PAGE_SIZE ||
        data.size() > SM_RING_MAX_DATA)
        return failf("ring {}: {} bytes is no power of two in {}..{}", index, data.size(),
                     SM_PAGE_SIZE, SM_RING_MAX_DATA);
    RingReader reader(index, ring, data);
    if (reader.tail_ % align != 0)
        return failf("ring {}: its tail {:#x} is no place where a record can begin", index,
                     reader.tail_);
    return reader;
}

RingReader::RingReader(unsigned index, sm_ring* ring, std::span<const std::byte> data)
    : index_(index), ring_(ring), data_(data), head_(load_acquire(&ring->tail)), tail_(head_),
      released_(head_) {
    if (tail_ == 0)
        next_seq_ = 0;
}

void RingReader::refresh() {
    const uint64_t head = load_acquire(&ring_->head);
    if (broken()) {
        head_ = tail_ = head;
        release();
        return;
    }
    if (head - tail_ > data_.size() || head % align != 0) {
        abandon(Error(fmt::format("ring {}: its head {:#x} is not a place that a producer can have "
                                  "got to from {:#x} in {} bytes",
                                  index_, head, tail_, data_.size())));
        return;
    }
    head_ = head;
}

const Record* RingReader::parse_front() {
    while (tail_ != head_) {
        const uint64_t at = offset();
        const uint64_t room = data_.size() - at;
        const uint64_t available = head_ - tail_;

        // Copied once and checked as a copy: the memory may change at any time.
        Prefix prefix;
        std::memcpy(&prefix, &data_[at], sizeof(prefix));
        if (prefix.type == SM_EVENT_PAD) {
            if (prefix.size != room || prefix.size > available)
                return abandon(Error(fmt::format("ring {}, offset {:#x}: padding of {} bytes, "
                                                 "where {} are left and {} were written",
                                                 index_, at, prefix.size, room, available)));
            tail_ += prefix.size;
            continue;
        }
        const size_t expected = record_size(prefix.type);
        if (expected == 0)
            return abandon(Error(fmt::format("ring {}, offset {:#x}: unknown event type {}", index_,
                                             at, prefix.type)));
        if (prefix.size != expected)
            return abandon(Error(fmt::format("ring {}, offset {:#x}: event of type {} has {} "
                                             "bytes in place of {}",
                                             index_, at, prefix.type, prefix.size, expected)));
        if (expected > room || expected > available)
            return abandon(Error(fmt::format("ring {}, offset {:#x}: event of {} bytes, where {} "
                                             "are left and {} were written",
                                             index_, at, expected, room, available)));
        std::memcpy(&front_, &data_[at], expected);
        std::memcpy(&front_, &prefix, sizeof(prefix));
        have_front_ = true;
        return &front_;
    }
    return nullptr;
}

void RingReader::pop() {
    if (!have_front_)
        return;
    account(front_);
    tail_ += front_.header.size;
    have_front_ = false;
    // A producer that waits for room need not wait for the end of a long batch.
    if (tail_ - released_ > data_.size() / 4)
        release();
}

/// A notice of loss has no sequence number of its own, but says how many were used up.
void RingReader::account(const Record& record) {
    const sm_event_header& h = record.header;
    ++read_[h.type];
    if (h.type == SM_EVENT_LOST) {
        for (size_t i = 0; i < SM_EVENT_TYPES; ++i) {
            reported_lost_[i] += record.lost.lost[i];
            if (next_seq_)
                *next_seq_ += record.lost.lost[i];
        }
        return;
    }
    if (next_seq_ && h.seq > *next_seq_)
        missing_ += h.seq - *next_seq_;
    next_seq_ = h.seq + 1;
}

void RingReader::release() {
    if (released_ != tail_)
        store_release(&ring_->tail, tail_);
    released_ = tail_;
}

std::nullptr_t RingReader::abandon(Error error) {
    error_ = std::move(error);
    have_front_ = false;
    head_ = tail_ = load_acquire(&ring_->head);
    release();
    return nullptr;
}

uint64_t RingReader::last_tsc() const { return load_acquire(&ring_->last_tsc); }

RingReader::TypeCounts RingReader::recorded() const { return load_counts(ring_->recorded); }

RingReader::TypeCounts RingReader::dropped() const { return load_counts(ring_->lost); }

} // namespace shadowmon
