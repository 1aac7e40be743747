// SPDX-License-Identifier: MIT
#include "tools/upm/read/program.hpp"

#include "tools/common/descriptor.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <optional>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <vector>

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

template <typename Part>
bool read_at(const Descriptor &file, off_t offset, Part &part) {
    return ::pread(file.get(), &part, sizeof(part), offset) == static_cast<ssize_t>(sizeof(part));
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

std::optional<std::string> read_interpreter(const Descriptor &file, const Elf64_Ehdr &head) {
    for (unsigned i = 0; i < head.e_phnum; ++i) {
        Elf64_Phdr part{};
        const auto at = static_cast<off_t>(head.e_phoff + std::uint64_t{i} * head.e_phentsize);
        if (!read_at(file, at, part) || part.p_type != PT_INTERP)
            continue;
        constexpr std::size_t kMost = 4096;
        std::string name(std::min<std::size_t>(part.p_filesz, kMost), '\0');
        const ssize_t got =
            ::pread(file.get(), name.data(), name.size(), static_cast<off_t>(part.p_offset));
        name.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
        name.resize(std::min(name.find('\0'), name.size()));
        return name;
    }
    return std::nullopt;
}

// Where the bytes lie in the file that are at that address in memory.
std::optional<std::uint64_t> to_offset(const std::vector<Elf64_Phdr> &parts,
                                       std::uint64_t address) {
    for (const Elf64_Phdr &part : parts)
        if (part.p_type == PT_LOAD && address >= part.p_vaddr &&
            address - part.p_vaddr < part.p_filesz)
            return part.p_offset + (address - part.p_vaddr);
    return std::nullopt;
}

std::vector<Elf64_Phdr> read_parts(const Descriptor &file) {
    Elf64_Ehdr head{};
    if (!read_at(file, 0, head) || std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0)
        return {};
    std::vector<Elf64_Phdr> parts;
    for (unsigned i = 0; i < head.e_phnum; ++i) {
        Elf64_Phdr part{};
        if (read_at(file, static_cast<off_t>(head.e_phoff + std::uint64_t{i} * head.e_phentsize),
                    part))
            parts.push_back(part);
    }
    return parts;
}

// All names of libraries and functions that the dynamic linker finds in the program.
std::string read_names(const Descriptor &file) {
    const std::vector<Elf64_Phdr> parts = read_parts(file);
    std::uint64_t address = 0;
    std::uint64_t size = 0;
    for (const Elf64_Phdr &part : parts) {
        if (part.p_type != PT_DYNAMIC)
            continue;
        for (std::uint64_t at = 0; at + sizeof(Elf64_Dyn) <= part.p_filesz;
             at += sizeof(Elf64_Dyn)) {
            Elf64_Dyn entry{};
            if (!read_at(file, static_cast<off_t>(part.p_offset + at), entry) ||
                entry.d_tag == DT_NULL)
                break;
            if (entry.d_tag == DT_STRTAB)
                address = entry.d_un.d_ptr;
            if (entry.d_tag == DT_STRSZ)
                size = entry.d_un.d_val;
        }
    }
    constexpr std::uint64_t kMost = 64UL << 20;
    const std::optional<std::uint64_t> offset = to_offset(parts, address);
    if (!offset || size > kMost)
        return "";
    std::string names(size, '\0');
    const ssize_t got =
        ::pread(file.get(), names.data(), names.size(), static_cast<off_t>(*offset));
    names.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    return names;
}

Loader loader_of(const Descriptor &file) {
    Elf64_Ehdr head{};
    if (!read_at(file, 0, head) || std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0)
        return Loader::kUnknown;
    if (head.e_ident[EI_CLASS] != ELFCLASS64 || (kMachine != EM_NONE && head.e_machine != kMachine))
        return Loader::kForeign;
    if (is_raised(file))
        return Loader::kRaised;
    const std::optional<std::string> interpreter = read_interpreter(file, head);
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
    const std::string names = read_names(file);
    constexpr std::array kTheirs = {"__asan_init", "__hwasan_init", "__lsan_init", "__msan_init",
                                    "__tsan_init"};
    return std::any_of(kTheirs.begin(), kTheirs.end(), [&names](std::string_view name) {
        return names.find(name) != std::string::npos;
    });
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
