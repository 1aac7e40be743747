// SPDX-License-Identifier: MIT
#include "libupm/store/connection_pool.hpp"

#include <cerrno>
#include <unistd.h>

namespace upm::store {

std::uint64_t ConnectionPool::word(State state, unsigned table) noexcept {
    return static_cast<std::uint64_t>(::getpid()) << 8U | table << 4U | state;
}

// Returns true if a thread of this process has it whose descriptors are not the caller's.
bool ConnectionPool::in_other_table(std::size_t slot) const noexcept {
    const std::uint64_t seen = slots_[slot].word.load();
    const unsigned other = 1 - descriptor_table();
    return seen == word(kIdle, other) || seen == word(kBusy, other);
}

// Takes a slot that is idle, or one that is empty. What is in a slot of another
// process came here by fork: its number is forgotten and the descriptor kept. The
// process stands in the word, since not every way to fork runs fork handlers.
bool ConnectionPool::take(std::size_t slot, bool idle) noexcept {
    constexpr std::uint64_t kStates = 0xf;
    std::uint64_t seen = slots_[slot].word.load();
    if (idle && (seen & kStates) != kIdle) // whosever it is, which would be a system call
        return false;
    const bool own = seen == word(kIdle) || seen == word(kBusy) || in_other_table(slot);
    if (idle ? seen != word(kIdle) : own)
        return false;
    if (!slots_[slot].word.compare_exchange_strong(seen, word(kBusy)))
        return false;
    if (!idle)
        at(slot) = Connection();
    return true;
}

int ConnectionPool::acquire_open(const DomainKey &domain, std::size_t &slot) noexcept {
    for (slot = 0; slot < kSlots; ++slot) {
        if (!take(slot, true))
            continue;
        if (at(slot).domain() == domain && at(slot).alive())
            return 0;
        put_back(slot);
    }
    return -EAGAIN;
}

template <class Open>
int ConnectionPool::acquire(const DomainKey &domain, std::size_t &slot, Open open) noexcept {
    if (acquire_open(domain, slot) == 0)
        return 0;
    for (const bool idle : {false, true}) {
        for (slot = 0; slot < kSlots; ++slot) {
            if (!take(slot, idle))
                continue;
            at(slot).close();
            at(slot).use_seed(seed_);
            const int ret = open(at(slot));
            if (ret != 0)
                put_back(slot);
            return ret;
        }
    }
    return -EAGAIN;
}

int ConnectionPool::acquire(const SocketPath &path, const DomainKey &domain,
                            std::size_t &slot) noexcept {
    return acquire(domain, slot, [&](Connection &connection) {
        return open_connection(connection, path, domain);
    });
}

int ConnectionPool::acquire_existing(const SocketPath &path, const DomainKey &domain,
                                     int patience_ms, std::size_t &slot) noexcept {
    return acquire(domain, slot, [&](Connection &connection) {
        return connection.open(path, domain, patience_ms);
    });
}

int ConnectionPool::acquire_known(const SocketPath &path, const DomainKey &domain,
                                  const Connection::Terms &terms, std::size_t &slot) noexcept {
    return acquire(domain, slot, [&](Connection &connection) {
        return connection.open_known(path, domain, terms);
    });
}

int ConnectionPool::reopen(const SocketPath &path, std::size_t slot) noexcept {
    return reopen_connection(at(slot), path);
}

void ConnectionPool::put_back(std::size_t slot) noexcept {
    at(slot).use_gate(nullptr);
    if (!at(slot).alive())
        at(slot).close(); // one of another user
    slots_[slot].word.store(word(at(slot).alive() ? kIdle : kEmpty));
}

void ConnectionPool::report_trimmed(std::int64_t pages) noexcept {
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
        if (!take(slot, true))
            continue;
        const int ret = at(slot).report_trimmed(pages);
        put_back(slot);
        if (ret == 0)
            return;
    }
}

void ConnectionPool::close_idle() noexcept {
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
        if (!take(slot, true))
            continue;
        at(slot).close();
        put_back(slot);
    }
}

bool ConnectionPool::report_unmapped(const SocketPath &path) noexcept {
    constexpr int kSoonMs = 20;
    bool busy = false;
    bool elsewhere = false;
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
        if (take(slot, true)) {
            const int ret = at(slot).report(kUnknown, -1);
            put_back(slot);
            if (ret == 0)
                return true;
        }
        busy = busy || slots_[slot].word.load() == word(kBusy);
        elsewhere = elsewhere || in_other_table(slot);
    }
    std::size_t slot = 0;
    if (busy || !elsewhere || descriptor_table() == 0 ||
        acquire_existing(path, {}, kSoonMs, slot) != 0)
        return !busy; // without a connection, there is nobody to tell
    (void)at(slot).report_unmapped();
    put_back(slot);
    return true;
}

} // namespace upm::store
