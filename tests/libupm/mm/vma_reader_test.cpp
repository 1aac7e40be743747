// SPDX-License-Identifier: MIT
#include "libupm/mm/vma_reader.hpp"
#include "tests/support/support.hpp"

#include <cerrno>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <vector>

namespace upm::test {

namespace {

TEST(VmaHeader, Parses) {
    Vma vma;
    ASSERT_TRUE(parse_vma_header("7f0a00000000-7f0a00021000 rw-p 00000000 00:00 0 ", vma));
    EXPECT_EQ(vma.start, 0x7f0a00000000U);
    EXPECT_EQ(vma.end, 0x7f0a00021000U);
    EXPECT_EQ(vma.flags, 0U);
    ASSERT_TRUE(parse_vma_header("1000-2000 r--s 00001000 fe:00 12 /a b (deleted)", vma));
    EXPECT_EQ(vma.flags, kVmaShared | kVmaFile);
    ASSERT_TRUE(
        parse_vma_header("ffffffffff600000-ffffffffff601000 --xp 0 00:00 0 [vsyscall]", vma));
    EXPECT_EQ(vma.end, 0xffffffffff601000U);
}

TEST(VmaHeader, ProtectionAndNames) {
    Vma vma;
    ASSERT_TRUE(parse_vma_header("1000-2000 rw-p 0 00:00 0   [heap]", vma));
    EXPECT_EQ(vma.flags, kVmaHeap);
    EXPECT_EQ(vma.protection, PROT_READ | PROT_WRITE);
    ASSERT_TRUE(parse_vma_header("1000-2000 ---p 0 00:00 0   [stack]", vma));
    EXPECT_EQ(vma.flags, kVmaStack);
    EXPECT_EQ(vma.protection, PROT_NONE);
    ASSERT_TRUE(parse_vma_header("1000-2000 r-xp 0 00:01 7 /memfd:upm-store (deleted)", vma));
    EXPECT_EQ(vma.flags, kVmaFile | kVmaSegment);
    EXPECT_EQ(vma.protection, PROT_READ | PROT_EXEC);
    ASSERT_TRUE(parse_vma_header("1000-2000 r--p 0 00:01 7 /memfd:upm-storex (deleted)", vma));
    EXPECT_EQ(vma.flags, kVmaFile);
}

TEST(VmaHeader, RefusesOtherLines) {
    Vma vma;
    for (const char *line :
         {"", "Size:                  4 kB", "VmFlags: rd wr mr", "1000-2000", "1000-2000 rw-p",
          "1000-xyz rw-p 0 00:00 0", "1000-2000 rw 0 00:00 0", "12345-1234g rw-p 0 00:00 0",
          "10002000 rw-p 0 00:00 0", "1000-2000 rw-p 0 00:00 x"})
        EXPECT_FALSE(parse_vma_header(line, vma)) << line;
}

TEST(VmFlags, Parses) {
    EXPECT_EQ(parse_vm_flags(" rd wr mr mw me ac sd "), 0U);
    EXPECT_EQ(parse_vm_flags(" rd wr mg sd"), kVmaMergeable);
    EXPECT_EQ(parse_vm_flags("rd ht"), kVmaHugetlb);
    EXPECT_EQ(parse_vm_flags("io"), kVmaSpecial);
    EXPECT_EQ(parse_vm_flags("pf"), kVmaSpecial);
    EXPECT_EQ(parse_vm_flags("de"), kVmaSpecial);
    EXPECT_EQ(parse_vm_flags("mm"), kVmaSpecial);
    EXPECT_EQ(parse_vm_flags("dd"), kVmaSecret);
    EXPECT_EQ(parse_vm_flags("wf"), kVmaSecret);
    EXPECT_EQ(parse_vm_flags("um dp"), kVmaUffd | kVmaSecret);
    EXPECT_EQ(parse_vm_flags("lo dc gd"), kVmaLocked | kVmaDontfork | kVmaStack);
    EXPECT_EQ(parse_vm_flags(""), 0U);
}

std::vector<Vma> read_all(const std::string &path, int *error = nullptr) {
    SmapsReader reader(path.c_str());
    std::vector<Vma> all;
    for (Vma vma; reader.next(vma);)
        all.push_back(vma);
    if (error != nullptr)
        *error = reader.error();
    return all;
}

// Names are chosen by others, and can be longer than any buffer. A line that looks
// like the end of an entry cannot hide in one: the kernel escapes newlines.
TEST(Smaps, LongAndOddNames) {
    const TempDir dir;
    std::string text;
    for (std::uint64_t i = 1; i <= 40; ++i) {
        char header[80];
        (void)std::snprintf(header, sizeof(header), "%lx-%lx rw-p 00000000 00:00 7 /", i * 0x1000,
                            i * 0x1000 + 0x1000);
        text += header + std::string(i * 997, 'x') + " VmFlags: mg\\012VmFlags: mg\xff\n";
        text += "Size:   4 kB\nVmFlags: rd wr" + std::string(i % 2 == 0 ? " mg" : "") + "\n";
    }
    dir.write("smaps", text);
    const std::vector<Vma> all = read_all(dir.path() + "/smaps");
    ASSERT_EQ(all.size(), 40U);
    for (std::size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(all[i].start, (i + 1) * 0x1000);
        EXPECT_EQ(all[i].flags, kVmaFile | ((i + 1) % 2 == 0 ? kVmaMergeable : 0U));
    }
}

// An entry that is cut off has unknown flags: it must not count as eligible.
TEST(Smaps, TruncatedEntryIsDropped) {
    const TempDir dir;
    dir.write("smaps",
              "1000-2000 rw-p 0 00:00 0\nVmFlags: rd\n2000-3000 rw-p 0 00:00 0\nSize: 4 kB");
    EXPECT_EQ(read_all(dir.path() + "/smaps").size(), 1U);
}

// Memory with a protection key may not be readable to all threads.
TEST(Smaps, MemoryKeys) {
    const TempDir dir;
    dir.write("smaps", "1000-2000 rw-p 0 00:00 0\nProtectionKey:         0\nVmFlags: rd\n"
                       "2000-3000 rw-p 0 00:00 0\nProtectionKey:         3\nVmFlags: rd mg\n"
                       "3000-4000 rw-p 0 00:00 0\nVmFlags: rd\n");
    const std::vector<Vma> all = read_all(dir.path() + "/smaps");
    ASSERT_EQ(all.size(), 3U);
    EXPECT_EQ(all[0].flags, 0U);
    EXPECT_EQ(all[1].flags, kVmaKey | kVmaMergeable);
    EXPECT_EQ(all[2].flags, 0U);
}

TEST(Smaps, MissingFileIsAnError) {
    const TempDir dir;
    int error = 0;
    EXPECT_TRUE(read_all(dir.path() + "/smaps", &error).empty());
    EXPECT_EQ(error, -ENOENT);
}

// Else a half-read list of mappings would be taken for all of them.
TEST(Smaps, FailedReadIsAnError) {
    int error = 0;
    EXPECT_TRUE(read_all("/proc/self", &error).empty());
    EXPECT_EQ(error, -EISDIR);
}

// Against the other source of the same truth.
TEST(Smaps, AgreesWithMaps) {
    const Pages pages(3);
    std::vector<std::string> maps;
    std::ifstream file("/proc/self/maps");
    for (std::string line; std::getline(file, line);)
        maps.push_back(line);
    bool found = false;
    for (const Vma &vma : read_all("/proc/self/smaps"))
        found = found || (vma.start <= reinterpret_cast<std::uint64_t>(pages.data()) &&
                          vma.end >= reinterpret_cast<std::uint64_t>(pages.data()) + pages.size());
    EXPECT_TRUE(found);
    EXPECT_NEAR(static_cast<double>(read_all("/proc/self/smaps").size()),
                static_cast<double>(maps.size()), 3);
}

} // namespace

} // namespace upm::test
