// SPDX-License-Identifier: MIT
#include "tools/upm/read/program.hpp"

#include "tools/common/descriptor.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/read/elf.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <optional>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
#else
constexpr Elf64_Half kMachine = EM_NONE; // not told apart
#endif

bool is_program(const std::string &path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
           ::access(path.c_str(), X_OK) == 0;
}

// What "#!" names; through env(1) what that runs. Empty: this is no script.
std::string script_interpreter(const Descriptor &file, bool &by_env) {
    std::array<char, 256> head{};
    const ssize_t got = ::pread(file.get(), head.data(), head.size(), 0);
    std::string_view line(head.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (!line.starts_with("#!"))
        return "";
    line = trimmed(line.substr(2, line.find('\n') - 2));
    std::string interpreter(take_word(line));
    if (!interpreter.ends_with("/env"))
        return interpreter;
    by_env = true;
    std::string_view word = take_word(line);
    while (word.starts_with('-') || word.find('=') != std::string_view::npos)
        word = take_word(line);
    return word.empty() ? interpreter : find_program(std::string(word));
}

// ld.so then trusts neither the environment nor what it names. For root it is no raise.
bool is_raised(const Descriptor &file) {
    struct stat status {};
    if (::fstat(file.get(), &status) != 0)
        return false;
    const bool user = (status.st_mode & S_ISUID) != 0 && status.st_uid != ::geteuid();
    const bool group = (status.st_mode & S_ISGID) != 0 && status.st_gid != ::getegid();
    const bool capabilities =
        ::geteuid() != 0 && ::fgetxattr(file.get(), "security.capability", nullptr, 0) > 0;
    return user || group || capabilities;
}

std::optional<std::string> read_interpreter(const Elf &elf) {
    for (const Elf64_Phdr &part : elf.parts())
        if (part.p_type == PT_INTERP)
            return elf.text(part.p_offset).substr(0, part.p_filesz);
    return std::nullopt;
}

// All names of libraries and functions that the dynamic linker finds in the program.
std::string read_names(const Elf &elf) {
    std::uint64_t address = 0;
    std::uint64_t size = 0;
    for (const Elf64_Dyn &entry : elf.dynamic()) {
        if (entry.d_tag == DT_STRTAB)
            address = entry.d_un.d_ptr;
        if (entry.d_tag == DT_STRSZ)
            size = entry.d_un.d_val;
    }
    constexpr std::uint64_t kMost = 64UL << 20;
    const std::optional<std::uint64_t> offset = elf.offset_of(address);
    return offset && size <= kMost ? elf.bytes(*offset, size) : "";
}

// Their names end alike, so one walk finds all of them: programs can have megabytes of names,
// and memmem(3) skips most of what it looks through.
bool names_sanitizer(std::string_view names) {
    constexpr std::string_view kEnd = "san_init";
    constexpr std::array<std::string_view, 5> kTheirs = {
        "__asan_init", "__hwasan_init", "__lsan_init", "__msan_init", "__tsan_init"};
    while (const void *const at = ::memmem(names.data(), names.size(), kEnd.data(), kEnd.size())) {
        const auto start = static_cast<std::size_t>(static_cast<const char *>(at) - names.data());
        const std::string_view before = names.substr(0, start + kEnd.size());
        if (std::ranges::any_of(kTheirs,
                                [&](std::string_view one) { return before.ends_with(one); }))
            return true;
        names.remove_prefix(before.size());
    }
    return false;
}

Loader loader_of(const Descriptor &file) {
    const Elf elf = Elf::of_file(file);
    if (!elf.valid())
        return Loader::kUnknown;
    if (!elf.has_64_bits() || (kMachine != EM_NONE && elf.head().e_machine != kMachine))
        return Loader::kForeign;
    if (is_raised(file))
        return Loader::kRaised;
    const std::optional<std::string> interpreter = read_interpreter(elf);
    if (!interpreter)
        return Loader::kStatic;
    const std::string name = interpreter->substr(interpreter->rfind('/') + 1);
    if (name.starts_with("ld-musl"))
        return Loader::kMusl;
    return name.starts_with("ld-linux") || name.starts_with("ld-2.") ? Loader::kGlibc
                                                                     : Loader::kOther;
}

} // namespace

std::string find_program(const std::string &command) {
    if (command.find('/') != std::string::npos)
        return is_program(command) ? command : "";
    const char *const path = std::getenv("PATH");
    for (const std::string &folder : split(path != nullptr ? path : "/bin:/usr/bin", ':')) {
        std::string candidate = (folder.empty() ? "." : folder) + "/" + command;
        if (is_program(candidate))
            return candidate;
    }
    return "";
}

Program look_at_program(const std::string &command) {
    constexpr int kMostScripts = 5; // as the kernel
    Program program;
    program.path = find_program(command);
    for (int depth = 0; depth < kMostScripts && !program.path.empty(); ++depth) {
        const Descriptor file(::open(program.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
        if (!file)
            return program;
        std::string interpreter = script_interpreter(file, program.by_env);
        if (interpreter.empty()) {
            program.loader = loader_of(file);
            return program;
        }
        program.path = std::move(interpreter);
    }
    return program;
}

bool has_sanitizer(const Program &program) {
    const Descriptor file(::open(program.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file)
        return false;
    return names_sanitizer(read_names(Elf::of_file(file)));
}

std::string why_no_hook(const Program &program) {
    const std::string name = printable(program.path);
    switch (program.loader) {
    case Loader::kStatic:
        return name + " is linked statically, so no hook can be loaded into it";
    case Loader::kMusl:
        return name + " uses musl, where the hook stays out";
    case Loader::kForeign:
        return name + " is of another machine or word size than the hook";
    case Loader::kRaised:
        return name + " has more rights than its caller, so ld.so ignores the hook";
    case Loader::kGlibc:
    case Loader::kOther:
    case Loader::kUnknown:
        break;
    }
    return "";
}

} // namespace upm::tool::cli
