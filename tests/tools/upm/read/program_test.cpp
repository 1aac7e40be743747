// SPDX-License-Identifier: MIT
#include "tools/upm/read/program.hpp"

#include "tests/support/support.hpp"

#include <array>
#include <cstring>
#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

using test::TempDir;
using testing::HasSubstr;

// The head of a program: of this machine, with that interpreter, or with none.
std::string elf(const std::string &interpreter, unsigned char word = ELFCLASS64,
                Elf64_Half machine = 0) {
    Elf64_Ehdr head{};
    std::string own = test::read_file("/proc/self/exe").substr(0, sizeof(head));
    std::memcpy(&head, own.data(), sizeof(head));
    head.e_ident[EI_CLASS] = word;
    head.e_machine = machine != 0 ? machine : head.e_machine;
    head.e_phoff = sizeof(head);
    head.e_phnum = 2;
    std::array<Elf64_Phdr, 2> parts{};
    parts[0].p_type = PT_LOAD;
    parts[1].p_type = interpreter.empty() ? PT_NOTE : PT_INTERP;
    parts[1].p_offset = sizeof(head) + sizeof(parts);
    parts[1].p_filesz = interpreter.size() + 1;
    std::string text(sizeof(head) + sizeof(parts), '\0');
    std::memcpy(text.data(), &head, sizeof(head));
    std::memcpy(text.data() + sizeof(head), parts.data(), sizeof(parts));
    return text + interpreter + '\0';
}

class LookAtProgram : public testing::Test {
  protected:
    [[nodiscard]] Program look(const std::string &content, unsigned mode = 0755) const {
        dir.write("program", content, mode);
        return look_at_program(dir.path() + "/program");
    }
    const TempDir dir;
};

TEST_F(LookAtProgram, ByItsInterpreter) {
    EXPECT_EQ(look(elf("/lib64/ld-linux-x86-64.so.2")).loader, Loader::kGlibc);
    EXPECT_EQ(look(elf("/nix/store/x-glibc-2.40/lib/ld-linux-x86-64.so.2")).loader, Loader::kGlibc);
    EXPECT_EQ(look(elf("/lib/ld-musl-x86_64.so.1")).loader, Loader::kMusl);
    EXPECT_EQ(look(elf("/system/bin/linker64")).loader, Loader::kOther);
    EXPECT_EQ(look(elf("")).loader, Loader::kStatic);
    EXPECT_EQ(look(elf("/lib/ld-linux.so.2", ELFCLASS32)).loader, Loader::kForeign);
    EXPECT_EQ(look(elf("/lib/ld-linux-s.so.1", ELFCLASS64, EM_S390)).loader, Loader::kForeign);
}

TEST_F(LookAtProgram, OfThisSystem) {
    EXPECT_EQ(look_at_program("sh").loader, Loader::kGlibc);
    EXPECT_EQ(look_at_program("/proc/self/exe").loader, Loader::kGlibc);
    EXPECT_EQ(why_no_hook(look_at_program("sh")), "");
}

TEST_F(LookAtProgram, ScriptsAreTheirInterpreters) {
    dir.write("musl", elf("/lib/ld-musl-x86_64.so.1"), 0755);
    const std::string musl = dir.path() + "/musl";
    const Program script = look("#! " + musl + " -u\nprint()\n");
    EXPECT_EQ(script.loader, Loader::kMusl);
    EXPECT_EQ(script.path, musl);
    EXPECT_FALSE(script.by_env);
    EXPECT_TRUE(look("#!/usr/bin/env sh\n").by_env);
    EXPECT_EQ(look("#!/usr/bin/env -S A=b " + musl + "\n").loader, Loader::kMusl);
    EXPECT_EQ(look("#!/usr/bin/env sh\n").loader, Loader::kGlibc);
    // A script that names itself is no loop here.
    EXPECT_EQ(look("#!" + dir.path() + "/program\n").loader, Loader::kUnknown);
}

TEST_F(LookAtProgram, WhatIsNoProgramIsUnknown) {
    EXPECT_EQ(look("").loader, Loader::kUnknown);
    EXPECT_EQ(look("#!").loader, Loader::kUnknown);
    EXPECT_EQ(look("\x7f"
                   "ELF")
                  .loader,
              Loader::kUnknown);
    EXPECT_EQ(look_at_program("/none").loader, Loader::kUnknown);
    EXPECT_EQ(look_at_program("").loader, Loader::kUnknown);
    EXPECT_EQ(look_at_program(dir.path()).loader, Loader::kUnknown);
}

TEST_F(LookAtProgram, CutOffAnywhere) {
    const std::string whole = elf("/lib64/ld-linux-x86-64.so.2");
    for (std::size_t length = 0; length < whole.size(); ++length)
        EXPECT_NE(look(whole.substr(0, length)).loader, Loader::kMusl);
}

TEST_F(LookAtProgram, MoreRightsThanTheCaller) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root";
    constexpr uid_t kOther = 61'234;
    dir.write("program", elf("/lib64/ld-linux-x86-64.so.2"));
    const std::string path = dir.path() + "/program";
    ASSERT_EQ(::chown(path.c_str(), kOther, kOther), 0);
    ASSERT_EQ(::chmod(path.c_str(), 04755), 0);
    EXPECT_EQ(look_at_program(path).loader, Loader::kRaised);
    ASSERT_EQ(::chown(path.c_str(), 0, 0), 0);
    ASSERT_EQ(::chmod(path.c_str(), 04755), 0);
    EXPECT_EQ(look_at_program(path).loader, Loader::kGlibc) << "root runs a program of root";
}

TEST_F(LookAtProgram, SaysWhy) {
    EXPECT_THAT(why_no_hook(look(elf(""))), HasSubstr("statically"));
    EXPECT_THAT(why_no_hook(look(elf("/lib/ld-musl-x86_64.so.1"))), HasSubstr("musl"));
    EXPECT_THAT(why_no_hook(look(elf("", ELFCLASS32))), HasSubstr("word size"));
}

} // namespace

} // namespace upm::tool::cli
