// SPDX-License-Identifier: MIT
//
// What libupm/engine/backend.hpp promises, for every backend and every kind of memory.
#include "tests/libupm/contract/subject.hpp"
#include "tests/support/proc.hpp"
#include "tests/support/region.hpp"
#include "tests/support/support.hpp"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <limits>
#include <sys/mman.h>
#include <thread>
#include <tuple>

namespace upm::test {

namespace {

constexpr std::uint64_t kSeed = 4711;

using BackendAndKind = std::tuple<std::string, Kind>;

class BackendContract : public testing::TestWithParam<BackendAndKind> {
  protected:
    void SetUp() override {
        if (!subject.unavailable().empty())
            GTEST_SKIP() << subject.unavailable();
    }

    static Kind kind() { return std::get<1>(GetParam()); }

    // Runs `use` on memory of the test's kind, and expects its bytes to be what
    // they were before.
    static void on_memory(const std::function<void(Region &)> &use) {
        try {
            with_region(kind(), {Content::kMixed, kSeed}, [&](Region &memory) {
                ASSERT_EQ(memory.first_wrong(), -1) << "before the test";
                use(memory);
            });
        } catch (const NoSuchMemory &reason) {
            GTEST_SKIP() << reason.what();
        }
    }

    // Expects success of a backend that merges, and refusal of one that does not.
    // True: there is a result to look at.
    bool advised(int ret) {
        const bool merges = subject.can().advise;
        EXPECT_EQ(ret, merges ? 0 : -EOPNOTSUPP);
        if (!merges) {
            EXPECT_EQ(subject.counts().pages, 0U);
        }
        return merges && ret == 0;
    }

    Subject subject{std::get<0>(GetParam())};
};

TEST_P(BackendContract, BytesStay) {
    on_memory([&](Region &memory) {
        (void)advised(subject.advise(memory.base(), memory.len()));
        memory.check();
    });
}

TEST_P(BackendContract, EveryPageIsAccountedFor) {
    on_memory([&](Region &memory) {
        if (advised(subject.advise(memory.base(), memory.len()))) {
            EXPECT_EQ(subject.counts().pages, memory.pages());
        }
    });
}

// Else a program that advises after each request would pay each time, and a
// merged page could be taken for new content.
TEST_P(BackendContract, IsIdempotent) {
    on_memory([&](Region &memory) {
        if (!advised(subject.advise(memory.base(), memory.len())))
            return;
        const bool complete = subject.counts().skipped[UPM_SKIPPED_BUSY] == 0;
        const std::uint64_t queued = subject.counts().queued;
        memory.check();
        ASSERT_TRUE(advised(subject.advise(memory.base(), memory.len())));
        EXPECT_EQ(subject.counts().pages, memory.pages());
        EXPECT_EQ(subject.counts().queued, queued);
        if (complete) {
            EXPECT_EQ(subject.counts().merged + subject.counts().inserted, 0U);
        }
        memory.check();
    });
}

// Memory that nobody named is not touched: it may be a neighbour's secret.
TEST_P(BackendContract, UnalignedEndsAreLeftAlone) {
    on_memory([&](Region &memory) {
        const auto before = own_frames(memory.base(), memory.pages());
        if (!advised(subject.advise(memory.base() + 1, memory.len() - 2)))
            return;
        EXPECT_EQ(subject.counts().pages, memory.pages() - 2);
        memory.check();
        const auto after = own_frames(memory.base(), memory.pages());
        if (before && after) {
            EXPECT_EQ(before->front(), after->front());
            // The last one is zero. Since 6.12 the kernel itself replaces such pages
            // by its zero page when it splits a huge one.
            if (kind() != Kind::kHuge && kind() != Kind::kTornHuge) {
                EXPECT_EQ(before->back(), after->back());
            }
        }
    });
}

// Pages 1, 5, 9... are equal: merged or not, a write to one is seen in none of the
// others, and not in the file either (on_memory checks that).
TEST_P(BackendContract, WritesStayPrivate) {
    on_memory([&](Region &memory) {
        (void)advised(subject.advise(memory.base(), memory.len()));
        memory.allow_writes();
        const std::size_t middle = page_size() / 2;
        for (std::size_t i = 1; i < memory.pages(); i += 8)
            memory.write(i * page_size() + middle, "w", 1);
        memory.check();
    });
}

TEST_P(BackendContract, WritesStayPrivateAcrossFork) {
    on_memory([&](Region &memory) {
        (void)advised(subject.advise(memory.base(), memory.len()));
        const int status = in_child([&] {
            if (memory.first_wrong() != -1)
                return 1;
            memory.allow_writes();
            std::memset(memory.base(), 'c', memory.len());
            return 0;
        });
        EXPECT_EQ(status, 0);
        memory.check();
    });
}

TEST_P(BackendContract, WorksInAChild) {
    on_memory([&](Region &memory) {
        const int status = in_child([&] {
            if (!advised(subject.advise(memory.base(), memory.len())))
                return subject.can().advise ? 1 : 0;
            if (subject.counts().pages != memory.pages())
                return 2;
            return memory.first_wrong() == -1 ? 0 : 3;
        });
        EXPECT_EQ(status, 0);
        (void)advised(subject.advise(memory.base(), memory.len()));
        memory.check();
    });
}

TEST_P(BackendContract, UnmergeUndoes) {
    on_memory([&](Region &memory) {
        if (!subject.can().unmerge) {
            EXPECT_EQ(subject.unmerge(memory.base(), memory.len()), -EOPNOTSUPP);
            return;
        }
        ASSERT_EQ(subject.unmerge(memory.base(), memory.len()), 0) << "of what was never merged";
        if (info_of(kind()).own_mapping) { // others keep what earlier tests did
            EXPECT_EQ(subject.counts().unmerged, 0U);
        }
        ASSERT_EQ(subject.advise(memory.base(), memory.len()), 0);
        const std::uint64_t merged = subject.counts().merged + subject.counts().inserted;
        ASSERT_EQ(subject.unmerge(memory.base(), memory.len()), 0);
        EXPECT_EQ(subject.counts().pages, memory.pages());
        EXPECT_GE(subject.counts().unmerged, merged);
        memory.check();
        ASSERT_EQ(subject.advise(memory.base(), memory.len()), 0) << "after unmerge";
        memory.check();
    });
}

TEST_P(BackendContract, DryRunChangesNothing) {
    on_memory([&](Region &memory) {
        if (!subject.can().dry_run) {
            EXPECT_EQ(subject.advise(memory.base(), memory.len(), UPM_DRY_RUN), -EOPNOTSUPP);
            return;
        }
        const auto before = own_frames(memory.base(), memory.pages());
        const std::string flags = vm_flags(memory.base());
        ASSERT_EQ(subject.advise(memory.base(), memory.len(), UPM_DRY_RUN), 0);
        EXPECT_EQ(subject.counts().pages, memory.pages());
        EXPECT_EQ(own_frames(memory.base(), memory.pages()), before);
        EXPECT_EQ(vm_flags(memory.base()), flags);
        memory.check();
    });
}

// As with madvise(2), but found before anything is changed.
TEST_P(BackendContract, HoleIsRefused) {
    on_memory([&](Region &memory) {
        if (!info_of(kind()).own_mapping)
            GTEST_SKIP() << "no hole can be made in it";
        const std::string flags = vm_flags(memory.base());
        const std::size_t hole = memory.pages() / 2;
        ASSERT_EQ(::munmap(memory.page(hole), page_size()), 0);
        EXPECT_EQ(subject.advise(memory.base(), memory.len()),
                  subject.can().advise ? -ENOMEM : -EOPNOTSUPP);
        EXPECT_EQ(subject.counts().pages, 0U);
        EXPECT_EQ(vm_flags(memory.base()), flags);
        for (std::size_t i = 0; i < memory.pages(); ++i) {
            if (i != hole) {
                const std::byte *const expected = memory.model(i * page_size());
                ASSERT_EQ(std::memcmp(memory.page(i), expected, page_size()), 0);
            }
        }
    });
}

TEST_P(BackendContract, DontneedDropsTheContent) {
    on_memory([&](Region &memory) {
        (void)advised(subject.advise(memory.base(), memory.len()));
        ASSERT_EQ(::madvise(memory.base(), memory.len(), MADV_DONTNEED), 0);
        if (subject.can().restores && subject.counts().merged + subject.counts().inserted != 0) {
            EXPECT_EQ(memory.first_wrong(), -1) << "the advised bytes must come back";
            return;
        }
        if (of_file(kind()))
            memory.expect_file(0, memory.pages());
        else
            memory.expect_zeros(0, memory.pages());
        memory.check();
    });
}

// The moment between looking and mapping is where an update would get lost. All rounds take
// a second or two, unless nobody can be woken soon: the store publishes what was written
// piece by piece, up to some hundred times a round, each of which waits for the broker
// several times. In a VM on a busy host each of these waits takes milliseconds.
TEST_P(BackendContract, NoWriteIsLost) {
    on_memory([&](Region &memory) {
        constexpr int kRounds = 30;
        constexpr auto kEnough = std::chrono::seconds(5);
        memory.allow_writes();
        std::atomic<bool> stop{false};
        std::vector<std::uint64_t> written(memory.pages(), 0);
        std::thread writer([&] {
            for (std::size_t i = 0; !stop; i = (i + 7) % memory.pages()) {
                auto *const slot = reinterpret_cast<volatile std::uint64_t *>(memory.page(i));
                if (written[i] == 0)
                    *slot = 0;
                *slot = *slot + 1;
                ++written[i];
            }
        });
        const auto end = std::chrono::steady_clock::now() + kEnough;
        for (int round = 0;
             round < 2 || (round < kRounds && std::chrono::steady_clock::now() < end); ++round)
            (void)advised(subject.advise(memory.base(), memory.len()));
        stop = true;
        writer.join();
        for (std::size_t i = 0; i < memory.pages(); ++i) {
            if (written[i] != 0) {
                std::uint64_t found = 0;
                std::memcpy(&found, memory.page(i), sizeof(found));
                ASSERT_EQ(found, written[i]) << "page " << i;
            }
        }
    });
}

// Counters could lie; page frames do not.
TEST_P(BackendContract, EqualPagesShareAFrame) {
    if (!subject.can().immediate)
        GTEST_SKIP() << "this backend does not merge at once";
    on_memory([&](Region &memory) {
        ASSERT_EQ(subject.advise(memory.base(), memory.len()), 0);
        const upm_counts &counts = subject.counts();
        const auto after = own_frames(memory.base(), memory.pages());
        if (!after)
            GTEST_SKIP() << "no right to see page frame numbers";
        if (std::get<0>(GetParam()) == "store") {
            EXPECT_EQ(counts.merged + counts.inserted != 0, info_of(kind()).store);
        }
        if (counts.skipped[UPM_SKIPPED_FILE] != 0)
            GTEST_SKIP() << "file pages are not merged here";
        if (counts.skipped[UPM_SKIPPED_UNSUPPORTED] != 0)
            GTEST_SKIP() << "this kind of memory is not merged here";
        for (int reason = 0; reason < UPM_SKIPPED_NR; ++reason)
            EXPECT_EQ(counts.skipped[reason], 0U) << "reason " << reason;
        for (std::size_t i = 5; i < memory.pages(); i += 4)
            EXPECT_EQ((*after)[i], (*after)[1]) << "page " << i;
        // Nearly equal is not equal.
        for (std::size_t i = 1; i + 1 < memory.pages(); i += 4)
            EXPECT_NE((*after)[i], (*after)[i + 1]) << "page " << i;
    });
}

std::string contract_name(const testing::TestParamInfo<BackendAndKind> &test) {
    return std::get<0>(test.param) + "_" + name_of(std::get<1>(test.param));
}

INSTANTIATE_TEST_SUITE_P(All, BackendContract,
                         testing::Combine(testing::ValuesIn(backend_names()),
                                          testing::Values(Kind::kAnonymous, Kind::kHuge,
                                                          Kind::kTornHuge, Kind::kFileClean,
                                                          Kind::kFileDirty, Kind::kMainStack,
                                                          Kind::kHeap, Kind::kReadOnly)),
                         contract_name);

// What does not depend on the kind of memory.
class BackendRules : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        if (!subject.unavailable().empty())
            GTEST_SKIP() << subject.unavailable();
        if (!subject.can().advise)
            GTEST_SKIP() << "backend " << GetParam() << " merges nothing";
    }
    // Expects two pages to be skipped for one reason.
    void expect_skipped(const char *data, upm_skip_reason reason) {
        EXPECT_EQ(subject.advise(data, 2 * page_size()), 0);
        EXPECT_EQ(subject.counts().skipped[reason], 2U);
        EXPECT_EQ(subject.counts().pages, 2U);
    }
    Subject subject{GetParam()};
};

TEST_P(BackendRules, EmptyRangeIsSuccess) {
    EXPECT_EQ(subject.advise(nullptr, 0), 0);
    EXPECT_EQ(subject.counts().pages, 0U);
    const Pages pages(2);
    EXPECT_EQ(subject.advise(pages.data() + 1, page_size()), 0);
    EXPECT_EQ(subject.counts().pages, 0U);
}

TEST_P(BackendRules, BadArguments) {
    const Pages pages(1);
    EXPECT_EQ(subject.advise(pages.data(), pages.size(), 1U << 30), -EINVAL);
    EXPECT_EQ(subject.advise(pages.data(), std::numeric_limits<std::size_t>::max()), -EINVAL);
}

// Above the address space of programs: no overflow, and yet no range.
TEST_P(BackendRules, KernelAddresses) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    const auto *const kernel = reinterpret_cast<const char *>(0xffff888000000000U);
    const int ret = subject.advise(kernel, page_size());
    EXPECT_TRUE(ret == -EINVAL || ret == -ENOMEM) << ret;
}

TEST_P(BackendRules, SharedMemoryIsSkipped) {
    void *const shared = ::mmap(nullptr, 2 * page_size(), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    expect_skipped(static_cast<char *>(shared), UPM_SKIPPED_SHARED);
    (void)::munmap(shared, 2 * page_size());
}

// How programs mark keys and the like.
TEST_P(BackendRules, SecretsAreSkipped) {
    for (const int mark : {MADV_DONTDUMP, MADV_WIPEONFORK}) {
        const Pages pages(2);
        pages.fill('s');
        ASSERT_EQ(::madvise(pages.data(), pages.size(), mark), 0);
        expect_skipped(pages.data(), UPM_SKIPPED_SECRET);
    }
}

TEST_P(BackendRules, MixedMappings) {
    const Pages pages(6);
    pages.fill('m');
    ASSERT_EQ(::mprotect(pages.page(2), page_size(), PROT_READ), 0);
    ASSERT_EQ(::madvise(pages.page(4), page_size(), MADV_DONTDUMP), 0);
    EXPECT_EQ(subject.advise(pages.data(), pages.size()), 0);
    EXPECT_EQ(subject.counts().pages, 6U);
    EXPECT_EQ(subject.counts().skipped[UPM_SKIPPED_SECRET], 1U);
}

TEST_P(BackendRules, RemoteOrRefused) {
    upm_counts counts{};
    const int ret = subject.engine().submit(
        {.addr = page_size(), .len = page_size(), .pid = std::numeric_limits<int>::max()}, counts);
    EXPECT_EQ(ret, subject.can().remote ? -ESRCH : -EOPNOTSUPP);
}

TEST_P(BackendRules, StatsWork) {
    if (GetParam() == "ksm")
        GTEST_SKIP() << "the knobs are played here; unit tests cover them";
    struct upm_stats stats {};
    EXPECT_EQ(subject.engine().stats(-1, stats), 0);
}

TEST_P(BackendRules, DomainsWorkOrAreRefused) {
    const std::uint8_t key[16] = {1, 2, 3};
    const int fd = subject.engine().open_domain(key);
    if (!subject.can().domains) {
        EXPECT_EQ(fd, -EOPNOTSUPP);
        return;
    }
    ASSERT_GE(fd, 0);
    EXPECT_EQ(::fcntl(fd, F_GETFD), FD_CLOEXEC);
    const Pages pages(2);
    pages.fill('d');
    EXPECT_EQ(subject.engine().use_domain(fd), 0);
    EXPECT_EQ(subject.advise(pages.data(), pages.size()), 0);
    EXPECT_EQ(::close(fd), 0);
    EXPECT_EQ(subject.advise(pages.data(), pages.size()), -EBADF);
    EXPECT_EQ(subject.engine().use_domain(0), -EBADF) << "stdin is no domain";
    EXPECT_EQ(subject.engine().use_domain(-1), 0);
    EXPECT_EQ(subject.advise(pages.data(), pages.size()), 0);
}

INSTANTIATE_TEST_SUITE_P(All, BackendRules, testing::ValuesIn(backend_names()),
                         [](const auto &test) { return test.param; });

} // namespace

} // namespace upm::test
