// SPDX-License-Identifier: MIT
#include "tests/support/process.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>

#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

std::string describe(int status) {
    if (WIFSIGNALED(status))
        return "signal " + std::to_string(WTERMSIG(status));
    return "status " + std::to_string(WEXITSTATUS(status));
}

} // namespace

Process::Process(const std::function<void()> &prepare) {
    std::array<int, 2> ends{};
    must(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), "socketpair");
    socket_ = Fd(ends[0]);
    const Fd theirs(ends[1]);
    pid_ = fork_tied();
    if (pid_ == 0) {
        socket_.reset();
        serve(theirs.get(), prepare);
    }
}

Process::Process(Process &&other) noexcept
    : pid_(std::exchange(other.pid_, -1)), failed_(other.failed_),
      socket_(std::move(other.socket_)) {}

Process &Process::operator=(Process &&other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(failed_, other.failed_);
    std::swap(socket_, other.socket_);
    return *this;
}

Process::~Process() {
    try {
        if (pid_ > 0)
            kill();
    } catch (const std::exception &) {
        std::terminate(); // a test whose child does not end cannot go on
    }
}

void Process::serve(int socket, const std::function<void()> &prepare) {
    bool ready = false;
    try {
        if (prepare)
            prepare();
        // A change of identity resets it.
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ready = true;
    } catch (const std::exception &e) {
        ADD_FAILURE() << "in child " << ::getpid() << ": " << e.what();
    }
    Request request;
    while (ready && ::recv(socket, &request, sizeof(request), 0) == sizeof(request) &&
           request.run) {
        Reply reply;
        try {
            request.run(request, reply);
        } catch (const std::exception &e) {
            ADD_FAILURE() << "in child " << ::getpid() << ": " << e.what();
        }
        reply.failed = testing::Test::HasFailure();
        std::cout.flush();
        (void)std::fflush(nullptr);
        if (::send(socket, &reply, sizeof(reply), MSG_NOSIGNAL) != sizeof(reply))
            break;
    }
    (void)std::fflush(nullptr);
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
}

void Process::send(const Request &request) {
    must(::send(socket_.get(), &request, sizeof(request), MSG_NOSIGNAL), "a child is gone");
}

Process::Reply Process::receive() {
    pollfd waiting{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    if (must(::poll(&waiting, 1, kPatienceMs), "poll") == 0)
        throw std::runtime_error("a child does not answer");
    Reply reply;
    const ssize_t n = ::recv(socket_.get(), &reply, sizeof(reply), 0);
    if (n != static_cast<ssize_t>(sizeof(reply)))
        throw std::runtime_error("a child died: " + describe(wait()));
    if (reply.failed && !std::exchange(failed_, true))
        ADD_FAILURE() << "in child " << pid_ << ", see above";
    return reply;
}

int Process::end() {
    send({}); // closing our end is not enough: later children have it too
    return wait();
}

void Process::kill() {
    ::kill(pid_, SIGKILL);
    wait();
}

int Process::wait() {
    const int status = wait_for(pid_);
    pid_ = -1;
    return status;
}

namespace {

int result_here = -1; // in a staying child

} // namespace

StayingChild::StayingChild(const std::function<int()> &body, unsigned seconds)
    : process_([&] {
          ::alarm(seconds);
          result_here = body();
      }) {
    try {
        result_ = process_.call(+[] { return result_here; });
    } catch (const std::exception &) {
        result_ = -1;
    }
}

int in_child(const std::function<int()> &body, unsigned seconds) {
    const pid_t child = fork_tied();
    if (child == 0) {
        ::alarm(seconds);
        ::_exit(body());
    }
    int status = 0;
    if (must(::waitpid(child, &status, 0), "waitpid") != child)
        throw std::runtime_error("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

pid_t fork_tied() {
    const pid_t parent = ::getpid();
    std::cout.flush();
    (void)std::fflush(nullptr);
    const pid_t pid = must(::fork(), "fork");
    if (pid != 0)
        return pid;
    must(::prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
    // It may have ended before that; one of another pid namespace has no number here.
    const pid_t now = ::getppid();
    if (now != parent && now != 0)
        ::_exit(1);
    return 0;
}

int wait_for(pid_t pid) {
    int status = 0;
    constexpr int kStepMs = 2;
    for (int waited = 0; waited < kPatienceMs; waited += kStepMs) {
        const pid_t got = ::waitpid(pid, &status, WNOHANG);
        if (got == pid)
            return status;
        if (got < 0)
            fail("waitpid");
        const timespec pause{.tv_sec = 0, .tv_nsec = kStepMs * 1'000'000L};
        ::nanosleep(&pause, nullptr);
    }
    throw std::runtime_error("a child does not end");
}

// ---- descriptors -----------------------------------------------------------

namespace {

union Control {
    cmsghdr header;
    std::array<char, CMSG_SPACE(sizeof(int))> bytes;
};

} // namespace

void send_fd(int socket, int fd) {
    char byte = 0;
    iovec vector{.iov_base = &byte, .iov_len = 1};
    Control control{};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(fd));
    std::memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    must(::sendmsg(socket, &message, 0), "sendmsg");
}

Fd receive_fd(int socket) {
    char byte = 0;
    iovec vector{.iov_base = &byte, .iov_len = 1};
    Control control{};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    must(::recvmsg(socket, &message, MSG_CMSG_CLOEXEC), "recvmsg");
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
    return Fd(fd);
}

} // namespace upm::test
