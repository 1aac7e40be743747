// SPDX-License-Identifier: MIT
//
// Arbitrary answers of a broker against the client's parser: what it takes is within
// its bounds, and what it does not take leaves the results alone. With clang a
// libFuzzer target:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I.
//       tests/libupm/store/reply_fuzz.cpp libupm/store/reply.cpp
//
// Otherwise, with a main() of its own, a short run over generated answers for ctest.
#include "libupm/store/reply.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using namespace upm::store;

constexpr std::uint32_t kNumber = 7; // of the request that is answered
constexpr std::uint32_t kAsked = 5;  // segment, and how many places

void require(bool good) {
    if (!good)
        std::abort();
}

// A copy of exactly its size, so that the address sanitizer sees each byte too many.
struct Exact {
    explicit Exact(std::span<const std::uint8_t> bytes)
        : data(std::make_unique<std::byte[]>(bytes.size())), packet(data.get(), bytes.size()) {
        if (!bytes.empty())
            std::memcpy(data.get(), bytes.data(), bytes.size());
    }
    std::unique_ptr<std::byte[]> data;
    Packet packet;
};

void check(int ret) {
    require(ret <= 0 && ret >= -4095);
}

void drive(std::span<const std::uint8_t> bytes) {
    const Exact answer(bytes);
    const Packet packet = answer.packet;
    for (const std::uint16_t greeted : {std::uint16_t{2}, kVersion}) {
        std::uint64_t seed = 1;
        std::uint16_t version = greeted;
        const int welcomed = read_hello(packet, kNumber, seed, version);
        check(welcomed);
        require(version >= kOldestVersion && version <= greeted);
        require(welcomed == 0 || (seed == 1 && version == greeted));
    }
    Place places[kAsked] = {};
    std::uint32_t attached = 0;
    check(read_lookup(packet, kNumber, places, attached));
    require(attached <= kMaxPages);
    std::uint32_t pages = 0;
    const int got = read_get(packet, kNumber, kAsked, pages);
    check(got);
    require(got == 0 ? pages >= 1 && pages <= kMaxPages : pages == 0);
    std::uint32_t segment = 0;
    const int published = read_publish(packet, kNumber, segment);
    check(published);
    require(published == 0 ? segment != kUnknown && segment <= kLastSegment : segment == 0);
    check(read_release(packet, kNumber));
    StatsReply stats{};
    check(read_stats(packet, kNumber, stats));
    Packet text;
    const int described = read_metrics(packet, kNumber, text);
    check(described);
    require(described == 0 ? text.size() + sizeof(ReplyHeader) == packet.size() : text.empty());
    SeedReply seeds{};
    SeedEntry entries[2]; // fewer than there may be
    const int listed = read_seed(packet, kNumber, seeds, entries);
    check(listed);
    require(listed != 0 || seeds.count <= kMaxSeedsListed);
    // No packet answers two kinds of requests, or another request.
    const int taken = static_cast<int>(got == 0) + static_cast<int>(published == 0) +
                      static_cast<int>(described == 0) + static_cast<int>(listed == 0);
    require(taken <= 1);
    require(read_metrics(packet, kNumber + 1, text) == -EPROTO || described == -EPROTO);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    drive({data, size});
    return 0;
}

#ifdef UPM_FUZZ_MAIN
namespace {

class Random {
  public:
    std::uint32_t operator()(std::uint32_t below) {
        state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<std::uint32_t>(state_ >> 33U) % below;
    }

  private:
    std::uint64_t state_ = 1;
};

// A right answer of some kind, of which some bytes and the size are bent.
std::vector<std::uint8_t> make_answer(Random &random, bool bend) {
    constexpr std::size_t kSizes[] = {sizeof(HelloReply),  sizeof(LookupReply) + kAsked * 8,
                                      sizeof(GetReply),    sizeof(PublishReply),
                                      sizeof(ReplyHeader), 0,
                                      sizeof(StatsReply),  sizeof(ReplyHeader) + 40};
    const std::uint32_t kind = random(8);
    std::vector<std::uint8_t> bytes(std::max(kSizes[kind], sizeof(ReplyHeader)));
    for (std::uint8_t &byte : bytes)
        byte = static_cast<std::uint8_t>(random(4) == 0 ? random(256) : random(6));
    ReplyHeader reply{};
    reply.header.op = static_cast<std::uint16_t>(kind + 1);
    reply.header.length = static_cast<std::uint32_t>(bytes.size());
    reply.header.number = kNumber;
    reply.error = random(8) == 0 ? -static_cast<std::int32_t>(random(5000)) : 0;
    std::memcpy(bytes.data(), &reply, sizeof(reply));
    if (kind == 1) {
        const std::uint32_t counts[2] = {kAsked, random(3) * kAsked};
        std::memcpy(bytes.data() + sizeof(reply), counts, sizeof(counts));
    }
    if (kind == 2)
        std::memcpy(bytes.data() + sizeof(reply), &kAsked, sizeof(kAsked));
    if (bend && random(2) == 0)
        bytes[random(static_cast<std::uint32_t>(bytes.size()))] =
            static_cast<std::uint8_t>(random(256));
    if (bend && random(3) == 0)
        bytes.resize(random(static_cast<std::uint32_t>(bytes.size()) + 16));
    return bytes;
}

} // namespace

int main(int argc, char **argv) {
    const long runs = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 300'000;
    Random random;
    long taken = 0;
    for (long run = 0; run < runs; ++run) {
        const std::vector<std::uint8_t> bytes = make_answer(random, run % 4 != 0);
        drive(bytes);
        std::uint32_t pages = 0;
        taken += read_get(std::as_bytes(std::span(bytes)), kNumber, kAsked, pages) == 0 ? 1 : 0;
    }
    std::printf("%ld answers, %ld of them taken as one to kGet\n", runs, taken);
    return taken > 0 ? 0 : 1; // else nothing got deep
}
#endif
