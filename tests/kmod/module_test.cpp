// SPDX-License-Identifier: MIT
//
// The module goes while its pages are mapped, and comes back.
#include "tests/kmod/support/actor.hpp"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm::test {

namespace {

// The file that the VM loaded the module from.
std::string module_file() {
    const char *given = std::getenv("UPM_TEST_MODULE");
    return given ? given : "/run/upm-vm/upm.ko";
}

// Both return 0 or errno.
int unload() {
    return ::syscall(SYS_delete_module, "upm", O_NONBLOCK) == 0 ? 0 : errno;
}

// Unloads it once nobody uses it any more.
testing::AssertionResult unloaded() {
    int error = 0;
    const bool good = eventually([&] {
        error = unload();
        return error != EWOULDBLOCK;
    });
    if (good && error == 0)
        return testing::AssertionSuccess();
    return testing::AssertionFailure()
           << std::generic_category().message(error) << "; " << describe_module_users();
}

int load() {
    const Fd file(must(::open(module_file().c_str(), O_RDONLY | O_CLOEXEC), "module"));
    return ::syscall(SYS_finit_module, file.get(), "", 0) == 0 ? 0 : errno;
}

class Reload : public KindTest {
  protected:
    void SetUp() override {
        if (!exists(module_file()))
            GTEST_SKIP() << "no file " << module_file() << " (UPM_TEST_MODULE)";
        KindTest::SetUp();
    }
};
UPM_TEST_ALL_KINDS(Reload);

void close_device(Actor &actor) {
    actor.call(+[] { device() = Device(Fd()); });
}

void open_device(Actor &actor) {
    actor.call(+[] { device() = Device(); });
}

// The shared pages outlive the module: they stay shared, break on a write, and go with
// their last user. The module that comes then works, and takes new pages.
TEST_P(Reload, WhilePagesAreMapped) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    const bool merges = a.advise().done() == pages();
    b.advise();
    EXPECT_EQ(unload(), EWOULDBLOCK) << "in use";
    for (Actor *actor : {&a, &b})
        close_device(*actor);
    ASSERT_TRUE(unloaded());
    EXPECT_FALSE(exists(UPM_DEVICE));
    if (merges) {
        EXPECT_EQ(equal_frames(a.frames(), b.frames()), pages());
    }
    a.check();
    a.allow_writes();
    for (std::size_t i = 0; i < pages(); i += 2)
        a.write(i, i);
    a.check();
    b.check();
    ASSERT_EQ(load(), 0);
    for (Actor *actor : {&a, &b})
        open_device(*actor);
    // Whatever the new module makes of the pages of the old one, no byte changes.
    for (int round = 0; round < 2; round++) {
        for (Actor *actor : {&a, &b}) {
            EXPECT_EQ(actor->advise().error, 0);
            actor->check();
        }
    }
    // New memory is shared as ever.
    const Pattern other{Content::kDistinct, fresh_seed()};
    Actor c(Kind::kAnonymous, other, 32);
    Actor d(Kind::kAnonymous, other, 32);
    c.advise();
    d.advise();
    EXPECT_EQ(equal_frames(c.frames(), d.frames()), 32U);
    EXPECT_EQ(a.unmerge().error, 0);
    for (Actor *actor : {&a, &b, &c, &d})
        actor->check();
    b.process().kill();
    a.allow_writes();
    a.write(1, 1);
    a.check();
}

class ReloadOnce : public KmodTest {};

// A descriptor of a domain keeps the module, too.
TEST_F(ReloadOnce, DomainDescriptorKeepsIt) {
    if (!exists(module_file()))
        GTEST_SKIP() << "no file " << module_file();
    Fd domain = Device().domain(fresh_key());
    ASSERT_TRUE(domain);
    EXPECT_EQ(unload(), EWOULDBLOCK);
    domain.reset();
    ASSERT_TRUE(unloaded());
    ASSERT_EQ(load(), 0);
}

// Somebody writes to knobs all the time, also while the module goes: nothing that such a
// write sets off may run after that.
TEST_F(ReloadOnce, KnobsAreWrittenMeanwhile) {
    if (!exists(module_file()))
        GTEST_SKIP() << "no file " << module_file();
    std::atomic<bool> stop{false};
    std::thread writer([&] {
        while (!stop) {
            write_file(kSysfs + "sweep_ms", "1");
            write_file(kSysfs + "sweep", "1");
        }
    });
    for (int round = 0; round < 20; round++) {
        EXPECT_TRUE(unloaded());
        EXPECT_EQ(load(), 0);
    }
    stop = true;
    writer.join();
    write_file(kSysfs + "sweep_ms", "2000");
}

// Again and again, each time with pages left behind by the last.
TEST_F(ReloadOnce, Often) {
    if (!exists(module_file()))
        GTEST_SKIP() << "no file " << module_file();
    const Pattern pattern = {Content::kMixed, fresh_seed()};
    Actor a(Kind::kAnonymous, pattern, 64);
    Actor b(Kind::kText, pattern, 64);
    for (std::uint64_t round = 0; round < 5; round++) {
        for (Actor *actor : {&a, &b}) {
            EXPECT_EQ(actor->advise().error, 0);
            actor->check();
            close_device(*actor);
        }
        ASSERT_TRUE(unloaded());
        a.write(round, round);
        a.check();
        b.check();
        ASSERT_EQ(load(), 0);
        for (Actor *actor : {&a, &b})
            open_device(*actor);
    }
}

} // namespace

} // namespace upm::test
