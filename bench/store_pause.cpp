// SPDX-License-Identifier: MIT
#include "bench/store_pause.hpp"

#include "bench/error.hpp"
#include "bench/region.hpp"

#include <upm/upm.hpp>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace upm::bench {

namespace {

long voluntary_switches() {
    rusage usage{};
    (void)::getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

struct Writer {
    const Region &region;
    std::atomic<bool> stop{false};
    std::vector<std::uint64_t> waits;

    // Writes back what is there, so that pages stay equal to those of others.
    void run() {
        waits.reserve(1U << 20U);
        long before = voluntary_switches();
        constexpr std::size_t kStep = 7919; // pages; prime, so that all are visited
        const std::size_t pages = region.size() / kPage;
        for (std::size_t at = 0; !stop; at = (at + kStep) % pages) {
            auto *const word =
                reinterpret_cast<volatile std::uint64_t *>(region.data() + at * kPage);
            const Stopwatch watch;
            *word = *word; // NOLINT(misc-redundant-expression)
            const std::uint64_t taken = watch.elapsed().wall_ns;
            const long after = voluntary_switches();
            if (after != before)
                waits.push_back(taken);
            before = after;
        }
    }
};

Timing measure(std::size_t size, std::vector<std::uint64_t> &waits) {
    Region region(size, Pages::kSmall);
    region.fill(Order::kSame);
    if (!upm::info().immediate)
        throw Error("the backend merges nothing at once");
    Writer writer{.region = region, .waits = {}};
    std::thread thread([&] { writer.run(); });
    (void)::usleep(2'000);
    const Stopwatch watch;
    const int error = upm::advise(region.data(), region.size()).error();
    const Timing taken = watch.elapsed();
    writer.stop = true;
    thread.join();
    if (error != 0)
        throw Error("advise", error);
    if (!region.intact(Order::kSame))
        throw Error("a byte is not what it was");
    waits = std::move(writer.waits);
    return taken;
}

void write_all(int pipe, const void *data, std::size_t size) {
    const auto *at = static_cast<const std::byte *>(data);
    while (size != 0) {
        const ssize_t put = ::write(pipe, at, size);
        if (put <= 0)
            throw Error("pipe", errno);
        at += put;
        size -= static_cast<std::size_t>(put);
    }
}

bool read_all(int pipe, void *data, std::size_t size) {
    auto *at = static_cast<std::byte *>(data);
    while (size != 0) {
        const ssize_t got = ::read(pipe, at, size);
        if (got <= 0)
            return false;
        at += got;
        size -= static_cast<std::size_t>(got);
    }
    return true;
}

[[noreturn]] void serve(int pipe, std::size_t size) {
    try {
        std::vector<std::uint64_t> waits;
        const Timing taken = measure(size, waits);
        const std::uint64_t count = waits.size();
        write_all(pipe, &taken, sizeof(taken));
        write_all(pipe, &count, sizeof(count));
        write_all(pipe, waits.data(), count * sizeof(count));
        ::_exit(0);
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-bench-store: %s\n", error.what());
        ::_exit(1);
    }
}

} // namespace

Timing advise_under_writer(std::size_t size, std::vector<std::uint64_t> &waits) {
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0)
        throw Error("pipe", errno);
    const pid_t child = ::fork();
    if (child == 0)
        serve(ends[1], size);
    (void)::close(ends[1]);
    Timing taken;
    std::uint64_t count = 0;
    bool good = child > 0 && read_all(ends[0], &taken, sizeof(taken)) &&
                read_all(ends[0], &count, sizeof(count));
    const std::size_t before = waits.size();
    if (good) {
        waits.resize(before + count);
        good = read_all(ends[0], waits.data() + before, count * sizeof(count));
    }
    (void)::close(ends[0]);
    if (child > 0)
        (void)::waitpid(child, nullptr, 0);
    if (!good)
        throw Error("the process with the writer failed");
    return taken;
}

} // namespace upm::bench
