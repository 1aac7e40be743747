// SPDX-License-Identifier: MIT
//
// upm-bench: what merging costs, per page and against ksmd, memcpy and memcmp.
// See bench/README.md.
#include "bench/cases.hpp"
#include "bench/error.hpp"
#include "bench/timing.hpp"

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <upm/upm.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace upm::bench {

namespace {

struct Choice {
    std::vector<std::string> cases;
    std::vector<std::size_t> sizes;
    std::size_t versus_mib = 64;
    std::size_t batch_mib = 64;
    std::size_t neighbour_mib = 1024;
    int runs = 3;
};

// The middle value over the runs, for each step.
std::map<std::string, double> medians(const nlohmann::json &row,
                                      const std::function<double(const nlohmann::json &)> &value) {
    std::map<std::string, std::vector<double>> values;
    for (const auto &run : row["runs"])
        for (const auto &[name, step] : run.items())
            values[name].push_back(value(step));
    std::map<std::string, double> found;
    for (auto &[name, list] : values) {
        std::sort(list.begin(), list.end());
        const std::size_t middle = list.size() / 2;
        found[name] = list.size() % 2 == 1 ? list[middle] : (list[middle - 1] + list[middle]) / 2;
    }
    return found;
}

void print_row(const std::string &name, const nlohmann::json &row) {
    std::string setup;
    for (const auto &[key, value] : row.items())
        if (key != "runs")
            setup += fmt::format(" {}={}", key,
                                 value.is_string() ? value.get<std::string>() : value.dump());
    const auto print = [&](const char *unit,
                           const std::function<double(const nlohmann::json &)> &value) {
        fmt::print("{}:{}:", name, setup);
        for (const auto &[step, found] : medians(row, value))
            fmt::print("  {} {:.0f}", step, found);
        fmt::print(" {}\n", unit);
    };
    print("ns/page", [](const nlohmann::json &step) {
        return step["cpu_ns"].get<double>() / step["pages"].get<double>();
    });
    if (row["runs"].front().begin()->contains("p99_ns"))
        for (const char *which : {"p50_ns", "p99_ns", "p999_ns"})
            print(which, [&](const nlohmann::json &step) { return step[which].get<double>(); });
    (void)std::fflush(stdout);
}

// What a case measures, setup by setup.
struct Plan {
    std::function<nlohmann::json(const Setup &)> measure;
    std::vector<Setup> setups;
};

// Large sizes take long and differ little.
int runs_for(std::size_t mib, int runs) {
    return std::min(runs, mib >= 1024 ? 1 : mib >= 256 ? 3 : runs);
}

Plan plan(const std::string &name, const Choice &choice) {
    constexpr Pages kKinds[] = {Pages::kSmall, Pages::kHuge};
    Plan found{.measure = measure_advise, .setups = {}};
    if (name == "size") {
        for (const std::size_t mib : choice.sizes)
            for (const Pages pages : kKinds)
                found.setups.push_back(
                    {.mib = mib, .pages = pages, .runs = runs_for(mib, choice.runs)});
    } else if (name == "order") {
        found.setups.push_back(
            {.mib = choice.batch_mib, .order = Order::kShuffled, .runs = choice.runs});
    } else if (name == "batch") {
        for (const Pages pages : kKinds)
            for (const unsigned batch : {64U, 128U, 256U, 512U})
                found.setups.push_back({.mib = choice.batch_mib,
                                        .pages = pages,
                                        .batch_pages = batch,
                                        .runs = choice.runs});
    } else if (name == "load") {
        found.measure = measure_load;
        found.setups.push_back({.mib = choice.batch_mib, .runs = choice.runs});
    } else if (name == "versus") {
        found.measure = measure_versus;
        for (const Pages pages : kKinds)
            found.setups.push_back({.mib = choice.versus_mib, .pages = pages, .runs = choice.runs});
    } else if (name == "neighbour") {
        found.measure = measure_neighbour;
        for (const Pages pages : kKinds)
            found.setups.push_back(
                {.mib = choice.neighbour_mib, .pages = pages, .runs = choice.runs});
    } else if (name == "copy") {
        found.measure = measure_copy;
        for (const Pages pages : kKinds)
            found.setups.push_back({.mib = 64, .pages = pages, .runs = 5});
    } else {
        throw cxxopts::exceptions::specification("no case '" + name + "'");
    }
    return found;
}

nlohmann::json run_case(const std::string &name, const Choice &choice) {
    const Plan todo = plan(name, choice);
    nlohmann::json rows = nlohmann::json::array();
    for (const Setup &setup : todo.setups) {
        rows.push_back(todo.measure(setup));
        print_row(name, rows.back());
    }
    return rows;
}

void write_json(const std::string &path, const nlohmann::json &result) {
    std::ofstream file(path);
    file << result.dump() << '\n' << std::flush;
    if (!file)
        throw Error("cannot write " + path);
}

nlohmann::json read_json(const std::string &path) {
    std::ifstream file(path);
    if (!file)
        throw Error("cannot read " + path);
    return nlohmann::json::parse(file);
}

void run(const Choice &choice, const cxxopts::ParseResult &options) {
    const auto needs_module = [](const std::string &name) { return name != "copy"; };
    const Info backend = upm::info();
    if (std::any_of(choice.cases.begin(), choice.cases.end(), needs_module) &&
        std::string_view(backend.backend) != "kmod")
        throw Error(fmt::format("the module is needed, but the backend is {}: {}", backend.backend,
                                backend.reason));
    nlohmann::json result = {{"format", 1},
                             {"clock", options["clock"].as<std::string>()},
                             {"machine", describe_machine()}};
    if (options.count("host") != 0)
        result["host"] = read_json(options["host"].as<std::string>());
    const ClockCheck clock;
    for (const std::string &name : choice.cases)
        result["cases"][name] = run_case(name, choice);
    if (const std::optional<double> rate = clock.rate())
        result["clock_rate"] = *rate;
    if (options.count("json") != 0)
        write_json(options["json"].as<std::string>(), result);
}

int run_program(int argc, char **argv) {
    cxxopts::Options parser("upm-bench", "What merging costs. Run it as root, where upm.ko is.");
    parser.add_options()("h,help", "this text")("quick", "every case once, with little memory")(
        "cases", "size, order, batch, load, versus, neighbour, copy",
        cxxopts::value<std::vector<std::string>>()->default_value("size,order,batch,load,versus"))(
        "sizes", "MiB of each process in case size",
        cxxopts::value<std::vector<std::size_t>>()->default_value("16,64,256,1024,2048"))(
        "versus-mib", "MiB of each process in case versus",
        cxxopts::value<std::size_t>()->default_value("64"))(
        "batch-mib", "MiB of each process in cases batch, order and load",
        cxxopts::value<std::size_t>()->default_value("64"))(
        "neighbour-mib", "MiB of each process in case neighbour",
        cxxopts::value<std::size_t>()->default_value("1024"))(
        "runs", "runs of each setup; fewer from 256 MiB on in case size",
        cxxopts::value<int>()->default_value("5"))(
        "clock", "what the clock counts, for the record: time or instructions",
        cxxopts::value<std::string>()->default_value("time"))(
        "host", "a JSON file to put into the result: the host of this machine",
        cxxopts::value<std::string>())("json", "write the result here",
                                       cxxopts::value<std::string>());
    const cxxopts::ParseResult options = parser.parse(argc, argv);
    if (options.count("help") != 0) {
        fmt::print("{}", parser.help());
        return EXIT_SUCCESS;
    }
    Choice choice{.cases = options["cases"].as<std::vector<std::string>>(),
                  .sizes = options["sizes"].as<std::vector<std::size_t>>(),
                  .versus_mib = options["versus-mib"].as<std::size_t>(),
                  .batch_mib = options["batch-mib"].as<std::size_t>(),
                  .neighbour_mib = options["neighbour-mib"].as<std::size_t>(),
                  .runs = options["runs"].as<int>()};
    if (options.count("quick") != 0)
        choice = {.cases = choice.cases,
                  .sizes = {16},
                  .versus_mib = 4,
                  .batch_mib = 4,
                  .neighbour_mib = 4,
                  .runs = 1};
    run(choice, options);
    return EXIT_SUCCESS;
}

} // namespace

} // namespace upm::bench

int main(int argc, char **argv) {
    try {
        return upm::bench::run_program(argc, argv);
    } catch (const cxxopts::exceptions::exception &error) {
        (void)std::fprintf(stderr, "upm-bench: %s\n", error.what());
        return 2;
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-bench: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
