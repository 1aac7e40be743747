// SPDX-License-Identifier: MIT
//
// upm doctor: what this machine lacks, and the cure.
#include "tools/common/text.hpp"
#include "tools/upm/cli.hpp"
#include "tools/upm/doctor.hpp"
#include "tools/upm/show/report.hpp"

#include <array>
#include <exception>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <upm/upm.hpp>

namespace upm::tool::cli {

namespace {

constexpr std::array<const char *, 4> kVerdicts = {"ok", "warn", "fail", "skip"};

struct Row {
    const char *name;
    Finding finding;
};

// A check that cannot be made is a finding as well, not the end of the others.
Row run_check(const Check &check, const Machine &machine) {
    try {
        return {check.name, check.run(machine)};
    } catch (const std::exception &error) {
        return {check.name,
                warn(error.what(), machine.root.exists("/proc/self")
                                       ? "ask as root: " + machine.asker.as_root("upm doctor")
                                       : "mount -t proc proc /proc")};
    }
}

std::array<unsigned, kVerdicts.size()> tally(const std::vector<Row> &rows) {
    std::array<unsigned, kVerdicts.size()> counts = {};
    for (const Row &row : rows)
        ++counts.at(static_cast<std::size_t>(row.finding.verdict));
    return counts;
}

std::string doctor_text(const std::vector<Row> &rows) {
    std::string text;
    std::size_t widest = 0;
    for (const Row &row : rows)
        widest = std::max(widest, std::string_view(row.name).size());
    for (const Row &row : rows) {
        if (row.finding.verdict == Verdict::kSkip)
            continue; // one line for one lack
        const auto verdict = static_cast<std::size_t>(row.finding.verdict);
        text += fmt::format("{:<4}  {:<{}}  {}\n", kVerdicts.at(verdict), row.name, widest,
                            printable(row.finding.found));
        if (!row.finding.cure.empty())
            text += fmt::format("{:<4}  {:<{}}  -> {}\n", "", "", widest, row.finding.cure);
    }
    const auto counts = tally(rows);
    return text + fmt::format("\n{} ok, {} warn, {} fail\n", counts[0], counts[1], counts[2]);
}

Json doctor_json(const std::vector<Row> &rows) {
    Json checks = Json::array();
    for (const Row &row : rows)
        checks.push_back({{"name", row.name},
                          {"status", kVerdicts.at(static_cast<std::size_t>(row.finding.verdict))},
                          {"found", row.finding.found},
                          {"cure", row.finding.cure}});
    const auto counts = tally(rows);
    return {{"command", "doctor"},
            {"checks", std::move(checks)},
            {"summary",
             {{"ok", counts[0]}, {"warn", counts[1]}, {"fail", counts[2]}, {"skip", counts[3]}}}};
}

} // namespace

int run_doctor(const Arguments &arguments) {
    cxxopts::Options options("upm doctor", "Checks what this machine lacks, and says the cure.\n");
    options.custom_help("[OPTION...]");
    add_common_options(options);
    Common common;
    (void)parse(options, arguments, common);
    if (common.help)
        return kSuccess;

    start_no_service();
    utsname name{};
    (void)::uname(&name);
    const Machine machine{
        .root = common.root, .release = name.release, .asker = read_asker(common.root)};
    std::vector<Row> rows;
    for (const std::span<const Check> part : {store_checks(), module_checks(), system_checks()})
        for (const Check &check : part)
            rows.push_back(run_check(check, machine));
    print(common.json ? dump(doctor_json(rows)) + "\n" : doctor_text(rows));
    return tally(rows)[static_cast<std::size_t>(Verdict::kFail)] == 0 ? kSuccess : kFailure;
}

} // namespace upm::tool::cli
