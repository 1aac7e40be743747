// SPDX-License-Identifier: MIT
//
// How long the broker keeps what, and for whom: content that nobody maps goes, and no
// user or process takes what others need.
#include "tests/tools/upmd/played_broker.hpp"

#include <cerrno>

namespace upm::test {

namespace {

class UpmdLifetime : public PlayedBroker {
  protected:
    // Plays the look that is due now.
    void look(const std::unordered_map<std::uint64_t, std::uint64_t> &pages, bool complete = true,
              bool readable = true) {
        const std::vector<std::uint64_t> due = broker().usage().take_due(now_);
        ASSERT_EQ(due.size(), 1U);
        upmd::Look look;
        look.pages = pages;
        look.complete = complete;
        look.readable = readable;
        broker().usage().seen(due[0], look, now_, now_);
    }
    // Plays the looks at a process and at its child, the process 2, which has content of its
    // own beside what it inherited.
    void inherit(Id child, std::uint64_t inherited) {
        std::uint64_t own = 0;
        ASSERT_EQ(publish(child, {9}, &own), 0);
        pass(1'000);
        for (const std::uint64_t process : broker().usage().take_due(now_)) {
            upmd::Look look;
            look.readable = look.complete = true;
            look.pages = {{inherited, 1}};
            if (process == 2)
                look.pages[own] = 1;
            broker().usage().seen(process, look, now_, now_);
        }
    }
};

TEST_F(UpmdLifetime, WhatIsUnmappedGoesAtOnce) {
    const Id client = join(0);
    ASSERT_EQ(publish(client, hashes_from(1, 10)), 0);
    const std::uint32_t segment = published(client);
    report(client, segment, 10);
    report(client, segment, -9);
    EXPECT_EQ(pages("content_bytes"), 10U) << "one page is mapped still";
    report(client, segment, -1);
    EXPECT_EQ(pages("content_bytes"), 0U);
    EXPECT_FALSE(knows(client, 1));
}

TEST_F(UpmdLifetime, WhatOneProcessUsedGoesWithIt) {
    upmd::Limits limits = roomy();
    limits.expire_ms = 5'000;
    begin(limits);
    const Id client = join_as(0, 1);
    const Id again = join_as(0, 1); // another connection of the same process
    ASSERT_EQ(publish(client, {1}), 0);
    ASSERT_EQ(lookup(again, {1}), 0);
    ASSERT_EQ(get(again, places(again)[0].segment), 0);
    leave(client);
    EXPECT_EQ(pages("content_bytes"), 1U);
    leave(again);
    EXPECT_EQ(pages("content_bytes"), 0U) << "not kept, although --expire is set";
}

TEST_F(UpmdLifetime, WhatSeveralUsedIsKeptIfWanted) {
    for (const std::uint64_t expire : {std::uint64_t{0}, std::uint64_t{5'000}}) {
        upmd::Limits limits = roomy();
        limits.expire_ms = expire;
        begin(limits);
        const Id client = join(0);
        const Id other = join(0);
        ASSERT_EQ(publish(client, {1}), 0);
        ASSERT_EQ(lookup(other, {1}), 0);
        ASSERT_EQ(get(other, places(other)[0].segment), 0);
        leave(client);
        EXPECT_EQ(pages("content_bytes"), 1U);
        leave(other);
        EXPECT_EQ(pages("content_bytes"), expire != 0 ? 1U : 0U);
        pass(4'999);
        EXPECT_EQ(pages("content_bytes"), expire != 0 ? 1U : 0U);
        pass(1);
        EXPECT_EQ(pages("content_bytes"), 0U);
        EXPECT_TRUE(broker().idle());
    }
}

// Of a process that does not report: a look at its mappings shows it.
TEST_F(UpmdLifetime, ALookFindsWhatIsUnmapped) {
    const Id client = join(0);
    std::uint64_t kept = 0;
    ASSERT_EQ(publish(client, hashes_from(1, 4), &kept), 0);
    ASSERT_EQ(publish(client, hashes_from(10, 4)), 0);
    EXPECT_TRUE(broker().usage().take_due(now_).empty()) << "it may not be mapped yet";
    pass(1'000);
    look({{kept, 4}});
    EXPECT_EQ(pages("content_bytes"), 4U);
    EXPECT_EQ(pages("domain_mapped_bytes{domain=\"d\"}"), 4U);
    EXPECT_TRUE(knows(client, 1));
    EXPECT_FALSE(knows(client, 10));
}

TEST_F(UpmdLifetime, ALookJudgesOnlyWhatItCanSee) {
    const Id client = join(0);
    ASSERT_EQ(publish(client, {1}), 0);
    pass(1'000);
    look({}, false);
    EXPECT_EQ(pages("content_bytes"), 1U) << "there are more mappings than were looked at";
    pass(10'000);
    look({}, true, false);
    EXPECT_EQ(pages("content_bytes"), 1U) << "the mappings could not be read";
    pass(60'000);
    const std::vector<std::uint64_t> due = broker().usage().take_due(now_);
    ASSERT_EQ(due.size(), 1U);
    ASSERT_EQ(publish(client, {2}), 0);
    upmd::Look nothing;
    nothing.readable = nothing.complete = true;
    broker().usage().seen(due[0], nothing, now_, now_ + 5);
    EXPECT_FALSE(knows(client, 1));
    EXPECT_TRUE(knows(client, 2)) << "it came while the look was under way";
}

// A look that never ends does not come again, and stops nothing else.
TEST_F(UpmdLifetime, ALookThatHangsIsOne) {
    const Id stuck = join(0);
    ASSERT_EQ(publish(stuck, {1}), 0);
    pass(1'000);
    EXPECT_EQ(broker().usage().take_due(now_).size(), 1U);
    const Id other = join(0);
    ASSERT_EQ(publish(other, {2}), 0);
    pass(100'000);
    const std::vector<std::uint64_t> due = broker().usage().take_due(now_);
    ASSERT_EQ(due.size(), 1U) << "the other one's";
    broker().usage().seen(due[0], {}, now_, now_); // it could not be read
    report(stuck, store::kUnknown, -1);            // wants one more
    pass(1'000'000);
    EXPECT_EQ(broker().usage().take_due(now_), due) << "threads would hang one by one";
    leave(stuck);
    EXPECT_EQ(pages("content_bytes"), 1U);
}

// A child maps what its parent got, and keeps it when the parent ends.
TEST_F(UpmdLifetime, AChildKeepsWhatItInherited) {
    const Id parent = join_as(0, 1);
    std::uint64_t inode = 0;
    ASSERT_EQ(publish(parent, {1}, &inode), 0);
    const Id child = join_as(0, 2);
    inherit(child, inode);
    leave(parent);
    EXPECT_TRUE(knows(child, 1));
    leave(child);
    EXPECT_TRUE(broker().idle());
}

// In a domain of its own nothing is its own that it inherited from another one.
TEST_F(UpmdLifetime, AChildInAnotherDomainInheritsNothing) {
    const Id parent = join_as(0, 1, "one");
    std::uint64_t inode = 0;
    ASSERT_EQ(publish(parent, {1}, &inode), 0);
    const Id child = join_as(0, 2, "two");
    inherit(child, inode);
    leave(parent);
    EXPECT_EQ(pages("content_bytes"), 1U);
    EXPECT_TRUE(knows(child, 9));
}

TEST_F(UpmdLifetime, ConnectionsOfOneProcessMapTheSame) {
    const Id client = join_as(0, 1);
    const Id again = join_as(0, 1);
    std::uint64_t inode = 0;
    ASSERT_EQ(publish(client, hashes_from(1, 4), &inode), 0);
    ASSERT_EQ(lookup(again, {1}), 0);
    ASSERT_EQ(get(again, places(again)[0].segment), 0);
    pass(1'000);
    look({{inode, 4}});
    EXPECT_EQ(pages("domain_mapped_bytes{domain=\"d\"}"), 4U) << "once";
}

// A process that asks for a segment anew is about to map it.
TEST_F(UpmdLifetime, ALookDoesNotJudgeWhatWasAskedForAgain) {
    const Id client = join(0);
    ASSERT_EQ(publish(client, {1}), 0);
    const std::uint32_t number = published(client);
    pass(1'000);
    ASSERT_EQ(get(client, number), 0);
    look({});
    EXPECT_TRUE(knows(client, 1));
    pass(10'000);
    look({});
    EXPECT_FALSE(knows(client, 1)) << "it did not";
}

TEST_F(UpmdLifetime, UnmappingAsksForALook) {
    const Id client = join(0);
    std::uint64_t inode = 0;
    ASSERT_EQ(publish(client, {1}, &inode), 0);
    pass(1'000);
    look({{inode, 1}});
    report(client, store::kUnknown, -1);
    pass(1'000);
    look({});
    EXPECT_EQ(pages("content_bytes"), 0U);
}

// Exactly as much as the quota has, of a process, a user and all.
TEST_F(UpmdLifetime, QuotasAtTheirBounds) {
    upmd::Limits limits = roomy();
    limits.max_pages = 40;
    limits.quota_pages = 20;
    limits.client_pages = 10;
    begin(limits);
    const Id first = join_as(1, 1);
    EXPECT_EQ(publish(first, hashes_from(1, 11)), -EDQUOT);
    EXPECT_EQ(publish(first, hashes_from(1, 10)), 0);
    EXPECT_EQ(publish(join_as(1, 1), {11}), -EDQUOT) << "another connection, the same process";
    EXPECT_EQ(publish(join_as(1, 2), hashes_from(20, 10)), 0);
    EXPECT_EQ(publish(join_as(1, 3), {40}), -EDQUOT) << "the user has all of its own";
    EXPECT_EQ(publish(join_as(2, 4), hashes_from(50, 10)), 0) << "another one has not";
    EXPECT_EQ(publish(join_as(2, 5), hashes_from(60, 10)), 0);
    EXPECT_EQ(publish(join_as(3, 6), {70}), -EDQUOT) << "nothing is left of the whole";
    leave(first);
}

// In a domain of several users: who holds on to content pays for it, not who had it first.
TEST_F(UpmdLifetime, WhoHoldsOnPays) {
    upmd::Limits limits = roomy();
    limits.quota_pages = limits.client_pages = 10;
    begin(limits);
    const Id first = join(1);
    const Id again = join(1);
    const Id poor = join(2);
    const Id other = join(3);
    ASSERT_EQ(publish(first, hashes_from(1, 10)), 0);
    ASSERT_EQ(publish(poor, {50}), 0);
    for (const Id id : {again, poor, other}) {
        ASSERT_TRUE(knows(id, 1));
        ASSERT_EQ(get(id, places(id)[0].segment), 0);
    }
    leave(first);
    EXPECT_EQ(publish(again, {60}), -EDQUOT) << "a process of the first one's user has it";
    leave(again);
    EXPECT_EQ(publish(other, {61}), -EDQUOT) << "the one who has room for it pays";
    const Id fresh = join(1);
    EXPECT_EQ(publish(fresh, hashes_from(100, 10)), 0);
    EXPECT_TRUE(knows(fresh, 1));
    ASSERT_EQ(get(fresh, places(fresh)[0].segment), 0);
    leave(other);
    EXPECT_EQ(publish(join(3), {62}), -EDQUOT) << "nobody else has room";
    leave(fresh);
    leave(poor);
    EXPECT_EQ(pages("content_bytes"), 0U);
}

// The same for what nobody used any more, and was kept.
TEST_F(UpmdLifetime, WhoTakesUpWhatWasKeptPays) {
    upmd::Limits limits = roomy();
    limits.expire_ms = 5'000;
    limits.quota_pages = limits.client_pages = 10;
    begin(limits);
    const Id first = join(1);
    const Id second = join(1);
    const Id member = join(2);
    ASSERT_EQ(publish(first, hashes_from(1, 10)), 0);
    ASSERT_TRUE(knows(second, 1));
    ASSERT_EQ(get(second, places(second)[0].segment), 0);
    leave(first);
    leave(second);
    EXPECT_EQ(publish(join(1), {20}), -EDQUOT);
    ASSERT_TRUE(knows(member, 1));
    ASSERT_EQ(get(member, places(member)[0].segment), 0);
    EXPECT_EQ(publish(join(1), {21}), 0);
    EXPECT_EQ(publish(member, {22}), -EDQUOT);
}

// One user publishes pages one by one (case 07_dos_segments.py).
TEST_F(UpmdLifetime, OneUserLeavesSegmentsForOthers) {
    upmd::Limits limits = roomy();
    limits.max_segments = 8;
    limits.user_segments = 2;
    begin(limits);
    const Id attacker = join(1);
    EXPECT_EQ(publish(attacker, {1}), 0);
    EXPECT_EQ(publish(attacker, {2}), 0);
    EXPECT_EQ(publish(attacker, {3}), -EDQUOT);
    EXPECT_EQ(publish(join(2), {4}), 0);
}

// One user reserves and never publishes (case 08_dos_reserve.py).
TEST_F(UpmdLifetime, OneUserLeavesRoomForOthers) {
    upmd::Limits limits = roomy();
    limits.max_pages = 16'384;
    limits.quota_pages = limits.client_pages = 4'096;
    begin(limits);
    std::size_t reserved = 0;
    for (std::uint64_t i = 0; i < 10; ++i) {
        const Id attacker = join(1);
        ASSERT_EQ(lookup(attacker, hashes_from(1 + i * 4096, 4096), true), 0);
        reserved += count(attacker, store::kReserved);
    }
    EXPECT_EQ(reserved, 4'096U);
    const Id other = join(2);
    ASSERT_EQ(lookup(other, hashes_from(1'000'000, 4096), true), 0);
    EXPECT_EQ(count(other, store::kReserved), 4'096U);
    pass(1'000);
    EXPECT_EQ(pages("content_bytes"), 0U) << "reservations end";
}

// A client that does not publish what it has reserved, because it is stopped or wants
// to, holds up others for as long as they like to wait (cases lease.sh, lease_exit.sh).
TEST_F(UpmdLifetime, AReservationHoldsNobodyUp) {
    const Id stopped = join(0);
    ASSERT_EQ(lookup(stopped, {1, 2}, true), 0);
    const Id other = join(0);
    EXPECT_EQ(lookup(other, {2, 3}, true, 15), 1) << "it may come at any moment";
    pass(14);
    EXPECT_EQ(error(other), 1);
    pass(1);
    ASSERT_EQ(error(other), 0);
    EXPECT_EQ(places(other)[0].segment, store::kUnknown);
    EXPECT_EQ(places(other)[1].segment, store::kReserved) << "but the rest is its own";
    EXPECT_EQ(lookup(other, {2}, true, 60'000), 1);
    pass(985);
    ASSERT_EQ(error(other), 0) << "no reservation is longer than a second";
    EXPECT_EQ(places(other)[0].segment, store::kReserved);
}

TEST_F(UpmdLifetime, PublishingWakesThoseWhoWait) {
    const Id first = join(0);
    ASSERT_EQ(lookup(first, {1}, true), 0);
    const Id second = join(0);
    ASSERT_EQ(lookup(second, {1, 2}, true, 1'000), 1);
    ASSERT_EQ(publish(first, {1}), 0);
    ASSERT_EQ(error(second), 0);
    EXPECT_TRUE(store::is_segment(places(second)[0].segment));
    EXPECT_EQ(places(second)[1].segment, store::kReserved);
}

TEST_F(UpmdLifetime, FewOfOneUserWait) {
    upmd::Limits limits = roomy();
    limits.user_parked = 2;
    begin(limits);
    ASSERT_EQ(lookup(join(0), {1}, true), 0);
    EXPECT_EQ(lookup(join(1), {1}, true), 1);
    EXPECT_EQ(lookup(join(1), {1}, true), 1);
    EXPECT_EQ(lookup(join(1), {1}, true), 0) << "at once: unknown, and not its own";
    EXPECT_EQ(lookup(join(2), {1}, true), 1) << "another user waits";
}

} // namespace

} // namespace upm::test
