// SPDX-License-Identifier: MIT
//
// What loads were too late for is made in the background, and kept for those who asked.
#include "tests/tools/upmd/played_broker.hpp"
#include "tools/upmd/maker.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::test {

namespace {

class UpmdLate : public PlayedBroker {
  protected:
    static constexpr std::uint32_t kHuge = 512; // pages
    static constexpr std::uint64_t kPages = std::uint64_t{2} * kHuge;

    UpmdLate() {
        const Pages content(kPages);
        fill_pattern(content, 1);
        write_file(content);
    }
    void SetUp() override { begin_with(roomy()); }
    void begin_with(const upmd::Limits &limits) {
        begin(limits, [this](uid_t /*uid*/, upmd::MakeTask task, bool quietly) {
            if (task.pages == 0)
                closed += task.file ? 1U : 0U;
            else
                (quietly ? tasks : hurried).push_back(std::move(task));
        });
    }
    [[nodiscard]] std::string file() const { return dir_.path() + "/file"; }
    void write_file(const Pages &content) { dir_.write("file", {content.data(), content.size()}); }

    [[nodiscard]] store::LateRequest request(std::uint32_t skew = 0) const {
        store::LateRequest request{};
        request.likeness = 7;
        request.pages = pages_;
        request.skew = skew;
        return request;
    }
    // Tells that it was late. Post: nobody has answered.
    int tell(Id id, const store::LateRequest &request) {
        upmd::Brought brought;
        brought.fd = upmd::Descriptor(::open(file().c_str(), O_RDONLY | O_CLOEXEC));
        return say(id, store::Op::kLate, request, {}, std::move(brought));
    }
    void tell(Id id) { EXPECT_EQ(tell(id, request()), 1); }
    // Does one task, as a thread would. False: there is none.
    bool work_once() {
        if (tasks.empty())
            return false;
        upmd::MakeTask task = std::move(tasks.front());
        tasks.erase(tasks.begin());
        broker().made_late(upmd::make_segment(task), now_);
        EXPECT_TRUE(broker().consistent());
        return true;
    }
    void work() {
        while (work_once())
            ;
    }
    // Asks as a load would: for a sample of a window.
    bool finds(Id id, std::uint64_t page, std::uint64_t pages) {
        const upmd::Descriptor fd(::open(file().c_str(), O_RDONLY | O_CLOEXEC));
        store::Sample sample;
        std::vector<std::byte> room(store::Sample::kRoom);
        EXPECT_TRUE(sample.take(fd.get(), page * page_size(), pages * page_size(), room.data(),
                                domain_seeds.at(id)));
        store::LookupRequest request{};
        request.flags = store::kCandidates;
        const Hashes hashes(sample.hashes().begin(), sample.hashes().end());
        request.count = static_cast<std::uint32_t>(hashes.size());
        EXPECT_EQ(say(id, store::Op::kLookup, request, hashes), 0);
        const store::Sample::Candidate best = sample.choose(places(id), store::kUnknown);
        return sample.convinces(best, store::kMaxPages);
    }
    Id late_process(uid_t uid, std::uint64_t process) {
        const Id id = join_as(uid, process);
        domain_seeds[id] = head<store::HelloReply>(id).seed;
        return id;
    }
    // Two processes that live were late with it.
    void both_tell() {
        first = late_process(1000, 1);
        second = late_process(1000, 2);
        tell(first);
        EXPECT_TRUE(tasks.empty()) << "nobody else wants it yet";
        EXPECT_EQ(closed, 1U);
        tell(second);
        EXPECT_EQ(tasks.size(), 1U);
    }

    std::vector<upmd::MakeTask> tasks;
    std::vector<upmd::MakeTask> hurried;
    std::size_t closed = 0; // files that were only to be closed
    Id first = 0;
    Id second = 0;
    std::uint64_t pages_ = kPages;
    std::map<Id, std::uint64_t> domain_seeds;

  private:
    TempDir dir_;
};

TEST_F(UpmdLate, IsMadeOnceASecondProcessWantsIt) {
    both_tell();
    work();
    EXPECT_EQ(pages("content_bytes"), kPages);
    EXPECT_EQ(pages("made_late_bytes_total"), kPages);
    EXPECT_EQ(value("late_files"), 0U);
    EXPECT_EQ(closed, 2U) << "the file is closed, by a thread";
    const Id third = late_process(1000, 3);
    EXPECT_TRUE(finds(third, 0, kPages));
    leave(first);
    EXPECT_TRUE(finds(third, 0, kPages)) << "the one lives that brought the file";
    leave(second);
    EXPECT_EQ(value("segments"), 0U) << "nobody maps it, and nobody who lives asked for it";
    EXPECT_FALSE(finds(third, 0, kPages));
}

TEST_F(UpmdLate, OneProcessAloneHasNothingMade) {
    const Id id = late_process(1000, 1);
    tell(id);
    tell(id);
    tell(late_process(1000, 1)); // another connection of it
    EXPECT_TRUE(tasks.empty());
    EXPECT_EQ(closed, 3U);
    leave(id);
    tell(late_process(1000, 2));
    EXPECT_EQ(tasks.size(), 1U) << "a connection of the first one is there";
    work();
}

TEST_F(UpmdLate, WhoWantedItMustLive) {
    const Id gone = late_process(1000, 1);
    tell(gone);
    leave(gone);
    tell(late_process(1000, 2));
    EXPECT_TRUE(tasks.empty());
}

TEST_F(UpmdLate, ClientMayKnowThatOthersWantIt) {
    store::LateRequest known = request();
    known.flags = store::kOthersWant;
    EXPECT_EQ(tell(late_process(1000, 1), known), 1);
    work();
    EXPECT_EQ(pages("content_bytes"), kPages);
}

// Windows end where huge pages may begin in the program's memory.
TEST_F(UpmdLate, WindowsAreLaidOutAsTheMemoryIs) {
    constexpr std::uint32_t kSkew = kHuge - 20;
    first = late_process(1000, 1);
    second = late_process(1000, 2);
    EXPECT_EQ(tell(first, request(kSkew)), 1);
    EXPECT_EQ(tell(second, request(kSkew)), 1);
    std::vector<std::pair<std::uint64_t, std::uint32_t>> windows;
    while (!tasks.empty()) {
        if (!tasks.front().look) {
            windows.emplace_back(tasks.front().offset / page_size(), tasks.front().pages);
            EXPECT_EQ(tasks.front().aligned, windows.size() == 2);
        }
        work_once();
    }
    const decltype(windows) expected = {{0, 20}, {20, kPages - 20}};
    EXPECT_EQ(windows, expected);
}

// What is known of it is not made again; but it is kept, too.
TEST_F(UpmdLate, WhatIsKnownIsKept) {
    first = late_process(1000, 1);
    second = late_process(1000, 2);
    upmd::Brought brought;
    brought.fd = upmd::Descriptor(::open(file().c_str(), O_RDONLY | O_CLOEXEC));
    store::MakeRequest make{};
    make.likeness = 99;
    make.pages = kPages;
    EXPECT_EQ(say(first, store::Op::kMake, make, {}, std::move(brought)), 1);
    ASSERT_EQ(hurried.size(), 1U);
    broker().made(upmd::make_segment(hurried.front()), now_);
    ASSERT_EQ(error(first), 0);
    tell(first);
    tell(second);
    work();
    EXPECT_EQ(pages("made_late_bytes_total"), 0U);
    EXPECT_EQ(pages("content_bytes"), kPages);
    leave(first);
    EXPECT_TRUE(finds(second, 0, kPages));
    leave(second);
    EXPECT_TRUE(broker().idle());
}

// A client gives up on what it asked for when it is late; what a thread makes just then is
// part of what is to be made.
TEST_F(UpmdLate, WhatIsBeingMadeIsKept) {
    first = late_process(1000, 1);
    second = late_process(1000, 2);
    const Id waits = late_process(1000, 2);
    upmd::Brought brought;
    brought.fd = upmd::Descriptor(::open(file().c_str(), O_RDONLY | O_CLOEXEC));
    store::MakeRequest make{};
    make.likeness = 99;
    make.pages = kPages;
    EXPECT_EQ(say(waits, store::Op::kMake, make, {}, std::move(brought)), 1);
    tell(first);
    tell(second);
    leave(waits);
    broker().made(upmd::make_segment(hurried.front()), now_);
    EXPECT_EQ(pages("content_bytes"), kPages);
    work();
    EXPECT_EQ(pages("made_late_bytes_total"), 0U);
    EXPECT_TRUE(finds(first, 0, kPages));
}

TEST_F(UpmdLate, ProcessThatEndsMeanwhile) {
    both_tell();
    ASSERT_TRUE(work_once()) << "a look";
    ASSERT_EQ(tasks.size(), 1U);
    leave(second);
    EXPECT_TRUE(broker().consistent());
    EXPECT_EQ(closed, 1U) << "a thread has the file";
    work();
    EXPECT_EQ(closed, 2U);
    EXPECT_EQ(value("segments"), 0U);
    EXPECT_EQ(pages("content_bytes"), 0U);
    leave(first);
    EXPECT_TRUE(broker().idle());
}

// Until a second process uses it, what is made counts as made for one alone.
TEST_F(UpmdLate, NotWithoutBoundForWhomNobodyFollows) {
    upmd::Limits limits = roomy();
    limits.alone_pages = kPages;
    begin_with(limits);
    both_tell();
    work();
    EXPECT_EQ(pages("made_late_bytes_total"), kPages);
    store::LateRequest next = request();
    next.likeness = 8;
    next.offset = 16 * page_size(); // laid out otherwise
    next.pages = kHuge;
    next.flags = store::kOthersWant;
    const Pages other(kPages);
    fill_pattern(other, 2);
    write_file(other);
    EXPECT_EQ(tell(second, next), 1);
    work();
    EXPECT_EQ(pages("made_late_bytes_total"), kPages) << "there is no room for more";
    EXPECT_EQ(closed, 3U);
    fill_pattern(other, 1);
    write_file(other);
    const Id third = late_process(1000, 3);
    ASSERT_TRUE(finds(third, 0, kPages));
    ASSERT_EQ(get(third, places(third).at(0).segment), 0) << "it uses it";
    fill_pattern(other, 2);
    write_file(other);
    EXPECT_EQ(tell(second, next), 1);
    work();
    EXPECT_EQ(pages("made_late_bytes_total"), kPages + kHuge);
}

TEST_F(UpmdLate, QuotaIsALimit) {
    upmd::Limits limits = roomy();
    limits.client_pages = kPages - 1;
    begin_with(limits);
    both_tell();
    work();
    EXPECT_EQ(value("segments"), 0U);
    EXPECT_EQ(closed, 2U);
}

TEST_F(UpmdLate, FilesOfOneUserAreBounded) {
    upmd::Limits limits = roomy();
    limits.user_late = 2;
    limits.late = 3;
    begin_with(limits);
    store::LateRequest wanted = request();
    wanted.flags = store::kOthersWant;
    const Id id = late_process(1, 1);
    for (std::uint64_t likeness = 1; likeness <= 4; ++likeness) {
        wanted.likeness = likeness;
        EXPECT_EQ(tell(id, wanted), 1);
        EXPECT_EQ(tell(id, wanted), 1) << "the same once more";
    }
    EXPECT_EQ(value("late_files"), 2U);
    EXPECT_EQ(closed, 6U);
    // Whoever ends has its files closed by the threads that have them, and not before.
    leave(id);
    EXPECT_EQ(tell(late_process(1, 2), wanted), 1);
    EXPECT_EQ(value("late_files"), 2U);
    EXPECT_EQ(tell(late_process(2, 3), wanted), 1) << "another user has its own room";
    EXPECT_EQ(tell(late_process(3, 4), wanted), 1);
    EXPECT_EQ(value("late_files"), 3U) << "all users together";
    work();
    EXPECT_EQ(value("late_files"), 0U);
}

// A file that is kept open keeps its file system mounted.
TEST_F(UpmdLate, NoFileIsKeptForLong) {
    upmd::Limits limits = roomy();
    limits.late_ms = 1'000;
    begin_with(limits);
    pages_ = kHuge;
    both_tell();
    pass(2'000);
    work();
    EXPECT_EQ(value("late_files"), 0U);
    EXPECT_EQ(closed, 2U);
}

TEST_F(UpmdLate, FileThatBecameShorter) {
    pages_ = store::kMaxLatePages;
    both_tell();
    std::size_t steps = 0;
    while (work_once())
        ++steps;
    EXPECT_LE(steps, 2U);
    EXPECT_EQ(value("segments"), 0U);
    EXPECT_EQ(value("late_files"), 0U);
}

// Another user does not have it kept at the expense of who pays for it.
TEST_F(UpmdLate, OthersArePaidForByThemselves) {
    both_tell();
    work();
    store::LateRequest wanted = request();
    wanted.flags = store::kOthersWant;
    const Id stranger = late_process(2000, 3);
    EXPECT_EQ(tell(stranger, wanted), 1);
    work();
    leave(first);
    leave(second);
    EXPECT_EQ(value("segments"), 0U);
    leave(stranger);
    EXPECT_TRUE(broker().idle());
}

// Each process that was late with it keeps it.
TEST_F(UpmdLate, TheLastOneEndsIt) {
    both_tell();
    work();
    const Id third = late_process(1000, 3);
    tell(third);
    work();
    EXPECT_EQ(pages("made_late_bytes_total"), kPages) << "it is there already";
    leave(second);
    EXPECT_TRUE(finds(third, 0, kPages));
    leave(third);
    EXPECT_EQ(value("segments"), 0U);
}

TEST_F(UpmdLate, WhatIsAskedForIsBounded) {
    upmd::Limits limits = roomy();
    limits.client_wanted = 2;
    limits.user_wanted = 3;
    begin_with(limits);
    first = late_process(1, 1);
    store::LateRequest each = request();
    for (each.likeness = 1; each.likeness <= 3; ++each.likeness)
        EXPECT_EQ(tell(first, each), 1);
    second = late_process(1, 2);
    each.likeness = 1;
    EXPECT_EQ(tell(second, each), 1);
    EXPECT_TRUE(tasks.empty()) << "the oldest one is forgotten, and remembered here now";
    each.likeness = 3;
    EXPECT_EQ(tell(second, each), 1);
    EXPECT_EQ(tasks.size(), 1U);
    work();
    leave(first);
    leave(second);
    EXPECT_TRUE(broker().idle());
}

TEST_F(UpmdLate, WhileMemoryIsPlentyNothingIsMade) {
    broker().set_plenty(true);
    first = late_process(1000, 1);
    second = late_process(1000, 2);
    tell(first);
    tell(second);
    EXPECT_TRUE(tasks.empty());
    EXPECT_EQ(closed, 2U);
}

TEST_F(UpmdLate, RequestsThatAreNone) {
    store::LateRequest bad = request();
    bad.pages = 0;
    EXPECT_EQ(tell(late_process(1000, 1), bad), -1);
    bad.pages = store::kMaxLatePages + 1;
    EXPECT_EQ(tell(late_process(1000, 1), bad), -1);
    bad = request(kHuge);
    EXPECT_EQ(tell(late_process(1000, 1), bad), -1);
    bad = request();
    bad.flags = 2;
    EXPECT_EQ(tell(late_process(1000, 1), bad), -1);
    bad = request();
    bad.offset = UINT64_MAX - 5;
    EXPECT_EQ(tell(late_process(1000, 1), bad), -1);
    EXPECT_EQ(closed, 5U);
    const Id id = late_process(1000, 1);
    EXPECT_EQ(say(id, store::Op::kLate, request()), 1) << "its file was lost on the way";
    EXPECT_EQ(lookup(id, hashes_from(1, 3)), 0) << "and the client goes on";
    const Id old = connect(1000, 7);
    store::HelloRequest hello{};
    hello.page_size = static_cast<std::uint32_t>(page_size());
    hello.newest = 5;
    ASSERT_EQ(say(old, store::Op::kHello, hello, {}, {}, 5), 0);
    EXPECT_EQ(say(old, store::Op::kLate, request(), {}, {}, 5), -1) << "since version 6";
}

} // namespace

} // namespace upm::test
