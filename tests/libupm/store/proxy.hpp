// SPDX-License-Identifier: MIT
//
// Stands between clients and a real broker, and kills that one with SIGKILL in
// place of forwarding one packet: a request that it never sees, or an answer that it
// has given already. Or it forwards nothing from that packet on, as a frozen broker does.
#ifndef UPM_TESTS_LIBUPM_STORE_PROXY_HPP
#define UPM_TESTS_LIBUPM_STORE_PROXY_HPP

#include "tests/support/broker_process.hpp"
#include "tests/support/support.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace upm::test {

class KillingProxy {
  public:
    enum class Then { kKill, kRestart, kFreeze };
    // Counts packets of both directions, on all connections, from 1. Throws
    // std::runtime_error.
    KillingProxy(BrokerProcess &broker, int kill_at, Then then);
    KillingProxy(const KillingProxy &) = delete;
    KillingProxy &operator=(const KillingProxy &) = delete;
    ~KillingProxy();

    [[nodiscard]] std::string socket() const { return folder_.path() + "/s"; }
    [[nodiscard]] bool has_killed() const { return killed_; }
    // From now on clients seem to the broker, and it to them, to know no newer version.
    void speak_at_most(std::uint16_t version) { newest_ = version; }

  private:
    void serve();
    void relay(int client, int broker);
    bool forward(int from, int to);
    void make_older(std::span<std::byte> packet) const;

    BrokerProcess &broker_;
    int kill_at_;
    Then then_;
    std::atomic<int> packets_{0};
    std::atomic<bool> frozen_{false};
    std::atomic<bool> killed_{false};
    std::atomic<std::uint16_t> newest_{0}; // 0: as it is
    TempDir folder_;
    int listener_ = -1;
    int stop_[2] = {-1, -1};          // a pipe whose end ends the thread
    std::vector<std::thread> relays_; // of serve()
    std::thread thread_;
};

} // namespace upm::test

#endif // UPM_TESTS_LIBUPM_STORE_PROXY_HPP
