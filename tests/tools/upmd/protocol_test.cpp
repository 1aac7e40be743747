// SPDX-License-Identifier: MIT
//
// Who may have what: versions, numbers of segments, domains, metrics.
#include "libupm/base/siphash.hpp"
#include "tests/tools/upmd/played_broker.hpp"
#include "tools/upmd/maker.hpp"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <set>
#include <sstream>
#include <sys/mman.h>

namespace upm::test {

namespace {

using store::Op;

class UpmdProtocol : public PlayedBroker {
  protected:
    // Says hello with these versions; the answer's error.
    int greet(Id id, std::uint16_t oldest, std::uint16_t newest) {
        store::HelloRequest hello{};
        hello.page_size = static_cast<std::uint32_t>(page_size());
        hello.oldest = oldest;
        hello.newest = newest;
        return say(id, Op::kHello, hello, {}, {}, newest);
    }
    // The same as version 2 had it.
    int greet_first(Id id) {
        store::HelloRequest hello{};
        hello.page_size = static_cast<std::uint32_t>(page_size());
        return send(id, Op::kHello,
                    std::as_bytes(std::span(&hello, 1)).first(store::kHelloRequestV2), {}, {}, 2);
    }
};

// A client may have a segment only if it has named the hash of one of its pages. Counting
// numbers, those of others included, leads nowhere (cases 22_attacker.py, 22_victim.py).
TEST_F(UpmdProtocol, NumbersOfSegmentsCannotBeGuessed) {
    const Id victim = join(0);
    const Id attacker = join(0);
    ASSERT_EQ(publish(victim, hashes_from(1, 8)), 0);
    const std::uint32_t number = published(victim);
    for (std::uint32_t guess = 0; guess < 1000; ++guess)
        ASSERT_EQ(get(attacker, guess), -ENOENT) << guess;
    EXPECT_EQ(get(attacker, number), -ENOENT) << "it is the victim's number";
    EXPECT_EQ(lookup(attacker, {77}), 0);
    EXPECT_EQ(get(attacker, number), -ENOENT) << "it has named another hash";
    ASSERT_EQ(lookup(attacker, {5}), 0);
    const store::Place found = places(attacker).at(0);
    EXPECT_EQ(found.page, 4U);
    EXPECT_EQ(get(attacker, found.segment), 0);
    EXPECT_GE(attached_[attacker], 0);
    const Id later = join(0);
    EXPECT_EQ(get(later, found.segment), -ENOENT) << "each connection has numbers of its own";
}

// What comes first need not be what fits: a client may see several places of a hash.
TEST_F(UpmdProtocol, SeveralPlacesOfOneHash) {
    const Id one = join(0);
    for (int i = 0; i < 3; ++i)
        ASSERT_EQ(publish(one, {50, 7}), 0);
    const Id other = join(0);
    store::LookupRequest request{};
    request.flags = store::kCandidates;
    const Hashes hashes = {7, 7, 7, 7, 50, 8, 8};
    request.count = static_cast<std::uint32_t>(hashes.size());
    ASSERT_EQ(say(other, Op::kLookup, request, hashes), 0);
    const std::vector<store::Place> found = places(other);
    EXPECT_TRUE(store::is_segment(found[0].segment) && store::is_segment(found[1].segment) &&
                store::is_segment(found[2].segment));
    EXPECT_NE(found[0].segment, found[1].segment);
    EXPECT_NE(found[1].segment, found[2].segment);
    EXPECT_NE(found[0].segment, found[2].segment);
    EXPECT_EQ(found[2].page, 1U);
    EXPECT_EQ(found[3].segment, store::kUnknown);
    EXPECT_EQ(found[4].segment, found[0].segment);
    EXPECT_EQ(found[5].segment, store::kUnknown);
    EXPECT_EQ(found[6].segment, store::kUnknown);
    EXPECT_EQ(lookup(other, {7, 7}), 0);
    EXPECT_EQ(places(other)[0], places(other)[1]) << "only if it asks for that";
    request.flags = store::kCandidates | store::kReserve;
    EXPECT_EQ(say(other, Op::kLookup, request, hashes), -1);
}

// What is small is made for the second process that asks for it: the first one is remembered.
class UpmdWanted : public UpmdProtocol {
  protected:
    // Looks up, and is remembered. How many of the hashes others have asked for, or -1.
    int ask(Id id, const Hashes &hashes, std::uint16_t more = 0) {
        store::LookupRequest request{};
        request.flags = static_cast<std::uint16_t>(store::kRemember | more);
        request.count = static_cast<std::uint32_t>(hashes.size());
        return say(id, Op::kLookup, request, hashes) == 0
                   ? static_cast<int>(count(id, store::kWanted))
                   : -1;
    }
};

TEST_F(UpmdWanted, OnlyAnotherProcessIsTold) {
    const Id first = join_as(0, 1);
    EXPECT_EQ(ask(first, {1, 2}), 0);
    EXPECT_EQ(ask(first, {1, 2}), 0);
    EXPECT_EQ(ask(join_as(0, 1), {1, 2}), 0) << "another connection of it";
    const Id second = join_as(0, 2);
    EXPECT_EQ(ask(second, {1, 2, 3}), 2);
    EXPECT_EQ(ask(join(0, "other"), {1, 2}), 0) << "another domain";
    EXPECT_TRUE(broker().consistent());
    leave(first);
    EXPECT_EQ(ask(second, {1, 2}), 0) << "who wanted it is gone";
}

TEST_F(UpmdWanted, WhatIsKnownIsFound) {
    const Id first = join(0);
    EXPECT_EQ(ask(first, {1, 2}), 0);
    ASSERT_EQ(publish(first, {1}), 0);
    const Id second = join(0);
    EXPECT_EQ(ask(second, {1, 2}), 1);
    EXPECT_TRUE(store::is_segment(places(second)[0].segment));
}

// Where there is no room to remember it, it is made at once.
TEST_F(UpmdWanted, RoomIsBounded) {
    upmd::Limits limits = roomy();
    limits.user_wanted = 3;
    limits.client_wanted = 2;
    begin(limits);
    const Id first = join(0);
    EXPECT_EQ(ask(first, {1, 2, 3}), 0);
    EXPECT_EQ(ask(join(0), {1, 2, 3}), 2) << "the oldest one is forgotten, and here now";
    EXPECT_EQ(ask(join(0), {4}), 1);
    EXPECT_EQ(ask(join(1), {4}), 0) << "another user has its own room";
    EXPECT_TRUE(broker().consistent());
}

TEST_F(UpmdWanted, OnlyWithWhatItGoesWith) {
    const Id client = join(0);
    EXPECT_EQ(ask(client, {1}, store::kReserve), -1);
    const Id old = connect(0, 7);
    ASSERT_EQ(greet(old, 2, 4), 0);
    store::LookupRequest request{};
    request.flags = store::kRemember;
    request.count = 1;
    EXPECT_EQ(say(old, Op::kLookup, request, {1}, {}, 4), -1) << "since version 5";
}

// With any other request one is a mistake, or an attempt to fill the broker's table.
TEST_F(UpmdProtocol, DescriptorsComeWithSegmentsOnly) {
    const Id client = join(0);
    for (const Op op : {Op::kStats, Op::kRelease}) {
        EXPECT_EQ(say(client, op, store::Header{}), 0);
        upmd::Brought brought;
        brought.fd = upmd::Descriptor(::dup(STDERR_FILENO));
        EXPECT_EQ(say(client, op, store::Header{}, {}, std::move(brought)), -1);
        upmd::Brought lost;
        lost.error = EMFILE;
        EXPECT_EQ(say(client, op, store::Header{}, {}, std::move(lost)), -1);
    }
}

// Once a segment is gone, its number leads to no other one.
TEST_F(UpmdProtocol, NumbersEndWithTheirSegments) {
    const Id client = join(0);
    ASSERT_EQ(publish(client, {1}), 0);
    const std::uint32_t number = published(client);
    report(client, number, 1);
    report(client, number, -1);
    EXPECT_EQ(get(client, number), -ENOENT);
    ASSERT_EQ(publish(client, {2}), 0);
    EXPECT_NE(published(client), number);
    EXPECT_EQ(get(client, number), -ENOENT);
}

TEST_F(UpmdProtocol, NumbersOfOneUserAreBounded) {
    upmd::Limits limits = roomy();
    limits.user_names = 3;
    begin(limits);
    const Id publisher = join(0);
    for (std::uint64_t hash = 1; hash <= 4; ++hash)
        ASSERT_EQ(publish(publisher, {hash}), 0);
    const Id other = join(1);
    ASSERT_EQ(lookup(other, hashes_from(1, 4)), 0);
    EXPECT_EQ(count(other, store::kUnknown), 1U);
    EXPECT_TRUE(broker().consistent());
    leave(other);
    const Id next = join(1);
    EXPECT_TRUE(knows(next, 4)) << "numbers go with their connection";
}

TEST_F(UpmdProtocol, DomainsAreApart) {
    const Id mine = join(0, "one");
    const Id other = join(0, "two");
    ASSERT_EQ(publish(mine, {1}), 0);
    EXPECT_TRUE(knows(mine, 1));
    EXPECT_FALSE(knows(other, 1));
    EXPECT_NE(head<store::ReplyHeader>(other).header.number, 0U);
}

// A client of the version before is answered in that version, and shares with new ones.
// Whatever a stranger asks for, the answers are the same bytes if another domain has it and if it
// has something else, and the broker has the same work with it.
TEST_F(UpmdProtocol, StrangersAreAnsweredTheSame) {
    std::vector<std::vector<std::vector<std::byte>>> told;
    std::vector<std::size_t> tasks;
    for (const std::uint64_t content : {1U, 5'000U}) {
        std::vector<upmd::MakeTask> begun;
        begin(roomy(), [&](uid_t, upmd::MakeTask task, bool) { begun.push_back(std::move(task)); });
        const TempDir dir;
        dir.write("file", std::string(4 * page_size(), 'f'));
        const auto file = [&] {
            upmd::Brought brought;
            brought.fd =
                upmd::Descriptor(::open((dir.path() + "/file").c_str(), O_RDONLY | O_CLOEXEC));
            return brought;
        };
        const auto make = [&](Id id, std::uint64_t likeness) {
            store::MakeRequest request{};
            request.likeness = likeness;
            request.pages = 4;
            return say(id, Op::kMake, request, {}, file());
        };
        const Id owner = join(1, "theirs");
        ASSERT_EQ(publish(owner, hashes_from(content, 100)), 0);
        ASSERT_EQ(lookup(join(1, "theirs"), hashes_from(content + 200, 10), true), 0); // reserved
        store::LookupRequest wish{};
        wish.flags = store::kCandidates | store::kRemember;
        wish.count = 10;
        ASSERT_EQ(say(owner, Op::kLookup, wish, hashes_from(content + 300, 10)), 0);
        ASSERT_EQ(make(join(1, "theirs"), content), 1);
        begun.clear();

        std::vector<std::vector<std::byte>> &answers = told.emplace_back();
        const auto note = [&](Id id, int ret) {
            answers.push_back({std::byte(ret == 1), std::byte(attached(id) >= 0)});
            answers.push_back(answers_[id]);
            if (answers.back().size() >= sizeof(store::Header)) // of which request it is
                std::memset(answers.back().data() + offsetof(store::Header, number), 0, 4);
        };
        for (const uid_t uid : {1U, 2U}) { // the same user in another container, and another one
            const Id stranger = join(uid, "mine");
            for (const std::uint64_t first : {1U, 201U, 301U}) {
                for (const unsigned flags :
                     {0U, 0U | store::kReserve, 0U | store::kAttach | store::kCandidates,
                      0U | store::kCandidates | store::kRemember}) {
                    store::LookupRequest request{};
                    request.flags = static_cast<std::uint16_t>(flags);
                    request.count = 10;
                    note(stranger, say(stranger, Op::kLookup, request, hashes_from(first, 10)));
                }
            }
            note(stranger, get(stranger, 1));
            note(stranger, say(stranger, Op::kStats, store::Header{}));
            note(stranger, say(stranger, Op::kMetrics, store::Header{}));
            note(stranger, make(join(uid, "mine"), 1));
        }
        tasks.push_back(begun.size());
    }
    EXPECT_EQ(told.at(0), told.at(1));
    EXPECT_EQ(tasks.at(0), tasks.at(1));
    EXPECT_GT(told.at(0).size(), 30U);
}

TEST_F(UpmdProtocol, ClientOfTheVersionBefore) {
    const Id fresh = join(0);
    ASSERT_EQ(publish(fresh, {1, 2}), 0);
    const Id old = connect(0, 7);
    ASSERT_EQ(greet_first(old), 0);
    EXPECT_EQ(answers_[old].size(), store::kHelloReplyV2);
    EXPECT_EQ(head<store::ReplyHeader>(old).header.version, 2);
    store::LookupRequest request{};
    request.flags = store::kReserve | store::kAttach;
    request.count = 3;
    ASSERT_EQ(say(old, Op::kLookup, request, {1, 2, 3}, {}, 2), 0);
    EXPECT_EQ(head<store::ReplyHeader>(old).header.version, 2);
    EXPECT_EQ(places(old).at(1).page, 1U);
    EXPECT_EQ(places(old).at(2).segment, store::kReserved);
    EXPECT_GE(attached_[old], 0);
    EXPECT_EQ(lookup(old, {1}), -1) << "the versions of one connection do not mix";
}

TEST_F(UpmdProtocol, VersionsAreNegotiated) {
    const Id same = connect(0, 1);
    ASSERT_EQ(greet(same, store::kVersion, store::kVersion), 0);
    EXPECT_EQ(head<store::HelloReply>(same).version, store::kVersion);
    const Id next = connect(0, 2);
    ASSERT_EQ(greet(next, store::kVersion, store::kVersion + 1), 0) << "of the version to come";
    EXPECT_EQ(head<store::HelloReply>(next).version, store::kVersion);
    EXPECT_EQ(lookup(next, {1}), 0);
    const Id both = connect(0, 3);
    ASSERT_EQ(greet(both, 2, store::kVersion), 0);
    EXPECT_EQ(head<store::HelloReply>(both).version, store::kVersion);
    const Id far = connect(0, 4);
    EXPECT_EQ(greet(far, store::kVersion + 1, store::kVersion + 2), -EPROTONOSUPPORT)
        << "an answer, not a reset connection";
    const Id older = connect(0, 5);
    EXPECT_EQ(greet(older, 1, 1), -EPROTONOSUPPORT);
    const Id bent = connect(0, 6);
    EXPECT_EQ(greet(bent, 4, 3), -1);
}

// Whoever reads the metrics must not be able to join a domain by them.
TEST_F(UpmdProtocol, MetricsTellNoKey) {
    store::HelloRequest hello{};
    hello.page_size = static_cast<std::uint32_t>(page_size());
    hello.named = 1;
    std::memcpy(hello.key, "0123456789abcdef", sizeof(hello.key));
    ASSERT_EQ(say(connect(0, 7), Op::kHello, hello), 0);
    const std::string text = broker().metrics();
    EXPECT_THAT(text, testing::HasSubstr("domain=\"key:"));
    EXPECT_THAT(text, testing::Not(testing::HasSubstr("0123456789abcdef")));
}

// A dashboard must know a domain again after the broker or its clients have started anew.
TEST_F(UpmdProtocol, NamesOfDomainsStay) {
    const auto label_of = [&](const char *key) {
        store::HelloRequest hello{};
        hello.page_size = static_cast<std::uint32_t>(page_size());
        hello.named = 1;
        std::memcpy(hello.key, key, sizeof(hello.key));
        const Id id = connect(0, 7);
        EXPECT_EQ(say(id, Op::kHello, hello), 0);
        const std::string text = broker().metrics(id);
        leave(id);
        const std::size_t at = text.find("key:");
        return text.substr(at, text.find('"', at) - at);
    };
    const std::string first = label_of("0123456789abcdef");
    EXPECT_EQ(first.size(), 12U) << first;
    EXPECT_EQ(label_of("0123456789abcdef"), first);
    EXPECT_NE(label_of("0123456789abcdeg"), first);
}

// As promtool wants it: HELP and TYPE once for each metric, and all its samples behind them.
TEST_F(UpmdProtocol, MetricsAreInPrometheusFormat) {
    ASSERT_EQ(publish(join(1, "one"), {1}), 0);
    (void)join(2, "two");
    std::set<std::string> seen;
    std::string current;
    std::istringstream lines(broker().metrics());
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string first;
        std::string kind;
        std::string name;
        words >> first;
        if (first == "#") {
            words >> kind >> name;
            if (kind == "HELP")
                EXPECT_TRUE(seen.insert(name).second) << line;
            else
                EXPECT_EQ(name, current) << line;
            current = name;
        } else {
            EXPECT_EQ(first.substr(0, first.find('{')), current) << line;
        }
    }
    EXPECT_TRUE(seen.contains("upmd_domain_saved_bytes"));
    EXPECT_EQ(seen.size(), 33U);
}

// A report is only a claim: it makes no number negative, which would be a huge one.
TEST_F(UpmdProtocol, ReportsStayAboveZero) {
    const Id client = join(0, "d");
    ASSERT_EQ(publish(client, {1, 2}), 0);
    report(client, published(client), -5);
    EXPECT_THAT(broker().metrics(),
                testing::Not(testing::ContainsRegex("mapped_bytes[^ ]* [1-9]")));
    EXPECT_TRUE(broker().consistent());
}

// Or a machine that starts containers for years would have a domain for each of them.
TEST_F(UpmdProtocol, DomainsEndWithTheirLastMember) {
    const Id client = join(0, "brief");
    EXPECT_THAT(broker().metrics(), testing::HasSubstr("brief"));
    leave(client);
    EXPECT_THAT(broker().metrics(), testing::Not(testing::HasSubstr("brief")));
}

// A member sees its own domain, and only whoever may see all sees the others.
TEST_F(UpmdProtocol, MetricsAreOfOneDomain) {
    const Id mine = join(1, "mine");
    const Id other = join(2, "other");
    ASSERT_EQ(publish(other, {1}), 0);
    const std::string seen = broker().metrics(mine);
    EXPECT_THAT(seen, testing::HasSubstr("domain_clients{domain=\"mine\"} 1"));
    EXPECT_THAT(seen, testing::Not(testing::HasSubstr("\"other\"")));
    EXPECT_THAT(seen, testing::Not(testing::HasSubstr("upmd_content_bytes")));
    const Id root = join(0, "mine");
    EXPECT_THAT(broker().metrics(root), testing::Not(testing::HasSubstr("\"other\"")))
        << "root of some container is a member like others";
    upmd::Peer operator_of_host;
    operator_of_host.process = 9;
    operator_of_host.domain = operator_of_host.label = "host";
    operator_of_host.sees_all = true;
    const Id all = broker().connect(std::move(operator_of_host));
    EXPECT_THAT(broker().metrics(all),
                testing::HasSubstr(
                    fmt::format("domain_content_bytes{{domain=\"other\"}} {}\n", page_size())));
}

// Whoever reads the metrics must not become a member.
TEST_F(UpmdProtocol, MetricsTellNoKeys) {
    const Id named = connect(0, 1);
    store::HelloRequest hello{};
    hello.page_size = static_cast<std::uint32_t>(page_size());
    hello.named = 1;
    std::memcpy(hello.key, "secretsecretsecr", sizeof(hello.key));
    ASSERT_EQ(say(named, Op::kHello, hello), 0);
    EXPECT_THAT(broker().metrics(), testing::HasSubstr("domain=\"key:"));
    EXPECT_THAT(broker().metrics(), testing::Not(testing::HasSubstr("secret")));
}

// What a client may say only once, or only with something.
TEST_F(UpmdProtocol, RequestsOutOfPlace) {
    EXPECT_EQ(greet(join(0), 3, 3), -1) << "a second hello";
    EXPECT_EQ(lookup(connect(0, 9), {1}), -1) << "none at all";
    upmd::Brought brought;
    brought.fd = upmd::Descriptor(::memfd_create("x", MFD_CLOEXEC));
    EXPECT_EQ(say(join(0), Op::kStats, store::Header{}, {}, std::move(brought)), -1);
    upmd::Brought lost;
    lost.error = EMFILE;
    EXPECT_EQ(say(join(0), Op::kStats, store::Header{}, {}, std::move(lost)), -1);
}

// upm status shows both: it is one number.
TEST_F(UpmdProtocol, OneNumberForOneSaving) {
    std::vector<Id> clients;
    for (int i = 0; i < 3; ++i)
        clients.push_back(join(0));
    ASSERT_EQ(publish(clients[0], hashes_from(1, 10)), 0);
    report(clients[0], published(clients[0]), 10);
    ASSERT_EQ(publish(clients[0], hashes_from(50, 10)), 0) << "nobody maps this one";
    for (int i = 1; i < 3; ++i) {
        ASSERT_EQ(lookup(clients[static_cast<std::size_t>(i)], {1}), 0);
        const std::uint32_t number = places(clients[static_cast<std::size_t>(i)])[0].segment;
        ASSERT_EQ(get(clients[static_cast<std::size_t>(i)], number), 0);
        report(clients[static_cast<std::size_t>(i)], number, 10);
    }
    ASSERT_EQ(say(clients[0], Op::kStats, store::Header{}), 0);
    EXPECT_EQ(head<store::StatsReply>(clients[0]).pages_sharing, 20U);
    EXPECT_EQ(pages("domain_saved_bytes{domain=\"d\"}"), 20U);
}

// Of segments that hold the same page the first one is told; when it goes, the next.
TEST_F(UpmdProtocol, TheNextSegmentTakesThePlaceOfTheFirst) {
    const Id first = join(0);
    const Id second = join(0);
    const Id third = join(0);
    ASSERT_EQ(publish(first, {1, 2, 2}), 0);
    ASSERT_EQ(publish(second, {2, 3}), 0);
    ASSERT_EQ(publish(third, {2}), 0);
    const Id reader = join(0);
    ASSERT_EQ(lookup(reader, {2}), 0);
    EXPECT_EQ(places(reader)[0].page, 1U);
    leave(first);
    EXPECT_TRUE(broker().consistent());
    EXPECT_FALSE(knows(reader, 1));
    EXPECT_TRUE(knows(reader, 2));
    leave(third);
    EXPECT_TRUE(knows(reader, 2));
    leave(second);
    EXPECT_FALSE(knows(reader, 2));
    EXPECT_EQ(value("segments"), 0U);
}

// Numbers that fall into one bucket of an ordinary table do not in ours.
TEST_F(UpmdProtocol, ChosenHashesFillNoBucket) {
    static_assert(siphash<2, 4>({.low = 0x0706050403020100, .high = 0x0f0e0d0c0b0a0908},
                                0x0706050403020100) == 0x93f5f5799a932462,
                  "as in the paper's reference implementation");
    constexpr std::size_t kCount = 4096;
    upmd::HashTable<int> table(0, upmd::KeyedHash{{.low = 3, .high = 4}});
    table.reserve(kCount);
    const std::size_t buckets = table.bucket_count();
    for (std::size_t i = 0; i < kCount; ++i)
        table.emplace(i * buckets, 0);
    std::size_t longest = 0;
    for (std::size_t i = 0; i < table.bucket_count(); ++i)
        longest = std::max(longest, table.bucket_size(i));
    EXPECT_LT(longest, 20U);
    static_assert(std::is_same_v<decltype(upmd::Domain::index)::hasher, upmd::KeyedHash> &&
                  std::is_same_v<decltype(upmd::Domain::reserved)::hasher, upmd::KeyedHash>);
}

} // namespace

} // namespace upm::test
