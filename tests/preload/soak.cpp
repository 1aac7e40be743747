// SPDX-License-Identifier: MIT
//
// A program of tests/preload/soak.py: works on its memory until it is told to stop, forks
// now and then, and is sure of what must be in each word. Exits 0 only if all was right.
//
//   upm-hook-soak KIND SEED SECONDS LOG FILES
//
//   KIND     one of kKinds below
//   LOG      a file that lines are added to: "slow WHAT KIND HOOKED GROUP BEGIN END", what
//            took more than some ms, with CLOCK_MONOTONIC in us; "count fork KIND HOOKED N";
//            "shared KIND PAGES READ", pages that were merged and bytes that were read so
//   FILES    a folder with files of patterns, 0 to 7
#include "tests/preload/soak.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fcntl.h>
#include <memory>
#include <spawn.h>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <upm/hook.h>
#include <utility>
#include <vector>

namespace soak {

namespace {

// --- the kinds: a step each ---

class Work {
  public:
    explicit Work(std::uint64_t seed) : random(seed) {}
    Work(const Work &) = delete;
    Work &operator=(const Work &) = delete;
    virtual ~Work() = default;
    virtual void step() = 0;
    // All that it has, as it must be. Also in children.
    virtual void check() const = 0;

    Random random;
};

// Allocates, checks, writes, grows and frees.
class Churn : public Work {
  public:
    using Work::Work;
    void step() override {
        Piece &piece = pieces_[random(pieces_.size())];
        if (piece.memory == nullptr) {
            piece.allocate(random, some_size(random));
            piece.fill();
            return;
        }
        piece.check();
        switch (random(4)) {
        case 0: {
            const std::size_t before = piece.size;
            piece.size = some_size(random);
            piece.memory = static_cast<std::uint64_t *>(std::realloc(piece.memory, piece.size));
            UPM_CHECK(piece.memory != nullptr);
            piece.check(before);
            piece.fill(std::min(before, piece.size));
            break;
        }
        case 1:
            piece.pattern = random(kPatterns);
            piece.fill();
            break;
        default:
            piece.release();
        }
    }
    void check() const override {
        for (const Piece &piece : pieces_)
            piece.check();
    }

  private:
    std::vector<Piece> pieces_{12};
};

class Threads final : public Churn {
  public:
    explicit Threads(std::uint64_t seed) : Churn(seed) {
        for (std::uint64_t i = 1; i <= 2; ++i)
            threads_.emplace_back([seed, i] {
                Churn churn(seed + i * 1000);
                while (!over()) {
                    churn.step();
                    pause_ms(10 + churn.random(60));
                }
                churn.check();
            });
    }
    ~Threads() override {
        for (std::thread &thread : threads_)
            thread.join();
    }
    Threads(const Threads &) = delete;
    Threads &operator=(const Threads &) = delete;

  private:
    std::vector<std::thread> threads_;
};

// A server that loads once and forks a worker for each request, which goes on to write.
class Prefork final : public Work {
  public:
    explicit Prefork(std::uint64_t seed) : Work(seed) {
        for (Piece &piece : pieces_) {
            piece.allocate(random, 2048 * kKib);
            piece.fill();
        }
    }
    void step() override {
        in_child([&] {
            check();
            Piece &piece = pieces_[random(2)];
            piece.pattern = random(kPatterns);
            piece.fill();
            Piece fresh;
            fresh.allocate(random, 512 * kKib);
            fresh.fill();
            if (random(3) == 0)
                pause_ms(60); // idle: its own hook may begin
            advise_now();
            fresh.check();
            check();
        });
    }
    void check() const override {
        for (const Piece &piece : pieces_)
            piece.check();
    }

  private:
    Piece pieces_[2];
};

// Reads files of weights into fresh memory.
class Loads final : public Work {
  public:
    using Work::Work;
    void step() override {
        piece_.release();
        const std::uint64_t pattern = random(kPatterns);
        const int fd =
            ::open((files + "/" + std::to_string(pattern)).c_str(), O_RDONLY | O_CLOEXEC);
        UPM_CHECK(fd >= 0);
        const off_t size = ::lseek(fd, 0, SEEK_END);
        UPM_CHECK(size > 0 && ::lseek(fd, 0, SEEK_SET) == 0);
        piece_.allocate(random, static_cast<std::size_t>(size));
        piece_.pattern = pattern;
        auto *const to = reinterpret_cast<char *>(piece_.memory);
        std::size_t done = 0;
        for (const bool positioned = random(2) == 0; done < piece_.size;) {
            const std::size_t left = piece_.size - done;
            const std::size_t part = std::min(left, 256 * kKib + random(2048) * kKib);
            const ssize_t got = positioned ? ::pread(fd, to + done, part, static_cast<off_t>(done))
                                           : ::read(fd, to + done, part);
            UPM_CHECK(got > 0);
            done += static_cast<std::size_t>(got);
            UPM_CHECK(positioned || ::lseek(fd, 0, SEEK_CUR) == static_cast<off_t>(done));
        }
        (void)::close(fd);
        piece_.check();
        if (random(2) == 0) {
            piece_.pattern = random(kPatterns);
            piece_.fill();
        }
    }
    void check() const override { piece_.check(); }

  private:
    Piece piece_;
};

// Mappings of its own, which are protected, dropped, moved and cut.
class Maps final : public Work {
  public:
    using Work::Work;
    void step() override {
        if (map_.memory == nullptr) {
            map_ = {.memory = nullptr, .size = 1024 * kKib, .pattern = random(kPatterns)};
            void *const fresh = ::mmap(nullptr, map_.size, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            UPM_CHECK(fresh != MAP_FAILED);
            map_.memory = static_cast<std::uint64_t *>(fresh);
            map_.fill();
            return;
        }
        check();
        const std::size_t from = random(map_.size / kPage / 2) * kPage;
        const std::size_t size = (1 + random(map_.size / kPage / 2)) * kPage;
        auto *const at = reinterpret_cast<char *>(map_.memory) + from;
        switch (random(4)) {
        case 0:
            UPM_CHECK(::mprotect(at, size, PROT_READ) == 0);
            pause_ms(random(30));
            check();
            UPM_CHECK(::mprotect(at, size, PROT_READ | PROT_WRITE) == 0);
            break;
        case 1:
            UPM_CHECK(::madvise(at, size, MADV_DONTNEED) == 0);
            UPM_CHECK(std::all_of(at, at + size, [](char byte) { return byte == 0; }));
            map_.fill();
            break;
        case 2: {
            const std::size_t grown = map_.size + 64 * kKib;
            void *const moved = ::mremap(map_.memory, map_.size, grown, MREMAP_MAYMOVE);
            UPM_CHECK(moved != MAP_FAILED);
            map_.memory = static_cast<std::uint64_t *>(moved);
            check();
            const std::size_t before = std::exchange(map_.size, grown);
            map_.fill(before);
            break;
        }
        default:
            UPM_CHECK(::munmap(map_.memory, map_.size) == 0);
            map_ = {};
        }
    }
    void check() const override { map_.check(); }

  private:
    Piece map_;
};

// Threads that count in each page, at any time: no count is lost.
class Writers final : public Work {
  public:
    explicit Writers(std::uint64_t seed) : Work(seed) {
        auto *const memory = static_cast<std::uint64_t *>(std::calloc(1, kPages * kPage));
        UPM_CHECK(memory != nullptr);
        memory_ = memory;
        thread_ = std::thread([this] {
            while (!over()) {
                count();
                pause_ms(5 + static_cast<std::uint64_t>(rounds_.load() % 7) * 10);
            }
        });
    }
    ~Writers() override {
        thread_.join();
        for (std::size_t page = 0; page < kPages; ++page)
            UPM_CHECK(memory_[page * (kPage / 8)] == rounds_.load());
    }
    Writers(const Writers &) = delete;
    Writers &operator=(const Writers &) = delete;
    void step() override {
        pause_ms(20);
        check();
    }
    // Between two rounds, pages differ by one at most, in the order of the writer.
    void check() const override {
        const std::uint64_t least = rounds_.load();
        for (std::size_t page = 0; page < kPages; ++page)
            UPM_CHECK(memory_[page * (kPage / 8)] >= least);
    }

  private:
    static constexpr std::size_t kPages = 256;
    void count() {
        for (std::size_t page = 0; page < kPages; ++page)
            memory_[page * (kPage / 8)] = memory_[page * (kPage / 8)] + 1;
        ++rounds_;
    }
    volatile std::uint64_t *memory_ = nullptr;
    std::atomic<std::uint64_t> rounds_{0};
    std::thread thread_;
};

std::atomic<std::uint64_t> alarms{0};

// A timer that fires in the middle of everything, whose handler changes mappings.
class Signals final : public Churn {
  public:
    explicit Signals(std::uint64_t seed) : Churn(seed) {
        struct sigaction action {};
        action.sa_flags = SA_RESTART;
        action.sa_handler = [](int) {
            const int error = errno;
            void *const memory = ::mmap(nullptr, 128 * kKib, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory != MAP_FAILED)
                (void)::munmap(memory, 128 * kKib);
            ++alarms;
            errno = error;
        };
        UPM_CHECK(::sigaction(SIGALRM, &action, nullptr) == 0);
        const itimerval often{.it_interval = {.tv_sec = 0, .tv_usec = 7000},
                              .it_value = {.tv_sec = 0, .tv_usec = 7000}};
        UPM_CHECK(::setitimer(ITIMER_REAL, &often, nullptr) == 0);
    }
};

// What must read as zero does so.
class Zeros final : public Work {
  public:
    using Work::Work;
    void step() override {
        const std::size_t size = some_size(random);
        auto *const memory = static_cast<char *>(std::calloc(1, size));
        UPM_CHECK(memory != nullptr);
        zero(memory, size);
        Piece piece{reinterpret_cast<std::uint64_t *>(memory), size, random(kPatterns)};
        piece.fill();
        if (random(2) == 0)
            advise_now();
        else
            pause_ms(60);
        piece.check();
        auto *const page = reinterpret_cast<char *>(
            (reinterpret_cast<std::uintptr_t>(memory) + kPage - 1) / kPage * kPage);
        const std::size_t dropped = (1 + random(8)) * kPage;
        UPM_CHECK(::madvise(page, dropped, MADV_DONTNEED) == 0);
        zero(page, dropped);
        std::free(memory);
    }
    void check() const override {}

  private:
    static void zero(const char *memory, std::size_t size) {
        for (std::size_t i = 0; i < size; ++i)
            UPM_CHECK(memory[i] == 0);
    }
};

// Starts other programs, in three ways, and becomes another one in the end.
class Programs final : public Churn {
  public:
    using Churn::Churn;
    void step() override {
        Churn::step();
        std::string seed = std::to_string(random(1U << 20U));
        std::string log = "/proc/self/fd/" + std::to_string(log_fd);
        char name[] = "upm-hook-soak";
        char what[] = "churn";
        char none[] = "0";
        char *const argv[] = {name, what, seed.data(), none, log.data(), files.data(), nullptr};
        pid_t pid = 0;
        switch (random(6)) {
        case 0:
            UPM_CHECK(::posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, argv, environ) == 0);
            break;
        case 1:
            pid = ::vfork();
            if (pid == 0) {
                (void)::execve("/proc/self/exe", argv, environ);
                ::_exit(3);
            }
            break;
        default:
            return;
        }
        int status = -1;
        while (::waitpid(pid, &status, 0) < 0)
            UPM_CHECK(errno == EINTR);
        UPM_CHECK(status == 0);
    }
};

// The kernel writes to blocks: files and sockets are read into them.
class Calls final : public Work {
  public:
    explicit Calls(std::uint64_t seed) : Work(seed) {
        piece_.allocate(random, 1024 * kKib);
        piece_.fill();
        UPM_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_) == 0);
        std::FILE *const file = std::tmpfile();
        UPM_CHECK(file != nullptr);
        file_ = ::fileno(file);
    }
    void step() override {
        check();
        Piece fresh{piece_.memory, piece_.size, random(kPatterns)};
        const Piece copy{static_cast<std::uint64_t *>(std::malloc(fresh.size)), fresh.size,
                         fresh.pattern};
        UPM_CHECK(copy.memory != nullptr);
        copy.fill();
        if (random(2) == 0) {
            UPM_CHECK(::pwrite(file_, copy.memory, copy.size, 0) ==
                      static_cast<ssize_t>(copy.size));
            const iovec parts[] = {{fresh.memory, 64 * kKib},
                                   {fresh.memory + 8 * kKib, fresh.size - 64 * kKib}};
            UPM_CHECK(::preadv(file_, parts, 2, 0) == static_cast<ssize_t>(fresh.size));
        } else {
            std::thread sender([&] { send(copy); });
            receive(fresh);
            sender.join();
        }
        std::free(copy.memory);
        piece_.pattern = fresh.pattern;
        check();
    }
    void check() const override { piece_.check(); }

  private:
    void send(const Piece &from) const {
        for (std::size_t done = 0; done < from.size;) {
            const ssize_t put = ::write(
                ends_[0], reinterpret_cast<const char *>(from.memory) + done, from.size - done);
            UPM_CHECK(put > 0 || errno == EINTR);
            done += put > 0 ? static_cast<std::size_t>(put) : 0;
        }
    }
    void receive(const Piece &to) const {
        for (std::size_t done = 0; done < to.size;) {
            const ssize_t got =
                ::read(ends_[1], reinterpret_cast<char *>(to.memory) + done, to.size - done);
            UPM_CHECK(got > 0 || errno == EINTR);
            done += got > 0 ? static_cast<std::size_t>(got) : 0;
        }
    }
    Piece piece_;
    int ends_[2] = {-1, -1};
    int file_ = -1;
};

template <class Kind>
std::unique_ptr<Work> make(std::uint64_t seed) {
    return std::make_unique<Kind>(seed);
}

struct {
    std::string_view name;
    std::unique_ptr<Work> (*make)(std::uint64_t seed);
} constexpr kKinds[] = {
    {"churn", make<Churn>},     {"threads", make<Threads>}, {"prefork", make<Prefork>},
    {"loads", make<Loads>},     {"maps", make<Maps>},       {"writers", make<Writers>},
    {"signals", make<Signals>}, {"zeros", make<Zeros>},     {"programs", make<Programs>},
    {"calls", make<Calls>},
};

void note_shared() {
    const auto report = reinterpret_cast<int (*)(struct upm_hook_stats *)>(
        ::dlsym(RTLD_DEFAULT, "upm_hook_report"));
    struct upm_hook_stats stats {};
    if (report != nullptr && report(&stats) == 0)
        note("shared %s %llu %llu\n", kind.data(),
             static_cast<unsigned long long>(stats.counts.merged),
             static_cast<unsigned long long>(stats.loaded_shared));
}

void work(Work &what) {
    do {
        what.step();
        if (what.random(4) == 0)
            in_child([&] { what.check(); });
        if (what.random(16) == 0)
            advise_now();
        pause_ms(20 + what.random(130));
    } while (!over());
    what.check();
    note_shared();
}

} // namespace

} // namespace soak

int main(int argc, char **argv) {
    using namespace soak;
    if (argc != 6)
        return 2;
    kind = argv[1];
    deadline = now_us() + std::strtoull(argv[3], nullptr, 10) * 1'000'000;
    log_fd = ::open(argv[4], O_WRONLY | O_APPEND);
    files = argv[5];
    UPM_CHECK(log_fd >= 0);
    exit_began = static_cast<std::atomic<std::uint64_t> *>(
        ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    UPM_CHECK(exit_began != MAP_FAILED);
    struct sigaction action {};
    action.sa_handler = [](int) { told_to_stop = true; };
    action.sa_flags = SA_RESTART;
    UPM_CHECK(::sigaction(SIGTERM, &action, nullptr) == 0);
    for (const auto &row : kKinds) {
        if (row.name != kind)
            continue;
        const std::unique_ptr<Work> what = row.make(std::strtoull(argv[2], nullptr, 10));
        work(*what);
        return 0;
    }
    (void)std::fprintf(stderr, "upm-hook-soak: no kind '%s'\n", argv[1]);
    return 2;
}
