/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The producer's half of a ring, read back by a consumer that follows abi/events.h to the letter,
 * in the same thread and in another one.
 */
#include "payload/ring_writer.h"

#include "tests/unit/payload/fake_machine.h"

#include <rapidcheck/gtest.h>

#include <atomic>
#include <random>
#include <thread>

namespace shadowmon::payload::test {
namespace {

using Writer = RingWriter<FakeMachine>;

constexpr u32 size_of(sm_event_type type) {
    switch (type) {
    case SM_EVENT_SYSCALL_ENTER:
        return sizeof(sm_event_syscall_enter);
    case SM_EVENT_SYSCALL_EXIT:
        return sizeof(sm_event_syscall_exit);
    case SM_EVENT_SWITCH:
        return sizeof(sm_event_switch);
    default:
        return sizeof(sm_event_header) + 16;
    }
}

Stamp stamp_at(FakeMachine& m, u64 tsc) {
    m.slot().tsc = tsc;
    return Stamp(tsc, 3);
}

/* Writes one event; its tsc and, over all its body, its number are told to the consumer. */
bool produce(FakeMachine& m, sm_event_type type, u64 tsc) {
    Writer writer(m, m.slot());
    const Stamp stamp = stamp_at(m, tsc);
    sm_event_header* event = writer.reserve(type, size_of(type), stamp);
    if (!event)
        return false;
    memset(&event->task, static_cast<int>(tsc & 0xff),
           size_of(type) - offsetof(sm_event_header, task));
    writer.commit(type, size_of(type), stamp);
    return true;
}

/* Checks every record on the way; what it has seen is public. */
class Consumer {
  public:
    explicit Consumer(FakeMachine& m)
        : ring_(m.ring()), data_(m.data()), size_(m.config_.ring_size) {}

    void drain(u64 at_most = ~u64{0}) {
        const u64 head = __atomic_load_n(&ring_.head, __ATOMIC_ACQUIRE);
        ASSERT_LE(head - tail_, size_) << "more in the ring than it holds";
        while (tail_ != head && at_most != 0) {
            const u64 at = tail_ & (size_ - 1);
            const u64 to_end = size_ - at;
            u16 type;
            u32 size;
            memcpy(&type, data_ + at, 2);
            memcpy(&size, data_ + at + 4, 4);
            ASSERT_EQ(size % 8, 0u);
            ASSERT_GE(size, 8u);
            ASSERT_LE(size, to_end) << "a record wraps";
            ASSERT_LE(size, head - tail_);
            if (type == SM_EVENT_PAD) {
                ASSERT_EQ(size, to_end);
            } else {
                check(data_ + at, type, size);
                if (testing::Test::HasFatalFailure())
                    return;
                at_most--;
            }
            tail_ += size;
        }
        __atomic_store_n(&ring_.tail, tail_, __ATOMIC_RELEASE);
    }

    u64 seen[SM_EVENT_TYPES] = {};
    u64 told_lost[SM_EVENT_TYPES] = {};
    u64 next_seq = 0;
    u64 last_tsc = 0;

  private:
    void check(const u8* record, u16 type, u32 size) {
        sm_event_header h;
        memcpy(&h, record, sizeof(h));
        EXPECT_EQ(h.cpu, 3u);
        EXPECT_GE(h.tsc, last_tsc);
        last_tsc = h.tsc;
        ASSERT_LT(type, SM_EVENT_TYPES);
        seen[type]++;
        if (type == SM_EVENT_LOST) {
            EventLost lost;
            ASSERT_EQ(size, sizeof(lost));
            memcpy(&lost, record, sizeof(lost));
            u64 sum = 0;
            for (int i = 0; i < SM_EVENT_TYPES; i++) {
                told_lost[i] += lost.b.lost[i];
                sum += lost.b.lost[i];
            }
            EXPECT_GT(sum, 0u) << "tells of nothing";
            next_seq += sum;
            EXPECT_EQ(h.seq, next_seq) << "that of the event after the lost ones";
            return;
        }
        EXPECT_EQ(h.seq, next_seq);
        next_seq = h.seq + 1;
        ASSERT_EQ(size, size_of(static_cast<sm_event_type>(type)));
        for (u32 i = offsetof(sm_event_header, task); i < size; i++)
            ASSERT_EQ(record[i], h.tsc & 0xff) << "byte " << i;
    }

    sm_ring& ring_;
    const u8* data_;
    const u64 size_;
    u64 tail_ = 0;
};

TEST(RingWriter, FirstRecordByteForByte) {
    FakeMachine m;
    ASSERT_TRUE(produce(m, SM_EVENT_SYSCALL_EXIT, 0x1122334455667788));
    sm_event_header h;
    memcpy(&h, m.data(), sizeof(h));
    EXPECT_EQ(h.type, SM_EVENT_SYSCALL_EXIT);
    EXPECT_EQ(h.flags, 0);
    EXPECT_EQ(h.size, 96u);
    EXPECT_EQ(h.cpu, 3u);
    EXPECT_EQ(h.seq, 0u);
    EXPECT_EQ(h.tsc, 0x1122334455667788u);
    EXPECT_EQ(m.ring().head, 96u);
    EXPECT_EQ(m.ring().seq, 1u);
    EXPECT_EQ(m.ring().last_tsc, 0x1122334455667788u);
    EXPECT_EQ(m.ring().recorded[SM_EVENT_SYSCALL_EXIT], 1u);
    EXPECT_EQ(m.ring().recorded[SM_EVENT_SYSCALL_ENTER], 0u);
}

TEST(RingWriter, NothingIsPublishedBeforeCommit) {
    FakeMachine m;
    Writer writer(m, m.slot());
    ASSERT_NE(writer.reserve(SM_EVENT_SWITCH, 120, stamp_at(m, 5)), nullptr);
    EXPECT_EQ(m.ring().head, 0u);
    EXPECT_EQ(m.ring().seq, 0u);
    EXPECT_EQ(m.ring().last_tsc, 0u);
    writer.commit(SM_EVENT_SWITCH, 120, stamp_at(m, 5));
    EXPECT_EQ(m.ring().head, 120u);
}

TEST(RingWriter, WrapsWithPadding) {
    FakeMachine m; /* 4096 = 30 * 136 + 16 */
    Consumer consumer(m);
    u64 tsc = 0;
    for (int i = 0; i < 30; i++)
        ASSERT_TRUE(produce(m, SM_EVENT_SYSCALL_ENTER, tsc++));
    EXPECT_EQ(m.ring().head, 4080u);
    consumer.drain();
    ASSERT_TRUE(produce(m, SM_EVENT_SYSCALL_ENTER, tsc++));
    EXPECT_EQ(m.ring().head, 4096u + 136);
    u32 pad_size;
    memcpy(&pad_size, m.data() + 4080 + 4, 4);
    EXPECT_EQ(pad_size, 16u);
    consumer.drain();
    EXPECT_EQ(consumer.seen[SM_EVENT_SYSCALL_ENTER], 31u);
}

TEST(RingWriter, PaddingOfEightBytesTouchesNoMoreThanThose) {
    FakeMachine m;
    Consumer consumer(m);
    u64 tsc = 0;
    /* 96 * 34 + 120 * 6 + 104 = 4088 */
    for (int i = 0; i < 34; i++)
        ASSERT_TRUE(produce(m, SM_EVENT_SYSCALL_EXIT, tsc++));
    for (int i = 0; i < 6; i++)
        ASSERT_TRUE(produce(m, SM_EVENT_SWITCH, tsc++));
    ASSERT_EQ(m.ring().head, 3984u);
    consumer.drain();
    Writer writer(m, m.slot());
    ASSERT_NE(writer.reserve(SM_EVENT_UNKNOWN_HOOK, 96, stamp_at(m, tsc)), nullptr);
    /* Not committed: the next ones start there as well. */
    m.ring().head = 4088;
    m.ring().tail = 4088;
    EXPECT_TRUE(Writer(m, m.slot()).reserve(SM_EVENT_SWITCH, 120, stamp_at(m, tsc)));
    EXPECT_EQ(m.ring().head, 4096u) << "one byte more and ASan would have stopped this";
}

TEST(RingWriter, RecordThatEndsWithTheDataNeedsNoPadding) {
    FakeMachine m;
    m.ring().head = m.ring().tail = 4096 - 120;
    ASSERT_TRUE(produce(m, SM_EVENT_SWITCH, 1));
    EXPECT_EQ(m.ring().head, 4096u);
    ASSERT_TRUE(produce(m, SM_EVENT_SWITCH, 2));
    EXPECT_EQ(m.ring().head, 4096u + 120);
}

TEST(RingWriter, DropCountsByTypeAndTellsInBand) {
    FakeMachine m;
    Consumer consumer(m);
    u64 tsc = 0, lost = 0;
    while (produce(m, SM_EVENT_SYSCALL_ENTER, tsc))
        tsc++;
    lost++;
    EXPECT_FALSE(produce(m, SM_EVENT_SWITCH, ++tsc));
    EXPECT_FALSE(produce(m, SM_EVENT_SYSCALL_ENTER, ++tsc));
    lost += 2;
    EXPECT_EQ(m.ring().lost[SM_EVENT_SYSCALL_ENTER], 2u);
    EXPECT_EQ(m.ring().lost[SM_EVENT_SWITCH], 1u);
    EXPECT_EQ(m.ring().seq, m.ring().recorded[SM_EVENT_SYSCALL_ENTER] + lost);
    consumer.drain();
    EXPECT_EQ(consumer.seen[SM_EVENT_LOST], 0u);
    ASSERT_TRUE(produce(m, SM_EVENT_SYSCALL_EXIT, ++tsc));
    consumer.drain();
    EXPECT_EQ(consumer.seen[SM_EVENT_LOST], 1u);
    EXPECT_EQ(consumer.told_lost[SM_EVENT_SYSCALL_ENTER], 2u);
    EXPECT_EQ(consumer.told_lost[SM_EVENT_SWITCH], 1u);
    EXPECT_EQ(m.ring().recorded[SM_EVENT_LOST], 1u);
    ASSERT_TRUE(produce(m, SM_EVENT_SYSCALL_EXIT, ++tsc));
    consumer.drain();
    EXPECT_EQ(consumer.seen[SM_EVENT_LOST], 1u) << "told once";
}

TEST(RingWriter, RoomForTheNoticeButNotForTheEventIsNoRoom) {
    FakeMachine m;
    Consumer consumer(m);
    u64 tsc = 0;
    while (produce(m, SM_EVENT_SYSCALL_ENTER, tsc))
        tsc++;
    consumer.drain(1); /* 136 bytes and the 16 at the end: a notice of 144 and nothing else */
    EXPECT_FALSE(produce(m, SM_EVENT_SYSCALL_ENTER, ++tsc));
    consumer.drain();
    EXPECT_EQ(consumer.seen[SM_EVENT_LOST], 0u);
    EXPECT_TRUE(produce(m, SM_EVENT_SYSCALL_ENTER, ++tsc));
    consumer.drain();
    EXPECT_EQ(consumer.told_lost[SM_EVENT_SYSCALL_ENTER], 2u);
}

TEST(RingWriter, BlockAsksTheHostUntilThereIsRoom) {
    FakeMachine m;
    m.config_.full_mode = SM_FULL_BLOCK;
    Consumer consumer(m);
    int calls = 0;
    m.on_call_ = [&](u64 number) {
        EXPECT_EQ(number, u64{SM_CALL_RING_FULL});
        if (++calls % 3 == 0) /* twice called in vain */
            consumer.drain(1);
        return u64{0};
    };
    for (u64 tsc = 0; tsc < 500; tsc++)
        ASSERT_TRUE(produce(m, SM_EVENT_SYSCALL_ENTER, tsc));
    consumer.drain();
    EXPECT_GT(calls, 3);
    EXPECT_EQ(consumer.seen[SM_EVENT_SYSCALL_ENTER], 500u);
    EXPECT_EQ(consumer.seen[SM_EVENT_LOST], 0u);
    EXPECT_EQ(m.ring().lost[SM_EVENT_SYSCALL_ENTER], 0u);
}

TEST(RingWriter, BlockGivesUpWhenTold) {
    FakeMachine m;
    m.config_.full_mode = SM_FULL_BLOCK;
    Consumer consumer(m);
    int calls = 0;
    m.on_call_ = [&](u64) { return u64{++calls >= 4}; };
    u64 tsc = 0;
    while (produce(m, SM_EVENT_SYSCALL_ENTER, tsc))
        tsc++;
    EXPECT_EQ(calls, 4);
    EXPECT_EQ(m.ring().lost[SM_EVENT_SYSCALL_ENTER], 1u);
    consumer.drain();
    EXPECT_TRUE(produce(m, SM_EVENT_SWITCH, ++tsc));
    consumer.drain();
    EXPECT_EQ(consumer.told_lost[SM_EVENT_SYSCALL_ENTER], 1u);
}

/* Any mix of types and readers of any pace: nothing lost uncounted, order and bytes right. */
RC_GTEST_PROP(RingWriter, EverythingIsRecordedOrCounted, (u64 seed)) {
    FakeMachine m;
    Consumer consumer(m);
    std::mt19937_64 random(seed);
    u64 produced[SM_EVENT_TYPES] = {};
    for (u64 tsc = 0; tsc < 3000; tsc++) {
        const auto type = static_cast<sm_event_type>(2 + random() % 4);
        produced[type]++;
        produce(m, type, tsc);
        if (random() % 16 == 0)
            consumer.drain(random() % 40);
    }
    consumer.drain();
    produced[SM_EVENT_SWITCH]++;
    RC_ASSERT(produce(m, SM_EVENT_SWITCH, 3000));
    consumer.drain();
    for (int type = 2; type < 6; type++) {
        RC_ASSERT(consumer.seen[type] == m.ring().recorded[type]);
        RC_ASSERT(consumer.told_lost[type] == m.ring().lost[type]);
        RC_ASSERT(produced[type] == m.ring().recorded[type] + m.ring().lost[type]);
    }
    RC_ASSERT(!testing::Test::HasFailure());
}

class Threads : public testing::TestWithParam<sm_full_mode> {};

TEST_P(Threads, ConsumerBesideTheProducer) {
    constexpr u64 events = 20000;
    FakeMachine m;
    m.config_.full_mode = GetParam();
    m.on_call_ = [](u64) {
        std::this_thread::yield();
        return u64{0};
    };
    Consumer consumer(m);
    std::atomic<bool> done = false;
    std::thread reader([&] {
        for (bool last = false; !last && !testing::Test::HasFatalFailure();) {
            last = done;
            consumer.drain();
        }
    });
    for (u64 i = 0; i < events; i++)
        produce(m, static_cast<sm_event_type>(2 + i % 3), i);
    done = true;
    reader.join();
    u64 lost = 0, untold = 0;
    for (int type = 0; type < SM_EVENT_TYPES; type++) {
        lost += m.ring().lost[type];
        untold += m.ring().lost[type] - consumer.told_lost[type];
    }
    EXPECT_EQ(consumer.next_seq + untold, events);
    if (GetParam() == SM_FULL_BLOCK) {
        EXPECT_EQ(lost, 0u);
        EXPECT_EQ(consumer.next_seq, events);
    }
}

INSTANTIATE_TEST_SUITE_P(Modes, Threads, testing::Values(SM_FULL_DROP, SM_FULL_BLOCK),
                         [](const auto& info) {
                             return info.param == SM_FULL_DROP ? "drop" : "block";
                         });

} // namespace
} // namespace shadowmon::payload::test
