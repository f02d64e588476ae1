// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace shadowmon {

/// A buffered file descriptor that output is written to. Copes with signals, partial
/// writes and descriptors that do not block. What goes wrong (disk full, reader gone)
/// is told by exactly one flush() or close(); after that everything is thrown away and
/// only counted, so that the trace itself can go on to a clean end.
///
/// The process must ignore SIGPIPE to get the error EPIPE in place of the signal.
class Sink {
  public:
    /// The descriptor stays the caller's; `name` is for messages ("standard output").
    Sink(int fd, std::string name, size_t capacity = default_capacity);

    /// Creates or empties a file; "-" is standard output.
    static Result<Sink> open(const std::string& path);

    Sink(Sink&& other) noexcept;
    Sink& operator=(Sink&&) = delete;
    ~Sink(); ///< writes what is left, without a way to tell of errors: call close() first

    /// Room for `size` bytes (at most max_record) to be filled and then committed. Writes
    /// the buffer out first if it is short of room.
    char* reserve(size_t size) {
        if (capacity_ - used_ < size) [[unlikely]]
            make_room();
        return buffer_.get() + used_;
    }
    void commit(size_t size) { used_ += size; }

    /// Any number of bytes.
    void append(std::string_view text);

    /// Writes out all that was committed.
    Status flush();

    /// flush(), and closes the descriptor if it is the sink's own.
    Status close();

    bool failed() const { return failed_; }
    uint64_t bytes_written() const { return written_; }
    uint64_t bytes_discarded() const { return discarded_; }

    static constexpr size_t max_record = 4096;
    static constexpr size_t default_capacity = 256 * 1024;

  private:
    void make_room();
    void write_out();
    void fail_with(int code);
    Status take_error();

    int fd_;
    bool owned_ = false;
    std::string name_;
    size_t capacity_;
    std::unique_ptr<char[]> buffer_;
    size_t used_ = 0;
    uint64_t written_ = 0;
    uint64_t discarded_ = 0;
    bool failed_ = false;
    std::optional<Error> error_; // not told yet
};

} // namespace shadowmon
