// SPDX-License-Identifier: MIT
#include "bench/cases.hpp"
#include "bench/error.hpp"
#include "bench/sysfs.hpp"
#include "bench/timing.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <sys/utsname.h>
#include <unistd.h>

namespace upm::bench {

namespace {

std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.starts_with("model name"))
            return line.substr(line.find(':') + 2);
    return "unknown";
}

constexpr std::uint64_t kLongEnough = 20; // s, since the clock counts whole seconds

std::optional<std::uint64_t> battery_clock() {
    try {
        return read_number("/sys/class/rtc/rtc0/since_epoch");
    } catch (const Error &) {
        return std::nullopt;
    }
}

} // namespace

ClockCheck::ClockCheck() : seconds_(battery_clock()) {}

std::optional<double> ClockCheck::rate() const {
    const std::optional<std::uint64_t> now = battery_clock();
    if (!seconds_ || !now || *now < *seconds_ + kLongEnough)
        return std::nullopt;
    return static_cast<double>(watch_.elapsed().wall_ns) / 1e9 /
           static_cast<double>(*now - *seconds_);
}

nlohmann::json describe_machine() {
    utsname names{};
    (void)::uname(&names);
    const long page = ::sysconf(_SC_PAGESIZE);
    return {{"kernel", std::string(names.release)},
            {"processor", processor()},
            {"processors", ::sysconf(_SC_NPROCESSORS_ONLN)},
            {"memory", page * ::sysconf(_SC_PHYS_PAGES)},
            {"transparent_hugepage", read_line("/sys/kernel/mm/transparent_hugepage/enabled")}};
}

} // namespace upm::bench
