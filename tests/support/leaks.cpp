// SPDX-License-Identifier: MIT
#include "tests/support/leaks.hpp"

#include "tests/support/support.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <dirent.h>
#include <fstream>
#include <gtest/gtest.h>
#include <malloc.h>
#include <map>
#include <poll.h>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>

namespace upm::test {

namespace {

// More than this is no cache of libc any more (arenas, stacks of threads that ended).
constexpr std::size_t kMappings = 64;
constexpr std::uint64_t kResident = 32UL << 20; // bytes
// What the process's engine keeps: a load takes two.
constexpr int kConnections = 4;
constexpr int kLooks = 30;
constexpr useconds_t kPauseUs = 100'000;

// Returns true for a connection to a broker.
bool is_connection(int fd) {
    int type = 0;
    socklen_t size = sizeof(type);
    return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

// Returns true if its other end is closed. The store's pool keeps such connections until it
// needs their place, and the brokers of the tests have ended.
bool is_dead(int fd) {
    pollfd event{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&event, 1, 0) == 1 && (event.revents & POLLHUP) != 0;
}

// By number: what the file is.
std::map<int, std::string> descriptors() {
    std::map<int, std::string> found;
    DIR *const folder = ::opendir("/proc/thread-self/fd");
    if (folder == nullptr)
        return found;
    while (const dirent *const entry = ::readdir(folder)) {
        char *end = nullptr;
        const int fd = static_cast<int>(std::strtol(entry->d_name, &end, 10));
        if (*end != '\0' || fd == ::dirfd(folder) || (is_connection(fd) && is_dead(fd)))
            continue;
        char text[256] = {};
        const std::string path = std::string("/proc/thread-self/fd/") + entry->d_name;
        (void)::readlink(path.c_str(), text, sizeof(text) - 1);
        if (std::string_view(text) != "/dev/upm") // the backend kmod keeps it open
            found[fd] = text;
    }
    (void)::closedir(folder);
    return found;
}

struct Footprint {
    std::map<int, std::string> files = descriptors();
    std::size_t mappings = 0;
    std::size_t segments = 0;
    std::uint64_t resident = 0; // bytes

    Footprint() {
        std::ifstream maps("/proc/thread-self/maps");
        for (std::string line; std::getline(maps, line); ++mappings)
            segments += line.find("/memfd:upm-store") != std::string::npos ? 1U : 0U;
        std::uint64_t size = 0;
        std::ifstream("/proc/thread-self/statm") >> size >> resident;
        resident *= page_size();
    }
};

class LeakListener : public testing::EmptyTestEventListener {
  public:
    void OnTestSuiteStart(const testing::TestSuite & /*suite*/) override { before_ = {}; }
    void OnTestSuiteEnd(const testing::TestSuite &suite) override {
        (void)::malloc_trim(0); // what libc keeps of freed memory is no leak
        // Threads that a test has left to themselves end soon.
        for (int i = 0; i < kLooks && leaves_files(); ++i)
            ::usleep(kPauseUs);
        const Footprint after;
        int connections = 0;
        for (const auto &[fd, what] : after.files) {
            const auto old = before_.files.find(fd);
            if (old != before_.files.end() && old->second == what)
                continue;
            if (!is_connection(fd) || ++connections > kConnections)
                ADD_FAILURE() << suite.name() << " leaves descriptor " << fd << " open: " << what;
        }
        if (after.segments > before_.segments)
            ADD_FAILURE() << suite.name() << " leaves " << after.segments - before_.segments
                          << " mappings of segments";
        if (after.mappings > before_.mappings + kMappings)
            ADD_FAILURE() << suite.name() << " leaves " << after.mappings - before_.mappings
                          << " mappings";
        if (after.resident > before_.resident + kResident)
            ADD_FAILURE() << suite.name() << " leaves "
                          << ((after.resident - before_.resident) >> 20U) << " MiB of memory";
    }

  private:
    [[nodiscard]] bool leaves_files() const {
        const std::map<int, std::string> now = descriptors();
        return std::any_of(now.begin(), now.end(), [&](const auto &entry) {
            const auto old = before_.files.find(entry.first);
            return (old == before_.files.end() || old->second != entry.second) &&
                   !is_connection(entry.first);
        });
    }

    Footprint before_;
};

} // namespace

bool watch_for_leaks() {
    static const bool watched = [] {
        testing::UnitTest::GetInstance()->listeners().Append(new LeakListener);
        return true;
    }();
    return watched;
}

} // namespace upm::test
