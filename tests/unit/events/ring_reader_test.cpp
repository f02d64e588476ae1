// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/ring_reader.h"

#include "tests/unit/events/test_rings.h"
#include <shadowmonitor/lost_counter.h>

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace shadowmon {
namespace {

using test::produce;
using test::TestRings;
using test::Trip;

/// Writes what a broken producer might: any bytes at a place, and any head.
class RingReaderGarbage : public ::testing::Test {
  protected:
    void put_prefix(uint64_t offset, uint16_t type, uint32_t size) {
        std::memcpy(rings_.data(0) + offset, &type, sizeof(type));
        std::memcpy(rings_.data(0) + offset + 4, &size, sizeof(size));
    }

    /// Reads what is there; the ring must be found broken with `message` in its error.
    void expect_broken(uint64_t head, const std::string& message) {
        rings_.ring(0).head = head;
        RingReader reader = rings_.reader(0);
        reader.refresh();
        EXPECT_EQ(reader.front(), nullptr);
        ASSERT_TRUE(reader.broken());
        EXPECT_NE(reader.error()->message().find(message), std::string::npos)
            << reader.error()->message();
        EXPECT_EQ(reader.error()->message().rfind("ring 0", 0), 0u);

        // The producer has its space back and nothing more is read.
        EXPECT_EQ(rings_.ring(0).tail, head);
        rings_.ring(0).head = head + 96;
        reader.refresh();
        EXPECT_EQ(reader.front(), nullptr);
        EXPECT_EQ(rings_.ring(0).tail, head + 96);
    }

    TestRings rings_{1, 0x1000};
};

TEST(RingReader, RefusesSizesThatAreNoRing) {
    TestRings rings(1);
    for (const size_t size : {size_t{0}, size_t{0x800}, size_t{0x1800}, size_t{0x800000}})
        EXPECT_FALSE(RingReader::make(0, &rings.ring(0), {rings.data(0), size})) << size;
}

TEST(RingReader, RefusesATailWhereNoRecordCanBegin) {
    TestRings rings(1, 0x1000);
    for (const uint64_t tail : {uint64_t{1}, uint64_t{0xffc}, ~uint64_t{0}}) {
        rings.ring(0).tail = tail;
        const auto reader = RingReader::make(0, &rings.ring(0), {rings.data(0), 0x1000});
        ASSERT_FALSE(reader) << tail;
        EXPECT_NE(reader.error().message().find("tail"), std::string::npos);
    }
}

TEST(RingReader, GivesRecordsInOrderAndTheirSpaceBack) {
    TestRings rings(1);
    RingReader reader = rings.reader(0);
    EXPECT_EQ(reader.front(), nullptr);
    for (uint64_t tsc = 1; tsc <= 3; ++tsc)
        produce(rings, 0, tsc, SM_EVENT_SWITCH, 100 + tsc);
    EXPECT_EQ(reader.front(), nullptr) << "before it has looked";

    reader.refresh();
    for (uint64_t tsc = 1; tsc <= 3; ++tsc) {
        const Record* record = reader.front();
        ASSERT_NE(record, nullptr);
        EXPECT_EQ(record->header.tsc, tsc);
        EXPECT_EQ(record->header.task, 100 + tsc);
        EXPECT_EQ(record, reader.front()) << "looking is not taking";
        reader.pop();
    }
    EXPECT_EQ(reader.front(), nullptr);
    EXPECT_EQ(rings.ring(0).tail, 0u);
    reader.release();
    EXPECT_EQ(rings.ring(0).tail, rings.ring(0).head);
    EXPECT_EQ(reader.read()[SM_EVENT_SWITCH], 3u);
    EXPECT_EQ(reader.missing(), 0u);
}

TEST(RingReader, PopWithoutARecordDoesNothing) {
    TestRings rings(1);
    RingReader reader = rings.reader(0);
    reader.pop();
    EXPECT_FALSE(reader.broken());
    EXPECT_EQ(reader.read()[SM_EVENT_PAD], 0u);
}

TEST(RingReader, GivesSpaceBackWithinALongBatch) {
    TestRings rings(1, 0x1000);
    RingReader reader = rings.reader(0);
    while (produce(rings, 0, 1)) {
    }
    reader.refresh();
    while (reader.front())
        reader.pop();
    EXPECT_GT(rings.ring(0).tail, 0x800u);
}

TEST(RingReader, FollowsTheWriterThroughManyWraps) {
    TestRings rings(1, 0x1000);
    RingReader reader = rings.reader(0);
    constexpr std::array types = {SM_EVENT_SYSCALL_ENTER, SM_EVENT_SYSCALL_EXIT, SM_EVENT_SWITCH,
                                  SM_EVENT_UNKNOWN_HOOK, SM_EVENT_HOOK};
    uint64_t produced = 0;
    uint64_t read = 0;
    for (int round = 0; round < 1000; ++round) {
        for (int i = 0; i < round % 7; ++i, ++produced)
            ASSERT_TRUE(produce(rings, 0, produced, types[produced % types.size()], produced));
        reader.refresh();
        for (; const Record* record = reader.front(); ++read) {
            ASSERT_EQ(record->header.tsc, read);
            ASSERT_EQ(record->header.task, read);
            ASSERT_EQ(record->header.type, types[read % types.size()]);
            reader.pop();
        }
        reader.release();
    }
    EXPECT_EQ(read, produced);
    EXPECT_GT(rings.ring(0).head, 50 * rings.ring_size());
    EXPECT_FALSE(reader.broken());
    EXPECT_EQ(reader.missing(), 0u);
}

TEST(RingReader, CountsOnFromAnyHeadAndAcrossTheEndOf64Bits) {
    TestRings rings(1, 0x1000);
    rings.ring(0).head = rings.ring(0).tail = uint64_t{0} - 0x2000;
    RingReader reader = rings.reader(0);
    // As a writer would leave it: records of 96 bytes, 64 bytes of padding in each lap.
    uint64_t read = 0;
    for (uint64_t n = 0; n < 200; ++n) {
        sm_ring& ring = rings.ring(0);
        uint64_t at = ring.head % 0x1000;
        const uint16_t type = SM_EVENT_SYSCALL_EXIT;
        const uint16_t pad = SM_EVENT_PAD;
        if (const uint32_t left = 0x1000 - static_cast<uint32_t>(at); left < 96) {
            std::memcpy(rings.data(0) + at, &pad, sizeof(pad));
            std::memcpy(rings.data(0) + at + 4, &left, sizeof(left));
            ring.head += left;
            at = 0;
        }
        sm_event_syscall_exit event{};
        event.h.type = type;
        event.h.size = sizeof(event);
        event.h.seq = n;
        std::memcpy(rings.data(0) + at, &event, sizeof(event));
        ring.head += sizeof(event);
        reader.refresh();
        while (const Record* record = reader.front()) {
            ASSERT_EQ(record->header.seq, read++);
            reader.pop();
        }
        reader.release();
    }
    EXPECT_EQ(read, 200u);
    EXPECT_FALSE(reader.broken());
    EXPECT_LT(rings.ring(0).head, 0x10000u);
}

TEST(RingReader, KnowsWhatWasLostBeforeAndAfterTheNotice) {
    TestRings rings(1, 0x1000);
    std::vector<RingReader> readers = rings.readers();
    RingReader& reader = readers[0];
    uint64_t written = 0;
    while (produce(rings, 0, written, SM_EVENT_SYSCALL_ENTER))
        ++written;
    EXPECT_FALSE(produce(rings, 0, written, SM_EVENT_SWITCH));
    EXPECT_FALSE(produce(rings, 0, written, SM_EVENT_SWITCH));

    LostCounter lost{readers};
    EXPECT_EQ(lost.total(), 3u);
    EXPECT_EQ(lost.unreported(), 3u);
    EXPECT_EQ(lost.by_type()[SM_EVENT_SYSCALL_ENTER], 1u);
    EXPECT_EQ(lost.by_type()[SM_EVENT_SWITCH], 2u);

    reader.refresh();
    while (reader.front())
        reader.pop();
    reader.release();
    EXPECT_TRUE(produce(rings, 0, 1000, SM_EVENT_SWITCH));
    reader.refresh();
    ASSERT_NE(reader.front(), nullptr);
    EXPECT_EQ(reader.front()->header.type, SM_EVENT_LOST);
    EXPECT_EQ(reader.front()->lost.lost[SM_EVENT_SWITCH], 2u);
    reader.pop();
    ASSERT_NE(reader.front(), nullptr);
    EXPECT_EQ(reader.front()->header.tsc, 1000u);
    reader.pop();

    lost = LostCounter{readers};
    EXPECT_EQ(lost.total(), 3u);
    EXPECT_EQ(lost.unreported(), 0u);
    EXPECT_EQ(reader.missing(), 0u);
    EXPECT_EQ(reader.read()[SM_EVENT_SYSCALL_ENTER], written);
    ASSERT_EQ(lost.rings().size(), 1u);
    EXPECT_EQ(lost.rings()[0].total(), 3u);
}

TEST(RingReader, CountsSkippedSequenceNumbers) {
    TestRings rings(1);
    std::vector<RingReader> readers = rings.readers();
    produce(rings, 0, 1);
    rings.ring(0).seq += 5; // as if five events had vanished
    produce(rings, 0, 2);
    readers[0].refresh();
    while (readers[0].front())
        readers[0].pop();
    EXPECT_EQ(readers[0].missing(), 5u);
    EXPECT_EQ(LostCounter{readers}.total(), 5u);
}

TEST_F(RingReaderGarbage, HeadFartherThanTheRing) { expect_broken(0x1008, "head 0x1008"); }

TEST_F(RingReaderGarbage, HeadBehindTheTail) { expect_broken(uint64_t{0} - 8, "head"); }

TEST_F(RingReaderGarbage, HeadNotAligned) { expect_broken(0x61, "head 0x61"); }

TEST_F(RingReaderGarbage, UnknownType) {
    put_prefix(0, SM_EVENT_TYPES - 1, 96);
    expect_broken(96, "offset 0x0: unknown event type 15");
}

TEST_F(RingReaderGarbage, TypeBeyondAllTypes) {
    put_prefix(0, 0xffff, 96);
    expect_broken(96, "unknown event type 65535");
}

TEST_F(RingReaderGarbage, SizeZero) {
    put_prefix(0, SM_EVENT_SWITCH, 0);
    expect_broken(120, "type 4 has 0 bytes in place of 120");
}

TEST_F(RingReaderGarbage, SizeHuge) {
    put_prefix(0, SM_EVENT_SWITCH, 0xfffffff8);
    expect_broken(120, "has 4294967288 bytes");
}

TEST_F(RingReaderGarbage, SizeOfAnotherType) {
    put_prefix(0, SM_EVENT_SWITCH, 96);
    expect_broken(96, "has 96 bytes in place of 120");
}

TEST_F(RingReaderGarbage, RecordPastTheHead) {
    put_prefix(0, SM_EVENT_SWITCH, 120);
    expect_broken(112, "event of 120 bytes, where 4096 are left and 112 were written");
}

TEST_F(RingReaderGarbage, OnlyAPrefixBeforeTheHead) {
    put_prefix(0, SM_EVENT_SWITCH, 120);
    expect_broken(8, "8 were written");
}

TEST_F(RingReaderGarbage, RecordThatWouldWrap) {
    rings_.ring(0).tail = 0xfc0;
    put_prefix(0xfc0, SM_EVENT_SWITCH, 120);
    expect_broken(0xfc0 + 120, "offset 0xfc0: event of 120 bytes, where 64 are left");
}

TEST_F(RingReaderGarbage, PaddingOfSizeZero) {
    expect_broken(0x1000, "padding of 0 bytes, where 4096 are left");
}

TEST_F(RingReaderGarbage, PaddingNotUpToTheEnd) {
    put_prefix(0, SM_EVENT_PAD, 96);
    expect_broken(0x1000, "padding of 96 bytes");
}

TEST_F(RingReaderGarbage, PaddingPastTheHead) {
    put_prefix(0, SM_EVENT_PAD, 0x1000);
    expect_broken(0x800, "padding of 4096 bytes, where 4096 are left and 2048 were written");
}

TEST_F(RingReaderGarbage, WhatABrokenRingHeldIsCounted) {
    for (uint64_t tsc = 0; tsc < 5; ++tsc)
        produce(rings_, 0, tsc);
    std::vector<RingReader> readers = rings_.readers();
    put_prefix(2 * 96, 7, 96);
    readers[0].refresh();
    readers[0].pop();
    while (readers[0].front())
        readers[0].pop();
    EXPECT_TRUE(readers[0].broken());
    const LostCounter lost{readers};
    EXPECT_EQ(lost.broken_rings(), 1u);
    EXPECT_EQ(lost.total(), 3u);
    EXPECT_EQ(lost.rings()[0].abandoned[SM_EVENT_SYSCALL_EXIT], 3u);
}

} // namespace
} // namespace shadowmon
