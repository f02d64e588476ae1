// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/events.h"
#include "src/base/result.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace shadowmon {

/// A record, copied out of its ring once and checked: the type is known and the
/// size is that of the type.
struct Record {
    sm_event_header header;
    union {
        sm_body_syscall_enter syscall_enter;
        sm_body_syscall_exit syscall_exit;
        sm_body_switch context_switch;
        sm_body_lost lost;
        sm_body_unknown unknown;
        sm_body_hook hook;
        sm_body_irq_enter irq_enter;
        sm_body_irq_exit irq_exit;
    };
};

/// Size of a record of this type, header and body; 0 if there is no such type.
/// SM_EVENT_PAD has no size of its own and gives 0.
size_t record_size(unsigned type);

/// Consumer side of one ring (abi/events.h has the protocol). One thread uses it.
///
/// The memory stays the caller's and must outlive the reader. The producer is
/// trusted, but what is read is checked as if it were not: a record that the
/// protocol does not allow makes the ring `broken`. A broken ring gives no more
/// records; what its producer goes on to write is thrown away, so that in block
/// mode no vCPU waits for ever, and is counted as abandoned.
class RingReader {
  public:
    using TypeCounts = std::array<uint64_t, SM_EVENT_TYPES>;

    /// `index` names the ring in messages. `data` is what follows the header page.
    /// Fails if its size is no power of two or beyond what the ABI allows, or if the tail
    /// that the ring starts from is no multiple of a record's alignment.
    static Result<RingReader> make(unsigned index, sm_ring* ring, std::span<const std::byte> data);

    unsigned index() const { return index_; }

    /// Looks once how far the producer has got; front() gives records up to there.
    void refresh();

    /// The next record, or null if all up to the last refresh() were popped or the
    /// ring is broken. Valid until pop().
    const Record* front() { return have_front_ ? &front_ : parse_front(); }

    /// Goes on to the next record. Its space is given back by release().
    void pop();

    /// Gives the space of all popped records back to the producer.
    void release();

    /// Set once, when the first bad record is met: names ring, offset and what was seen.
    const std::optional<Error>& error() const { return error_; }
    bool broken() const { return error_.has_value(); }

    /// TSC of the last event that the producer has recorded.
    uint64_t last_tsc() const;

    const TypeCounts& read() const { return read_; }                   ///< popped so far
    TypeCounts recorded() const;                                       ///< as the producer counts
    TypeCounts dropped() const;                                        ///< as the producer counts
    const TypeCounts& reported_lost() const { return reported_lost_; } ///< in popped records

    /// Sequence numbers that were skipped without a SM_EVENT_LOST saying so.
    uint64_t missing() const { return missing_; }

  private:
    RingReader(unsigned index, sm_ring* ring, std::span<const std::byte> data);

    const Record* parse_front();
    void account(const Record& record);
    std::nullptr_t abandon(Error error);
    uint64_t offset() const { return tail_ & (data_.size() - 1); }

    unsigned index_;
    sm_ring* ring_;
    std::span<const std::byte> data_;
    uint64_t head_;     // as of the last refresh
    uint64_t tail_;     // of the next record; the shared one is written, never read again
    uint64_t released_; // what the shared tail says
    bool have_front_ = false;
    Record front_{};
    std::optional<uint64_t> next_seq_;
    uint64_t missing_ = 0;
    TypeCounts read_{};
    TypeCounts reported_lost_{};
    std::optional<Error> error_;
};

} // namespace shadowmon
