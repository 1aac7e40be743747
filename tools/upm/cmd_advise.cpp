// SPDX-License-Identifier: MIT
//
// upm advise and upm unmerge: the library's call on other processes' memory.
#include "tools/common/errors.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/cli.hpp"
#include "tools/upm/model/selection.hpp"
#include "tools/upm/read/cgroup.hpp"
#include "tools/upm/read/mappings.hpp"
#include "tools/upm/show/report.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::tool::cli {

namespace {

struct Job {
    Common common;
    std::vector<Target> targets;
    Filter filter;
    bool unmerge = false;
    bool dry_run = false;
    bool verbose = false;
};

// After these, the process's other mappings would only fail in the same way.
bool hopeless(int error) {
    return error == EPERM || error == ESRCH || error == EOPNOTSUPP || error == EINTR ||
           error == EBADF;
}

const char *hint(int error) {
    switch (error) {
    case EPERM:
        return " (needs CAP_SYS_PTRACE in the user namespace of the process: run as root)";
    case EOPNOTSUPP:
        return " (see 'upm status' and 'upm doctor')";
    default:
        return "";
    }
}

std::string who(const TargetResult &result) {
    return result.command.empty()
               ? fmt::format("pid {}", result.pid)
               : fmt::format("pid {} ({})", result.pid, printable(result.command));
}

TargetFailure mapping_failure(const Job &job, const TargetResult &result, const Mapping &mapping,
                              int error) {
    const std::string range = format_range(mapping.start, mapping.end);
    return {.what = fmt::format("{}: cannot {} {}: {}{}", who(result),
                                job.unmerge ? "unmerge" : "merge", range, std::strerror(error),
                                hint(error)),
            .range = range,
            .error = error};
}

Result<Counts> call_library(const Job &job, int pid, const Mapping &mapping) {
    // An address of the other process: never used as a pointer here.
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    auto *const addr = reinterpret_cast<void *>(mapping.start);
    const Options options{.dry_run = job.dry_run, .pid = pid};
    return job.unmerge ? unmerge(addr, mapping.size(), options)
                       : advise(addr, mapping.size(), options);
}

// False: the process is gone.
bool work_on_mappings(const Job &job, const std::vector<Mapping> &mappings, TargetResult &result) {
    for (const Mapping &mapping : mappings) {
        const Result<Counts> done = call_library(job, result.pid, mapping);
        result.counts += *done; // also what was done before an error
        if (done.error() == ESRCH)
            return false;
        if (done.error() == ENOMEM)
            ++result.vanished;
        else
            ++result.mappings;
        if (job.verbose)
            result.details.push_back({.mapping = mapping, .counts = *done, .error = done.error()});
        if (done || done.error() == ENOMEM)
            continue;
        result.failures.push_back(mapping_failure(job, result, mapping, done.error()));
        if (hopeless(done.error()))
            break;
    }
    return true;
}

void work_on_target(const Job &job, const Target &target, Report &report) {
    TargetResult result;
    result.pid = target.pid;
    result.command = command_name(job.common.root, target.pid);
    bool gone = false;
    try {
        const Selection selection =
            select(read_mappings(job.common.root, target.pid), target, job.filter);
        result.left_out = selection.left_out;
        gone = !work_on_mappings(job, selection.mappings, result);
        const bool nothing = selection.mappings.empty() &&
                             std::all_of(result.left_out.begin(), result.left_out.end(),
                                         [](unsigned count) { return count == 0; });
        if (nothing && !target.ranges.empty())
            result.failures.push_back(
                {.what = fmt::format("{}: nothing is mapped in {}", who(result),
                                     format_range(target.ranges[0].start, target.ranges[0].end)),
                 .range = format_range(target.ranges[0].start, target.ranges[0].end),
                 .error = ENOMEM});
    } catch (const SystemError &error) {
        gone = error.error() == ESRCH;
        if (!gone)
            result.failures.push_back({.what = fmt::format("{}: {}", who(result), error.what()),
                                       .range = "",
                                       .error = error.error()});
    }
    if (gone && target.may_vanish)
        ++report.vanished_processes;
    else if (gone)
        result.failures.push_back({.what = fmt::format("{}: {}", who(result), std::strerror(ESRCH)),
                                   .range = "",
                                   .error = ESRCH});
    report.targets.push_back(std::move(result));
}

void require_remote(bool unmerge, bool dry_run) {
    const Info found = upm::info();
    const char *lacking = nullptr;
    if (found.remote == 0)
        lacking = "cannot work on other processes";
    else if (unmerge && found.unmerge == 0)
        lacking = "cannot unmerge";
    else if (dry_run && found.dry_run == 0)
        lacking = "has no dry run";
    if (lacking != nullptr)
        throw std::runtime_error(
            fmt::format("backend {} {} ({})", found.backend, lacking, found.reason));
}

std::vector<Target> chosen_targets(const cxxopts::ParseResult &options, const Job &job) {
    std::vector<Target> targets;
    const auto values = [&](const char *name) {
        return options.count(name) != 0 ? options[name].as<std::vector<std::string>>()
                                        : std::vector<std::string>();
    };
    for (const std::string &text : values("pid"))
        targets.push_back({.pid = parse_pid(text), .ranges = {}, .may_vanish = false});
    for (const std::string &text : values("range"))
        targets.push_back(parse_range(text));
    for (const std::string &name : values("cgroup")) {
        if (name.empty()) // which would be the whole machine
            throw UsageError("--cgroup takes the path of a control group, not ''");
        const CgroupMembers members =
            cgroup_members(job.common.root, find_cgroup(job.common.root, name));
        for (const int pid : members.pids)
            if (pid != ::getpid()) // this command, when it runs inside the group
                targets.push_back({.pid = pid, .ranges = {}, .may_vanish = true});
        if (members.foreign != 0)
            complain(job.unmerge ? "unmerge" : "advise",
                     fmt::format("{}: {} processes are in another pid namespace and "
                                 "cannot be reached from here",
                                 printable(name), members.foreign));
        if (members.pids.empty())
            throw std::runtime_error(
                fmt::format("control group {} has no process", printable(name)));
    }
    if (targets.empty())
        throw UsageError("say what to work on: --pid, --cgroup or --range");
    return targets;
}

cxxopts::Options make_options(bool unmerge) {
    cxxopts::Options options(unmerge ? "upm unmerge" : "upm advise",
                             unmerge ? "Gives merged memory private copies again.\n"
                                     : "Merges the private memory of running processes.\n");
    options.custom_help("[OPTION...]");
    options.add_options()("pid", "this process (may be repeated, as may the next two)",
                          cxxopts::value<std::vector<std::string>>(), "PID")(
        "cgroup", "the processes of this control group and of those below it",
        cxxopts::value<std::vector<std::string>>(),
        "PATH")("range", "these addresses, hexadecimal, of one process",
                cxxopts::value<std::vector<std::string>>(), "PID:START-END")(
        "min-bytes", "leave smaller mappings out (K, M, G: powers of 1024)",
        cxxopts::value<std::string>()->default_value("0"),
        "N")("anon-only", "leave mappings of files out")("v,verbose", "a row for each mapping");
    if (!unmerge)
        options.add_options()("n,dry-run", "change nothing, predict the counts");
    add_common_options(options);
    return options;
}

Job make_job(const cxxopts::ParseResult &options, const Common &common, bool unmerge) {
    Job job;
    job.common = common;
    job.unmerge = unmerge;
    job.dry_run = !unmerge && options.count("dry-run") != 0;
    job.verbose = options.count("verbose") != 0;
    job.filter.min_bytes = bytes_of_option("min-bytes", options["min-bytes"].as<std::string>(), 0);
    job.filter.anon_only = options.count("anon-only") != 0;
    job.targets = chosen_targets(options, job);
    return job;
}

int run(const Arguments &arguments, bool unmerge) {
    cxxopts::Options options = make_options(unmerge);
    Common common;
    const cxxopts::ParseResult parsed = parse(options, arguments, common);
    if (common.help)
        return kSuccess;
    Job job = make_job(parsed, common, unmerge);
    require_remote(unmerge, job.dry_run);
    job.filter.hugetlb_mounts = hugetlb_mounts(read_mounts(common.root));

    Report report;
    report.command = unmerge ? "unmerge" : "advise";
    report.backend = upm::info().backend;
    report.dry_run = job.dry_run;
    report.verbose = job.verbose;
    for (const Target &target : job.targets)
        work_on_target(job, target, report);

    print(common.json ? dump(report_json(report)) + "\n" : report_text(report));
    for (const TargetResult &target : report.targets)
        for (const TargetFailure &failure : target.failures)
            complain(report.command, failure.what);
    return report.failed() ? kFailure : kSuccess;
}

} // namespace

int run_advise(const Arguments &arguments) {
    return run(arguments, false);
}

int run_unmerge(const Arguments &arguments) {
    return run(arguments, true);
}

} // namespace upm::tool::cli
