// SPDX-License-Identifier: MIT
//
// Huge pages under segments: where they come to be, that they are mapped as such, that
// a write to one copies a small page only, and that all works as well without them.
#include "libupm/mm/aligned_range.hpp"
#include "tests/libupm/store/fixture.hpp"

#include <cerrno>
#include <cstdio>
#include <dlfcn.h>
#include <fstream>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

constexpr int kCollapse = 25;  // MADV_COLLAPSE
int collapse_error = 0;        // what the kernel is to answer, if anything else than it does
std::size_t collapse_room = 0; // but so many bytes come first

} // namespace

extern "C" int madvise(void *addr, size_t length, int advice) noexcept {
    using Advise = int (*)(void *, size_t, int);
    static const auto real = reinterpret_cast<Advise>(::dlsym(RTLD_NEXT, "madvise"));
    if (advice == kCollapse && collapse_error != 0) {
        if (length > collapse_room) {
            errno = collapse_error;
            return -1;
        }
        collapse_room -= length;
    }
    return real(addr, length, advice);
}

namespace upm::test {

namespace {

constexpr std::size_t kHugeRun = 512; // pages

// Pages at an address that is so many pages behind a multiple of 2 MiB. Of small pages,
// unless the test wants others.
struct Placed {
    explicit Placed(std::size_t count, std::size_t behind = 0)
        : whole(count + 2 * kHugeRun),
          data(whole.data() +
               (kHugePage - reinterpret_cast<std::uintptr_t>(whole.data()) % kHugePage) %
                   kHugePage +
               behind * page_size()),
          size(count * page_size()) {
        (void)::madvise(whole.data(), whole.size(), MADV_NOHUGEPAGE);
    }
    void fill(std::uint64_t salt) const {
        for (std::size_t i = 0; i < size / sizeof(std::uint64_t); ++i)
            words()[i] = word(i, salt);
    }
    [[nodiscard]] bool holds(std::uint64_t salt) const {
        for (std::size_t i = 0; i < size / sizeof(std::uint64_t); ++i)
            if (words()[i] != word(i, salt))
                return false;
        return true;
    }
    [[nodiscard]] char *page(std::size_t index) const { return data + index * page_size(); }
    [[nodiscard]] Call call() const {
        return {.addr = reinterpret_cast<std::uint64_t>(data), .len = size, .quiescent = true};
    }

    Pages whole;
    char *data;
    std::size_t size;

  private:
    [[nodiscard]] std::uint64_t *words() const { return reinterpret_cast<std::uint64_t *>(data); }
    static std::uint64_t word(std::size_t i, std::uint64_t salt) { return (salt << 40U) + i + 1; }
};

// Bytes that a field of smaps has in all mappings within these pages.
std::size_t smaps_bytes(const Placed &pages, const std::string &field) {
    const std::string smaps = read_file("/proc/self/smaps");
    const auto begin = reinterpret_cast<std::uintptr_t>(pages.data);
    std::size_t sum = 0;
    bool within = false;
    for (std::size_t at = 0; at < smaps.size(); at = smaps.find('\n', at) + 1) {
        unsigned long start = 0;
        unsigned long end = 0;
        unsigned long kib = 0;
        const char *const line = smaps.c_str() + at;
        if (std::sscanf(line, "%lx-%lx ", &start, &end) == 2)
            within = start >= begin && end <= begin + pages.size;
        else if (within && smaps.compare(at, field.size() + 1, field + ":") == 0 &&
                 std::sscanf(line + field.size() + 1, "%lu", &kib) == 1)
            sum += kib * 1024;
    }
    return sum;
}

// Why this kernel gives segments no huge pages, or nothing. As many as a test needs are
// taken and given back, so that it need not be lucky when memory is in pieces.
std::string no_huge_pages() {
    constexpr std::size_t kNeeded = 20 * kHugePage;
    if (page_size() != 4096)
        return "pages are not of 4 KiB";
    store::SegmentWriter writer;
    AlignedRange range;
    if (writer.create(kNeeded) != 0 || writer.reserve(0, kNeeded) != 0 || !range.reserve(kNeeded))
        return "no memory";
    void *const view =
        ::mmap(range.data(), kNeeded, PROT_READ, MAP_SHARED | MAP_FIXED, writer.fd(), 0);
    if (view != MAP_FAILED && ::madvise(view, kNeeded, kCollapse) == 0)
        return "";
    return std::string("MADV_COLLAPSE of shared memory: ") + std::strerror(errno) +
           " (EINVAL: a kernel before 6.1, or shmem_enabled=deny; else no huge page is free)";
}

class StoreHuge : public StoreTest {
  protected:
    // Another process inserts that content, and stays until the test ends.
    void insert_elsewhere(std::size_t count, std::uint64_t salt) {
        StoreTest::insert_elsewhere([&] {
            const Placed &pages = *std::make_unique<Placed>(count).release(); // they stay
            pages.fill(salt);
            const bool good = open() == 0 && call(pages.call()) == 0 && counts.inserted == count &&
                              pages.holds(salt);
            return good ? 0 : 1;
        });
    }
};

TEST_F(StoreHuge, AWriteCopiesOnePageOfABlock) {
    if (const std::string why = no_huge_pages(); !why.empty())
        GTEST_SKIP() << why;
    constexpr std::size_t kPages = 3 * kHugeRun;
    const Placed pages(kPages);
    pages.fill(1);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(call(pages.call()), 0);
    EXPECT_EQ(counts.inserted, kPages);
    EXPECT_EQ(smaps_bytes(pages, "ShmemPmdMapped"), pages.size);
    EXPECT_EQ(in_child([&] {
                  const Placed own(kPages);
                  own.fill(1);
                  if (call(own.call()) != 0 || counts.merged != kPages)
                      return 1;
                  if (smaps_bytes(own, "ShmemPmdMapped") != own.size)
                      return 2;
                  own.page(700)[5] = 'x';
                  if (smaps_bytes(own, "Anonymous") != page_size() ||
                      smaps_bytes(own, "ShmemPmdMapped") != own.size - kHugePage)
                      return 3;
                  if (own.page(700)[5] != 'x' || std::memcmp(own.data, pages.data, 700) != 0 ||
                      std::memcmp(own.page(701), pages.page(701), 800 * page_size()) != 0)
                      return 4;
                  return call(own.call()) == 0 && counts.inserted == 1 &&
                                 counts.already == kPages - 1
                             ? 0
                             : 5;
              }),
              0);
    EXPECT_TRUE(pages.holds(1)) << "the write was another process's";
    EXPECT_EQ(smaps_bytes(pages, "ShmemPmdMapped"), pages.size);
    const Call back{.addr = pages.call().addr, .len = pages.size, .unmerge = true};
    ASSERT_EQ(call(back), 0);
    EXPECT_EQ(counts.unmerged, kPages);
    EXPECT_TRUE(pages.holds(1));
}

// Wherever the later process has it, and wherever its range begins and ends.
TEST_F(StoreHuge, LaterProcessAtAnotherOffset) {
    constexpr std::size_t kPages = 9 * kHugeRun + 77; // more than a segment
    insert_elsewhere(kPages, 2);
    for (const std::size_t behind : {std::size_t{0}, std::size_t{1}, std::size_t{300}}) {
        const Placed pages(kPages, behind);
        pages.fill(2);
        ASSERT_EQ(open(), 0) << text;
        ASSERT_EQ(call(pages.call()), 0);
        EXPECT_EQ(counts.merged, kPages) << behind;
        EXPECT_TRUE(pages.holds(2)) << behind;
        pages.page(600)[0] ^= 1;
        EXPECT_FALSE(pages.holds(2));
    }
}

// A range that begins in the middle of a huge run still gets huge pages behind it.
TEST_F(StoreHuge, RangeThatBeginsInABlock) {
    if (const std::string why = no_huge_pages(); !why.empty())
        GTEST_SKIP() << why;
    constexpr std::size_t kPages = 10 * kHugeRun;
    const Placed pages(kPages, 100);
    pages.fill(3);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(call(pages.call()), 0);
    EXPECT_EQ(counts.inserted, kPages);
    EXPECT_EQ(smaps_bytes(pages, "ShmemPmdMapped"), 9 * kHugePage);
    EXPECT_TRUE(pages.holds(3));
}

TEST_F(StoreHuge, SourceOfHugePages) {
    insert_elsewhere(2 * kHugeRun, 4);
    const Placed pages(2 * kHugeRun);
    (void)::madvise(pages.data, pages.size, MADV_HUGEPAGE);
    pages.fill(4);
    if (smaps_bytes(pages, "AnonHugePages") == 0)
        GTEST_SKIP() << "the kernel gave no huge page";
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(call(pages.call()), 0);
    EXPECT_EQ(counts.merged, 2 * kHugeRun);
    EXPECT_EQ(smaps_bytes(pages, "AnonHugePages"), 0U);
    EXPECT_TRUE(pages.holds(4));
}

// A few pages that need no memory do not cost a huge run its huge page; many do.
TEST_F(StoreHuge, OnlyDenseBlocks) {
    if (const std::string why = no_huge_pages(); !why.empty())
        GTEST_SKIP() << why;
    const Placed pages(2 * kHugeRun);
    pages.fill(5);
    std::memset(pages.page(10), 0, 20 * page_size());         // of the first huge run
    std::memcpy(pages.page(40), pages.page(50), page_size()); // twice there
    std::memset(pages.page(kHugeRun + 10), 0, 40 * page_size());
    const std::string before(pages.data, pages.size);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(call(pages.call()), 0);
    EXPECT_EQ(counts.inserted, 2 * kHugeRun - 40);
    EXPECT_EQ(counts.zero, 40U);
    EXPECT_EQ(smaps_bytes(pages, "ShmemPmdMapped"), kHugePage);
    EXPECT_EQ(std::memcmp(before.data(), pages.data, pages.size), 0);
    struct upm_stats stats {};
    ASSERT_EQ(backend.stats(-1, stats), 0);
    EXPECT_EQ(stats.pages_shared, 2 * kHugeRun - 40) << "what is allocated, not what differs";
    EXPECT_EQ(in_child([&] {
                  const Placed own(2 * kHugeRun);
                  std::memcpy(own.data, before.data(), own.size);
                  return call(own.call()) == 0 && counts.merged + counts.zero == 2 * kHugeRun &&
                                 counts.inserted == 0 &&
                                 std::memcmp(own.data, before.data(), own.size) == 0
                             ? 0
                             : 1;
              }),
              0);
}

// The quota counts what is allocated. Where it has room for what is new only, the huge run
// does without a huge page.
TEST_F(StoreHuge, QuotaWithoutRoomForPadding) {
    (void)broker.stop(SIGTERM);
    const BrokerProcess small({"--quota", "3"});
    use(small.socket());
    const std::size_t quota = 3 * 1048576 / page_size();
    const Placed pages(quota + 12);
    pages.fill(6);
    std::memset(pages.page(100), 0, 12 * page_size());
    const std::string before(pages.data, pages.size);
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(call(pages.call()), 0);
    EXPECT_EQ(counts.inserted, quota);
    EXPECT_EQ(counts.zero, 12U);
    EXPECT_EQ(std::memcmp(before.data(), pages.data, pages.size), 0);
}

TEST_F(StoreHuge, KernelRefuses) {
    for (const int error : {EAGAIN, ENOMEM, EINVAL}) {
        const auto salt = static_cast<std::uint64_t>(100 + error);
        EXPECT_EQ(in_child([&] {
                      const Placed pages(2 * kHugeRun);
                      pages.fill(salt);
                      collapse_error = error;
                      if (open() != 0 || call(pages.call()) != 0 ||
                          counts.inserted != 2 * kHugeRun || !pages.holds(salt))
                          return 1;
                      if (smaps_bytes(pages, "ShmemPmdMapped") != 0)
                          return 2;
                      // Only what will never work is not tried again.
                      return store::huge_segments() == (error != EINVAL) ? 0 : 3;
                  }),
                  0)
            << error;
    }
}

// What the kernel says where a control group has no room for a huge page: small ones
// would get the process killed. What had room stays shared, and the call tells.
TEST_F(StoreHuge, ControlGroupWithoutRoom) {
    if (const std::string why = no_huge_pages(); !why.empty())
        GTEST_SKIP() << why;
    const Placed pages(3 * kHugeRun);
    pages.fill(7);
    ASSERT_EQ(open(), 0) << text;
    for (const int before : {0, 1}) {
        collapse_room = static_cast<std::size_t>(before) * kHugePage;
        collapse_error = EBUSY;
        EXPECT_EQ(call(pages.call()), -ENOMEM);
        collapse_error = 0;
        EXPECT_EQ(counts.inserted, static_cast<std::size_t>(before) * kHugeRun);
        EXPECT_EQ(counts.skipped[UPM_SKIPPED_NOMEM],
                  static_cast<std::size_t>(3 - before) * kHugeRun);
        EXPECT_TRUE(pages.holds(7));
    }
    EXPECT_EQ(call(pages.call()), 0);
    EXPECT_EQ(counts.already, kHugeRun);
    EXPECT_EQ(counts.inserted, 2 * kHugeRun);
    EXPECT_TRUE(pages.holds(7));
}

// The same with a control group of its own, for which one must be root.
TEST_F(StoreHuge, RealControlGroupWithoutRoom) {
    if (const std::string why = no_huge_pages(); !why.empty())
        GTEST_SKIP() << why;
    const std::string group = "/sys/fs/cgroup/memory/upm-store-test-" + std::to_string(::getpid());
    if (::mkdir(group.c_str(), 0755) != 0)
        GTEST_SKIP() << "cannot make a memory control group: " << std::strerror(errno);
    constexpr std::size_t kPages = 16 * kHugeRun;
    const auto write = [&](const char *file, const std::string &value) {
        std::ofstream(group + "/" + file) << value;
    };
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(in_child([&] {
                  write("cgroup.procs", std::to_string(::getpid()));
                  const Placed pages(kPages);
                  pages.fill(8);
                  // Less than a huge page more than what is in use.
                  const std::size_t used = std::stoul(read_file(group + "/memory.usage_in_bytes"));
                  if (used < pages.size)
                      return 77; // not counted there
                  write("memory.limit_in_bytes", std::to_string(used + kHugePage / 4));
                  const int ret = call(pages.call());
                  if (ret != -ENOMEM || counts.skipped[UPM_SKIPPED_NOMEM] == 0)
                      return 1;
                  if (!pages.holds(8))
                      return 2;
                  write("memory.limit_in_bytes", "-1");
                  return call(pages.call()) == 0 && pages.holds(8) ? 0 : 3;
              }),
              0);
    EXPECT_EQ(::rmdir(group.c_str()), 0);
}

} // namespace

} // namespace upm::test
