// SPDX-License-Identifier: MIT
#include "tools/upmd/surroundings.hpp"

#include <array>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::upmd {

namespace {

// All but those for core files and queues, which do not matter here. Of open files as
// many as upmd.service has, at least.
void lift_limits() noexcept {
    constexpr rlim_t kFiles = 524'288;
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max < kFiles) {
        files = {.rlim_cur = kFiles, .rlim_max = kFiles};
        (void)::setrlimit(RLIMIT_NOFILE, &files);
    }
    constexpr std::array kLifted = {RLIMIT_CPU,    RLIMIT_FSIZE, RLIMIT_DATA,
                                    RLIMIT_AS,     RLIMIT_STACK, RLIMIT_MEMLOCK,
                                    RLIMIT_RTTIME, RLIMIT_LOCKS, RLIMIT_NPROC};
    for (const auto resource : kLifted) {
        const rlimit none{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
        rlimit limit{};
        if (::setrlimit(resource, &none) == 0 || ::getrlimit(resource, &limit) != 0)
            continue;
        limit.rlim_cur = limit.rlim_max;
        (void)::setrlimit(resource, &limit);
    }
}

void write_file(const std::string &path, std::string_view text) noexcept {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    const ssize_t unused = ::write(fd, text.data(), text.size());
    (void)unused;
    (void)::close(fd);
}

// "/sys/fs/cgroup/freezer" of a line of /proc/self/mounts; empty for other mounts.
std::string hierarchy_of(const char *line) {
    std::array<char, 256> where{};
    std::array<char, 32> kind{};
    if (std::sscanf(line, "%*s %255s %31s", where.data(), kind.data()) != 2)
        return "";
    const std::string_view type(kind.data());
    return type == "cgroup" || type == "cgroup2" ? std::string(where.data()) : "";
}

// To the top of each hierarchy that is mounted, which in a container is the top of what
// the container may use. Only who may write there can do it.
void leave_control_groups() noexcept {
    std::FILE *const mounts = std::fopen("/proc/self/mounts", "re");
    if (mounts == nullptr)
        return;
    std::array<char, 1024> line{};
    while (std::fgets(line.data(), line.size(), mounts) != nullptr)
        if (const std::string top = hierarchy_of(line.data()); !top.empty())
            write_file(top + "/cgroup.procs", "0");
    (void)std::fclose(mounts);
}

void leave_priorities() noexcept {
    const sched_param plain{};
    (void)::sched_setscheduler(0, SCHED_OTHER, &plain);
    (void)::setpriority(PRIO_PROCESS, 0, 0);
    cpu_set_t all;
    std::memset(&all, 0xff, sizeof(all));
    (void)::sched_setaffinity(0, sizeof(all), &all);
    write_file("/proc/self/oom_score_adj", "0");
}

} // namespace

void leave_surroundings() noexcept {
    lift_limits();
    leave_control_groups();
    leave_priorities();
    (void)::umask(077);
}

} // namespace upm::upmd
