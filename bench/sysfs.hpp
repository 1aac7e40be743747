// SPDX-License-Identifier: MIT
//
// Knobs and counters of the module and of KSM.
#ifndef UPM_BENCH_SYSFS_HPP
#define UPM_BENCH_SYSFS_HPP

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace upm::bench {

constexpr std::string_view kUpmFolder = "/sys/kernel/upm/";
constexpr std::string_view kKsmFolder = "/sys/kernel/mm/ksm/";

// The first line of a file. Throws Error.
std::string read_line(const std::string &path);
// The first number in a file. Throws Error.
std::uint64_t read_number(const std::string &path);
// Throws Error.
void write_number(const std::string &path, std::uint64_t value);

// Sets a knob, and sets it back at the end.
class Knob {
  public:
    Knob(std::string path, std::uint64_t value);
    ~Knob();
    Knob(const Knob &) = delete;
    Knob &operator=(const Knob &) = delete;

  private:
    std::string path_;
    std::uint64_t before_;
};

// The module's counters since reset_counters(), those of time and of batches.
nlohmann::json module_counters();
void reset_counters();

// Has the module free what nobody maps. Throws Error if something is left.
void forget_shared_pages();

} // namespace upm::bench

#endif // UPM_BENCH_SYSFS_HPP
