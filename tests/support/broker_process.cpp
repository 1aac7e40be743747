// SPDX-License-Identifier: MIT
#include "tests/support/broker_process.hpp"

#include "libupm/store/wire.hpp"
#include "tests/support/process.hpp"

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

BrokerProcess::BrokerProcess(std::vector<std::string> options)
    : socket_(folder_.path() + "/upmd.sock"), options_(std::move(options)) {
    start();
}

BrokerProcess::~BrokerProcess() {
    if (pid_ > 0)
        (void)stop(SIGKILL);
}

void BrokerProcess::start() {
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0)
        throw std::runtime_error("pipe");
    std::vector<std::string> words = {UPM_UPMD, "--on-demand", "--idle-exit",
                                      "0",      "--socket",    socket_};
    words.insert(words.end(), options_.begin(), options_.end());
    std::vector<char *> argv;
    argv.reserve(words.size() + 1);
    for (std::string &word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = fork_tied();
    if (pid_ == 0) {
        const int ready = ::fcntl(ends[1], F_DUPFD, 100);
        (void)::dup2(ready, store::kReadyFd);
        (void)::close_range(store::kReadyFd + 1, ~0U, 0);
        (void)::execv(argv[0], argv.data());
        ::_exit(127);
    }
    (void)::close(ends[1]);
    char word = 0;
    const bool listens = ::read(ends[0], &word, 1) == 1 && word == store::kListens;
    (void)::close(ends[0]);
    if (!listens)
        throw std::runtime_error("upmd does not start: " + std::string(UPM_UPMD));
}

int BrokerProcess::stop(int signal) {
    int status = -1;
    (void)::kill(pid_, signal);
    (void)::waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
}

bool listens(const std::string &socket) {
    std::ifstream sockets("/proc/net/unix");
    for (std::string line; std::getline(sockets, line);) {
        // Number: references protocol flags type state inode path
        if (line.ends_with(" " + socket) && line.find(" 00010000 ") != std::string::npos)
            return true;
    }
    return false;
}

rlimit forbid_files(pid_t pid) {
    rlimit before{};
    if (::prlimit(pid, RLIMIT_NOFILE, nullptr, &before) != 0)
        throw std::runtime_error("cannot read the limits of " + std::to_string(pid));
    rlimit none = before;
    none.rlim_cur = 0;
    const std::string open_files = "/proc/" + std::to_string(pid) + "/fd/";
    while (std::filesystem::is_symlink(open_files + std::to_string(none.rlim_cur)))
        ++none.rlim_cur;
    if (::prlimit(pid, RLIMIT_NOFILE, &none, nullptr) != 0)
        throw std::runtime_error("cannot limit the files of " + std::to_string(pid));
    return before;
}

} // namespace upm::test
