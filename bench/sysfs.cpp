// SPDX-License-Identifier: MIT
#include "bench/sysfs.hpp"

#include "bench/error.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <unistd.h>
#include <utility>

namespace upm::bench {

namespace {

constexpr const char *kCounters[] = {
    "batches",   "scan_ns", "freeze_ns",   "find_ns",         "map_ns",
    "finish_ns", "lock_ns", "lock_ns_max", "pages_predicted",
};

std::string upm_file(std::string_view name) {
    return std::string(kUpmFolder).append(name);
}

} // namespace

std::string read_line(const std::string &path) {
    std::ifstream file(path);
    std::string line;
    if (!file || !std::getline(file, line))
        throw Error("cannot read " + path);
    return line;
}

std::uint64_t read_number(const std::string &path) {
    return std::stoull(read_line(path));
}

void write_number(const std::string &path, std::uint64_t value) {
    std::ofstream file(path);
    file << value << std::flush;
    if (!file)
        throw Error(fmt::format("cannot write {} to {}", value, path));
}

Knob::Knob(std::string path, std::uint64_t value)
    : path_(std::move(path)), before_(read_number(path_)) {
    write_number(path_, value);
}

Knob::~Knob() {
    try {
        write_number(path_, before_);
    } catch (const Error &error) {
        (void)std::fprintf(stderr, "upm-bench: %s\n", error.what());
    }
}

nlohmann::json module_counters() {
    nlohmann::json counters;
    for (const char *name : kCounters)
        counters[name] = read_number(upm_file(name));
    return counters;
}

void reset_counters() {
    write_number(upm_file("stats_reset"), 1);
}

void forget_shared_pages() {
    // The last pages of a process that just ended may take a moment.
    for (int tries = 0; tries < 100; ++tries) {
        write_number(upm_file("sweep"), 1);
        if (read_number(upm_file("pages_shared")) + read_number(upm_file("pages_unused")) == 0)
            return;
        (void)::usleep(20'000);
    }
    throw Error("shared pages are left that no process of the benchmark maps");
}

} // namespace upm::bench
