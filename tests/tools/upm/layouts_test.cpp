// SPDX-License-Identifier: MIT
//
// Layouts of programs, by their memory maps.
#include "tools/upm/layouts.hpp"

#include "tests/support/support.hpp"
#include "tools/upm/keyed_layout.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>

namespace upm::tool::cli {

namespace {

using test::TempDir;
using testing::HasSubstr;

constexpr std::uint64_t kTop = 0x7ffffffff000;

// A program whose dynamic linker ends there, and its stack.
std::string maps(std::uint64_t linker_end, std::uint64_t stack_end, bool hook = true) {
    std::string text = "555555554000-555555556000 r-xp 00000000 08:01 1    /usr/bin/program\n";
    if (hook)
        text += fmt::format("{:x}-{:x} r-xp 00000000 08:01 2    /opt/upm/libupm-preload.so\n",
                            linker_end - 0x5000, linker_end - 0x4000);
    text += fmt::format("{:x}-{:x} r--p 00000000 08:01 3    /lib/ld-linux-x86-64.so.2\n",
                        linker_end - 0x3000, linker_end);
    text +=
        fmt::format("{:x}-{:x} rw-p 00000000 00:00 0    [stack]\n", stack_end - 0x21000, stack_end);
    return text + "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n";
}

Layout layout(const std::string &text) {
    std::vector<Mapping> mappings;
    for_each_line(text, [&](std::string_view line) {
        if (auto mapping = parse_mapping(line))
            mappings.push_back(std::move(*mapping));
    });
    return layout_of(mappings);
}

#if defined(__x86_64__)

TEST(Layouts, AreToldByStackAndGap) {
    EXPECT_EQ(layout(maps(0x7f1234567000, 0x7ffe12345000)), Layout::kStock);
    EXPECT_EQ(layout(maps(0x7ffff7fff000, kTop)), Layout::kFixed);
    EXPECT_EQ(layout(maps(kTop - kLeastGap, kTop)), Layout::kKeyed);
    EXPECT_EQ(layout(maps(kTop - kLeastGap + 0x1000, kTop)), Layout::kFixed);
    constexpr std::uint64_t kMost = kLeastGap + (kLayoutPage << kMapBits);
    EXPECT_EQ(layout(maps(kTop - kMost, kTop)), Layout::kKeyed);
    // An unlimited stack without randomisation: mappings grow from a third of all addresses.
    EXPECT_EQ(layout(maps(0x2aaaaaad0000, kTop)), Layout::kFixed);
    EXPECT_EQ(layout(""), Layout::kUnknown);
}

TEST(Layouts, OfProgramsUnderTheHook) {
    const TempDir dir;
    const Root root(dir.path());
    EXPECT_TRUE(hooked_programs(root).empty());
    EXPECT_EQ(programs_text(programs_json(root)), "");
    dir.write("proc/sys/vm/mmap_rnd_bits", "30\n");
    dir.write("proc/9/maps", maps(kTop - kLeastGap - 0x5000, kTop));
    dir.write("proc/9/comm", "nine\n");
    dir.write("proc/10/maps", maps(0x7f1234567000, 0x7ffe12345000));
    dir.write("proc/10/comm", "ten\x01\n");
    dir.write("proc/11/maps", maps(0x7f1234567000, 0x7ffe12345000, false));
    dir.write("proc/12/comm", "gone\n");
    dir.write("proc/self/maps", maps(0x7f1234567000, 0x7ffe12345000));
    const Json programs = programs_json(root);
    ASSERT_EQ(programs.size(), 2U) << programs;
    EXPECT_EQ(programs[0],
              Json({{"pid", 9}, {"command", "nine"}, {"layout", "keyed"}, {"bits", 32}}));
    EXPECT_EQ(programs[1]["layout"], "stock");
    EXPECT_EQ(programs[1]["bits"], 30);
    EXPECT_THAT(programs_text(programs), HasSubstr("keyed              2^32"));
    EXPECT_THAT(programs_text(programs), HasSubstr("ten\\x01"));
    for (int pid = 100; pid < 130; ++pid)
        dir.write(fmt::format("proc/{}/maps", pid), maps(0x7ffff7fff000, kTop));
    EXPECT_THAT(programs_text(programs_json(root)), HasSubstr("and 12 more: --json"));
    dir.write("proc/sys/kernel/randomize_va_space", "0\n");
    EXPECT_EQ(bits_to_guess(root, Layout::kStock), 0U);
}

TEST(Layouts, TheDoctorWarnsOfFixedOnes) {
    const TempDir dir;
    const Machine machine{.root = Root(dir.path()), .release = "", .asker = {}};
    EXPECT_EQ(check_layouts(machine).verdict, Verdict::kSkip);
    dir.write("proc/9/maps", maps(kTop - kLeastGap - 0x5000, kTop));
    dir.write("proc/10/maps", maps(0x7f1234567000, 0x7ffe12345000));
    Finding finding = check_layouts(machine);
    EXPECT_EQ(finding.verdict, Verdict::kOk);
    EXPECT_EQ(finding.found, "programs under the hook: 1 stock (2^28 places to guess), 1 keyed "
                             "(2^32 places to guess)");
    dir.write("proc/11/maps", maps(0x7ffff7fff000, kTop));
    finding = check_layouts(machine);
    EXPECT_EQ(finding.verdict, Verdict::kWarn);
    EXPECT_THAT(finding.cure, HasSubstr("upm run --layout keyed"));
}

#endif

} // namespace

} // namespace upm::tool::cli
