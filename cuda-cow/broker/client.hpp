// SPDX-License-Identifier: MIT
//
// A process's side of the broker. Every call may fail with ECONNREFUSED (no
// broker), EPIPE (it is gone) or ETIMEDOUT; the connection is closed then, all leases
// and reservations have ended, and the next call connects anew.
#ifndef UPM_CUDA_BROKER_CLIENT_HPP
#define UPM_CUDA_BROKER_CLIENT_HPP

#include "cuda-cow/broker/protocol.hpp"

#include <mutex>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace upm::cuda::broker {

// A lease is good only for the connection that it was given to.
struct Lease {
    std::uint64_t connection = 0;
    Id id = 0;
};

struct Found {
    State state = State::kRefused;
    Lease lease; // or reservation
    int fd = -1; // kShared: the caller's now; -1 if there was none left to receive it
};

class Client {
  public:
    struct Settings {
        std::string socket;
        std::uint8_t domain[16] = {};
        std::uint8_t device[16] = {};
        unsigned timeout_ms = 5000;
    };

    explicit Client(Settings settings);
    Client(const Client &) = delete;
    Client &operator=(const Client &) = delete;
    ~Client();

    // Connects if need be; the seed of the domain's tags.
    int welcome(Welcome &welcome);
    // At most kMaxItems contents.
    int find(const std::vector<Content> &contents, std::vector<Found> &found);
    // Waits until nobody else is about to publish it. Pre: no reservation is held.
    int find_or_wait(const Content &content, Found &found);
    // All or nothing. The descriptors stay the caller's. EMFILE, ENOSPC: refused.
    // `taken`: the broker has them, or may have; others may map them from now on.
    int publish(const std::vector<Lease> &reservations, const std::vector<int> &fds, bool &taken);
    int abandon(const std::vector<Lease> &reservations);
    // Those of a connection that is gone are left out. Never waits, neither for the broker
    // nor for a call of another thread, since a write may be what releases: what cannot be
    // sent now is sent with the next call. Nobody is told of an error.
    void release(const std::vector<Lease> &leases);
    int counters(Counters &counters);
    // The connection whose leases are good now; 0: none.
    std::uint64_t live_connection();

  private:
    class Turn;
    // Error: ENODEV in the child of a fork, whose socket is its parent's.
    [[nodiscard]] int check_process() const;
    int connect();
    int greet();
    void disconnect();
    // Pre: `lock_` is held. Sends and receives; checks the type of the answer.
    // `lost`: no answer came.
    int call(const Message &request, Type expected, Message &answer, bool *lost = nullptr);
    bool has_released();
    // Sends what waits in `released_`, as far as the socket takes it at once.
    void send_released();
    // Pre: `lock_` is held.
    bool send_some_released();
    [[nodiscard]] bool hung_up() const;
    void take(Message &answer, std::vector<Found> &found);

    const Settings settings_;
    const pid_t pid_;
    std::mutex lock_;             // while the broker is talked with
    std::mutex released_lock_;    // after `lock_`; held for a moment only
    std::vector<Lease> released_; // what the broker has yet to be told of
    int socket_ = -1;
    std::uint64_t connection_ = 0; // counts up with each
    Welcome welcome_;
};

} // namespace upm::cuda::broker

#endif // UPM_CUDA_BROKER_CLIENT_HPP
