// SPDX-License-Identifier: MIT
//
// A small user of libupm.so, for library_test.cpp: each argument is a step, and
// each step prints a line.
#include <upm/upm.hpp>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr std::size_t kPages = 4;

void *memory() {
    static void *const mapped =
        ::mmap(nullptr, kPages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)),
               PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mapped;
}

std::size_t size() {
    return kPages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

void report(const char *step, const upm::Result<upm::Counts> &result) {
    const char *name = result.error() != 0 ? ::strerrorname_np(result.error()) : "ok";
    std::printf("%s %s merged=%llu unmerged=%llu bytes=%llu\n", step, name,
                static_cast<unsigned long long>(result->merged),
                static_cast<unsigned long long>(result->unmerged),
                static_cast<unsigned long long>(result->bytes));
}

void in_child(int argc, char **argv);

void close_all() {
    for (int fd = 3; fd < 64; ++fd)
        (void)::close(fd);
}

// All numbers that may have been the library's now name another file.
void replace_all() {
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 3; fd < 64; ++fd)
        if (fd != null)
            (void)::dup2(null, fd);
}

void keep_errno() {
    errno = ENOTBLK;
    (void)upm::advise(memory(), size());
    (void)upm::info();
    std::printf("errno %s\n", errno == ENOTBLK ? "kept" : "changed");
}

void domain_step() {
    std::byte key[16] = {};
    int fd = -1;
    if (const auto brief = upm::Domain::open(std::span<const std::byte, 16>(key)); brief)
        fd = brief->fd();
    std::printf("ended %s\n", fd >= 0 && ::fcntl(fd, F_GETFD) == -1 ? "closed" : "open");
    const upm::Result<upm::Domain> domain = upm::Domain::open(std::span<const std::byte, 16>(key));
    std::printf("domain %s\n", domain ? "open" : std::strerror(domain.error()));
    if (domain) {
        std::printf("cloexec %d\n", ::fcntl(domain->fd(), F_GETFD) & FD_CLOEXEC);
        report("in_domain", upm::advise(memory(), size(), {.domain = &*domain}));
    }
    const upm::Domain closed;
    std::printf("stats_of_no_domain %s\n", std::strerror(upm::stats(closed).error()));
    report("in_no_domain", upm::advise(memory(), size(), {.domain = &closed}));
}

void info_step() {
    const upm::Info found = upm::info();
    std::printf("backend %s\nreason %s\nversion %s\n", found.backend, found.reason, found.version);
}

void backends_step() {
    for (std::size_t index = 0;; ++index) {
        const upm::Result<upm::BackendStatus> row = upm::backend_status(index);
        if (!row)
            break;
        std::printf("row %s%s%s: %s\n", row->name, row->available ? " available" : "",
                    row->active ? " active" : "", row->reason);
    }
}

void async_step() {
    upm::Result<upm::Async> started = upm::advise_async(memory(), size());
    report("async", started ? started->wait() : upm::Result<upm::Counts>({}, started.error()));
    const int fd = upm_advise_async(memory(), size(), 0);
    upm_counts counts;
    std::printf("async_c %d\n", fd < 0 ? fd : upm_async_finish(fd, &counts));
}

void tell(const char *what, const upm::Result<upm::Counts> &result) {
    std::printf("%s %llu pages\n", what, static_cast<unsigned long long>(result->pages));
}

// 256 pages of numbers.
void range_step() {
    static float numbers[kPages * 256 * 1024 / sizeof(float)] __attribute__((aligned(4096))) = {1};
    std::span<float> all(numbers);
    tell("vector", upm::advise(numbers));
    tell("span", upm::advise(all));
    tell("half", upm::advise(all.first(all.size() / 2)));
    tell("dry", upm::advise(std::span<const float>(all), {.dry_run = true}));
    tell("unmerge", upm::unmerge(all));
    tell("async", upm::advise_async(all)->wait());
}

void step(std::string_view name, int rest, char **argv) {
    if (name == "info")
        info_step();
    else if (name == "backends")
        backends_step();
    else if (name == "advise")
        report("advise", upm::advise(memory(), size()));
    else if (name == "dry")
        report("dry", upm::advise(memory(), size(), {.dry_run = true}));
    else if (name == "remote")
        report("remote", upm::advise(memory(), size(), {.pid = ::getppid()}));
    else if (name == "unmerge")
        report("unmerge", upm::unmerge(memory(), size()));
    else if (name == "async")
        async_step();
    else if (name == "domain")
        domain_step();
    else if (name == "range")
        range_step();
    else if (name == "errno")
        keep_errno();
    else if (name == "stats")
        std::printf("stats %s\n", upm::stats() ? "ok" : "failed");
    else if (name == "close")
        close_all();
    else if (name == "replace")
        replace_all();
    else if (name == "fork")
        in_child(rest, argv);
    else
        std::printf("no step %s\n", argv[0]);
}

void steps(int argc, char **argv) {
    for (int i = 0; i < argc; ++i) {
        const std::string_view name = argv[i];
        step(name, argc - i - 1, argv + i + (name == "fork" ? 1 : 0));
        (void)std::fflush(stdout);
        if (name == "fork")
            return;
    }
}

// The rest of the steps, in a child.
void in_child(int argc, char **argv) {
    (void)std::fflush(stdout);
    const pid_t child = ::fork();
    if (child == 0) {
        steps(argc, argv);
        ::_exit(0);
    }
    int status = 0;
    (void)::waitpid(child, &status, 0);
    std::printf("child %s\n", status == 0 ? "ok" : "failed");
}

} // namespace

int main(int argc, char **argv) {
    steps(argc - 1, argv + 1);
    return 0;
}
