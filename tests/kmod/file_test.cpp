// SPDX-License-Identifier: MIT
//
// Private mappings of files: what happens to the file, or is done through it, while
// its pages are merged.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/slow_file.hpp"

#include <array>
#include <csetjmp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 24;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

sigjmp_buf fault_return;
void on_fault(int) {
    siglongjmp(fault_return, 1);
}

// Does reading the byte raise `signal`?
bool read_raises(int signal, const std::byte *byte) {
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    ::sigaction(signal, &action, &before);
    const bool raised = sigsetjmp(fault_return, 1) != 0;
    if (!raised)
        static_cast<void>(*static_cast<const volatile std::byte *>(byte));
    ::sigaction(signal, &before, nullptr);
    return raised;
}

class FilePages : public KmodTest {
  protected:
    // The file as read(2) sees it.
    static void expect_file(int fd, const Pattern &pattern, std::size_t page, std::size_t pages) {
        std::array<std::byte, kPage> wanted{};
        std::array<std::byte, kPage> got{};
        for (std::size_t i = page; i < page + pages; i++) {
            pattern.fill(i, wanted.data());
            ASSERT_EQ(::pread(fd, got.data(), kPage, static_cast<off_t>(i * kPage)),
                      static_cast<ssize_t>(kPage));
            EXPECT_EQ(std::memcmp(wanted.data(), got.data(), kPage), 0) << "page " << i;
        }
    }

    Device upm_;
    Pattern pattern_{Content::kDistinct, fresh_seed()};
};

// Copies of one file on different file systems, as in the layers of two images.
TEST_F(FilePages, CopiesOnTwoFileSystems) {
    if (disk().empty())
        GTEST_SKIP() << "no disk";
    Actor on_disk(Kind::kFileClean, pattern_, kPages);
    Actor in_memory(Kind::kMemfd, pattern_, kPages);
    Actor anonymous(Kind::kAnonymous, pattern_, kPages);
    for (Actor *actor : {&on_disk, &in_memory, &anonymous})
        EXPECT_EQ(actor->advise().done(), kPages);
    EXPECT_EQ(equal_frames(on_disk.frames(), in_memory.frames()), kPages);
    EXPECT_EQ(equal_frames(on_disk.frames(), anonymous.frames()), kPages);
    for (Actor *actor : {&on_disk, &in_memory, &anonymous})
        actor->check();
}

// A library, copied: its real bytes, mapped as the loader does.
TEST_F(FilePages, CopiesOfALibrary) {
    const std::string library = "/bin/busybox";
    const std::string source = exists(library) ? library : "/bin/ls";
    const std::string dir = disk().empty() ? "/tmp" : disk();
    std::array<Mapping, 2> mappings;
    std::uint64_t merged = 0;
    for (std::size_t i = 0; i < mappings.size(); i++) {
        const std::string copy = dir + "/library-" + std::to_string(i);
        // Written back, as a library is: what is dirty cannot be split where it is large.
        ASSERT_TRUE(shell("cp " + source + " " + copy + " && sync " + copy));
        const Fd fd(must(::open(copy.c_str(), O_RDONLY | O_CLOEXEC), "open"));
        struct stat status {};
        ASSERT_EQ(::fstat(fd.get(), &status), 0);
        const std::size_t len = static_cast<std::size_t>(status.st_size) / kPage * kPage;
        mappings[i] = Mapping(len, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_POPULATE, fd.get());
        ::unlink(copy.c_str());
        const Advice advice = upm_.advise(mappings[i].base(), len);
        EXPECT_EQ(advice.error, 0);
        merged = advice.counts.merged;
    }
    const Frames frames = frames_of(0, mappings[1].base(), mappings[1].pages());
    if (frames_with(frames, kFlagCompoundHead) + frames_with(frames, kFlagCompoundTail) != 0)
        GTEST_SKIP() << "this file system keeps files in large folios, which cannot be frozen";
    EXPECT_GE(merged, mappings[1].pages() * 9 / 10);
    EXPECT_GE(equal_frames(frames_of(0, mappings[0].base(), mappings[0].pages()),
                           frames_of(0, mappings[1].base(), mappings[1].pages())),
              mappings[1].pages() * 9 / 10);
    EXPECT_EQ(std::memcmp(mappings[0].base(), mappings[1].base(), mappings[1].len()), 0);
}

// Machine code runs from shared frames.
TEST_F(FilePages, CodeRuns) {
    // mov $0x2a, %eax; ret
    constexpr std::array<unsigned char, 6> kCode = {0xb8, 0x2a, 0x00, 0x00, 0x00, 0xc3};
    const Fd file = temporary_file(pattern_, kPages);
    ASSERT_EQ(::pwrite(file.get(), kCode.data(), kCode.size(), 5 * kPage), 6);
    const Mapping mapping(kPages * kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_POPULATE,
                          file.get());
    int (*code)() = nullptr;
    const std::byte *entry = mapping.page(5);
    std::memcpy(&code, &entry, sizeof(code));
    EXPECT_EQ(code(), 42);
    EXPECT_EQ(upm_.advise(mapping.base(), mapping.len()).counts.inserted, kPages);
    EXPECT_EQ(code(), 42);
    // As a debugger does: the code of this process alone changes.
    ASSERT_EQ(::mprotect(mapping.base(), mapping.len(), kReadWrite | PROT_EXEC), 0);
    mapping.page(5)[1] = std::byte{43};
    EXPECT_EQ(code(), 43);
    EXPECT_EQ(upm_.advise(mapping.base(), mapping.len()).error, 0);
    EXPECT_EQ(code(), 43);
}

// The file is never written to, whatever the mapping does.
TEST_F(FilePages, FileStaysAsItIs) {
    Region region(Kind::kFileClean, pattern_, kPages);
    ASSERT_EQ(upm_.advise(region.base(), region.len()).counts.inserted, kPages);
    for (std::size_t i = 0; i < kPages; i++)
        region.write(i, ~i);
    EXPECT_EQ(upm_.advise(region.base(), region.len()).error, 0);
    region.check();
    expect_file(region.file(), pattern_, 0, kPages);
    ::fsync(region.file());
    ASSERT_EQ(write_file("/proc/sys/vm/drop_caches", "1"), 0);
    expect_file(region.file(), pattern_, 0, kPages);
    region.check();
}

// Somebody maps the same file shared, and writes there: the file has it, and a
// private page that was written before keeps what it has.
TEST_F(FilePages, SharedMappingOfTheSameFile) {
    Region region(Kind::kFileClean, pattern_, kPages);
    region.write(3, 33);
    ASSERT_EQ(upm_.advise(region.base(), region.len()).counts.inserted, kPages - 1);
    const Mapping shared(kPages * kPage, kReadWrite, MAP_SHARED, region.file());
    Pattern other = pattern_;
    other.seed = fresh_seed();
    shared.fill(other);
    expect_file(region.file(), other, 0, kPages);
    EXPECT_EQ(upm_.advise(shared.base(), shared.len()).skipped(UPM_SKIP_SHARED), kPages);
    expect_file(region.file(), other, 0, kPages);
    std::array<std::byte, kPage> own{};
    std::memcpy(own.data(), region.model(3 * kPage), kPage);
    EXPECT_EQ(std::memcmp(region.page(3), own.data(), kPage), 0);
}

// Pages beyond the new end go, merged or not: SIGBUS.
TEST_F(FilePages, TruncationTakesMergedPages) {
    for (const Kind kind : {Kind::kFileClean, Kind::kMemfd, Kind::kText}) {
        Region region(kind, pattern_, kPages);
        ASSERT_EQ(upm_.advise(region.base(), region.len()).done(), kPages) << kind;
        ASSERT_EQ(::ftruncate(region.file(), 10 * kPage), 0);
        for (std::size_t i = 0; i < kPages; i++)
            EXPECT_EQ(read_raises(SIGBUS, region.page(i)), i >= 10) << kind << ", page " << i;
        const Advice advice = upm_.advise(region.base(), region.len());
        EXPECT_EQ(advice.error, 0);
        EXPECT_EQ(advice.skipped(UPM_SKIP_NOT_PRESENT), kPages - 10) << kind;
        EXPECT_EQ(advice.done(), 10U) << kind;
        // Longer again, the rest reads zeros: nothing of the old content comes back.
        ASSERT_EQ(::ftruncate(region.file(), kPages * kPage), 0);
        region.expect_zeros(10, kPages - 10);
        region.check();
        EXPECT_EQ(upm_.advise(region.base(), region.len()).error, 0);
        region.check();
    }
}

// Truncation again and again while the mapping is advised.
TEST_F(FilePages, TruncationRacesWithAdvise) {
    Region region(Kind::kFileClean, pattern_, kPages);
    Process truncator;
    // The child has the descriptor by inheritance.
    truncator.start(
        +[](int fd, double until) {
            while (now() < until) {
                must(::ftruncate(fd, 4 * kPage), "ftruncate");
                must(::ftruncate(fd, kPages * kPage), "ftruncate");
            }
        },
        region.file(), now() + 3);
    const double end = now() + 3;
    while (now() < end) {
        const Advice advice = upm_.advise(region.base(), region.len());
        EXPECT_EQ(advice.error, 0);
        for (std::size_t i = 4; i < kPages; i++)
            read_raises(SIGBUS, region.page(i));
    }
    truncator.finish<void>();
    region.expect_zeros(4, kPages - 4);
    region.check();
}

// Pages of a file mapping that the program wrote are skipped: see the next tests
// for what would become of them.
TEST_F(FilePages, PrivateCopiesStay) {
    Region region(Kind::kFileDirty, pattern_, kPages);
    const Frames before = frames_of(::getpid(), region.base(), kPages);
    const Advice advice = upm_.advise(region.base(), region.len());
    EXPECT_EQ(advice.error, 0);
    EXPECT_EQ(advice.skipped(UPM_SKIP_FILE), kPages);
    EXPECT_EQ(frames_of(::getpid(), region.base(), kPages), before);
    region.check();
}

// A hole is punched into the file, or its cache is invalidated: private pages that
// the program wrote are its own and must survive, as they do without merging. The
// kernel knows a private copy by its being anonymous, which a shared page is not.
TEST_F(FilePages, PunchedHoleLeavesPrivateWrites) {
    for (const Kind kind : {Kind::kFileDirty, Kind::kFileClean}) {
        Region region(kind, pattern_, kPages);
        for (std::size_t i = 0; i < kPages; i++)
            region.write(i, i + 77);
        EXPECT_EQ(upm_.advise(region.base(), region.len()).error, 0);
        ASSERT_EQ(::fallocate(region.file(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * kPage,
                              8 * kPage),
                  0);
        region.check();
    }
}

// The same on the way of a direct write to the file, which drops what the cache
// has mapped of it. Another process must have the page mapped for that.
TEST_F(FilePages, DirectWriteLeavesPrivateWrites) {
    if (disk().empty())
        GTEST_SKIP() << "no disk, and files in memory are not read past the cache";
    Region region(Kind::kFileClean, pattern_, kPages);
    const Mapping reader(kPages * kPage, PROT_READ, MAP_SHARED | MAP_POPULATE, region.file());
    for (std::size_t i = 0; i < kPages; i++)
        region.write(i, i + 77);
    EXPECT_EQ(upm_.advise(region.base(), region.len()).error, 0);
    const std::string path = "/proc/self/fd/" + std::to_string(region.file());
    const Fd direct(must(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC), "open"));
    const Mapping buffer(4 * kPage);
    std::memset(buffer.base(), 5, buffer.len());
    ASSERT_EQ(::pwrite(direct.get(), buffer.base(), buffer.len(), 4 * kPage),
              static_cast<ssize_t>(buffer.len()));
    region.check();
    EXPECT_EQ(reader.page(5)[0], std::byte{5});
}

// The page cache goes: what is merged needs it no more.
TEST_F(FilePages, DroppedCaches) {
    Actor a(Kind::kFileClean, pattern_, kPages);
    Actor b(Kind::kText, pattern_, kPages);
    a.advise();
    b.advise();
    ASSERT_EQ(write_file("/proc/sys/vm/drop_caches", "3"), 0);
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), kPages);
    a.check();
    b.check();
}

// A page of a file that very many share is saved already, and freezing it would stop all
// of them: it is left alone as long as they do.
TEST_F(FilePages, WidelySharedPagesStay) {
    constexpr std::size_t kMany = 65; // more than UPM_FILE_MAPPINGS_MAX of the module
    const Fd file = temporary_file(pattern_, kPages);
    const auto map = [&] {
        return Mapping(kPages * kPage, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file.get());
    };
    std::vector<Mapping> mappings;
    for (std::size_t i = 0; i < kMany; i++)
        mappings.push_back(map());
    const Mapping &first = mappings.front();
    const Frames before = frames_of(0, first.base(), kPages);
    EXPECT_EQ(upm_.advise(first.base(), first.len()).skipped(UPM_SKIP_FILE), kPages);
    EXPECT_EQ(frames_of(0, first.base(), kPages), before);
    mappings.pop_back();
    EXPECT_EQ(upm_.advise(first.base(), first.len()).counts.inserted, kPages);
    EXPECT_EQ(frames_of(0, mappings.back().base(), kPages), before);
    expect_file(file.get(), pattern_, 0, kPages);
}

// A fault on a file of FUSE waits for the program that serves it, which may never answer:
// an agent does not get into that, the process itself may.
TEST_F(FilePages, AgentLeavesFilesOfFuse) {
    if (!SlowFile::available())
        GTEST_SKIP() << "no FUSE";
    std::vector<std::byte> bytes(kPages * kPage);
    for (std::size_t i = 0; i < kPages; i++)
        pattern_.fill(i, bytes.data() + i * kPage);
    Process child; // before there are threads
    SlowFile slow(bytes);
    slow.release();
    const Fd file(must(::open(slow.path().c_str(), O_RDONLY | O_CLOEXEC), "open"));
    const Mapping mapping(kPages * kPage, PROT_READ, MAP_PRIVATE, file.get());
    const auto touch = +[](const std::byte *base) {
        for (std::size_t i = 0; i < kPages; i++)
            static_cast<void>(*static_cast<const volatile std::byte *>(base + i * kPage));
    };
    const auto same = [&] { return std::memcmp(mapping.base(), bytes.data(), bytes.size()) == 0; };
    touch(mapping.base());
    const auto agent = [&] {
        return child.call(
            +[](const std::byte *base, pid_t pid) {
                return Device().advise(base, kPages * kPage, {.pid = pid});
            },
            mapping.base(), ::getpid());
    };
    EXPECT_EQ(agent().skipped(UPM_SKIP_FILE), kPages);
    EXPECT_TRUE(same());
    EXPECT_EQ(upm_.advise(mapping.base(), mapping.len()).counts.inserted, kPages);
    EXPECT_EQ(agent().counts.already, kPages);
    EXPECT_TRUE(same());
}

// A descriptor without the right to write, of a file that nobody may write.
TEST_F(FilePages, ReadOnlyDescriptor) {
    const std::string path = (disk().empty() ? "/tmp" : disk()) + "/read-only";
    {
        const Fd file(
            must(::open(path.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0400), "open"));
        std::array<std::byte, kPage> bytes{};
        for (std::size_t i = 0; i < kPages; i++) {
            pattern_.fill(i, bytes.data());
            must(::write(file.get(), bytes.data(), kPage), "write");
        }
    }
    const Fd file(must(::open(path.c_str(), O_RDONLY | O_CLOEXEC), "open"));
    ::unlink(path.c_str());
    const Mapping mapping(kPages * kPage, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file.get());
    EXPECT_EQ(upm_.advise(mapping.base(), mapping.len()).counts.inserted, kPages);
    expect_file(file.get(), pattern_, 0, kPages);
    ASSERT_EQ(::mprotect(mapping.base(), mapping.len(), kReadWrite), 0);
    std::memset(mapping.base(), 1, mapping.len());
    expect_file(file.get(), pattern_, 0, kPages);
}

// A mapping that reaches beyond the end of its file.
TEST_F(FilePages, MappingBeyondTheEnd) {
    const Fd file = temporary_file(pattern_, 10);
    const Mapping mapping(kPages * kPage, PROT_READ, MAP_PRIVATE, file.get());
    for (std::size_t i = 0; i < 10; i++)
        EXPECT_FALSE(read_raises(SIGBUS, mapping.page(i)));
    const Advice advice = upm_.advise(mapping.base(), mapping.len());
    EXPECT_EQ(advice.error, 0);
    EXPECT_EQ(advice.counts.inserted, 10U);
    EXPECT_EQ(advice.skipped(UPM_SKIP_NOT_PRESENT), kPages - 10);
    EXPECT_TRUE(read_raises(SIGBUS, mapping.page(10)));
}

// The end of a file that is no whole page reads zeros behind it, and stays so.
TEST_F(FilePages, LastPartialPage) {
    const Fd file = temporary_file(pattern_, 2);
    ASSERT_EQ(::ftruncate(file.get(), kPage + 100), 0);
    const Mapping mapping(2 * kPage, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file.get());
    EXPECT_EQ(upm_.advise(mapping.base(), mapping.len()).counts.inserted, 2U);
    std::array<std::byte, kPage> wanted{};
    pattern_.fill(1, wanted.data());
    EXPECT_EQ(std::memcmp(mapping.page(1), wanted.data(), 100), 0);
    for (std::size_t i = 100; i < kPage; i++)
        ASSERT_EQ(mapping.page(1)[i], std::byte{0}) << "offset " << i;
}

} // namespace

} // namespace upm::test
