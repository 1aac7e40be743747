// SPDX-License-Identifier: MIT
#include "bench/store_broker.hpp"

#include "bench/error.hpp"
#include "bench/sysfs.hpp"

#include <upm/upm.hpp>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

namespace upm::bench {

StoreBroker::StoreBroker() {
    char folder[] = "/tmp/upm-bench-XXXXXX";
    if (::mkdtemp(folder) == nullptr)
        throw Error("cannot make a folder in /tmp", errno);
    folder_ = folder;
    const std::string socket = folder_ + "/upmd.sock";
    (void)::setenv("UPM_SOCKET", socket.c_str(), 1);
    (void)::setenv("UPM_BACKEND", "store", 1);
    const std::string program =
        std::filesystem::read_symlink("/proc/self/exe").replace_filename("upmd");
    pid_ = ::fork();
    if (pid_ == 0) {
        (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)::execl(program.c_str(), "upmd", "--socket", socket.c_str(), "--expire", "0",
                      "--quota", "1000000", "--max", "1000000", nullptr);
        ::_exit(127);
    }
    for (int tries = 0; !std::filesystem::exists(socket); ++tries) {
        if (tries == 1000 || ::waitpid(pid_, nullptr, WNOHANG) != 0)
            throw Error("cannot start " + program);
        (void)::usleep(5'000);
    }
}

StoreBroker::~StoreBroker() {
    (void)::kill(pid_, SIGTERM);
    (void)::waitpid(pid_, nullptr, 0);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
}

void wait_until_empty() {
    for (int tries = 0; tries < 2000; ++tries) {
        const Result<Stats> stats = upm::stats();
        if (!stats)
            throw Error("no statistics from the broker", stats.error());
        if (stats->pages_shared + stats->pages_unused == 0)
            return;
        (void)::usleep(5'000);
    }
    throw Error("the broker keeps content that nobody uses");
}

std::uint64_t StoreBroker::cpu_ns() const {
    return read_number(fmt::format("/proc/{}/schedstat", pid_));
}

} // namespace upm::bench
