// SPDX-License-Identifier: MIT
#include "bench/ksmd.hpp"

#include "bench/error.hpp"
#include "bench/timing.hpp"

#include <ctime>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <unistd.h>

namespace upm::bench {

namespace {

constexpr std::uint64_t kPatienceNs = 1'800'000'000'000;

enum Run : std::uint8_t { kStop = 0, kScan = 1, kUnmergeAll = 2 };

std::string ksm_file(std::string_view name) {
    return std::string(kKsmFolder).append(name);
}

// The clock of the processor time of the kernel's thread ksmd.
clockid_t find_clock() {
    for (const auto &entry : std::filesystem::directory_iterator("/proc")) {
        std::ifstream file(entry.path() / "comm");
        std::string name;
        clockid_t clock{};
        if (std::getline(file, name) && name == "ksmd" &&
            ::clock_getcpuclockid(std::stoi(entry.path().filename()), &clock) == 0)
            return clock;
    }
    throw Error("there is no ksmd: this kernel has no KSM");
}

std::uint64_t read_clock(clockid_t clock) {
    constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
    timespec time{};
    if (::clock_gettime(clock, &time) != 0)
        throw Error("cannot read the processor time of ksmd");
    return static_cast<std::uint64_t>(time.tv_sec) * kNsPerSecond +
           static_cast<std::uint64_t>(time.tv_nsec);
}

} // namespace

Ksmd::Ksmd(std::uint64_t pages_to_scan, std::uint64_t sleep_millisecs)
    : clock_(find_clock()), stopped_(ksm_file("run"), kStop),
      pages_to_scan_(ksm_file("pages_to_scan"), pages_to_scan),
      sleep_(ksm_file("sleep_millisecs"), sleep_millisecs) {}

Ksmd::Scan Ksmd::scan_until(std::uint64_t wanted) const {
    const std::uint64_t scans = read_number(ksm_file("full_scans"));
    const std::uint64_t before = read_number(ksm_file("pages_sharing"));
    const std::uint64_t cpu = read_clock(clock_);
    const Stopwatch watch;
    write_number(ksm_file("run"), kScan);
    std::uint64_t sharing = before;
    while (sharing < wanted) {
        if (watch.elapsed().wall_ns > kPatienceNs)
            throw Error("ksmd does not get done");
        (void)::usleep(2'000);
        sharing = read_number(ksm_file("pages_sharing"));
    }
    const Timing timing = watch.elapsed();
    const std::uint64_t spent = read_clock(clock_) - cpu;
    write_number(ksm_file("run"), kStop);
    return {.pages = sharing - before,
            .wall_ns = timing.wall_ns,
            .cpu_ns = spent,
            .full_scans = read_number(ksm_file("full_scans")) - scans};
}

void Ksmd::forget() {
    write_number(ksm_file("run"), kUnmergeAll);
    write_number(ksm_file("run"), kStop);
}

} // namespace upm::bench
