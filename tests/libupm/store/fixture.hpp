// SPDX-License-Identifier: MIT
//
// The backend store over a broker of its own, for tests of what goes wrong.
#ifndef UPM_TESTS_LIBUPM_STORE_FIXTURE_HPP
#define UPM_TESTS_LIBUPM_STORE_FIXTURE_HPP

#include "libupm/store/backend.hpp"
#include "libupm/store/segment.hpp"
#include "tests/support/broker_process.hpp"
#include "tests/support/leaks.hpp"
#include "tests/support/process.hpp"
#include "tests/support/support.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace upm::test {

// Each page has a content of its own that depends on `salt`.
inline void fill_pattern(const Pages &pages, std::uint64_t salt) {
    const std::size_t words = page_size() / sizeof(std::uint64_t);
    auto *const data = reinterpret_cast<std::uint64_t *>(pages.data());
    for (std::size_t i = 0; i < pages.size() / sizeof(*data); ++i)
        data[i] = (salt << 40U) + (i / words << 12U) + i % words + 1;
}

inline bool has_pattern(const Pages &pages, std::uint64_t salt) {
    const Pages expected(pages.size() / page_size());
    fill_pattern(expected, salt);
    return std::memcmp(pages.data(), expected.data(), pages.size()) == 0;
}

// A sealed segment of a copy of this memory, or -errno.
inline int make_segment(const void *data, std::size_t size) {
    const std::span bytes(static_cast<const std::byte *>(data), size);
    store::SegmentWriter writer;
    EXPECT_EQ(writer.create(size), 0);
    EXPECT_EQ(writer.reserve(0, size), 0);
    EXPECT_EQ(writer.fill(0, bytes), 0);
    EXPECT_EQ(writer.seal(), 0);
    return writer.release();
}

// Called when a segment gets memory (fallocate, which failure_test.cpp stands in for).
extern std::function<void()> while_allocating;

class StoreTest : public testing::Test {
  protected:
    void SetUp() override { use(broker.socket()); }

    static void use(const std::string &socket) { (void)::setenv("UPM_SOCKET", socket.c_str(), 1); }
    int open() {
        Reason reason;
        const int ret = backend.open(reason);
        text = reason.c_str();
        return ret;
    }
    int advise(const Pages &pages, int domain = -1) {
        return call({.addr = reinterpret_cast<std::uint64_t>(pages.data()),
                     .len = pages.size(),
                     .domain_fd = domain,
                     .quiescent = true});
    }
    int unmerge(const Pages &pages) {
        return call({.addr = reinterpret_cast<std::uint64_t>(pages.data()),
                     .len = pages.size(),
                     .unmerge = true});
    }
    int call(const Call &work) {
        counts = {};
        const int ret = backend.run(work, counts);
        std::uint64_t sum = counts.merged + counts.inserted + counts.zero + counts.already +
                            counts.unmerged + counts.kept;
        for (const std::uint64_t count : counts.skipped)
            sum += count;
        EXPECT_EQ(sum, counts.pages);
        return ret;
    }
    // Another process of this user inserts that content, and stays until the test ends.
    void insert_elsewhere(std::size_t count, std::uint64_t salt) {
        insert_elsewhere([&] {
            const Pages &pages = *std::make_unique<Pages>(count).release(); // they stay
            fill_pattern(pages, salt);
            return open() == 0 && advise(pages) == 0 && has_pattern(pages, salt) ? 0 : 1;
        });
    }
    void insert_elsewhere(const std::function<int()> &body) {
        others_.emplace_back(body);
        ASSERT_EQ(others_.back().result(), 0);
    }

    BrokerProcess broker;
    StoreBackend backend;
    upm_counts counts{};
    std::string text; // why open() did what it did

  private:
    std::vector<StayingChild> others_;
};

} // namespace upm::test

#endif // UPM_TESTS_LIBUPM_STORE_FIXTURE_HPP
