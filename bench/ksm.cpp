// SPDX-License-Identifier: MIT
#include "bench/cases.hpp"
#include "bench/error.hpp"
#include "bench/process.hpp"
#include "bench/sysfs.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

namespace upm::bench {

namespace {

// Of ksmd: as fast as it can.
constexpr std::uint64_t kPagesToScan = 100'000;
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

class Ksm {
  public:
    Ksm()
        : schedstat_(find_ksmd() + "/schedstat"), stopped_(ksm_file("run"), kStop),
          pages_to_scan_(ksm_file("pages_to_scan"), kPagesToScan),
          sleep_(ksm_file("sleep_millisecs"), 0) {}

    // Scans until `wanted` pages are saved. Gives what that took.
    [[nodiscard]] nlohmann::json scan_until(std::uint64_t wanted) const {
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
        return {{"pages", sharing - before},
                {"wall_ns", timing.wall_ns},
                {"cpu_ns", spent},
                {"full_scans", read_number(ksm_file("full_scans")) - scans}};
    }

    static void forget() {
        write_number(ksm_file("run"), kUnmergeAll);
        write_number(ksm_file("run"), kStop);
    }

  private:
    std::string schedstat_; // its first number: processor time in ns
    Knob stopped_;
    Knob pages_to_scan_;
    Knob sleep_;
};

void run_ksm(const Ksm &ksm, const Setup &setup, nlohmann::json &row) {
    const std::uint64_t pages = setup.mib * kMib / kPage;
    {
        std::vector<std::unique_ptr<Process>> processes;
        const auto add = [&] {
            processes.push_back(
                std::make_unique<Process>(setup.mib * kMib, setup.pages, Order::kSame));
            processes.back()->ask(Action::kMarkForKsm);
        };
        add();
        add();
        row["pair"] = ksm.scan_until(pages * 99 / 100);
        add();
        row["later"] = ksm.scan_until(pages * 99 / 50);
    }
    Ksm::forget();
}

} // namespace

nlohmann::json measure_versus(const Setup &setup) {
    const Ksm ksm;
    nlohmann::json row = {{"mib", setup.mib},
                          {"pages", setup.pages == Pages::kHuge ? "thp" : "4k"},
                          {"pages_to_scan", kPagesToScan},
                          {"sleep_millisecs", 0},
                          {"runs", nlohmann::json::array()}};
    for (int i = 0; i < setup.runs; ++i) {
        nlohmann::json run = run_advise(setup);
        run.update(run_copy(setup));
        run_ksm(ksm, setup, run);
        row["runs"].push_back(run);
    }
    return row;
}

} // namespace upm::bench
