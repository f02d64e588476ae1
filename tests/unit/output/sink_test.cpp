// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/sink.h"

#include "src/output/output.h"
#include "tests/unit/output/test_events.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <sys/stat.h>
#include <thread>

namespace shadowmon {
namespace {

using test::TestFile;

/// A pipe whose ends close by themselves. SIGPIPE is ignored, as in the program.
class SinkPipe : public ::testing::Test {
  protected:
    void SetUp() override {
        std::signal(SIGPIPE, SIG_IGN);
        int ends[2];
        ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
        reader_ = ends[0];
        writer_ = ends[1];
    }
    void TearDown() override {
        close_reader();
        close(writer_);
    }
    void close_reader() {
        if (reader_ >= 0)
            close(std::exchange(reader_, -1));
    }
    std::string read_all() const {
        std::string text;
        char part[1000];
        for (ssize_t n; (n = read(reader_, part, sizeof(part))) > 0;)
            text.append(part, static_cast<size_t>(n));
        return text;
    }

    int reader_ = -1;
    int writer_ = -1;
};

TEST(Sink, WritesOnFlushAndNotBefore) {
    TestFile file;
    Sink sink(file.fd(), "file");
    sink.append("one ");
    EXPECT_EQ(file.read(), "");
    EXPECT_TRUE(sink.flush());
    EXPECT_EQ(file.read(), "one ");
    std::memcpy(sink.reserve(3), "two", 3);
    sink.commit(3);
    EXPECT_TRUE(sink.close());
    EXPECT_EQ(file.read(), "one two");
    EXPECT_EQ(sink.bytes_written(), 7u);
}

TEST(Sink, WritesByItselfWhenTheBufferIsFull) {
    TestFile file;
    Sink sink(file.fd(), "file", Sink::max_record);
    std::string expected;
    for (int i = 0; i < 10'000; ++i) {
        const std::string line = std::to_string(i) + '\n';
        sink.append(line);
        expected += line;
    }
    sink.append(std::string(20'000, 'x'));
    expected += std::string(20'000, 'x');
    EXPECT_TRUE(sink.flush());
    EXPECT_EQ(file.read(), expected);
}

TEST(Sink, WritesTheRestWhenItGoes) {
    TestFile file;
    {
        Sink first(file.fd(), "file");
        first.append("kept");
        Sink second(std::move(first));
        second.append(" too");
    }
    EXPECT_EQ(file.read(), "kept too");
}

TEST(Sink, TellsOfAFullDiskExactlyOnce) {
    Sink sink = *Sink::open("/dev/full");
    sink.append("text");
    const Status first = sink.flush();
    ASSERT_FALSE(first);
    EXPECT_EQ(first.error().code(), ENOSPC);
    EXPECT_EQ(first.error().message(), "cannot write to /dev/full: No space left on device");
    EXPECT_TRUE(sink.failed());
    sink.append("more");
    EXPECT_TRUE(sink.flush());
    EXPECT_TRUE(sink.close());
    EXPECT_EQ(sink.bytes_written(), 0u);
    EXPECT_EQ(sink.bytes_discarded(), 8u);
}

TEST(Sink, TellsOfWhatWentWrongBetweenFlushes) {
    Sink sink = *Sink::open("/dev/full");
    sink.append(std::string(3 * Sink::default_capacity, 'x'));
    EXPECT_TRUE(sink.failed());
    EXPECT_FALSE(sink.flush());
    EXPECT_TRUE(sink.flush());
}

TEST(Sink, OpenMakesAPrivateFileAndSaysWhyNot) {
    const std::string path = ::testing::TempDir() + "shadowmon_sink_test";
    {
        Result<Sink> sink = Sink::open(path);
        ASSERT_TRUE(sink) << sink.error().message();
        sink->append("text");
        EXPECT_TRUE(sink->close());
        EXPECT_TRUE(sink->close()) << "closing twice is harmless";
    }
    struct stat status {};
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    std::ifstream file(path);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "text");
    std::filesystem::remove(path);

    const Result<Sink> refused = Sink::open("/nowhere/at/all");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().message(),
              "cannot open /nowhere/at/all for writing: No such file or directory");
}

TEST_F(SinkPipe, TellsOnceThatTheReaderIsGone) {
    close_reader();
    Sink sink(writer_, "pipe");
    sink.append("text");
    const Status status = sink.flush();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code(), EPIPE);
    sink.append("text");
    EXPECT_TRUE(sink.flush());
}

// More than a pipe holds, so the writes are partial and, without blocking, refused.
TEST_F(SinkPipe, WaitsForASlowReaderOfANonBlockingDescriptor) {
    ASSERT_EQ(fcntl(writer_, F_SETFL, O_NONBLOCK), 0);
    std::string expected;
    for (int i = 0; i < 100'000; ++i)
        expected += std::to_string(i) + ' ';
    std::string seen;
    std::thread reader([&] { seen = read_all(); });
    {
        Sink sink(writer_, "pipe");
        sink.append(expected);
        EXPECT_TRUE(sink.flush());
    }
    close(std::exchange(writer_, -1));
    reader.join();
    EXPECT_EQ(seen, expected);
}

// Signals without SA_RESTART, one for each part that is read, while the writer blocks.
TEST_F(SinkPipe, GoesOnAfterSignals) {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    struct sigaction old {};
    ASSERT_EQ(sigaction(SIGUSR1, &action, &old), 0);
    const pthread_t writer = pthread_self();
    const std::string expected(1'000'000, 'x');
    size_t seen = 0;
    std::thread reader([&] {
        char part[1000];
        for (ssize_t n; seen < expected.size() && (n = read(reader_, part, sizeof(part))) > 0;) {
            seen += static_cast<size_t>(n);
            pthread_kill(writer, SIGUSR1);
        }
    });
    Sink sink(writer_, "pipe");
    sink.append(expected);
    EXPECT_TRUE(sink.flush());
    reader.join();
    EXPECT_EQ(seen, expected.size());
    sigaction(SIGUSR1, &old, nullptr);
}

TEST(Output, TellsOfAFullDiskOnceInBothFormats) {
    for (const OutputFormat format : {OutputFormat::kText, OutputFormat::kJson}) {
        const std::unique_ptr<Output> output = make_output(format, *Sink::open("/dev/full"));
        for (int i = 0; i < 10'000; ++i)
            output->event(test::enter_event());
        EXPECT_FALSE(output->flush());
        output->event(test::enter_event());
        EXPECT_TRUE(output->flush());
        EXPECT_TRUE(output->finish(Summary{}));
    }
}

TEST(Output, FinishTellsOfAnErrorThatNoFlushHas) {
    const std::unique_ptr<Output> output =
        make_output(OutputFormat::kJson, *Sink::open("/dev/full"));
    EXPECT_FALSE(output->finish(Summary{}));
}

TEST(Output, KnowsItsFormats) {
    EXPECT_EQ(*parse_output_format("text"), OutputFormat::kText);
    EXPECT_EQ(*parse_output_format("json"), OutputFormat::kJson);
    const Result<OutputFormat> unknown = parse_output_format("xml");
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().message(),
              "there is no output format \"xml\"; there are: text, json");
}

} // namespace
} // namespace shadowmon
