// SPDX-License-Identifier: MIT
//
// A broker for one test: upmd in a folder of its own, killed with the test.
#ifndef UPM_TESTS_SUPPORT_BROKER_PROCESS_HPP
#define UPM_TESTS_SUPPORT_BROKER_PROCESS_HPP

#include "tests/support/support.hpp"

#include <string>
#include <sys/resource.h>
#include <sys/types.h>
#include <vector>

namespace upm::test {

class BrokerProcess {
  public:
    // Starts it with these further options, and waits until it listens.
    explicit BrokerProcess(std::vector<std::string> options = {});
    BrokerProcess(const BrokerProcess &) = delete;
    BrokerProcess &operator=(const BrokerProcess &) = delete;
    ~BrokerProcess();

    [[nodiscard]] const std::string &socket() const { return socket_; }
    [[nodiscard]] const TempDir &folder() const { return folder_; }
    [[nodiscard]] pid_t pid() const { return pid_; }
    void start();
    // Sends it a signal and waits for its end; gives its wait status.
    int stop(int signal);

  private:
    TempDir folder_;
    std::string socket_;
    std::vector<std::string> options_;
    pid_t pid_ = -1;
};

// Returns true if somebody listens at that socket, whose name is there a little before.
// Does not connect, which may start somebody.
bool listens(const std::string &socket);

// Has a process open no more files: its limit is the lowest number that it has free. Returns the
// limit that it had, for prlimit(2).
rlimit forbid_files(pid_t pid);

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_BROKER_PROCESS_HPP
