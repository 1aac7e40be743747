// SPDX-License-Identifier: MIT
//
// Receives packets that bring descriptors. A descriptor of a stranger is dangerous to
// have: fstat(2) and close(2) of a file in FUSE ask the program behind it, which need
// never answer, and one that is in a table of descriptors can only leave it by a close.
// So such packets are received by threads with tables of their own. They look at what
// came, hand on what the service welcomes, and close the rest themselves. A thread that
// hangs there is left behind and replaced, up to a bound; each user can do that to two of
// them.
#ifndef UPM_TOOLS_BROKER_RECEIVER_HPP
#define UPM_TOOLS_BROKER_RECEIVER_HPP

#include "tools/common/descriptor.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <sys/types.h>
#include <vector>

namespace upm::broker {

using tool::Descriptor;

// What came with a packet.
struct Attachments {
    std::vector<Descriptor> fds;
    bool lost = false;      // some did not come: this process may hold no more
    bool unwelcome = false; // some were not of a kind that the service takes
};

// Says if a service takes such a descriptor. Called where it may block.
using Welcome = bool (*)(int fd);

// A memfd, or another file of tmpfs: neither fstat(2) nor close(2) of it waits.
bool is_memfd(int fd) noexcept;
// The same, a device, or a file without a name, such as a dma-buf.
bool is_memory_or_device(int fd) noexcept;

class Receiver {
  public:
    struct Received {
        std::uint64_t client = 0;
        int error = 0; // the connection is of no use any more
        std::vector<std::byte> packet;
        Attachments attachments;
    };
    using Ready = std::function<void(Received)>;
    // A thread's channel, to be watched: call ready() when it can be read.
    using Watch = std::function<void(int fd)>;

    struct Settings {
        std::size_t bytes = 0; // of a packet
        std::size_t fds = 0;   // with a packet
        Welcome welcome = nullptr;
        std::size_t threads = 16; // that do not hang
        std::size_t user_threads = 2;
        std::size_t hanging = 32; // that are left behind
        std::uint64_t patience_ms = 200;
    };
    Receiver(const Settings &settings, Watch watch, Ready ready);
    ~Receiver();
    Receiver(const Receiver &) = delete;
    Receiver &operator=(const Receiver &) = delete;

    // Has the next packet of a socket received: `ready` gets it, soon or after the user's
    // other ones. False: all threads for this user hang.
    bool receive(std::uint64_t client, uid_t uid, int socket);
    // Forgets a client that waits for a thread.
    void forget(std::uint64_t client);

    // Takes what a thread has to say. False: the descriptor is not that of a thread.
    bool ready(int fd);
    // Gives up on threads that hang, for those who wait behind them. Returns how many ms
    // may pass until the next call, -1 for any number.
    int tick(std::uint64_t now);

  private:
    struct Job;
    struct Thread;

    struct Waiting {
        std::uint64_t client;
        uid_t uid;
        int socket;
        std::uint64_t since;
    };

    Thread *free_thread(uid_t uid);
    Thread *start_thread();
    [[nodiscard]] std::size_t hanging(const uid_t *uid) const;
    [[nodiscard]] bool all_hang(uid_t uid) const;
    bool begin(Thread &thread, const Waiting &wanted);
    void begin_waiting();
    void take_result(Thread &thread, std::unique_ptr<Job> job);

    Settings settings_;
    Watch watch_;
    Ready ready_;
    std::list<Thread> threads_;
    std::deque<Waiting> waiting_;
};

} // namespace upm::broker

#endif // UPM_TOOLS_BROKER_RECEIVER_HPP
