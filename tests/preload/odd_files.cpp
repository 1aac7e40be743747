// SPDX-License-Identifier: MIT
//
// What few programs do to the file that is loaded.
#include "tests/preload/odd.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <string>
#include <string_view>
#include <sys/fanotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <upm/hook.h>

namespace odd {

namespace {

std::atomic<int> told{0};

upm_hook_stats report() {
    using Report = int (*)(upm_hook_stats *);
    const auto ask = reinterpret_cast<Report>(::dlsym(RTLD_DEFAULT, "upm_hook_report"));
    upm_hook_stats stats{};
    UPM_CHECK(ask != nullptr && ask(&stats) == 0);
    return stats;
}

constexpr int kMost = 24; // the limit

bool is_the_file(int fd) {
    struct stat wanted {};
    struct stat status {};
    return ::stat(path, &wanted) == 0 && ::fstat(fd, &status) == 0 &&
           status.st_dev == wanted.st_dev && status.st_ino == wanted.st_ino;
}

// Takes all numbers for its own, and so does it again and again.
void close_all() {
    constexpr int kFirst = 3;
    UPM_CHECK(::syscall(SYS_close_range, kFirst, ~0U, 0) == 0);
    for (int fd = kFirst; fd < kMost; ++fd) // nothing else takes one
        UPM_CHECK(::open(path, O_RDONLY | O_CLOEXEC) == fd);
    UPM_CHECK(::open(path, O_RDONLY | O_CLOEXEC) < 0 && errno == EMFILE);
    for (int fd = kFirst; fd < kMost; ++fd)
        UPM_CHECK(is_the_file(fd));
    sleep_ms(1);
    for (int fd = kFirst; fd < kMost; ++fd)
        UPM_CHECK(::dup2(STDOUT_FILENO, fd) == fd && !is_the_file(fd));
    for (int fd = kFirst; fd < kMost; ++fd)
        UPM_CHECK(::close(fd) == 0);
}

} // namespace

// A lease says that nobody else has the file open: to open it once more would break it, and
// wait for the holder, which is this very process.
int lease() {
    free_later(load());
    (void)std::signal(SIGIO, [](int) { ++told; });
    const int fd = ::open(path, O_RDWR | O_CLOEXEC);
    UPM_CHECK(fd >= 0);
    bool leased = false;
    for (int i = 0; i < 500 && !leased; ++i) { // the broker closes the file soon
        leased = ::fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
        if (!leased)
            sleep_ms(10);
    }
    if (!leased)
        return kNothingTried;
    // Another part, which is not known yet.
    char *const block = allocate(kBlock);
    UPM_CHECK(::pread(fd, block, kBlock, 1234) > 0);
    UPM_CHECK(told == 0);
    UPM_CHECK(::fcntl(fd, F_GETLEASE) == F_WRLCK);
    return 0;
}

// To open a file once more, and to close that, gives up all locks that a process has on it.
int locks() {
    free_later(load());
    const int fd = ::open(path, O_RDWR | O_CLOEXEC);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    UPM_CHECK(fd >= 0 && ::fcntl(fd, F_SETLK, &lock) == 0);
    // Parts that are not known yet, by a descriptor that is not closed before the end.
    const int other = ::open(path, O_RDONLY | O_CLOEXEC);
    UPM_CHECK(::pread(other, allocate(kBlock), kBlock, 1234) == kBlock);
    const auto locked_out = [&] {
        return in_child([&] { return ::fcntl(fd, F_SETLK, &lock) != 0 ? 0 : 1; }) == 0;
    };
    UPM_CHECK(locked_out());
    lock.l_type = F_UNLCK;
    UPM_CHECK(::fcntl(fd, F_SETLK, &lock) == 0);
    lock.l_type = F_WRLCK;
    UPM_CHECK(!locked_out());
    return 0;
}

// Whoever decides who may open a file is not asked by itself, which would not answer.
int decides() {
    const int decider = ::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);
    if (decider < 0)
        return kNothingTried;
    (void)allocate(kBlock); // the hook's thread begins
    sleep_ms(300);
    UPM_CHECK(::fanotify_mark(decider, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, path) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        (void)::close(decider);
        ::_exit(::open(path, O_RDONLY | O_CLOEXEC) >= 0 ? 0 : 1);
    }
    fanotify_event_metadata event{};
    UPM_CHECK(::read(decider, &event, sizeof(event)) == sizeof(event));
    char *const block = allocate(kBlock);
    (void)::alarm(60); // the end of a program that waits for itself
    UPM_CHECK(::pread(event.fd, block, kBlock, 1234) == kBlock);
    (void)::alarm(0);
    const fanotify_response allowed{.fd = event.fd, .response = FAN_ALLOW};
    UPM_CHECK(::write(decider, &allowed, sizeof(allowed)) == sizeof(allowed));
    int status = -1;
    UPM_CHECK(::waitpid(child, &status, 0) == child && status == 0);
    return 0;
}

// A file of FUSE whose server answers nothing but reads.
int served() {
    free_later(load());
    const char *const file = std::getenv("UPM_TEST_SERVED");
    const int fd = file != nullptr ? ::open(file, O_RDONLY | O_CLOEXEC) : -1;
    UPM_CHECK(fd >= 0);
    char *const block = allocate(kBlock);
    (void)::alarm(60); // the end of a program that waits for another answer
    UPM_CHECK(::read(fd, block, kMib) == static_cast<ssize_t>(kMib));
    UPM_CHECK(::pread(fd, block + kMib, kMib, 0) == static_cast<ssize_t>(kMib));
    (void)::alarm(0);
    UPM_CHECK(std::string_view(block, 2 * kMib).find_first_not_of('x') == std::string_view::npos);
    return 0;
}

// A child that is forked while another thread loads has no descriptors for that.
int forked_meanwhile() {
    constexpr int kForks = 200;
    constexpr std::size_t kKept = 3; // or it would be a stream
    free_later(load());
    std::atomic<bool> over{false};
    std::thread reader([&] {
        std::array<char *, kKept> blocks{};
        for (std::size_t i = 0; !over; ++i) {
            char *&block = blocks[i % kKept];
            std::free(block);
            block = allocate(kBlock);
            read_into(block);
        }
    });
    for (int i = 0; i < kForks; ++i) {
        UPM_CHECK(in_child([] {
                      for (int fd = 0; fd < kMost; ++fd) {
                          const int seals = ::fcntl(fd, F_GET_SEALS);
                          if (seals > 0 && (seals & F_SEAL_WRITE) != 0)
                              return 1;
                      }
                      return 0;
                  }) == 0);
        std::this_thread::sleep_for(std::chrono::microseconds(i * 10));
    }
    over = true;
    reader.join();
    return 0;
}

// A program that may have few descriptors has them all. Where it may have more than a hundred,
// connections are left open at 100 and above.
int few_descriptors() {
    constexpr int kFirst = 3;
    constexpr int kRounds = 5;
    std::free(load());
    UPM_CHECK(::syscall(SYS_close_range, kFirst, ~0U, 0) == 0);
    const rlimit few{.rlim_cur = kMost, .rlim_max = kMost};
    UPM_CHECK(::setrlimit(RLIMIT_NOFILE, &few) == 0);
    for (int round = 0; round < kRounds; ++round) {
        char *const block = allocate(kBlock);
        const int file = ::open(path, O_RDONLY | O_CLOEXEC);
        for (int fd = file + 1; fd < kMost; ++fd) // all but one are taken
            UPM_CHECK(::open("/dev/null", O_RDONLY | O_CLOEXEC) == fd);
        UPM_CHECK(::pread(file, block, kBlock, 0) == kBlock);
        UPM_CHECK(::syscall(SYS_close_range, kFirst, ~0U, 0) == 0);
        read_into(block);
        std::free(block);
        for (int fd = kFirst; fd < kMost; ++fd)
            UPM_CHECK(::open("/dev/null", O_RDONLY | O_CLOEXEC) == fd);
        UPM_CHECK(::syscall(SYS_close_range, kFirst, ~0U, 0) == 0);
        sleep_ms(50); // a first failure is forgotten by then
    }
    return 0;
}

// While the hook's thread merges, the program closes all descriptors that it does not know.
int close_meanwhile() {
    constexpr std::size_t kBlocks = 12;
    constexpr int kRounds = 4000;
    const rlimit few{.rlim_cur = kMost, .rlim_max = kMost};
    const std::string bytes = [] {
        std::string text(kBlock, 0);
        for (std::size_t i = 0; i < kBlock; i += kPage)
            std::memcpy(&text[i], &i, sizeof(i)); // no two pages are equal
        return text;
    }();
    std::array<char *, kBlocks> blocks{};
    for (char *&block : blocks) {
        block = allocate(kBlock);
        std::memcpy(block, bytes.data(), kBlock);
    }
    while (report().counts.pages == 0) // it has begun
        sleep_ms(1);
    UPM_CHECK(::setrlimit(RLIMIT_NOFILE, &few) == 0);
    for (int round = 0; round < kRounds && report().counts.pages < kBlocks * kBlock / kPage;
         ++round) {
        close_all();
        sleep_ms(10); // or the hook would take it for busy
    }
    UPM_CHECK(report().counts.merged > kBlock / kPage); // it has gone on
    for (const char *const block : blocks)
        UPM_CHECK(std::memcmp(block, bytes.data(), kBlock) == 0);
    return 0;
}

} // namespace odd
