// SPDX-License-Identifier: MIT
//
// The broker without sockets and with a clock of the test's own: clients say what they
// like, and the last answer of each is kept.
#ifndef UPM_TESTS_TOOLS_UPMD_PLAYED_BROKER_HPP
#define UPM_TESTS_TOOLS_UPMD_PLAYED_BROKER_HPP

#include "tests/libupm/store/fixture.hpp"
#include "tools/upmd/broker.hpp"

#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace upm::test {

using Hashes = std::vector<std::uint64_t>;

inline Hashes hashes_from(std::uint64_t first, std::size_t count) {
    Hashes hashes(count);
    for (std::size_t i = 0; i < count; ++i)
        hashes[i] = first + i;
    return hashes;
}

class PlayedBroker : public testing::Test {
  protected:
    using Id = upmd::ClientId;

    void TearDown() override { EXPECT_TRUE(broker().consistent()); }

    static upmd::Limits roomy() {
        upmd::Limits limits;
        limits.max_pages = limits.quota_pages = limits.client_pages = 100'000;
        return limits;
    }
    void begin(const upmd::Limits &limits, upmd::Make make = {}) {
        broker_ = std::make_unique<upmd::Broker>(
            limits,
            [this](Id id, std::span<const std::byte> packet, int fd) {
                answers_[id] = {packet.begin(), packet.end()};
                attached_[id] = fd;
            },
            [this] { return ++seed_; }, std::move(make));
    }
    upmd::Broker &broker() {
        if (broker_ == nullptr)
            begin(roomy());
        return *broker_;
    }

    Id connect(uid_t uid, std::uint64_t process, const std::string &domain = "d") {
        upmd::Peer peer;
        peer.uid = uid;
        peer.process = process;
        peer.domain = domain;
        peer.label = domain;
        return broker().connect(std::move(peer));
    }
    // A client that has said hello, of a process of its own.
    Id join(uid_t uid, const std::string &domain = "d") { return join_as(uid, ++process_, domain); }
    Id join_as(uid_t uid, std::uint64_t process, const std::string &domain = "d") {
        const Id id = connect(uid, process, domain);
        store::HelloRequest hello{};
        hello.page_size = static_cast<std::uint32_t>(page_size());
        EXPECT_EQ(say(id, store::Op::kHello, hello), 0);
        return id;
    }
    void leave(Id id) { broker().disconnect(id, now_); }

    // Sends a request; the answer's error, 1 if none came yet, -1 if it was sent away.
    template <class Request>
    int say(Id id, store::Op op, Request request, const Hashes &hashes = {},
            upmd::Brought brought = {}, std::uint16_t version = store::kVersion) {
        return send(id, op, {reinterpret_cast<const std::byte *>(&request), sizeof(request)},
                    hashes, std::move(brought), version);
    }
    int send(Id id, store::Op op, std::span<const std::byte> fixed, const Hashes &hashes,
             upmd::Brought brought, std::uint16_t version) {
        std::vector<std::byte> packet(fixed.begin(), fixed.end());
        const auto *const more = reinterpret_cast<const std::byte *>(hashes.data());
        packet.insert(packet.end(), more, more + hashes.size() * sizeof(std::uint64_t));
        const store::Header header{.version = version,
                                   .op = static_cast<std::uint16_t>(op),
                                   .length = static_cast<std::uint32_t>(packet.size()),
                                   .number = ++number_};
        std::memcpy(packet.data(), &header, sizeof(header));
        answers_[id].clear();
        attached_[id] = -1;
        if (!broker().handle(id, packet, std::move(brought), now_))
            return -1;
        return error(id);
    }
    // Of the last answer; 1: there is none.
    int error(Id id) {
        if (answers_[id].empty())
            return 1;
        return head<store::ReplyHeader>(id).error;
    }
    template <class Reply>
    Reply head(Id id) {
        Reply reply{};
        EXPECT_GE(answers_[id].size(), sizeof(reply));
        std::memcpy(&reply, answers_[id].data(), std::min(answers_[id].size(), sizeof(reply)));
        return reply;
    }

    int lookup(Id id, const Hashes &hashes, bool reserve = false, std::uint16_t patience = 100) {
        store::LookupRequest request{};
        request.flags = reserve ? store::kReserve : 0;
        request.patience_ms = patience;
        request.count = static_cast<std::uint32_t>(hashes.size());
        return say(id, store::Op::kLookup, request, hashes);
    }
    std::vector<store::Place> places(Id id) {
        std::vector<store::Place> places(head<store::LookupReply>(id).count);
        std::memcpy(places.data(), answers_[id].data() + sizeof(store::LookupReply),
                    places.size() * sizeof(store::Place));
        return places;
    }
    std::size_t count(Id id, std::uint32_t segment) {
        std::size_t count = 0;
        for (const store::Place &place : places(id))
            count += place.segment == segment ? 1 : 0;
        return count;
    }

    int attached(Id id) { return attached_[id]; }

    // Publishes one segment with these hashes. `inode` gets what shows it in mappings.
    int publish(Id id, const Hashes &hashes, std::uint64_t *inode = nullptr) {
        const std::vector<char> bytes(hashes.size() * page_size(), 's');
        upmd::Brought brought;
        brought.fd = upmd::Descriptor(make_segment(bytes.data(), bytes.size()));
        struct stat status {};
        EXPECT_EQ(::fstat(brought.fd.get(), &status), 0);
        if (inode != nullptr)
            *inode = status.st_ino;
        store::PublishRequest request{};
        request.count = static_cast<std::uint32_t>(hashes.size());
        return say(id, store::Op::kPublish, request, hashes, std::move(brought));
    }
    std::uint32_t published(Id id) { return head<store::PublishReply>(id).segment; }
    int get(Id id, std::uint32_t segment) {
        store::GetRequest request{};
        request.segment = segment;
        return say(id, store::Op::kGet, request);
    }
    void report(Id id, std::uint32_t segment, std::int64_t pages) {
        store::ReportRequest request{};
        request.segment = segment;
        request.pages = pages;
        EXPECT_EQ(say(id, store::Op::kReport, request), 1);
    }
    bool knows(Id id, std::uint64_t hash) {
        EXPECT_EQ(lookup(id, {hash}), 0);
        return store::is_segment(places(id).at(0).segment);
    }
    void pass(std::uint64_t ms) {
        now_ += ms;
        (void)broker().expire(now_);
    }
    std::uint64_t value(const std::string &name) {
        const std::string text = broker().metrics();
        const std::size_t at = text.find("\nupmd_" + name + " ");
        EXPECT_NE(at, std::string::npos) << name;
        return std::stoull(text.substr(text.find(' ', at) + 1));
    }
    // A size that the metrics tell, in pages.
    std::uint64_t pages(const std::string &name) { return value(name) / page_size(); }

    std::uint64_t now_ = 1000;
    std::map<Id, std::vector<std::byte>> answers_;
    std::map<Id, int> attached_;

  private:
    std::unique_ptr<upmd::Broker> broker_;
    std::uint64_t seed_ = 0;
    std::uint64_t process_ = 100;
    std::uint32_t number_ = 0;
};

} // namespace upm::test

#endif // UPM_TESTS_TOOLS_UPMD_PLAYED_BROKER_HPP
