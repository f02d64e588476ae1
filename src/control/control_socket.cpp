// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/control/control_socket.h"

#include <algorithm>
#include <cstring>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace shadowmon {

namespace {

constexpr const char* run_folder = "/run/shadowmonitor";

Result<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address.sun_path))
        return failf("\"{}\" is no path for a socket: 1 to {} bytes are possible", path,
                     sizeof(address.sun_path) - 1);
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

const sockaddr* generic(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

/// True if somebody answers there.
bool somebody_listens(const sockaddr_un& address) {
    UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return probe.valid() &&
           (::connect(probe.get(), generic(address), sizeof(address)) == 0 || errno == EAGAIN);
}

bool may_ask(int client) {
    ucred who{};
    socklen_t size = sizeof(who);
    return ::getsockopt(client, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
           (who.uid == 0 || who.uid == ::geteuid());
}

/// Of the default path, the folder as well.
Status make_folder(const std::string& path) {
    if (path.rfind(std::string(run_folder) + "/", 0) != 0)
        return {};
    struct stat info {};
    if (::mkdir(run_folder, 0700) != 0 && errno != EEXIST)
        return fail(Error::from_errno(fmt::format("make the folder {}", run_folder)));
    if (::lstat(run_folder, &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() ||
        (info.st_mode & 022) != 0)
        return failf("{} is no folder of this user that only it can write to", run_folder);
    return {};
}

} // namespace

std::string control_path(pid_t vmm) { return fmt::format("{}/{}.sock", run_folder, vmm); }

Result<ControlServer> ControlServer::listen(std::string path) {
    std::string step = "listen for commands at " + path;
    auto address = address_of(path);
    if (!address)
        return fail(address.error());
    if (auto folder = make_folder(path); !folder)
        return fail(folder.error().in(step));
    if (somebody_listens(*address))
        return fail(Error(step + ": another trace listens there", EADDRINUSE));
    // What a trace that was killed left behind.
    struct stat info {};
    if (::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode))
        ::unlink(path.c_str());
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    mode_t mask = ::umask(0177);
    bool bound = socket.valid() && ::bind(socket.get(), generic(*address), sizeof(*address)) == 0;
    int error = errno;
    ::umask(mask);
    if (!bound)
        return fail(Error::from_errno(step, error));
    ControlServer server(std::move(path), std::move(socket));
    if (::listen(server.socket_.get(), max_clients) != 0)
        return fail(Error::from_errno(step));
    return server;
}

ControlServer::~ControlServer() {
    if (!path_.empty())
        ::unlink(path_.c_str());
}

void ControlServer::add_to(std::vector<pollfd>& fds) const {
    if (clients_.size() < max_clients)
        fds.push_back({socket_.get(), POLLIN, 0});
    for (const Client& client : clients_)
        fds.push_back(
            {client.fd.get(), static_cast<short>(client.out.empty() ? POLLIN : POLLOUT), 0});
}

void ControlServer::accept_all() {
    while (clients_.size() < max_clients) {
        UniqueFd fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!fd.valid())
            return;
        if (may_ask(fd.get()))
            clients_.push_back({std::move(fd), {}, {}, false, false});
    }
}

void ControlServer::read_some(Client& client) {
    char buffer[64 * 1024];
    ssize_t n = ::recv(client.fd.get(), buffer, sizeof(buffer), 0);
    if (n > 0)
        client.in.append(buffer, static_cast<size_t>(n));
    else if (n == 0)
        client.ended = true;
    else if (errno != EAGAIN && errno != EINTR)
        client.broken = true;
    if (client.in.size() > max_line && client.in.find('\n') == std::string::npos)
        client.broken = true;
}

void ControlServer::answer_lines(Client& client, const Handler& handler) {
    // One at a time: the next line waits until the answer to this one has gone out.
    size_t end = client.in.find('\n');
    if (!client.out.empty() || end == std::string::npos)
        return;
    std::string line = client.in.substr(0, end);
    client.in.erase(0, end + 1);
    HookReply reply;
    if (auto command = parse_command(line))
        reply = handler(*command);
    else
        reply.error = command.error().message();
    client.out = encode(reply) + "\n";
    if (client.out.size() > max_answer) {
        reply.hooks.clear();
        reply.error = "the answer is too long; ask for fewer hooks";
        client.out = encode(reply) + "\n";
    }
}

void ControlServer::write_some(Client& client) {
    if (client.out.empty())
        return;
    ssize_t n = ::send(client.fd.get(), client.out.data(), client.out.size(), MSG_NOSIGNAL);
    if (n > 0)
        client.out.erase(0, static_cast<size_t>(n));
    else if (errno != EAGAIN && errno != EINTR)
        client.broken = true;
}

void ControlServer::serve(const Handler& handler) {
    accept_all();
    for (Client& client : clients_) {
        if (client.out.empty() && !client.ended)
            read_some(client);
        answer_lines(client, handler);
        write_some(client);
    }
    std::erase_if(clients_, [](const Client& client) {
        bool done = client.ended && client.out.empty() && client.in.find('\n') == std::string::npos;
        return client.broken || done;
    });
}

Result<HookReply> send_command(const std::string& path, const HookCommand& command,
                               std::chrono::seconds patience) {
    auto address = address_of(path);
    if (!address)
        return fail(address.error());
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket.valid() || ::connect(socket.get(), generic(*address), sizeof(*address)) != 0) {
        int error = errno;
        if (error == ENOENT || error == ECONNREFUSED)
            return fail(Error(
                fmt::format("no trace of that VM is running: nobody listens at {}", path), error));
        return fail(Error::from_errno("ask the trace at " + path, error));
    }
    const timeval limit{patience.count(), 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    std::string out = encode(command) + "\n";
    for (size_t sent = 0; sent < out.size();) {
        ssize_t n = ::send(socket.get(), out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return fail(Error::from_errno("send the command to the trace"));
        sent += static_cast<size_t>(std::max<ssize_t>(n, 0));
    }
    std::string in;
    while (in.find('\n') == std::string::npos) {
        char buffer[64 * 1024];
        ssize_t n = ::recv(socket.get(), buffer, sizeof(buffer), 0);
        if (n == 0)
            return failf("the trace ended or closed the connection before it answered");
        if (n < 0 && errno == EAGAIN)
            return failf("the trace did not answer within {} s", patience.count());
        if (n < 0 && errno != EINTR)
            return fail(Error::from_errno("read the trace's answer"));
        in.append(buffer, static_cast<size_t>(std::max<ssize_t>(n, 0)));
        if (in.size() > ControlServer::max_answer + 1)
            return failf("the trace's answer is longer than {} bytes", ControlServer::max_answer);
    }
    return parse_reply(in.substr(0, in.find('\n')));
}

Result<HookReply> send_command(const std::string& path, const HookCommand& command) {
    return send_command(path, command, std::chrono::seconds(60));
}

} // namespace shadowmon
