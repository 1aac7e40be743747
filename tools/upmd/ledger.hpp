// SPDX-License-Identifier: MIT
//
// What each user and each process has of what the broker can give, and what is left
// for it: no user takes all, and no process all of its user's.
#ifndef UPM_UPMD_LEDGER_HPP
#define UPM_UPMD_LEDGER_HPP

#include <cstdint>
#include <map>
#include <sys/types.h>
#include <unordered_map>

namespace upm::upmd {

struct Limits {
    std::uint64_t max_pages = 0;        // of all users, published and reserved
    std::uint64_t quota_pages = 0;      // of one user
    std::uint64_t client_pages = 0;     // of one process
    std::uint32_t max_segments = 65536; // each holds one descriptor
    std::uint32_t user_segments = 65536;
    std::uint32_t user_parked = 256;      // requests of one user that wait
    std::uint32_t user_wanted = 65536;    // hashes that its clients asked for in vain
    std::uint32_t client_wanted = 1024;   // the same of one connection
    std::uint32_t late = 64;              // files of which something is made in the background
    std::uint32_t user_late = 16;         // the same of one user
    std::uint64_t late_ms = 300'000;      // after which such a file is closed
    std::uint32_t user_names = 262'144;   // segments that its clients have a number for
    std::uint64_t expire_ms = 0;          // after the last user of what several used
    std::uint64_t reservation_ms = 1'000; // until it is anybody's again
    std::uint64_t wait_ms = 1'000;        // the longest that a look-up may wait
    std::uint64_t look_ms = 10'000;       // between two looks at a process's mappings
    std::uint64_t look_soon_ms = 1'000;   // the same if it has published or unmapped
    std::uint64_t blind_ms = 60'000;      // the same if they cannot be read
    // Pages that are made for a process, and that it was not seen to map yet, or that went
    // before another one had used them.
    std::uint64_t alone_pages = 131'072;
    std::uint64_t seed_pages = 0;     // that seeds of one user keep; 0: it may have none
    std::uint64_t all_seed_pages = 0; // the same of all users
    std::uint32_t user_seeds = 64;
};

// Who pays.
struct Owner {
    uid_t uid = 0;
    std::uint64_t process = 0;
};

struct Account {
    std::uint64_t pages = 0; // published and reserved
    std::uint64_t segments = 0;
    std::uint64_t clients = 0;
    std::uint64_t parked = 0;
    std::uint64_t names = 0;
    std::uint64_t wanted = 0;
    std::uint64_t seeds = 0;
    std::uint64_t kept = 0; // pages, for seeds; they are published as well
    friend bool operator==(const Account &, const Account &) = default;
};

class Ledger {
  public:
    explicit Ledger(const Limits &limits) : limits_(limits) {}

    using What = std::uint64_t Account::*;
    void add(const Owner &owner, What what, std::uint64_t count);
    void take(const Owner &owner, What what, std::uint64_t count);

    // Pages that the owner may still publish or reserve.
    [[nodiscard]] std::uint64_t room(const Owner &owner) const;
    // Which limit leaves no room for so many, for people; "" if there is room.
    [[nodiscard]] const char *full(const Owner &owner, std::uint64_t pages) const;
    [[nodiscard]] bool may_wait(const Owner &owner) const;
    [[nodiscard]] bool may_name(const Owner &owner) const;
    [[nodiscard]] bool may_want(const Owner &owner) const;
    // Pages that seeds of the user may still have kept.
    [[nodiscard]] std::uint64_t seed_room(uid_t uid) const;
    [[nodiscard]] bool may_seed(uid_t uid) const;

    [[nodiscard]] const Account &all() const { return all_; }
    [[nodiscard]] Account user(uid_t uid) const;
    [[nodiscard]] Account process(std::uint64_t process) const;
    friend bool operator==(const Ledger &a, const Ledger &b) {
        return a.all_ == b.all_ && a.users_ == b.users_ && a.processes_ == b.processes_;
    }

  private:
    Limits limits_;
    Account all_;
    std::map<uid_t, Account> users_;                       // without those that have nothing
    std::unordered_map<std::uint64_t, Account> processes_; // the same
};

} // namespace upm::upmd

#endif // UPM_UPMD_LEDGER_HPP
