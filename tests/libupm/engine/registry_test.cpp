// SPDX-License-Identifier: MIT
//
// Which backend a process gets, and that the reason says so.
#include "tests/libupm/engine/fake_backend.hpp"

#include <cerrno>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace upm::test {

namespace {

using testing::HasSubstr;
using testing::StrEq;

constexpr const char *kKey = "ff0102030405060708090a0b0c0d0e0f";

struct Shelf {
    Choice &pick(const Wish &wish) {
        choose(wish, rows, choice);
        return choice;
    }

    FakeBackend good{"good"};
    FakeBackend fair{"fair"};
    FakeBackend last{"last"};
    CatalogRow rows[4] = {{"good", &good}, {"absent", nullptr}, {"fair", &fair}, {"last", &last}};
    Choice choice;
};

TEST(Choose, AutoTakesTheFirstThatWorks) {
    Shelf shelf;
    EXPECT_EQ(shelf.pick({}).backend, &shelf.good);
    EXPECT_THAT(shelf.choice.reason.c_str(), StrEq("auto: good: works"));
    EXPECT_EQ(shelf.fair.opened, 0) << "a backend that is not needed must be left alone";
}

TEST(Choose, AutoSaysWhyNotTheBetterOne) {
    Shelf shelf;
    shelf.good.open_result = -ENOENT;
    EXPECT_EQ(shelf.pick({}).backend, &shelf.fair);
    EXPECT_THAT(shelf.choice.reason.c_str(), StrEq("auto: good: is broken; fair: works"));
}

TEST(Choose, AutoEndsAtTheLast) {
    Shelf shelf;
    shelf.good.open_result = -ENOENT;
    shelf.fair.open_result = -ENOENT;
    EXPECT_EQ(shelf.pick({}).backend, &shelf.last);
    EXPECT_THAT(shelf.choice.reason.c_str(), StrEq("auto: good: is broken; fair: is broken"));
}

// Most callers would get nothing of a backend that takes only memory vouched for.
TEST(Choose, AutoPassesOverWhatCannotServeItsCaller) {
    Shelf shelf;
    shelf.good.can.quiescent = true;
    shelf.good.can.load = true;
    EXPECT_EQ(shelf.pick({}).backend, &shelf.fair);
    EXPECT_EQ(shelf.choice.loader, &shelf.good) << "loads need nobody's word";
    EXPECT_THAT(shelf.choice.reason.c_str(), StrEq("auto: good: works; fair: works"));
    shelf.fair.can.load = true;
    EXPECT_EQ(shelf.pick({}).loader, &shelf.fair);
}

TEST(Choose, AutoTakesItWhereNothingElseWorks) {
    Shelf shelf;
    shelf.good.can.quiescent = true;
    shelf.fair.open_result = -ENOENT;
    EXPECT_EQ(shelf.pick({.backend = "auto", .domain = kKey}).backend, &shelf.good);
    EXPECT_EQ(shelf.choice.loader, &shelf.good);
    EXPECT_EQ(shelf.choice.domain_fd, 1000);
}

TEST(Choose, NamedIsTakenWhateverItServes) {
    Shelf shelf;
    shelf.good.can.quiescent = true;
    EXPECT_EQ(shelf.pick({.backend = "good", .domain = ""}).backend, &shelf.good);
}

// Its descriptor for the domain is closed when it is passed over.
TEST(Choose, DomainOfWhatIsPassedOver) {
    int ends[2] = {};
    ASSERT_EQ(::pipe(ends), 0);
    Shelf shelf;
    shelf.good.can.quiescent = true;
    shelf.good.domain_result = ends[1];
    EXPECT_EQ(shelf.pick({.backend = "auto", .domain = kKey}).backend, &shelf.fair);
    EXPECT_EQ(shelf.choice.domain_fd, 1000) << "that of the one that is taken";
    char byte = 0;
    EXPECT_EQ(::read(ends[0], &byte, 1), 0) << "the other end is closed";
    (void)::close(ends[0]);
}

TEST(Choose, EmptyIsAuto) {
    Shelf shelf;
    EXPECT_EQ(shelf.pick({.backend = "", .domain = ""}).backend, &shelf.good);
}

TEST(Choose, NamedGoesBeforeBetter) {
    Shelf shelf;
    EXPECT_EQ(shelf.pick({.backend = "fair", .domain = ""}).backend, &shelf.fair);
    EXPECT_THAT(shelf.choice.reason.c_str(), StrEq("UPM_BACKEND=fair: works"));
}

// Not the next best: who names a backend wants to know that it is not there.
TEST(Choose, NamedThatFailsGivesTheLast) {
    Shelf shelf;
    shelf.good.open_result = -EACCES;
    EXPECT_EQ(shelf.pick({.backend = "good", .domain = ""}).backend, &shelf.last);
    EXPECT_THAT(shelf.choice.reason.c_str(), StrEq("UPM_BACKEND=good: is broken"));
    EXPECT_EQ(shelf.fair.opened, 0);
}

TEST(Choose, NamedThatIsNotBuilt) {
    Shelf shelf;
    EXPECT_EQ(shelf.pick({.backend = "absent", .domain = ""}).backend, &shelf.last);
    EXPECT_THAT(shelf.choice.reason.c_str(), StrEq("UPM_BACKEND=absent: not built"));
}

TEST(Choose, BadNameIsQuotedWithTheGoodOnes) {
    Shelf shelf;
    EXPECT_EQ(shelf.pick({.backend = "goood", .domain = ""}).backend, &shelf.last);
    EXPECT_THAT(shelf.choice.reason.c_str(),
                StrEq("UPM_BACKEND=goood: no such backend (auto, good, absent, fair, last)"));
}

TEST(Choose, LongNameFitsTheReason) {
    Shelf shelf;
    const std::string name(10000, 'x');
    EXPECT_EQ(shelf.pick({.backend = name, .domain = ""}).backend, &shelf.last);
    EXPECT_EQ(shelf.choice.reason.view().size(), Reason::kSize - 1);
}

TEST(Choose, DomainIsOpened) {
    Shelf shelf;
    EXPECT_EQ(shelf.pick({.backend = "auto", .domain = kKey}).domain_fd, 1000);
    EXPECT_EQ(shelf.good.last_key, 0xffU);
}

// Merging outside of the domain that was asked for shares memory with strangers.
TEST(Choose, DomainIsARequirement) {
    Shelf shelf;
    shelf.good.can.domains = false;
    EXPECT_EQ(shelf.pick({.backend = "auto", .domain = kKey}).backend, &shelf.fair);
    EXPECT_THAT(shelf.choice.reason.c_str(), HasSubstr("good: has no domains"));

    Shelf other;
    other.good.can.domains = false;
    EXPECT_EQ(other.pick({.backend = "good", .domain = kKey}).backend, &other.last);
}

TEST(Choose, DomainThatCannotBeOpened) {
    Shelf shelf;
    shelf.good.domain_result = -ENOSPC;
    EXPECT_EQ(shelf.pick({.backend = "good", .domain = kKey}).backend, &shelf.last);
    EXPECT_EQ(shelf.choice.domain_fd, -1);
    EXPECT_THAT(shelf.choice.reason.c_str(), HasSubstr("No space left"));
}

TEST(Choose, BadDomainMergesNothing) {
    for (const char *key :
         {"1234", "gg0102030405060708090a0b0c0d0e0f", "ff0102030405060708090a0b0c0d0e0f00",
          "0x102030405060708090a0b0c0d0e0f"}) {
        Shelf shelf;
        EXPECT_EQ(shelf.pick({.backend = "auto", .domain = key}).backend, &shelf.last) << key;
        EXPECT_THAT(shelf.choice.reason.c_str(), StrEq("UPM_DOMAIN is not a key of 32 hex digits"));
        EXPECT_EQ(shelf.good.opened, 0);
    }
}

} // namespace

} // namespace upm::test
