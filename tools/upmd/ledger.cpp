// SPDX-License-Identifier: MIT
#include "tools/upmd/ledger.hpp"

#include <algorithm>

namespace upm::upmd {

namespace {

std::uint64_t left(std::uint64_t limit, std::uint64_t taken) {
    return limit - std::min(limit, taken);
}

template <class Map, class Key>
Account account_of(const Map &accounts, const Key &key) {
    const auto found = accounts.find(key);
    return found != accounts.end() ? found->second : Account{};
}

template <class Map, class Key>
void take_from(Map &accounts, const Key &key, Ledger::What what, std::uint64_t count) {
    const auto found = accounts.find(key);
    if (found == accounts.end())
        return;
    found->second.*what -= count;
    if (found->second == Account{})
        accounts.erase(found);
}

} // namespace

void Ledger::add(const Owner &owner, What what, std::uint64_t count) {
    if (count == 0)
        return;
    all_.*what += count;
    users_[owner.uid].*what += count;
    processes_[owner.process].*what += count;
}

void Ledger::take(const Owner &owner, What what, std::uint64_t count) {
    if (count == 0)
        return;
    all_.*what -= count;
    take_from(users_, owner.uid, what, count);
    take_from(processes_, owner.process, what, count);
}

std::uint64_t Ledger::room(const Owner &owner) const {
    const Account user = account_of(users_, owner.uid);
    const Account process = account_of(processes_, owner.process);
    if (all_.segments >= limits_.max_segments || user.segments >= limits_.user_segments)
        return 0;
    return std::min({left(limits_.max_pages, all_.pages), left(limits_.quota_pages, user.pages),
                     left(limits_.client_pages, process.pages)});
}

const char *Ledger::full(const Owner &owner, std::uint64_t pages) const {
    const Account user = account_of(users_, owner.uid);
    if (pages > left(limits_.max_pages, all_.pages))
        return "all users together have what --max allows";
    if (pages > left(limits_.quota_pages, user.pages))
        return "it has what --quota allows one user";
    if (pages > left(limits_.client_pages, account_of(processes_, owner.process).pages))
        return "one of its processes has what --client-quota allows";
    if (all_.segments >= limits_.max_segments || user.segments >= limits_.user_segments)
        return "there are so many segments that files run out (LimitNOFILE=)";
    return "";
}

bool Ledger::may_wait(const Owner &owner) const {
    return account_of(users_, owner.uid).parked < limits_.user_parked;
}

bool Ledger::may_name(const Owner &owner) const {
    return account_of(users_, owner.uid).names < limits_.user_names;
}

bool Ledger::may_want(const Owner &owner) const {
    return account_of(users_, owner.uid).wanted < limits_.user_wanted;
}

std::uint64_t Ledger::seed_room(uid_t uid) const {
    return std::min(left(limits_.seed_pages, account_of(users_, uid).kept),
                    left(limits_.all_seed_pages, all_.kept));
}

bool Ledger::may_seed(uid_t uid) const {
    return account_of(users_, uid).seeds < limits_.user_seeds;
}

Account Ledger::process(std::uint64_t process) const {
    return account_of(processes_, process);
}

Account Ledger::user(uid_t uid) const {
    return account_of(users_, uid);
}

} // namespace upm::upmd
