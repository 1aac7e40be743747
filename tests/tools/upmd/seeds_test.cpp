// SPDX-License-Identifier: MIT
//
// Seeds: what they keep and for how long, who pays, and what others are told.
#include "tests/tools/upmd/played_broker.hpp"
#include "tools/upmd/maker.hpp"

#include <cerrno>
#include <fcntl.h>
#include <string>
#include <unistd.h>

namespace upm::test {

namespace {

class UpmdSeeds : public PlayedBroker {
  protected:
    static upmd::Limits with_seeds() {
        upmd::Limits limits = roomy();
        limits.seed_pages = 1000;
        limits.all_seed_pages = 1500;
        return limits;
    }
    void SetUp() override { begin(with_seeds()); }

    // Each is answered at once; returns the answer's error.
    int ask(Id id, store::SeedAct act, std::uint64_t number = 0, std::uint64_t budget = 0,
            std::uint32_t expire_s = 0, const std::string &label = "of a test") {
        store::SeedRequest request{};
        request.act = static_cast<std::uint32_t>(act);
        request.number = number;
        request.budget = budget;
        request.expire_s = expire_s;
        (void)label.copy(request.label, sizeof(request.label) - 1);
        return say(id, store::Op::kSeed, request);
    }
    std::uint64_t begin_seed(Id id, std::uint64_t budget = 0, std::uint32_t expire_s = 0) {
        EXPECT_EQ(ask(id, store::SeedAct::kBegin, 0, budget, expire_s), 0);
        token_ = head<store::SeedReply>(id);
        return token_.number;
    }
    // A further client of the last seed.
    Id join_seed(uid_t uid, const std::string &domain = "d") {
        const Id id = connect(uid, ++process_, domain);
        store::HelloRequest hello{};
        hello.page_size = static_cast<std::uint32_t>(page_size());
        std::memcpy(hello.token, token_.token, sizeof(hello.token));
        EXPECT_EQ(say(id, store::Op::kHello, hello), 0);
        return id;
    }
    std::vector<store::SeedEntry> entries(Id id) {
        std::vector<store::SeedEntry> all(head<store::SeedReply>(id).count);
        EXPECT_EQ(answers_[id].size(),
                  sizeof(store::SeedReply) + all.size() * sizeof(store::SeedEntry));
        if (!all.empty())
            std::memcpy(all.data(), answers_[id].data() + sizeof(store::SeedReply),
                        all.size() * sizeof(store::SeedEntry));
        return all;
    }
    std::vector<store::SeedEntry> listed(Id id) {
        EXPECT_EQ(ask(id, store::SeedAct::kList), 0);
        return entries(id);
    }
    int drop(Id id, std::uint64_t number = 0) { return ask(id, store::SeedAct::kDrop, number); }

  private:
    store::SeedReply token_{};
    std::uint64_t process_ = 5000;
};

TEST_F(UpmdSeeds, ContentStaysUntilItIsDropped) {
    const Id keeper = join(1);
    const std::uint64_t seed = begin_seed(keeper);
    const Id program = join_seed(1);
    ASSERT_EQ(publish(program, hashes_from(1, 10)), 0);
    leave(program);
    EXPECT_EQ(ask(keeper, store::SeedAct::kEnd, seed), 0);
    ASSERT_EQ(entries(keeper).size(), 1U);
    EXPECT_EQ(entries(keeper)[0].pages, 10U);
    leave(keeper);
    EXPECT_EQ(pages("content_bytes"), 10U);
    EXPECT_EQ(pages("seeded_bytes"), 10U);
    EXPECT_FALSE(broker().idle()) << "a broker that keeps something does not end";
    const Id first = join(1);
    EXPECT_TRUE(knows(first, 5));
    EXPECT_EQ(get(first, places(first)[0].segment), 0);
    leave(first);
    EXPECT_EQ(pages("content_bytes"), 10U);
    const Id last = join(1);
    EXPECT_EQ(drop(last, seed), 0);
    EXPECT_EQ(head<store::SeedReply>(last).dropped, 10U);
    EXPECT_EQ(pages("content_bytes"), 0U);
    EXPECT_EQ(pages("seeded_bytes"), 0U);
}

// What was there before is kept as well, if a client of the seed comes to use it.
TEST_F(UpmdSeeds, KnownContentIsKept) {
    const Id other = join(1);
    ASSERT_EQ(publish(other, hashes_from(1, 4)), 0);
    ASSERT_EQ(publish(other, hashes_from(50, 4)), 0);
    const Id keeper = join(1);
    (void)begin_seed(keeper);
    EXPECT_TRUE(knows(keeper, 1));
    EXPECT_EQ(get(keeper, places(keeper)[0].segment), 0);
    leave(other);
    EXPECT_EQ(pages("content_bytes"), 4U) << "what it did not get goes";
    leave(keeper);
    EXPECT_EQ(pages("content_bytes"), 4U);
}

// Whoever was there when it was dropped goes on.
TEST_F(UpmdSeeds, WhatIsUsedOutlivesTheSeed) {
    const Id keeper = join(1);
    const std::uint64_t seed = begin_seed(keeper);
    ASSERT_EQ(publish(keeper, {1}), 0);
    const Id user = join(1);
    ASSERT_TRUE(knows(user, 1));
    ASSERT_EQ(get(user, places(user)[0].segment), 0);
    leave(keeper);
    EXPECT_EQ(drop(user, seed), 0);
    EXPECT_EQ(pages("content_bytes"), 1U);
    leave(user);
    EXPECT_EQ(pages("content_bytes"), 0U);
}

// Of another user, who pays from then on.
TEST_F(UpmdSeeds, WhatOthersUseIsPaidForByThem) {
    upmd::Limits limits = roomy();
    limits.quota_pages = limits.client_pages = 10;
    limits.seed_pages = limits.all_seed_pages = 10;
    begin(limits);
    const Id keeper = join(1);
    const std::uint64_t seed = begin_seed(keeper);
    ASSERT_EQ(publish(keeper, hashes_from(1, 10)), 0);
    const Id user = join(2);
    ASSERT_TRUE(knows(user, 1));
    ASSERT_EQ(get(user, places(user)[0].segment), 0);
    const Id dropper = join(1);
    leave(keeper);
    EXPECT_EQ(publish(dropper, {20}), -EDQUOT);
    EXPECT_EQ(drop(dropper, seed), 0);
    EXPECT_EQ(publish(dropper, {21}), 0);
    EXPECT_EQ(publish(user, {22}), -EDQUOT);
}

TEST_F(UpmdSeeds, BudgetIsALimit) {
    const Id keeper = join(1);
    const std::uint64_t seed = begin_seed(keeper, 10);
    ASSERT_EQ(publish(keeper, hashes_from(1, 8)), 0);
    ASSERT_EQ(publish(keeper, hashes_from(20, 3)), 0);
    ASSERT_EQ(get(keeper, published(keeper)), 0);
    const store::SeedEntry entry = listed(keeper).at(0);
    EXPECT_EQ(entry.pages, 8U);
    EXPECT_EQ(entry.missed, 3U) << "once, however often it is got";
    EXPECT_EQ(entry.number, seed);
    EXPECT_EQ(entry.open, 1U);
    leave(keeper);
    EXPECT_EQ(pages("content_bytes"), 8U);
}

// One user keeps no more than its share, by however many seeds, nor do all users together.
TEST_F(UpmdSeeds, SharesAreLimits) {
    for (const std::uint64_t first : {1000U, 3000U}) {
        const Id keeper = join(1);
        (void)begin_seed(keeper, 600);
        ASSERT_EQ(publish(keeper, hashes_from(first, 500)), 0);
        leave(keeper);
    }
    EXPECT_EQ(ask(join(1), store::SeedAct::kBegin), -EDQUOT) << "all of it is in use";
    EXPECT_EQ(pages("seeded_bytes"), 1000U);
    const Id other = join(2);
    (void)begin_seed(other);
    ASSERT_EQ(publish(other, hashes_from(1, 501)), 0);
    ASSERT_EQ(publish(other, hashes_from(9000, 500)), 0);
    EXPECT_EQ(listed(other).back().missed, 501U) << "of both users";
    EXPECT_EQ(pages("seeded_bytes"), 1500U);
    leave(other);
    EXPECT_EQ(pages("content_bytes"), 1500U);
}

TEST_F(UpmdSeeds, FewOfOneUser) {
    upmd::Limits limits = with_seeds();
    limits.user_seeds = 2;
    begin(limits);
    const Id keeper = join(1);
    const std::uint64_t first = begin_seed(keeper);
    (void)begin_seed(keeper);
    EXPECT_EQ(ask(keeper, store::SeedAct::kBegin), -EDQUOT);
    (void)begin_seed(join(2));
    EXPECT_EQ(drop(keeper, first), 0);
    (void)begin_seed(keeper);
    limits.seed_pages = 0;
    begin(limits);
    EXPECT_EQ(ask(join(1), store::SeedAct::kBegin), -EPERM) << "switched off";
}

// A seed that another user's program would have to pay for pays itself.
TEST_F(UpmdSeeds, TheSeedsUserPays) {
    upmd::Limits limits = with_seeds();
    limits.quota_pages = 20;
    limits.client_pages = 10;
    begin(limits);
    const Id other = join(2);
    ASSERT_EQ(publish(other, hashes_from(1, 10)), 0);
    ASSERT_EQ(publish(other, {99}), -EDQUOT) << "all that it may have";
    const Id keeper = join(1);
    (void)begin_seed(keeper);
    ASSERT_TRUE(knows(keeper, 1));
    ASSERT_EQ(get(keeper, places(keeper)[0].segment), 0);
    EXPECT_EQ(publish(other, {99}), 0) << "the seed pays";
    EXPECT_EQ(publish(keeper, hashes_from(50, 10)), 0);
    EXPECT_EQ(publish(keeper, {77}), -EDQUOT) << "its user has 20 by now";
}

// Two seeds of one content: it stays as long as one of them does, and is paid for once.
TEST_F(UpmdSeeds, TwoOfOneContent) {
    const Id first = join(1);
    const std::uint64_t one = begin_seed(first);
    ASSERT_EQ(publish(first, hashes_from(1, 10)), 0);
    const Id second = join(2);
    const std::uint64_t two = begin_seed(second);
    ASSERT_TRUE(knows(second, 1));
    ASSERT_EQ(get(second, places(second)[0].segment), 0);
    EXPECT_EQ(pages("seeded_bytes"), 10U);
    EXPECT_EQ(drop(first, one), 0);
    leave(first);
    EXPECT_EQ(pages("seeded_bytes"), 10U) << "the other one pays";
    leave(second);
    EXPECT_EQ(pages("content_bytes"), 10U);
    const Id again = join(2);
    EXPECT_EQ(drop(again, two), 0);
    EXPECT_EQ(pages("content_bytes"), 0U);
}

// The one that pays goes, and the other one has no room: it loses the content.
TEST_F(UpmdSeeds, TheNextOneCannotPay) {
    const Id first = join(1);
    const std::uint64_t one = begin_seed(first);
    ASSERT_EQ(publish(first, hashes_from(1, 600)), 0);
    const Id second = join(2);
    const std::uint64_t two = begin_seed(second);
    ASSERT_TRUE(knows(second, 1));
    ASSERT_EQ(get(second, places(second)[0].segment), 0);
    ASSERT_EQ(publish(second, hashes_from(2000, 600)), 0);
    EXPECT_EQ(listed(second).size(), 2U);
    EXPECT_EQ(drop(first, one), 0);
    const store::SeedEntry left = listed(second).at(0);
    EXPECT_EQ(left.number, two);
    EXPECT_EQ(left.pages, 600U);
    EXPECT_EQ(left.missed, 600U);
}

TEST_F(UpmdSeeds, ExpiresAfterItsLastUse) {
    const Id keeper = join(1);
    (void)begin_seed(keeper, 0, 5);
    ASSERT_EQ(publish(keeper, {1}), 0);
    pass(60'000);
    EXPECT_EQ(pages("content_bytes"), 1U) << "it is still open";
    leave(keeper);
    pass(4'000);
    const Id user = join(1);
    ASSERT_TRUE(knows(user, 1));
    pass(70'000);
    EXPECT_EQ(pages("content_bytes"), 0U) << "knowing of it is no use";

    const Id again = join(1);
    (void)begin_seed(again, 0, 5);
    ASSERT_EQ(publish(again, {1}), 0);
    ASSERT_TRUE(knows(user, 1));
    ASSERT_EQ(get(user, places(user)[0].segment), 0);
    leave(again);
    pass(60'000);
    EXPECT_EQ(pages("seeded_bytes"), 1U) << "somebody uses it";
    leave(user);
    pass(4'999);
    EXPECT_EQ(pages("content_bytes"), 1U);
    pass(10'000);
    EXPECT_EQ(pages("content_bytes"), 0U);
    EXPECT_TRUE(broker().idle());
}

// Killed before it has begun anything: it leaves nothing behind.
TEST_F(UpmdSeeds, EmptyOnesEndWithTheirProcess) {
    const Id keeper = join_as(1, 7);
    const Id more = join_as(1, 7);
    const std::uint64_t seed = begin_seed(keeper);
    leave(keeper);
    EXPECT_EQ(listed(more).size(), 1U) << "its process is there";
    const Id program = join_seed(1);
    leave(more);
    EXPECT_TRUE(listed(program).empty());
    ASSERT_EQ(publish(program, {1}), 0);
    EXPECT_EQ(ask(program, store::SeedAct::kEnd, seed), -ENOENT);
    leave(program);
    EXPECT_TRUE(broker().idle());
}

// The one that began it was killed: it keeps what it has, and takes nothing more.
TEST_F(UpmdSeeds, TakesNothingMoreOnceItsProcessEnded) {
    const Id keeper = join(1);
    const std::uint64_t seed = begin_seed(keeper);
    const Id program = join_seed(1);
    ASSERT_EQ(publish(program, {1}), 0);
    leave(keeper);
    ASSERT_EQ(publish(program, {2}), 0);
    EXPECT_EQ(join_seed(1), program + 1) << "its token is of no use any more";
    ASSERT_EQ(publish(program + 1, {3}), 0);
    leave(program);
    leave(program + 1);
    EXPECT_EQ(pages("content_bytes"), 1U);
    const Id later = join(1);
    EXPECT_EQ(listed(later).at(0).open, 0U);
    EXPECT_EQ(drop(later, seed), 0);
}

TEST_F(UpmdSeeds, StrangersLearnAndDoNothing) {
    const Id keeper = join(1);
    const std::uint64_t seed = begin_seed(keeper);
    ASSERT_EQ(publish(keeper, {1}), 0);
    const Id elsewhere = join(1, "another container");
    EXPECT_TRUE(listed(elsewhere).empty());
    EXPECT_EQ(drop(elsewhere, seed), -ENOENT) << "as if it did not exist";
    EXPECT_EQ(ask(elsewhere, store::SeedAct::kEnd, seed), -ENOENT);
    EXPECT_EQ(drop(elsewhere), 0) << "all of its own, which are none";
    const Id other = join(2);
    ASSERT_EQ(listed(other).size(), 1U) << "of one domain";
    EXPECT_STREQ(entries(other)[0].label, "") << "what others run is theirs";
    EXPECT_EQ(drop(other, seed), -EPERM);
    EXPECT_EQ(ask(other, store::SeedAct::kEnd, seed), -EPERM);
    EXPECT_EQ(drop(other), 0);
    EXPECT_EQ(pages("seeded_bytes"), 1U);
    // With the token, too: of another user or domain.
    for (const Id guest : {join_seed(2), join_seed(1, "another container")}) {
        ASSERT_EQ(publish(guest, {50}), 0);
        leave(guest);
    }
    EXPECT_EQ(pages("seeded_bytes"), 1U);
    EXPECT_STREQ(listed(keeper).at(0).label, "of a test");
    EXPECT_STREQ(entries(keeper)[0].domain, "d");
}

// The same user outside of the container, and root there, may end it.
TEST_F(UpmdSeeds, ItsUserAndRootOutside) {
    for (const bool root : {false, true}) {
        const Id keeper = join(1);
        const std::uint64_t seed = begin_seed(keeper);
        ASSERT_EQ(publish(keeper, {1}), 0);
        leave(keeper);
        upmd::Peer peer;
        peer.uid = root ? 0 : 1;
        peer.process = 900;
        peer.domain = peer.label = "outside";
        peer.ours = true;
        peer.sees_all = root;
        const Id outside = broker().connect(std::move(peer));
        store::HelloRequest hello{};
        hello.page_size = static_cast<std::uint32_t>(page_size());
        ASSERT_EQ(say(outside, store::Op::kHello, hello), 0);
        EXPECT_EQ(listed(outside).size(), 1U);
        EXPECT_EQ(drop(outside, seed), 0);
        EXPECT_EQ(pages("content_bytes"), 0U);
        leave(outside);
    }
}

TEST_F(UpmdSeeds, OlderClientsKnowNone) {
    const Id id = connect(1, 77);
    store::HelloRequest hello{};
    hello.page_size = static_cast<std::uint32_t>(page_size());
    hello.newest = 3;
    const std::span<const std::byte> old(reinterpret_cast<const std::byte *>(&hello),
                                         store::kHelloRequestV3);
    EXPECT_EQ(send(id, store::Op::kHello, old, {}, {}, 3), 0);
    EXPECT_EQ(head<store::HelloReply>(id).version, 3);
    store::SeedRequest request{};
    request.act = static_cast<std::uint32_t>(store::SeedAct::kList);
    EXPECT_EQ(say(id, store::Op::kSeed, request, {}, {}, 3), -1);
}

TEST_F(UpmdSeeds, RequestsThatAreNone) {
    store::SeedRequest request{};
    EXPECT_EQ(say(join(1), store::Op::kSeed, request), -1);
    request.act = 99;
    EXPECT_EQ(say(join(1), store::Op::kSeed, request), -1);
    EXPECT_EQ(say(join(1), store::Op::kSeed, store::Header{}), -1);
    request.act = static_cast<std::uint32_t>(store::SeedAct::kBegin);
    std::memset(request.label, 'x', sizeof(request.label)); // it has no end
    request.budget = ~std::uint64_t{0};
    request.expire_s = ~0U;
    const Id id = join(1);
    EXPECT_EQ(say(id, store::Op::kSeed, request), 0);
    ASSERT_EQ(publish(id, {1}), 0);
    EXPECT_EQ(std::string(listed(id).at(0).label).size(), store::kSeedLabel - 1);
    EXPECT_EQ(entries(id)[0].pages, 1U);
}

// More than a packet tells of.
TEST_F(UpmdSeeds, Many) {
    upmd::Limits limits = with_seeds();
    limits.user_seeds = 1000;
    begin(limits);
    const Id id = join(1);
    for (std::uint32_t i = 0; i < store::kMaxSeedsListed + 7; ++i)
        (void)begin_seed(id);
    EXPECT_EQ(listed(id).size(), store::kMaxSeedsListed);
    EXPECT_EQ(head<store::SeedReply>(id).more, 7U);
    EXPECT_EQ(drop(id), 0);
    EXPECT_TRUE(listed(id).empty());
}

TEST_F(UpmdSeeds, TrimmingIsSummedUp) {
    const Id id = join(1);
    report(id, store::kTrimmed, 7);
    report(id, store::kTrimmed, -100);
    report(id, store::kTrimmed, 3);
    EXPECT_EQ(pages("domain_trimmed_bytes{domain=\"d\"}"), 10U);
}

} // namespace

} // namespace upm::test
