// SPDX-License-Identifier: MIT
#include "bench/process.hpp"

#include "bench/error.hpp"

#include <cerrno>
#include <cstdio>
#include <exception>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::bench {

namespace {

Reply perform(Region &region, Order order, Action action) {
    Reply reply;
    const Stopwatch watch;
    switch (action) {
    case Action::kConnect: {
        const Region page(kHugePage, Pages::kSmall);
        page.fill_one();
        reply.error = upm::advise(page.data(), kPage).error();
        break;
    }
    case Action::kAdvise:
    case Action::kUnmerge: {
        const Result<Counts> result = action == Action::kAdvise
                                          ? upm::advise(region.data(), region.size())
                                          : upm::unmerge(region.data(), region.size());
        reply.error = result.error();
        reply.counts = *result;
        break;
    }
    case Action::kMarkForKsm:
        if (::madvise(region.data(), region.size(), MADV_MERGEABLE) != 0)
            reply.error = errno;
        break;
    case Action::kVerify:
        if (!region.intact(order))
            reply.error = EIO;
        break;
    }
    reply.timing = watch.elapsed();
    return reply;
}

// The child. It never returns into the parent's code.
[[noreturn]] void serve(int channel, std::size_t bytes, Pages pages, Order order) noexcept {
    int status = 1;
    try {
        Region region(bytes, pages);
        region.fill(order);
        Reply reply;
        Action action{};
        while (::send(channel, &reply, sizeof(reply), MSG_NOSIGNAL) == sizeof(reply) &&
               ::recv(channel, &action, sizeof(action), 0) == sizeof(action))
            reply = perform(region, order, action);
        status = 0;
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-bench: %s\n", error.what());
    }
    ::_exit(status);
}

} // namespace

Process::Process(std::size_t bytes, Pages pages, Order order) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        throw Error("cannot make a socket pair", errno);
    pid_ = ::fork();
    if (pid_ == 0) {
        (void)::close(ends[0]);
        serve(ends[1], bytes, pages, order);
    }
    const int error = errno;
    (void)::close(ends[1]);
    channel_ = ends[0];
    if (pid_ < 0) {
        (void)::close(channel_);
        throw Error("cannot start a process", error);
    }
    (void)finish(); // it is filled
}

Process::~Process() {
    // Not only close: processes that were started later have this end, too.
    (void)::shutdown(channel_, SHUT_RDWR);
    (void)::close(channel_);
    (void)::waitpid(pid_, nullptr, 0);
}

Reply Process::finish() const {
    Reply reply;
    if (::recv(channel_, &reply, sizeof(reply), 0) != sizeof(reply))
        throw lost_process(pid_);
    if (reply.error != 0)
        throw Error("a process of the benchmark failed", reply.error);
    return reply;
}

void Process::begin(Action action) const {
    if (::send(channel_, &action, sizeof(action), MSG_NOSIGNAL) != sizeof(action))
        throw lost_process(pid_);
}

bool Process::ready() const {
    pollfd wanted{.fd = channel_, .events = POLLIN, .revents = 0};
    return ::poll(&wanted, 1, 0) != 0;
}

Reply Process::ask(Action action) {
    begin(action);
    return finish();
}

} // namespace upm::bench
