// SPDX-License-Identifier: MIT
//
// upm-bench-load: what loading a file with the backend store costs next to pread(2) of
// the same file into fresh memory, in turns in one run: the first load of a content, which
// has it made; a later one; many processes that load at the same moment; and a few that load
// one after the other while other programs want the processors too. The file lies
// in the page cache. Every process is a real one; the broker is one of its own.
//
//   build/bin/upm-bench-load --benchmark_out=FILE --benchmark_out_format=json
//
// Sizes are in MiB. Counters "wall" and "cpu" are what a load took as a share of the plain
// read: by the clock, and by the processor time of the process and, in "cpu_all", of the
// broker too. All are of medians; "late_ms" is the longest that a load came later than the
// median of the plain reads.
#include "bench/error.hpp"
#include "bench/region.hpp"
#include "bench/store_broker.hpp"
#include "bench/timing.hpp"

#include <upm/upm.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fcntl.h>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <poll.h>
#include <span>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

using namespace upm::bench;

const StoreBroker *running = nullptr;

// What a load, or a plain read, came to.
struct Outcome {
    int error = 0;
    Timing timing;
    std::uint64_t ended_ns = 0; // of CLOCK_MONOTONIC
    upm_load_counts counts{};
};

// A file of pages that all differ, in the page cache.
class File {
  public:
    explicit File(std::size_t size) : size_(size) {
        char name[] = "/var/tmp/upm-bench-load-XXXXXX";
        fd_ = ::mkstemp(name);
        if (fd_ < 0)
            throw Error("cannot make a file in /var/tmp", errno);
        (void)::unlink(name);
        Region content(size, Pages::kSmall);
        content.fill(Order::kSame);
        for (std::size_t done = 0; done < size;) {
            const ssize_t put = ::write(fd_, content.data() + done, size - done);
            if (put <= 0)
                throw Error("cannot fill a file in /var/tmp", errno);
            done += static_cast<std::size_t>(put);
        }
    }
    ~File() { (void)::close(fd_); }
    File(const File &) = delete;
    File &operator=(const File &) = delete;

    [[nodiscard]] int fd() const { return fd_; }
    [[nodiscard]] std::size_t size() const { return size_; }

  private:
    int fd_ = -1;
    std::size_t size_;
};

void read_plainly(const File &file, std::byte *into) {
    for (std::size_t done = 0; done < file.size();) {
        const ssize_t got =
            ::pread(file.fd(), into + done, file.size() - done, static_cast<off_t>(done));
        if (got <= 0)
            throw Error("cannot read", errno);
        done += static_cast<std::size_t>(got);
    }
}

// A process that loads when it is told to, says what that took, and stays until it is let
// go. The library of a `ready` one has found its broker before.
class Loader {
  public:
    Loader(const File &file, bool plain, bool ready) {
        std::array<int, 2> ends{};
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
            throw Error("cannot make a socket pair", errno);
        pid_ = ::fork();
        if (pid_ == 0) {
            (void)::close(ends[0]);
            serve(ends[1], file, plain, ready);
        }
        (void)::close(ends[1]);
        channel_ = ends[0];
        if (pid_ < 0)
            throw Error("cannot start a process", errno);
        char word = 0;
        if (::recv(channel_, &word, 1, 0) != 1)
            throw lost_process(pid_);
    }
    ~Loader() {
        (void)::kill(pid_, SIGKILL);
        (void)::close(channel_);
        (void)::waitpid(pid_, nullptr, 0);
    }
    Loader(const Loader &) = delete;
    Loader &operator=(const Loader &) = delete;

    void begin() const {
        if (::send(channel_, "g", 1, MSG_NOSIGNAL) != 1)
            throw lost_process(pid_);
    }
    [[nodiscard]] Outcome end() const {
        Outcome outcome;
        if (::recv(channel_, &outcome, sizeof(outcome), 0) != sizeof(outcome))
            throw lost_process(pid_);
        if (outcome.error != 0)
            throw Error("a load failed", outcome.error);
        return outcome;
    }
    [[nodiscard]] Outcome run() const {
        begin();
        return end();
    }
    [[nodiscard]] pid_t pid() const { return pid_; }
    // Returns true if end() would not wait.
    [[nodiscard]] bool wait_ms(int ms) const {
        pollfd event{.fd = channel_, .events = POLLIN, .revents = 0};
        return ::poll(&event, 1, ms) != 0;
    }

  private:
    [[noreturn]] static void serve(int channel, const File &file, bool plain, bool ready) noexcept {
        try {
            (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
            Region into(file.size(), Pages::kSmall);
            if (ready && !plain)
                (void)upm::stats();
            char word = 0;
            if (::send(channel, "r", 1, MSG_NOSIGNAL) != 1 || ::recv(channel, &word, 1, 0) != 1)
                ::_exit(1);
            Outcome outcome;
            const Stopwatch watch;
            if (plain) {
                read_plainly(file, into.data());
            } else {
                const upm::Result<upm::Loaded> loaded =
                    upm::load(file.fd(), 0, std::span(into.data(), into.size()));
                outcome.error = loaded.error();
                outcome.counts = *loaded;
            }
            outcome.timing = watch.elapsed();
            outcome.ended_ns = watch.started_ns() + outcome.timing.wall_ns;
            if (outcome.error == 0 && !into.intact(Order::kSame))
                outcome.error = EIO;
            (void)::send(channel, &outcome, sizeof(outcome), MSG_NOSIGNAL);
            (void)::pause();
        } catch (const std::exception &error) {
            (void)std::fprintf(stderr, "upm-bench-load: %s\n", error.what());
        }
        ::_exit(1);
    }

    int channel_ = -1;
    pid_t pid_ = -1;
};

// Has the host of a virtual machine give as much memory as both ways may take: where free
// pages are reported to it, it takes them back within seconds, and the next to use them
// waits for it, 4 ms for 2 MiB here. That would measure who comes first.
void warm(std::size_t size) {
    void *const memory =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        throw Error("no memory", errno);
    (void)::madvise(memory, size, MADV_HUGEPAGE);
    for (std::size_t at = 0; at < size; at += kPage)
        static_cast<volatile std::byte *>(memory)[at] = std::byte{1};
    (void)::munmap(memory, size);
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

double ms(std::uint64_t ns) {
    return static_cast<double>(ns) / 1e6;
}

class Rounds {
  public:
    void add(const Outcome &plain, const Outcome &ours, std::uint64_t broker_ns) {
        plain_wall_.push_back(ms(plain.timing.wall_ns));
        plain_cpu_.push_back(ms(plain.timing.cpu_ns));
        wall_.push_back(ms(ours.timing.wall_ns));
        cpu_.push_back(ms(ours.timing.cpu_ns));
        all_.push_back(ms(ours.timing.cpu_ns + broker_ns));
        shared_ += ours.counts.shared + ours.counts.made;
        bytes_ += ours.counts.shared + ours.counts.made + ours.counts.copied;
    }
    void finish(benchmark::State &state) const {
        state.counters["plain_ms"] = median(plain_wall_);
        state.counters["ms"] = median(wall_);
        state.counters["wall"] = median(wall_) / median(plain_wall_);
        state.counters["cpu"] = median(cpu_) / median(plain_cpu_);
        state.counters["cpu_all"] = median(all_) / median(plain_cpu_);
        state.counters["late_ms"] =
            *std::max_element(wall_.begin(), wall_.end()) - median(plain_wall_);
        state.counters["shared"] = static_cast<double>(shared_) / static_cast<double>(bytes_);
    }

  private:
    std::vector<double> plain_wall_;
    std::vector<double> plain_cpu_;
    std::vector<double> wall_;
    std::vector<double> cpu_;
    std::vector<double> all_;
    std::uint64_t shared_ = 0;
    std::uint64_t bytes_ = 0;
};

std::size_t size_of(const benchmark::State &state) {
    return static_cast<std::size_t>(state.range(0)) * kMib;
}

Outcome plain_outcome(const File &file) {
    return Loader(file, true, false).run();
}

// Bytes of a process that no file backs.
std::uint64_t anonymous(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
    std::uint64_t size = 0;
    std::uint64_t resident = 0;
    std::uint64_t shared = 0;
    file >> size >> resident >> shared;
    return (resident - shared) * kPage;
}

// All that is in tmpfs and memfds on this machine, in bytes.
std::uint64_t shmem() {
    std::ifstream file("/proc/meminfo");
    std::string name;
    std::uint64_t kib = 0;
    while (file >> name && name != "Shmem:")
        file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    file >> kib;
    return kib * 1024;
}

using Loaders = std::vector<std::unique_ptr<Loader>>;

Loaders start(const File &file, std::size_t count, bool plain) {
    Loaders loaders;
    for (std::size_t i = 0; i < count; ++i)
        loaders.push_back(std::make_unique<Loader>(file, plain, true));
    return loaders;
}

// Processes that want a processor all the time.
class Hogs {
  public:
    explicit Hogs(std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            const pid_t pid = ::fork();
            if (pid == 0) {
                (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (volatile unsigned spin = 0;;)
                    spin = spin + 1;
            }
            if (pid > 0)
                pids_.push_back(pid);
        }
    }
    ~Hogs() {
        for (const pid_t pid : pids_) {
            (void)::kill(pid, SIGKILL);
            (void)::waitpid(pid, nullptr, 0);
        }
    }
    Hogs(const Hogs &) = delete;
    Hogs &operator=(const Hogs &) = delete;

  private:
    std::vector<pid_t> pids_;
};

// No less than the sum of their PSS: segments count, mapped or not.
std::uint64_t sum_of(const Loaders &loaders) {
    std::uint64_t sum = shmem();
    for (const auto &loader : loaders)
        sum += anonymous(loader->pid());
    return sum;
}

// All at the same moment. Until the last one has its bytes, in ns; `sample`, if there is
// one, is called every 10 ms meanwhile.
std::uint64_t run_all(const Loaders &loaders, const std::function<void()> &sample,
                      std::uint64_t *shared) {
    const Stopwatch watch;
    for (const auto &loader : loaders)
        loader->begin();
    std::uint64_t last = 0;
    for (const auto &loader : loaders) {
        while (sample && !loader->wait_ms(10))
            sample();
        const Outcome outcome = loader->end();
        last = std::max(last, outcome.ended_ns);
        *shared += outcome.counts.shared + outcome.counts.made;
    }
    return last - watch.started_ns();
}

// Names and loops are in the style of Google Benchmark.
// NOLINTBEGIN(readability-identifier-naming, clang-analyzer-deadcode.DeadStores)

// The first of a content, and each later one.
void BM_Load(benchmark::State &state, bool first) {
    const File file(size_of(state));
    Rounds rounds;
    wait_until_empty();
    // Of what is small, the first one keeps a copy of its own, and the second one's is shared.
    const Loaders keepers = start(file, 2, false);
    for (const auto &keeper : keepers)
        if (!first)
            (void)keeper->run();
    for (auto _ : state) {
        if (first)
            wait_until_empty();
        warm(4 * file.size());
        const Outcome plain = plain_outcome(file);
        const Loader loader(file, false, true);
        const std::uint64_t before = running->cpu_ns();
        const Outcome ours = loader.run();
        rounds.add(plain, ours, running->cpu_ns() - before);
        state.SetIterationTime(static_cast<double>(ours.timing.wall_ns) / 1e9);
    }
    rounds.finish(state);
}

// So many processes start to load at the same moment. "wall" is until the last one has
// its bytes; "peak" is the largest sum of what they have for themselves and of all
// segments, sampled in rounds of their own, to the same sum when all have ended.
void BM_LoadAtOnce(benchmark::State &state) {
    constexpr std::size_t kCount = 16;
    const File file(size_of(state));
    std::vector<double> plain;
    std::vector<double> ours;
    std::vector<double> peaks;
    std::uint64_t shared = 0;
    std::uint64_t bytes = 0;
    for (auto _ : state) {
        std::uint64_t ignored = 0;
        warm(kCount * file.size());
        plain.push_back(ms(run_all(start(file, kCount, true), {}, &ignored)));
        wait_until_empty();
        const Loaders loaders = start(file, kCount, false);
        ours.push_back(ms(run_all(loaders, {}, &shared)));
        bytes += kCount * file.size();
        state.SetIterationTime(ours.back() / 1e3);
    }
    for (int round = 0; round < 3; ++round) {
        wait_until_empty();
        const Loaders loaders = start(file, kCount, false);
        const std::uint64_t before = sum_of(loaders);
        std::uint64_t peak = 0;
        std::uint64_t ignored = 0;
        (void)run_all(
            loaders, [&] { peak = std::max(peak, sum_of(loaders)); }, &ignored);
        const std::uint64_t settled = sum_of(loaders);
        peaks.push_back(static_cast<double>(std::max(peak, settled) - before) /
                        static_cast<double>(settled - before));
        state.counters["settled_MiB"] = static_cast<double>(settled - before) / kMib;
    }
    state.counters["plain_ms"] = median(plain);
    state.counters["ms"] = median(ours);
    state.counters["wall"] = median(ours) / median(plain);
    state.counters["shared"] = static_cast<double>(shared) / static_cast<double>(bytes);
    state.counters["peak"] = *std::max_element(peaks.begin(), peaks.end());
}

// What a further process finds there, as a part of the file, once that is nearly all of it: after
// how many ms, a minute at most.
double found_later(const File &file, std::vector<double> &after) {
    constexpr double kAll = 0.97;
    constexpr double kMostMs = 60'000;
    constexpr useconds_t kPauseUs = 100'000;
    const Stopwatch watch;
    for (double part = 0;;) {
        part = std::max(part, static_cast<double>(Loader(file, false, true).run().counts.shared) /
                                  static_cast<double>(file.size()));
        const double waited = ms(watch.elapsed().wall_ns);
        if (part >= kAll || waited > kMostMs) {
            after.push_back(waited);
            return part;
        }
        (void)::usleep(kPauseUs);
    }
}

// Three processes load one after the other, and stay, while others want the processors. Counters
// are of each of them: the part of the file that it shares, and its time as a share of a plain
// read's just before, and by how much it was later. Before both there is as much memory as they
// need. Then the others end; "shared4" and "after_ms" are of the processes that come after that.
void BM_LoadBusy(benchmark::State &state) {
    constexpr std::size_t kCount = 3;
    const File file(size_of(state));
    std::array<std::vector<double>, kCount> walls;
    std::array<std::vector<double>, kCount> shares;
    std::array<std::vector<double>, kCount> behind;
    std::vector<double> plain;
    std::vector<double> found;
    std::vector<double> after;
    for (auto _ : state) {
        wait_until_empty();
        auto hogs = std::make_unique<Hogs>(static_cast<std::size_t>(state.range(1)));
        const Loaders loaders = start(file, kCount, false);
        double last = 0;
        for (std::size_t i = 0; i < kCount; ++i) {
            warm(2 * file.size());
            plain.push_back(ms(plain_outcome(file).timing.wall_ns));
            warm(2 * file.size());
            const Outcome outcome = loaders[i]->run();
            last = ms(outcome.timing.wall_ns);
            walls[i].push_back(last / plain.back());
            behind[i].push_back(last - plain.back());
            shares[i].push_back(static_cast<double>(outcome.counts.shared + outcome.counts.made) /
                                static_cast<double>(file.size()));
        }
        state.SetIterationTime(last / 1e3);
        hogs.reset();
        found.push_back(found_later(file, after));
    }
    state.counters["plain_ms"] = median(plain);
    state.counters["shared4"] = *std::min_element(found.begin(), found.end());
    state.counters["after_ms"] = median(after);
    for (std::size_t i = 0; i < kCount; ++i) {
        state.counters["wall" + std::to_string(i + 1)] = median(walls[i]);
        state.counters["worst" + std::to_string(i + 1)] =
            *std::max_element(walls[i].begin(), walls[i].end());
        state.counters["late_ms" + std::to_string(i + 1)] = median(behind[i]);
        state.counters["shared" + std::to_string(i + 1)] = median(shares[i]);
    }
}

// NOLINTEND(readability-identifier-naming, clang-analyzer-deadcode.DeadStores)

benchmark::internal::Benchmark *in_ms(benchmark::internal::Benchmark *each) {
    return each->UseManualTime()->Unit(benchmark::kMillisecond);
}

void add_all() {
    constexpr std::int64_t kSizes[][2] = {{1, 41},  {2, 41},  {4, 31}, {8, 31},
                                          {16, 21}, {64, 11}, {233, 9}};
    for (const auto &[mib, rounds] : kSizes) {
        in_ms(benchmark::RegisterBenchmark("BM_LoadFirst", BM_Load, true))
            ->Arg(mib)
            ->Iterations(rounds);
        in_ms(benchmark::RegisterBenchmark("BM_LoadLater", BM_Load, false))
            ->Arg(mib)
            ->Iterations(rounds);
    }
    for (const std::int64_t mib : {256, 1024, 2048})
        for (const std::int64_t hogs : {0, 2, 6})
            in_ms(benchmark::RegisterBenchmark("BM_LoadBusy", BM_LoadBusy))
                ->Args({mib, hogs})
                ->Iterations(3);
    in_ms(benchmark::RegisterBenchmark("BM_LoadAtOnce", BM_LoadAtOnce))->Arg(233)->Iterations(9);
}

} // namespace

int main(int argc, char **argv) {
    try {
        const StoreBroker broker;
        running = &broker;
        benchmark::Initialize(&argc, argv);
        if (benchmark::ReportUnrecognizedArguments(argc, argv))
            return 1;
        add_all();
        benchmark::RunSpecifiedBenchmarks();
        return 0;
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-bench-load: %s\n", error.what());
        return 1;
    }
}
