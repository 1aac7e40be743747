// SPDX-License-Identifier: MIT
//
// Segments that the broker makes from a client's file.
#include "tests/tools/upmd/played_broker.hpp"
#include "tools/upmd/maker.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>

namespace upm::test {

namespace {

class UpmdMaking : public PlayedBroker {
  protected:
    static constexpr std::uint32_t kPages = 8;

    UpmdMaking() {
        const Pages content(kPages);
        fill_pattern(content, 1);
        dir_.write("file", {content.data(), content.size()});
    }
    int ask(Id id, std::uint64_t likeness = 7, std::uint32_t pages = kPages,
            std::uint32_t flags = 0) {
        upmd::Brought brought;
        brought.fd = upmd::Descriptor(::open((dir_.path() + "/file").c_str(), O_RDONLY));
        store::MakeRequest request{};
        request.likeness = likeness;
        request.pages = pages;
        request.flags = flags;
        return say(id, store::Op::kMake, request, {}, std::move(brought));
    }
    // Has the tasks done that were begun.
    void work() {
        for (upmd::MakeTask &task : std::exchange(tasks, {}))
            broker().made(upmd::make_segment(task), now_);
    }
    void SetUp() override { begin_with(roomy()); }
    void begin_with(const upmd::Limits &limits) {
        begin(limits, [this](uid_t /*uid*/, upmd::MakeTask task, bool /*quietly*/) {
            if (task.pages == 0)
                closed += task.file ? 1U : 0U;
            else
                tasks.push_back(std::move(task));
        });
    }

    std::vector<upmd::MakeTask> tasks;
    std::size_t closed = 0; // files that were only to be closed

  private:
    TempDir dir_;
};

TEST_F(UpmdMaking, EqualRequestsGetOneSegment) {
    const Id first = join(1000);
    const Id second = join(1000);
    EXPECT_EQ(ask(first), 1) << "it waits";
    EXPECT_EQ(ask(second), 1);
    ASSERT_EQ(tasks.size(), 1U);
    work();
    for (const Id id : {first, second}) {
        ASSERT_EQ(error(id), 0);
        EXPECT_EQ(head<store::MakeReply>(id).pages, kPages);
        EXPECT_GE(attached(id), 0);
    }
    EXPECT_TRUE(broker().consistent());
}

TEST_F(UpmdMaking, AnotherDomainGetsItsOwn) {
    EXPECT_EQ(ask(join(1000, "a")), 1);
    EXPECT_EQ(ask(join(1000, "b")), 1);
    EXPECT_EQ(tasks.size(), 2U);
    work();
}

// What differs in anything that the segment depends on is a request of its own.
TEST_F(UpmdMaking, OnlyEqualRequestsAreOne) {
    EXPECT_EQ(ask(join(1000)), 1);
    EXPECT_EQ(ask(join(1000), 8), 1) << "of another file";
    EXPECT_EQ(ask(join(1000), 7, kPages / 2), 1) << "of a part of it";
    EXPECT_EQ(ask(join(1000), 7, kPages, store::kAligned), 1) << "for huge pages";
    EXPECT_EQ(tasks.size(), 4U);
    work();
}

// Closing a stranger's file may take as long as the stranger likes: a thread does it,
// whatever comes of the request.
TEST_F(UpmdMaking, FilesAreClosedByThreads) {
    EXPECT_EQ(ask(join(1000)), 1);
    EXPECT_EQ(closed, 0U) << "it is read first";
    EXPECT_EQ(ask(join(1000)), 1);
    EXPECT_EQ(closed, 1U) << "one file is enough";
    EXPECT_EQ(ask(join(1000), 1, 0), -1);
    EXPECT_EQ(closed, 2U) << "no request at all";
    work();
    upmd::Limits limits = roomy();
    limits.client_pages = kPages - 1;
    begin_with(limits);
    EXPECT_EQ(ask(join(1000)), -EDQUOT);
    EXPECT_EQ(closed, 3U);
}

TEST_F(UpmdMaking, FewOfOneUserWait) {
    upmd::Limits limits = roomy();
    limits.user_parked = 2;
    begin_with(limits);
    EXPECT_EQ(ask(join(1), 1), 1);
    EXPECT_EQ(ask(join(1), 2), 1);
    EXPECT_EQ(ask(join(1), 3), -EAGAIN);
    EXPECT_EQ(ask(join(1), 1), -EAGAIN) << "though it is being made";
    EXPECT_EQ(ask(join(2), 3), 1) << "another user waits";
    work();
    EXPECT_EQ(ask(join(1), 4), 1) << "those have their answers";
    work();
}

TEST_F(UpmdMaking, FileThatIsTooShort) {
    const Id id = join(1000);
    EXPECT_EQ(ask(id, 7, kPages + 1), 1);
    work();
    EXPECT_EQ(error(id), -ENODATA);
    EXPECT_EQ(ask(id), 1) << "and it may ask again";
    work();
    EXPECT_EQ(error(id), 0);
}

// Whoever asked may be gone when it is done; then nobody uses it.
TEST_F(UpmdMaking, NobodyWaitsAnyMore) {
    const Id id = join(1000);
    EXPECT_EQ(ask(id), 1);
    leave(id);
    work();
    EXPECT_TRUE(broker().idle());
    EXPECT_TRUE(broker().consistent());
}

// Whoever asked first may be gone, and others get it; nothing of it is remembered.
TEST_F(UpmdMaking, TheFirstOneHasLeft) {
    const Id first = join(1000);
    const Id second = join(1000);
    EXPECT_EQ(ask(first), 1);
    EXPECT_EQ(ask(second), 1);
    leave(first);
    work();
    EXPECT_EQ(error(second), 0);
    EXPECT_TRUE(broker().consistent());
}

// A program that streams through a large file costs nobody anything for ever.
TEST_F(UpmdMaking, BoundForOneThatNobodyShares) {
    upmd::Limits limits = roomy();
    limits.alone_pages = 3 * kPages;
    begin_with(limits);
    const Id alone = join(1000);
    for (std::uint64_t likeness = 1; likeness <= 3; ++likeness) {
        EXPECT_EQ(ask(alone, likeness), 1);
        work();
        ASSERT_EQ(error(alone), 0);
        store::ReportRequest unmapped{};
        unmapped.segment = head<store::MakeReply>(alone).segment;
        unmapped.pages = -1;
        (void)say(alone, store::Op::kReport, unmapped);
    }
    EXPECT_EQ(ask(alone, 4), -EDQUOT);
    const Id other = join(1000);
    EXPECT_EQ(ask(other, 5), 1) << "each has its own bound";
    work();
}

// What its process is seen to map is no waste, however much it is; what goes unused is.
TEST_F(UpmdMaking, WhatIsMappedCountsAgainWhenItGoes) {
    upmd::Limits limits = roomy();
    limits.alone_pages = 3 * kPages;
    begin_with(limits);
    const Id id = join_as(1000, 77);
    upmd::Look look;
    look.readable = look.complete = true;
    std::vector<std::uint64_t> inodes;
    for (std::uint64_t likeness = 1; likeness <= 9; ++likeness) {
        ASSERT_EQ(ask(id, likeness), 1) << likeness;
        work();
        ASSERT_EQ(error(id), 0);
        struct stat status {};
        ASSERT_EQ(::fstat(attached(id), &status), 0);
        look.pages[status.st_ino] = kPages;
        EXPECT_EQ(broker().usage().take_due(now_).size(), 1U) << "at once, a quarter is passed";
        broker().usage().seen(77, look, now_, now_);
    }
    // All of it goes at one time.
    look.pages.clear();
    pass(2'000);
    broker().usage().seen(77, look, now_, now_);
    EXPECT_EQ(value("segments"), 0U);
    EXPECT_EQ(ask(id, 10), -EDQUOT);
}

// What another process comes to use is not made for one alone any more.
TEST_F(UpmdMaking, WhatIsSharedIsNotCounted) {
    upmd::Limits limits = roomy();
    limits.alone_pages = kPages;
    begin_with(limits);
    const Id first = join(1000);
    const Id second = join(1000);
    EXPECT_EQ(ask(first, 1), 1);
    EXPECT_EQ(ask(second, 1), 1);
    work();
    EXPECT_EQ(ask(first, 2), 1);
    work();
    EXPECT_EQ(error(first), 0);
    EXPECT_EQ(ask(first, 3), -EDQUOT) << "that one was for it alone";
}

// A file that is shorter than was believed costs its reader nothing of that bound.
TEST_F(UpmdMaking, WhatFailsIsNotCounted) {
    upmd::Limits limits = roomy();
    limits.alone_pages = 3 * kPages;
    begin_with(limits);
    const Id id = join(1000);
    for (std::uint64_t likeness = 1; likeness <= 10; ++likeness) {
        EXPECT_EQ(ask(id, likeness, 2 * kPages), 1);
        work();
        ASSERT_EQ(error(id), -ENODATA);
    }
    EXPECT_EQ(ask(id, 99), 1);
    work();
    EXPECT_EQ(error(id), 0);
}

TEST_F(UpmdMaking, QuotaIsALimit) {
    upmd::Limits limits = roomy();
    limits.client_pages = kPages;
    begin_with(limits);
    const Id id = join(1000);
    EXPECT_EQ(ask(id, 1), 1);
    work();
    EXPECT_EQ(error(id), 0);
    EXPECT_EQ(ask(id, 2), -EDQUOT);
}

// While free memory is plenty nothing new is taken, and what is known is shared.
TEST_F(UpmdMaking, PlentyPutsOffWhatIsNew) {
    const Id first = join(1000);
    const Id second = join(1000);
    EXPECT_EQ(ask(first, 1), 1);
    work();
    ASSERT_EQ(error(first), 0);
    ASSERT_EQ(publish(first, hashes_from(100, 4)), 0);
    broker().set_plenty(true);
    EXPECT_EQ(value("sharing"), 0U);
    EXPECT_EQ(ask(second, 2), -EAGAIN) << "a quota (EDQUOT) would silence the client";
    EXPECT_EQ(publish(second, hashes_from(200, 4)), -EDQUOT);
    ASSERT_EQ(lookup(second, hashes_from(100, 5), true), 0);
    EXPECT_EQ(count(second, store::kRefused), 1U);
    EXPECT_EQ(count(second, store::kReserved), 0U);
    EXPECT_EQ(value("put_off_total"), 3U);
    EXPECT_EQ(value("refused_total"), 0U) << "an alert is on it";
    broker().set_plenty(false);
    EXPECT_EQ(value("sharing"), 1U);
    EXPECT_EQ(ask(second, 2), 1);
    work();
    EXPECT_EQ(error(second), 0);
}

TEST_F(UpmdMaking, PlentyIsNoLimitOfSeeds) {
    upmd::Limits limits = roomy();
    limits.seed_pages = limits.all_seed_pages = 1'000;
    begin_with(limits);
    broker().set_plenty(true);
    const Id id = join(1000);
    store::SeedRequest request{};
    request.act = static_cast<std::uint32_t>(store::SeedAct::kBegin);
    ASSERT_EQ(say(id, store::Op::kSeed, request), 0);
    EXPECT_EQ(ask(id, 1), 1);
    work();
    EXPECT_EQ(error(id), 0);
}

TEST_F(UpmdMaking, RequestsThatAreNone) {
    EXPECT_EQ(ask(join(1000), 1, 0), -1);
    EXPECT_EQ(ask(join(1000), 1, store::kMaxPages + 1), -1);
    const Id waits = join(1000);
    EXPECT_EQ(ask(waits), 1);
    EXPECT_EQ(lookup(waits, hashes_from(1, 3)), -1) << "one request at a time";
    const Id none = join(1000);
    store::MakeRequest request{};
    request.pages = kPages;
    request.likeness = 99;
    EXPECT_EQ(say(none, store::Op::kMake, request), -EMFILE) << "no file came along";
    work();
}

} // namespace

} // namespace upm::test
