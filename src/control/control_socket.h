// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"
#include "src/control/hook_command.h"
#include "src/vm/unique_fd.h"

#include <chrono>
#include <functional>
#include <poll.h>
#include <string>
#include <sys/types.h>
#include <vector>

namespace shadowmon {

/// The end of a running trace: a Unix socket on which others ask for its hooks. Lives in the
/// thread of the trace, which polls it; never blocks. Only root and the trace's own user are
/// answered. A client gets a bounded buffer and one answer per line; one that sends more than
/// that or reads no answer loses its connection. The socket's file goes with this object.
class ControlServer {
  public:
    using Handler = std::function<HookReply(const HookCommand&)>;

    /// The error says who listens there already.
    [[nodiscard]] static Result<ControlServer> listen(std::string path);

    ControlServer(ControlServer&& other) noexcept
        : path_(std::exchange(other.path_, {})), socket_(std::move(other.socket_)),
          clients_(std::move(other.clients_)) {}
    ControlServer& operator=(ControlServer&&) = delete;
    ~ControlServer();

    /// Appends what there is to poll for.
    void add_to(std::vector<pollfd>& fds) const;

    /// Accepts, reads and answers what can be without waiting.
    void serve(const Handler& handler);

    static constexpr size_t max_clients = 8;
    static constexpr size_t max_line = 1 << 20;
    static constexpr size_t max_answer = 8 << 20;

  private:
    struct Client {
        UniqueFd fd;
        std::string in;
        std::string out;
        bool ended = false;  ///< sends no more; what it has asked is still answered
        bool broken = false; ///< is not worth another byte
    };

    ControlServer(std::string path, UniqueFd socket)
        : path_(std::move(path)), socket_(std::move(socket)) {}
    void accept_all();
    static void read_some(Client& client);
    static void answer_lines(Client& client, const Handler& handler);
    static void write_some(Client& client);

    std::string path_;
    UniqueFd socket_;
    std::vector<Client> clients_;
};

/// The other end: sends one command to the trace that listens at `path` and waits for its answer.
Result<HookReply> send_command(const std::string& path, const HookCommand& command,
                               std::chrono::seconds patience);

} // namespace shadowmon
