// SPDX-License-Identifier: MIT
#include "bench/ksmd.hpp"

#include "bench/error.hpp"
#include "bench/timing.hpp"

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

// The folder of the kernel's thread ksmd in /proc.
std::string find_ksmd() {
    for (const auto &entry : std::filesystem::directory_iterator("/proc")) {
        std::ifstream file(entry.path() / "comm");
        std::string name;
        if (std::getline(file, name) && name == "ksmd")
            return entry.path();
    }
    throw Error("there is no ksmd: this kernel has no KSM");
}

} // namespace

Ksmd::Ksmd(std::uint64_t pages_to_scan, std::uint64_t sleep_millisecs)
    : schedstat_(find_ksmd() + "/schedstat"), stopped_(ksm_file("run"), kStop),
      pages_to_scan_(ksm_file("pages_to_scan"), pages_to_scan),
      sleep_(ksm_file("sleep_millisecs"), sleep_millisecs) {}

Ksmd::Scan Ksmd::scan_until(std::uint64_t wanted) const {
    const std::uint64_t scans = read_number(ksm_file("full_scans"));
    const std::uint64_t before = read_number(ksm_file("pages_sharing"));
    const std::uint64_t cpu = read_number(schedstat_);
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
    const std::uint64_t spent = read_number(schedstat_) - cpu;
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
