// SPDX-License-Identifier: MIT
//
// Stands between a client and a real broker, and kills that one with SIGKILL in
// place of forwarding one packet: a request that it never sees, or an answer that it
// has given already.
#ifndef UPM_TESTS_LIBUPM_STORE_PROXY_HPP
#define UPM_TESTS_LIBUPM_STORE_PROXY_HPP

#include "tests/support/broker_process.hpp"
#include "tests/support/support.hpp"

#include <atomic>
#include <string>
#include <thread>

namespace upm::test {

class KillingProxy {
  public:
    // Counts packets of both directions from 1. Throws std::runtime_error.
    KillingProxy(BrokerProcess &broker, int kill_at, bool restart);
    KillingProxy(const KillingProxy &) = delete;
    KillingProxy &operator=(const KillingProxy &) = delete;
    ~KillingProxy();

    [[nodiscard]] std::string socket() const { return folder_.path() + "/s"; }
    [[nodiscard]] bool has_killed() const { return killed_; }

  private:
    void serve();
    void relay(int client, int broker);
    bool forward(int from, int to);

    BrokerProcess &broker_;
    int kill_at_;
    bool restart_;
    int packets_ = 0;
    std::atomic<bool> killed_{false};
    TempDir folder_;
    int listener_ = -1;
    int stop_[2] = {-1, -1}; // a pipe whose end ends the thread
    std::thread thread_;
};

} // namespace upm::test

#endif // UPM_TESTS_LIBUPM_STORE_PROXY_HPP
