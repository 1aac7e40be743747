// SPDX-License-Identifier: MIT
#include "bench/cases.hpp"
#include "bench/error.hpp"
#include "bench/sysfs.hpp"
#include "bench/timing.hpp"

#include <upm/upm.hpp>

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <span>

#include <sys/mman.h>
#include <unistd.h>

namespace upm::bench {

namespace {

// A file in memory, with what a region is filled with.
class Content {
  public:
    explicit Content(std::size_t bytes) : fd_(::memfd_create("upm-bench", MFD_CLOEXEC)) {
        if (fd_ < 0)
            throw Error("cannot make a file", errno);
        Region region(bytes, Pages::kSmall);
        region.fill(Order::kSame);
        std::size_t done = 0;
        while (done < bytes) {
            const ssize_t n = ::write(fd_, region.data() + done, bytes - done);
            if (n <= 0) {
                const int error = errno;
                (void)::close(fd_);
                throw Error("cannot fill a file", error);
            }
            done += static_cast<std::size_t>(n);
        }
    }
    ~Content() { (void)::close(fd_); }
    Content(const Content &) = delete;
    Content &operator=(const Content &) = delete;

    [[nodiscard]] int fd() const noexcept { return fd_; }

  private:
    int fd_;
};

// One step: `read` fills memory that nobody has touched.
nlohmann::json step(Region &into, const std::function<void()> &read) {
    reset_counters();
    const Stopwatch watch;
    read();
    const Timing timing = watch.elapsed();
    if (!into.intact(Order::kSame))
        throw Error("a load brought wrong bytes");
    return {{"pages", into.size() / kPage},
            {"wall_ns", timing.wall_ns},
            {"cpu_ns", timing.cpu_ns},
            {"module", module_counters()}};
}

// The same with a load, nearly all of whose bytes come to be `field`.
nlohmann::json load_step(const Content &file, Region &into, std::uint64_t upm_load_counts::*field) {
    Result<Loaded> loaded{Loaded{}};
    nlohmann::json row = step(into, [&] {
        loaded = upm::load(file.fd(), 0, std::span<std::byte>(into.data(), into.size()));
    });
    if (!loaded)
        throw Error("a load failed", loaded.error());
    if ((*loaded).*field / 99 < into.size() / 100)
        throw Error("a load did not come to share");
    return row;
}

nlohmann::json run_load(const Setup &setup) {
    const std::size_t bytes = setup.mib * kMib;
    const Content file(bytes);
    nlohmann::json run;
    {
        Region plain(bytes, setup.pages);
        run["read"] = step(plain, [&] {
            std::size_t done = 0;
            while (done < bytes) {
                const ssize_t n =
                    ::pread(file.fd(), plain.data() + done, bytes - done, static_cast<off_t>(done));
                if (n <= 0)
                    throw Error("cannot read a file", errno);
                done += static_cast<std::size_t>(n);
            }
        });
        Region first(bytes, setup.pages);
        run["first"] = load_step(file, first, &upm_load_counts::made);
        Region known(bytes, setup.pages);
        run["known"] = load_step(file, known, &upm_load_counts::shared);
    }
    forget_shared_pages();
    return run;
}

} // namespace

nlohmann::json measure_load(const Setup &setup) {
    return measure_runs(setup, [&] { return run_load(setup); });
}

} // namespace upm::bench
