// SPDX-License-Identifier: MIT
//
// What Backend::load promises, for every backend, every kind of destination and every
// kind of file: that it is pread(2) to the program.
#include "libupm/mm/aligned_range.hpp"
#include "tests/libupm/contract/subject.hpp"
#include "tests/support/support.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <optional>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

// No multiple of a page, and larger than what the store looks at in one go (16 MiB); of
// other backends two blocks of the module (2 MiB), since these run in an emulator.
constexpr std::size_t kLargest = (21UL << 20U) + 1234;
std::size_t size_for(const std::string &backend) {
    return backend == "store" ? kLargest : (3UL << 20U) + 1234;
}
constexpr char kBefore = '\x5a'; // what lies around the destination

enum class Into : std::uint8_t {
    kFresh,   // one mapping, never touched, at a multiple of 2 MiB
    kOdd,     // the same, but the destination begins within a page
    kMalloc,  // of malloc, never touched but for its head
    kPresent, // touched everywhere
    kPartly,  // every third page touched
    kLocked,  // mlock(2)
    kTwo,     // two mappings of different flags
    kShared,  // MAP_SHARED
    kFile,    // private mapping of another file
    kForked,  // shared with a child of a fork
    kUffd,    // watched by a userfaultfd of the program
};

const char *name_of(Into into) {
    constexpr const char *kNames[] = {"Fresh", "Odd",    "Malloc", "Present", "Partly", "Locked",
                                      "Two",   "Shared", "File",   "Forked",  "Uffd"};
    return kNames[static_cast<std::size_t>(into)];
}

// A file of `size` bytes in which every page is different, and some are of zeros.
std::string make_content(std::size_t size, unsigned salt) {
    std::string content(size, '\0');
    auto *const words = reinterpret_cast<std::uint32_t *>(content.data());
    for (std::size_t i = 0; i < size / sizeof(*words); ++i)
        words[i] = (i / 1024) % 16 == 7 ? 0 : static_cast<std::uint32_t>(i * 2654435761U + salt);
    return content;
}

class Destination {
  public:
    explicit Destination(Into into) : into_(into) {
        constexpr std::size_t kAll = (kLargest / 4096 + 1 + 1536) * 4096;
        length_ = kAll;
        if (into == Into::kMalloc) {
            block_ = std::malloc(kAll);
            start_ = static_cast<char *>(block_) + 4096;
            return;
        }
        int flags = into == Into::kShared ? MAP_SHARED : MAP_PRIVATE;
        int fd = -1;
        if (into == Into::kFile) {
            dir_.write("other", std::string(kAll + kHugePage, kBefore));
            fd = ::open((dir_.path() + "/other").c_str(), O_RDONLY | O_CLOEXEC);
        } else {
            flags |= MAP_ANONYMOUS;
        }
        // Nothing of ours lies beside it, so that the library can tell what it is.
        void *const all = ::mmap(nullptr, kAll + kHugePage, PROT_READ | PROT_WRITE, flags, fd, 0);
        EXPECT_NE(all, MAP_FAILED);
        const std::size_t over = reinterpret_cast<std::uintptr_t>(all) % kHugePage;
        start_ = static_cast<char *>(all) + (over == 0 ? 0 : kHugePage - over);
        if (start_ != all)
            (void)::munmap(all, static_cast<std::size_t>(start_ - static_cast<char *>(all)));
        (void)::munmap(start_ + kAll, over == 0 ? kHugePage : over);
        if (fd >= 0)
            ::close(fd);
        prepare();
    }
    Destination(const Destination &) = delete;
    Destination &operator=(const Destination &) = delete;
    ~Destination() {
        std::free(block_);
        if (block_ == nullptr)
            (void)::munmap(start_, length_);
        if (uffd_ >= 0)
            ::close(uffd_);
    }

    // Where the file is to be read to.
    [[nodiscard]] char *data() const {
        return start_ + kFront + (into_ == Into::kOdd ? 4096 - 112 : 0);
    }
    [[nodiscard]] const std::string &missing() const { return missing_; }

  private:
    static constexpr std::size_t kFront = 2UL << 20U; // so that there is something in front

    void prepare() {
        const std::size_t page = page_size();
        switch (into_) {
        case Into::kPresent:
            std::memset(start_, kBefore, length_);
            break;
        case Into::kPartly:
            for (std::size_t at = 0; at < length_; at += 3 * page)
                start_[at] = kBefore;
            break;
        case Into::kLocked:
            if (::mlock(start_, length_) != 0)
                missing_ = "no right to lock that much memory";
            break;
        case Into::kTwo:
            EXPECT_EQ(::madvise(data() + (1UL << 20U), page * 5, MADV_DONTDUMP), 0);
            break;
        case Into::kForked:
            std::memset(start_, kBefore, length_);
            break;
        case Into::kUffd:
            watch();
            break;
        default:
            break;
        }
    }
    void watch() {
        uffd_ = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1));
        uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
        uffdio_register all{};
        all.range = {.start = reinterpret_cast<std::uint64_t>(start_), .len = length_};
        all.mode = UFFDIO_REGISTER_MODE_WP;
        if (uffd_ < 0 || ::ioctl(uffd_, UFFDIO_API, &api) != 0 ||
            ::ioctl(uffd_, UFFDIO_REGISTER, &all) != 0)
            missing_ = "no userfaultfd here";
    }

    Into into_;
    TempDir dir_;
    void *block_ = nullptr;
    char *start_ = nullptr;
    std::size_t length_ = 0;
    int uffd_ = -1;
    std::string missing_;
};

class Opened {
  public:
    Opened(const std::string &path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {}
    Opened(const Opened &) = delete;
    Opened &operator=(const Opened &) = delete;
    ~Opened() { ::close(fd_); }
    [[nodiscard]] int get() const { return fd_; }

  private:
    int fd_;
};

// Loads, and expects the sums that hold for every load.
std::int64_t load(Subject &subject, int fd, std::int64_t offset, void *into, std::size_t len,
                  upm_load_counts &counts, unsigned flags = 0) {
    const std::int64_t got = subject.engine().load(
        {.fd = fd, .offset = offset, .into = into, .len = len, .flags = flags}, counts);
    EXPECT_EQ(counts.bytes, counts.shared + counts.made + counts.copied);
    EXPECT_EQ(counts.bytes, static_cast<std::uint64_t>(std::max<std::int64_t>(got, 0)));
    return got;
}

class LoadContract : public testing::TestWithParam<std::tuple<std::string, Into>> {
  protected:
    void SetUp() override {
        if (!subject.unavailable().empty())
            GTEST_SKIP() << subject.unavailable();
    }

    // Loads from a file of that size, and expects what pread(2) gives for the same.
    void expect_like_pread(std::size_t file_size, std::size_t offset, std::size_t len) {
        const TempDir dir;
        const std::string content = make_content(file_size, 1);
        dir.write("file", content);
        const Opened file(dir.path() + "/file", O_RDONLY);
        ASSERT_GE(file.get(), 0);
        ASSERT_EQ(::lseek(file.get(), 77, SEEK_SET), 77);
        const Destination into(std::get<1>(GetParam()));
        if (!into.missing().empty())
            GTEST_SKIP() << into.missing();
        const std::size_t expected = offset < file_size ? std::min(len, file_size - offset) : 0;
        const char around[] = {into.data()[-1], into.data()[expected]};
        upm_load_counts counts{};
        errno = 4711;
        EXPECT_EQ(
            load(subject, file.get(), static_cast<std::int64_t>(offset), into.data(), len, counts),
            static_cast<std::int64_t>(expected));
        EXPECT_EQ(std::memcmp(into.data(), content.data() + std::min(offset, file_size), expected),
                  0);
        EXPECT_EQ(into.data()[-1], around[0]) << "in front of the destination";
        EXPECT_EQ(into.data()[expected], around[1]) << "behind what was read";
        EXPECT_EQ(::lseek(file.get(), 0, SEEK_CUR), 77);
        // Loaded memory is the program's own.
        into.data()[expected / 2] = 'w';
        EXPECT_EQ(read_file(dir.path() + "/file"), content);
    }

    Subject subject{std::get<0>(GetParam())};
    const std::size_t size = size_for(std::get<0>(GetParam()));
};

TEST_P(LoadContract, WholeFile) {
    expect_like_pread(size, 0, size);
}

TEST_P(LoadContract, PartAtAnOddOffset) {
    expect_like_pread(size, 65 * 4096 + 30, size - (1UL << 20U));
}

TEST_P(LoadContract, EndOfTheFile) {
    expect_like_pread(size - 5000, 4096, size);
}

TEST_P(LoadContract, BehindTheEnd) {
    expect_like_pread(10'000, 20'000, size);
}

TEST_P(LoadContract, AFewBytes) {
    expect_like_pread(size, 12'345, 6789);
}

// A later process that loads the same gets the same bytes, and its writes are its own.
TEST_P(LoadContract, SecondProcessLoadsTheSame) {
    const TempDir dir;
    const std::string content = make_content(size, 2);
    dir.write("file", content);
    const Opened file(dir.path() + "/file", O_RDONLY);
    const Destination first(std::get<1>(GetParam()));
    if (!first.missing().empty())
        GTEST_SKIP() << first.missing();
    upm_load_counts counts{};
    ASSERT_EQ(load(subject, file.get(), 0, first.data(), size, counts),
              static_cast<std::int64_t>(size));
    EXPECT_EQ(in_child([&] {
                  const Destination second(std::get<1>(GetParam()));
                  upm_load_counts again{};
                  if (load(subject, file.get(), 0, second.data(), size, again) !=
                      static_cast<std::int64_t>(size))
                      return 1;
                  if (std::memcmp(second.data(), content.data(), size) != 0)
                      return 2;
                  std::memset(second.data(), 'x', size);
                  return testing::Test::HasFailure() ? 3 : 0;
              }),
              0);
    EXPECT_EQ(std::memcmp(first.data(), content.data(), size), 0);
    std::memset(first.data(), 'y', size);
    EXPECT_EQ(read_file(dir.path() + "/file"), content);
}

// What is loaded while somebody writes to the file is, byte by byte, what was there.
TEST_P(LoadContract, FileThatChanges) {
    const TempDir dir;
    std::string content = make_content(size, 3);
    dir.write("file", content);
    const Opened file(dir.path() + "/file", O_RDWR);
    const Destination first(std::get<1>(GetParam()));
    if (!first.missing().empty())
        GTEST_SKIP() << first.missing();
    upm_load_counts counts{};
    ASSERT_GT(load(subject, file.get(), 0, first.data(), size, counts), 0);
    std::atomic<bool> stop{false};
    std::thread writer([&] {
        for (std::size_t at = 4096; !stop; at = (at * 5 + 8192) % (size - 1)) {
            const char byte = at % 2 == 0 ? 'A' : 'B';
            EXPECT_EQ(::pwrite(file.get(), &byte, 1, static_cast<off_t>(at)), 1);
        }
    });
    for (int round = 0; round < 4; ++round) {
        const Destination into(std::get<1>(GetParam()));
        EXPECT_EQ(load(subject, file.get(), 0, into.data(), size, counts),
                  static_cast<std::int64_t>(size));
        for (std::size_t i = 0; i < size; ++i) {
            const char byte = into.data()[i];
            if (byte != content[i]) {
                ASSERT_TRUE(byte == 'A' || byte == 'B') << "byte " << i;
            }
        }
    }
    stop = true;
    writer.join();
}

INSTANTIATE_TEST_SUITE_P(All, LoadContract,
                         testing::Combine(testing::ValuesIn(backend_names()),
                                          testing::Values(Into::kFresh, Into::kOdd, Into::kMalloc,
                                                          Into::kPresent, Into::kPartly,
                                                          Into::kLocked, Into::kTwo, Into::kShared,
                                                          Into::kFile, Into::kForked, Into::kUffd)),
                         [](const auto &test) {
                             return std::get<0>(test.param) + "_" +
                                    name_of(std::get<1>(test.param));
                         });

// What does not depend on the kind of destination.
class LoadRules : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        if (!subject.unavailable().empty())
            GTEST_SKIP() << subject.unavailable();
    }
    std::int64_t load_from(int fd, std::int64_t offset = 0) {
        return load(subject, fd, offset, into.data(), into.size(), counts);
    }
    Subject subject{GetParam()};
    Pages into{600};
    upm_load_counts counts{};
};

TEST_P(LoadRules, ErrorsAreThoseOfPread) {
    const TempDir dir;
    dir.write("file", "text");
    const Opened folder(dir.path(), O_RDONLY | O_DIRECTORY);
    const Opened write_only(dir.path() + "/file", O_WRONLY);
    const Opened file(dir.path() + "/file", O_RDONLY);
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    EXPECT_EQ(load_from(folder.get()), -EISDIR);
    EXPECT_EQ(load_from(write_only.get()), -EBADF);
    EXPECT_EQ(load_from(ends[0]), -ESPIPE);
    EXPECT_EQ(load_from(-1), -EBADF);
    EXPECT_EQ(load_from(file.get(), -1), -EINVAL);
    ::close(ends[0]);
    ::close(ends[1]);
}

TEST_P(LoadRules, DestinationThatCannotBeWritten) {
    const TempDir dir;
    dir.write("file", make_content(into.size(), 4));
    const Opened file(dir.path() + "/file", O_RDONLY);
    ASSERT_EQ(::mprotect(into.data(), into.size(), PROT_READ), 0);
    EXPECT_EQ(load_from(file.get()), -EFAULT);
    ASSERT_EQ(::mprotect(into.data(), into.size(), PROT_READ | PROT_WRITE), 0);
    for (std::size_t i = 0; i < into.size(); ++i)
        ASSERT_EQ(into.data()[i], 0);
}

// In the middle is a hole: what lies in front of it is read, as pread(2) does it.
TEST_P(LoadRules, DestinationWithAHole) {
    const TempDir dir;
    const std::string content = make_content(into.size(), 5);
    dir.write("file", content);
    const Opened file(dir.path() + "/file", O_RDONLY);
    ASSERT_EQ(::munmap(into.page(300), page_size()), 0);
    EXPECT_EQ(load_from(file.get()), static_cast<std::int64_t>(300 * page_size()));
    EXPECT_EQ(std::memcmp(into.data(), content.data(), 300 * page_size()), 0);
}

TEST_P(LoadRules, FilesThatAreMadeWhenTheyAreRead) {
    const Opened file("/proc/self/maps", O_RDONLY);
    ASSERT_GT(load_from(file.get()), 0);
    EXPECT_NE(std::string_view(into.data()).find(" rw-p "), std::string_view::npos);
    if (subject.can().load != 1) { // else what was read is merged, whatever it is of
        EXPECT_EQ(counts.shared + counts.made, 0U);
    }
}

TEST_P(LoadRules, SparseFile) {
    const TempDir dir;
    dir.write("file", "begin");
    ASSERT_EQ(::truncate((dir.path() + "/file").c_str(), static_cast<off_t>(into.size())), 0);
    const Opened file(dir.path() + "/file", O_RDONLY);
    ASSERT_EQ(load_from(file.get()), static_cast<std::int64_t>(into.size()));
    EXPECT_EQ(std::string_view(into.data()), "begin");
    EXPECT_TRUE(std::all_of(into.data() + 5, into.data() + into.size(),
                            [](char byte) { return byte == 0; }));
}

TEST_P(LoadRules, DirectIo) {
    const std::string content = make_content(into.size(), 6);
    const std::string path = "load-contract-direct." + std::to_string(::getpid());
    {
        const Opened file(path, O_RDWR | O_CREAT | O_EXCL | O_TRUNC);
        if (file.get() < 0)
            GTEST_SKIP() << "the working folder cannot be written to";
    }
    ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
    {
        const Opened file(path, O_RDWR);
        ASSERT_EQ(::pwrite(file.get(), content.data(), content.size(), 0),
                  static_cast<ssize_t>(content.size()));
    }
    const Opened direct(path, O_RDONLY | O_DIRECT);
    ::unlink(path.c_str());
    if (direct.get() < 0)
        GTEST_SKIP() << "no direct I/O on this file system";
    EXPECT_EQ(load_from(direct.get()), static_cast<std::int64_t>(into.size()));
    EXPECT_EQ(std::memcmp(into.data(), content.data(), into.size()), 0);
    if (subject.can().load == 1) { // what was read is merged, whatever it is of
        ASSERT_EQ(load_from(direct.get()), static_cast<std::int64_t>(into.size()));
        EXPECT_EQ(std::memcmp(into.data(), content.data(), into.size()), 0);
        EXPECT_EQ(counts.shared, into.size()) << "the same again";
    } else {
        EXPECT_EQ(counts.shared + counts.made, 0U) << "it would go through the page cache";
    }
}

// The two halves of what a backend that shares is for.
TEST_P(LoadRules, LaterLoadSharesAndTakesNoMemory) {
    if (!subject.can().load)
        GTEST_SKIP() << "this backend shares nothing at once";
    const std::size_t size = size_for(GetParam());
    const TempDir dir;
    const std::string content = make_content(size, 7);
    dir.write("file", content);
    const Opened file(dir.path() + "/file", O_RDONLY);
    const Destination first(Into::kFresh);
    // Patient: this process may have found the broker slow before, and would not ask it.
    ASSERT_GT(load(subject, file.get(), 0, first.data(), size, counts,
                   UPM_LOAD_ORDINARY | UPM_LOAD_PATIENT),
              0);
    // On a busy machine another process may be late, and then nobody waits for it.
    for (int i = 0; i < 100; ++i) {
        const Destination later(Into::kFresh);
        ASSERT_GT(load(subject, file.get(), 0, later.data(), size, counts, UPM_LOAD_ORDINARY), 0);
        EXPECT_EQ(std::memcmp(later.data(), content.data(), size), 0);
        if (counts.shared >= size * 97 / 100)
            return;
        ::usleep(200'000);
    }
    FAIL() << counts.shared << " bytes of " << size << " shared";
}

INSTANTIATE_TEST_SUITE_P(All, LoadRules, testing::ValuesIn(backend_names()),
                         [](const auto &test) { return test.param; });

} // namespace

} // namespace upm::test
