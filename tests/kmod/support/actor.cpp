// SPDX-License-Identifier: MIT
#include "tests/kmod/support/actor.hpp"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <sys/mman.h>
#include <time.h>

namespace upm::test {

namespace {

struct State {
    std::unique_ptr<Region> region;
    std::unique_ptr<Device> device;
};

State &state() {
    static State state;
    return state;
}

void nap() {
    const timespec pause{.tv_sec = 0, .tv_nsec = 5'000'000};
    ::nanosleep(&pause, nullptr);
}

// One line for each domain that there is.
std::string domains() {
    std::string lines;
    for (const auto &entry : std::filesystem::directory_iterator(kSysfs + "domains")) {
        const std::string path = entry.path().string() + "/";
        try {
            lines += entry.path().filename().string() + ": " + read_file(path + "kind") +
                     "pages: " + read_file(path + "pages");
        } catch (const std::system_error &) {
            continue; // it just went
        }
    }
    return lines;
}

} // namespace

Region &region() {
    return *state().region;
}
Device &device() {
    return *state().device;
}

Actor::Actor(Kind kind, const Pattern &pattern, std::size_t pages,
             const std::function<void()> &prepare)
    : process_(prepare), pages_(pages) {
    process_.call(
        +[](Kind k, Content content, std::uint64_t seed, std::size_t n) {
            state().region = std::make_unique<Region>(k, Pattern{content, seed}, n);
            state().device = std::make_unique<Device>();
        },
        kind, pattern.content, pattern.seed, pages);
}

namespace {

Advice advise_region(std::size_t page, std::size_t pages, std::uint32_t flags, pid_t pid,
                     int domain) {
    return device().advise(region().page(page), pages * kPage,
                           {.flags = flags, .pid = pid, .domain = domain});
}

} // namespace

Advice Actor::advise(std::size_t page, std::size_t pages, const AdviseOptions &options) {
    return process_.call(&advise_region, page, pages, options.flags, options.pid, options.domain);
}

void Actor::start_advise(const AdviseOptions &options) {
    process_.start(&advise_region, std::size_t{0}, pages_, options.flags, options.pid,
                   options.domain);
}

void Actor::write(std::size_t page, std::uint64_t value) {
    process_.call(
        +[](std::size_t p, std::uint64_t v) { region().write(p, v); }, page, value);
}

void Actor::allow_writes() {
    process_.call(+[] { region().allow_writes(); });
}

void Actor::check() {
    process_.call(+[] { region().check(); });
}

std::byte *Actor::base() {
    return process_.call(+[] { return region().base(); });
}

Frames Actor::frames() {
    return frames_of(pid(), base(), pages_);
}

Usage Actor::usage() {
    return usage_of(pid(), base(), len());
}

// ---- fixtures --------------------------------------------------------------

void KmodTest::SetUp() {
    ASSERT_EQ(read_file(kSysfs + "enabled"), "1\n") << "an earlier test left merging disabled";
}

void KmodTest::TearDown() {
    // A page that stays, with all processes and mappings of the test gone, has a
    // reference too many. The kernel drops some a moment later, and those of its
    // per-processor lists (of mlock and the like) when it is told to.
    const bool clean = eventually([] {
        sweep();
        if (statistic("pages_shared") != 0)
            write_file("/proc/sys/vm/compact_memory", "1");
        return statistic("pages_shared") + statistic("pages_unused") == 0 && domains().empty();
    });
    EXPECT_TRUE(clean) << "left behind: " << statistic("pages_shared") << " shared pages, "
                       << statistic("pages_unused") << " unused\n"
                       << domains();
    EXPECT_TRUE(eventually([] { return module_users() <= own_module_users(); }))
        << "somebody keeps the module; " << describe_module_users();
}

bool huge_pages_are_off() {
    return read_file("/sys/kernel/mm/transparent_hugepage/enabled").find("[never]") !=
           std::string::npos;
}

void KindTest::SetUp() {
    KmodTest::SetUp();
    if (kind() == Kind::kHuge && huge_pages_are_off())
        GTEST_SKIP() << "transparent huge pages are off";
}

void PairTest::SetUp() {
    KindTest::SetUp();
    if (IsSkipped())
        return;
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    a_ = std::make_unique<Actor>(kind(), pattern, pages());
    b_ = std::make_unique<Actor>(kind(), pattern, pages());
    a_->advise();
    b_->advise();
    ASSERT_EQ(equal_frames(a_->frames(), b_->frames()), pages());
}

void PairTest::TearDown() {
    a_.reset();
    b_.reset();
    KindTest::TearDown();
}

void PairTest::check_both() {
    a_->check();
    b_->check();
    a_->allow_writes();
    a_->write(1, 111);
    b_->check();
    b_->allow_writes();
    b_->write(1, 222);
    a_->check();
    b_->check();
}

std::string kind_name(const testing::TestParamInfo<Kind> &info) {
    return name_of(info.param);
}

bool eventually(const std::function<bool()> &done) {
    constexpr double kSeconds = 120; // of a slow machine, and an end for a test that fails
    const double start = now();
    for (;;) {
        if (done())
            return true;
        if (now() - start > kSeconds)
            return false;
        nap();
    }
}

double test_seconds(double seconds) {
    const char *given = std::getenv("UPM_TEST_SECONDS");
    return given ? std::strtod(given, nullptr) : seconds;
}

double now() {
    timespec time{};
    ::clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

} // namespace upm::test
