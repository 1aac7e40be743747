// SPDX-License-Identifier: MIT
//
// What a call must take back, or not try again, when its broker refuses or lies.
#include "tests/libupm/store/fake_broker.hpp"

#include <cerrno>
#include <fstream>

namespace upm::test {

namespace {

using store::Op;

// How many mappings of segments lie in these pages.
int segments_in(const Pages &pages) {
    const auto first = reinterpret_cast<std::uintptr_t>(pages.data());
    std::ifstream maps("/proc/self/maps");
    int found = 0;
    for (std::string line; std::getline(maps, line);) {
        const std::uintptr_t start = std::stoul(line, nullptr, 16);
        if (start >= first && start < first + pages.size() &&
            line.find(store::kSegmentName) != std::string::npos)
            ++found;
    }
    return found;
}

std::vector<std::byte> refusal(int error) {
    store::PublishReply reply{};
    reply.reply.error = error;
    return bytes(reply);
}

class StoreRefused : public StoreTest {};

// Nobody shares it, and the memory would count as that of a file.
TEST_F(StoreRefused, PagesOfARefusedSegmentArePrivateAgain) {
    int published = 0;
    const FakeBroker *asked_of = nullptr;
    const FakeBroker fake([&](Op op, std::vector<std::byte> &reply, int & /*fd*/, bool & /*die*/) {
        if (op == Op::kPublish)
            ++published;
        reply = op == Op::kLookup    ? places(asked_of->named(), store::kReserved)
                : op == Op::kPublish ? refusal(-EDQUOT)
                                     : bytes(store::ReplyHeader{});
    });
    asked_of = &fake;
    use(fake.socket());
    const Pages pages(40);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(advise(pages), -EDQUOT);
    EXPECT_GT(published, 0);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_LIMIT], 40U);
    EXPECT_EQ(segments_in(pages), 0);
    EXPECT_TRUE(has_pattern(pages, 1));
}

// Of a segment of eight pages; a broker that goes on so would be asked for ever.
TEST_F(StoreRefused, PlacesBehindTheEndOfASegmentAreTriedOnce) {
    constexpr int kFar = 1000;
    const Pages pages(400); // so many that a sample of them is looked for first
    fill_pattern(pages, 1);
    int asked = 0;
    const FakeBroker *asked_of = nullptr;
    const FakeBroker fake([&](Op op, std::vector<std::byte> &reply, int &fd, bool &die) {
        if (op == Op::kLookup) {
            reply = places(asked_of->named(), 1, 0, 8);
            die = ++asked > kFar;
        } else if (op == Op::kGet) {
            fd = make_segment(pages.data(), 8 * page_size());
            reply = bytes(store::GetReply{.reply = {}, .segment = 1, .pages = 8});
        } else {
            reply = bytes(store::ReplyHeader{});
        }
    });
    asked_of = &fake;
    use(fake.socket());
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(advise(pages), 0);
    EXPECT_LT(asked, kFar);
    EXPECT_EQ(counts.merged, 0U);
    EXPECT_TRUE(has_pattern(pages, 1));
}

} // namespace

} // namespace upm::test
