// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/collect.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <cerrno>
#include <chrono>
#include <ctime>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <system_error>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

std::string iso_time(std::time_t time) {
    std::tm parts{};
    char text[32];
    (void)::gmtime_r(&time, &parts);
    (void)std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

std::string reason_of(int error) {
    return error == ETIMEDOUT ? "stuck in the kernel: its memory gives no answer"
                              : std::generic_category().message(error);
}

void add(Reading reading, Snapshot &snapshot) {
    Skipped &skipped = snapshot.skipped;
    switch (reading.fate) {
    case Fate::kExcluded:
        return;
    case Fate::kTaken:
        snapshot.processes.push_back(std::move(reading.process));
        return;
    case Fate::kFiltered:
        ++skipped.filtered;
        return;
    case Fate::kVanished:
        ++skipped.vanished;
        return;
    case Fate::kZombie:
        ++skipped.zombies;
        return;
    case Fate::kKernelThread:
        ++skipped.kernel_threads;
        return;
    case Fate::kUnreadable:
        skipped.unreadable.push_back({reading.process.pid, std::move(reading.process.command),
                                      reason_of(reading.error), reading.rss});
        return;
    }
}

// Otherwise a wrong name is a report of nobody. A number is always a user.
void check_users(const std::vector<std::string> &wanted, std::string_view passwd) {
    for (const std::string &user : wanted) {
        bool known = parse_integer<std::uint32_t>(user).has_value();
        for_each_line(passwd, [&](std::string_view line) {
            known = known || (!user.empty() && line.starts_with(user + ":"));
        });
        if (!known)
            throw Failure(
                fmt::format("--user '{}': /etc/passwd has no such user", printable(user)));
    }
}

} // namespace

Collector::Collector(const Root &root, const CollectOptions &options)
    : proc_(root), filter_(options.filter), mappings_(options.mappings), reader_(root, options),
      page_size_(static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))) {
    int error = 0;
    check_users(filter_.users, proc_.read("/etc/passwd", error));
}

System Collector::read_system() {
    System system;
    int error = 0;
    const auto meminfo = parse_meminfo(proc_.read("/proc/meminfo", error));
    const auto value = [&](const char *name) {
        const auto found = meminfo.find(name);
        return found == meminfo.end() ? 0 : found->second;
    };
    system.mem_total = value("MemTotal");
    system.mem_free = value("MemFree");
    system.mem_available = value("MemAvailable");
    system.swap_total = value("SwapTotal");
    system.swap_free = value("SwapFree");
    for (const auto &[folder, values] :
         {std::pair{"/sys/kernel/mm/ksm/", &system.ksm}, {"/sys/kernel/upm/", &system.upm}})
        for (const std::string &name : proc_.root().names(folder))
            if (const auto number = proc_.root().number<std::int64_t>(folder + name))
                values->emplace(name, *number);
    return system;
}

// All, or those that were asked for.
std::vector<int> Collector::pids() const {
    if (filter_.pids.empty())
        return proc_.pids();
    for (const int pid : filter_.pids)
        if (!proc_.root().exists(fmt::format("/proc/{}", pid)))
            throw Failure(fmt::format("--pid {}: {}", pid, proc_.root().path("/proc")), ESRCH);
    return {filter_.pids.begin(), filter_.pids.end()};
}

Snapshot Collector::collect() {
    using Clock = std::chrono::steady_clock;
    const auto started = Clock::now();
    Snapshot snapshot;
    const auto now = std::chrono::system_clock::now();
    snapshot.time = iso_time(std::chrono::system_clock::to_time_t(now));
    snapshot.unix_time = std::chrono::duration<double>(now.time_since_epoch()).count();
    utsname names{};
    if (::uname(&names) == 0) {
        snapshot.host = names.nodename;
        snapshot.kernel = names.release;
    }
    snapshot.page_size = page_size_;
    snapshot.system = read_system();
    std::uint64_t rollups = 0;
    std::uint64_t smaps = 0;
    reader_.read(pids(), snapshot.system, mappings_, [&](Reading reading) {
        snapshot.exact = snapshot.exact && reading.exact;
        if (reading.fate == Fate::kTaken)
            ++(reading.smaps ? smaps : rollups);
        add(std::move(reading), snapshot);
    });
    snapshot.source = smaps == 0 ? "smaps_rollup" : rollups == 0 ? "smaps" : "mixed";
    snapshot.seconds = std::chrono::duration<double>(Clock::now() - started).count();
    return snapshot;
}

} // namespace upm::tool::pss
