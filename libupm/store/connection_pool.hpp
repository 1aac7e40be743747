// SPDX-License-Identifier: MIT
//
// Connections to upmd that are kept between calls.
#ifndef UPM_STORE_CONNECTION_POOL_HPP
#define UPM_STORE_CONNECTION_POOL_HPP

#include "libupm/base/descriptor_table.hpp"
#include "libupm/store/client.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace upm::store {

// The connections of this process. Each is of one table of descriptors (base/
// descriptor_table.hpp), and of use to its threads only. They stay open between calls, since to the
// broker an open one means that the segments it handed out there are in use. A
// child of a fork must not talk on those of its parent: it makes its own, and
// keeps the parent's open, because it maps the same segments.
class ConnectionPool {
  public:
    static constexpr std::size_t kSlots = 64;

    constexpr ConnectionPool() noexcept = default;

    // One for the caller alone; starts a broker if there is none. -EAGAIN: all
    // are in use.
    int acquire(const SocketPath &path, const DomainKey &domain, std::size_t &slot) noexcept;
    // The same if a broker runs already, with a bound on each step of connecting to it.
    int acquire_existing(const SocketPath &path, const DomainKey &domain, int patience_ms,
                         std::size_t &slot) noexcept;
    // The same without waiting for the broker, which is known.
    int acquire_known(const SocketPath &path, const DomainKey &domain,
                      const Connection::Terms &terms, std::size_t &slot) noexcept;
    // One that is there already, or none: -EAGAIN.
    int acquire_open(const DomainKey &domain, std::size_t &slot) noexcept;
    // Of an acquired one: a new connection in place of one that broke.
    int reopen(const SocketPath &path, std::size_t slot) noexcept;
    void put_back(std::size_t slot) noexcept;
    // Tells the broker that this process has unmapped something, so that it looks at what
    // is still mapped. Waits for nobody, but a thread with a table of descriptors of its own may
    // connect for it. False: all connections are in use.
    bool report_unmapped(const SocketPath &path) noexcept;
    // The same about what was trimmed. Lost if all connections are in use.
    void report_trimmed(std::int64_t pages) noexcept;
    // Closes the connections of the calling thread's table of descriptors that nobody uses.
    void close_idle() noexcept;
    // Connections that are made from now on are a seed's clients. Pre: nobody else uses the
    // pool.
    void use_seed(const SeedToken &token) noexcept { seed_ = token; }
    [[nodiscard]] bool of_seed() const noexcept { return seed_ != SeedToken{}; }
    Connection &at(std::size_t slot) noexcept { return slots_[slot].connection; }

  private:
    enum State : std::uint8_t { kEmpty, kIdle, kBusy };
    struct Slot {
        std::atomic<std::uint64_t> word{0}; // process, table of descriptors, and state
        Connection connection;
    };
    static std::uint64_t word(State state, unsigned table = descriptor_table()) noexcept;
    [[nodiscard]] bool in_other_table(std::size_t slot) const noexcept;
    bool take(std::size_t slot, bool idle) noexcept;
    template <class Open>
    int acquire(const DomainKey &domain, std::size_t &slot, Open open) noexcept;

    Slot slots_[kSlots];
    SeedToken seed_ = {};
};

} // namespace upm::store

#endif // UPM_STORE_CONNECTION_POOL_HPP
