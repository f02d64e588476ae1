// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/output/output.h"
#include "src/session/trace_loop.h"
#include "tests/unit/session/fake_vm.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <sys/eventfd.h>
#include <unistd.h>

namespace shadowmon::test {

/// A VM of the guest image that a session watches, with a trace loop that writes JSON into a file
/// of the test's own.
class TracedVm : public testing::Test {
  protected:
    /// Without the image the test is skipped; then, as after an error, there is no session_.
    void arm(const Options& options) {
        if (GuestImage::folder().empty())
            GTEST_SKIP() << "SM_GUEST_IMAGE is not set";
        vm_.emplace(GuestImage::folder(), "idle");
        auto session = MonitorSession::arm(
            vm_->views(), options, [this](const std::string& step) { log_ += step + "\n"; },
            [this] { return now_ += std::chrono::microseconds(100); });
        ASSERT_TRUE(session) << session.error().message();
        session_ = std::move(*session);
    }
    void open_output() {
        path_ = testing::TempDir() + "traced_vm." + std::to_string(getpid());
        open_output(path_);
    }
    void open_output(const std::string& path) {
        auto sink = Sink::open(path);
        ASSERT_TRUE(sink) << sink.error().message();
        output_ = make_output(OutputFormat::kJson, std::move(*sink));
        callbacks_.event = [this](const Event& event) {
            collector_.event(event);
            output_->event(event);
        };
        callbacks_.batch_end = [this] { return output_->flush(); };
        callbacks_.notice = [this](const std::string& text) { notices_ += text + "\n"; };
        loop_.emplace(*session_, callbacks_, pidfd_.get());
    }
    std::string finish_and_read() {
        EXPECT_TRUE(loop_->stop());
        EXPECT_TRUE(loop_->detach());
        EXPECT_TRUE(output_->finish(collector_.summary(session_->merger().lost())));
        std::ifstream in(path_);
        std::stringstream text;
        text << in.rdbuf();
        return text.str();
    }
    void TearDown() override {
        loop_.reset();
        if (!path_.empty())
            unlink(path_.c_str());
    }
    static size_t lines(const std::string& text, const char* word) {
        size_t n = 0;
        std::istringstream in(text);
        for (std::string line; std::getline(in, line);)
            n += line.find(word) != std::string::npos;
        return n;
    }

    std::chrono::nanoseconds now_{0}; ///< goes on whenever somebody looks at it
    Callbacks callbacks_;
    UniqueFd pidfd_{eventfd(0, EFD_CLOEXEC)};
    std::optional<FakeVm> vm_;
    std::unique_ptr<MonitorSession> session_;
    std::string path_, log_, notices_;
    std::unique_ptr<Output> output_;
    SummaryCollector collector_;
    std::optional<TraceLoop> loop_;
};

} // namespace shadowmon::test
