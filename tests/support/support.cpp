// SPDX-License-Identifier: MIT
#include "tests/support/support.hpp"

#include "tests/support/file.hpp"

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::test {

TempDir::TempDir() : path_(std::filesystem::temp_directory_path() / "upm-test-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr)
        throw std::runtime_error("mkdtemp " + path_ + ": " + std::strerror(errno));
}

TempDir::~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

void TempDir::mkdir(std::string_view name) const {
    std::filesystem::create_directories(std::filesystem::path(path_) / name);
}

void TempDir::write(std::string_view name, std::string_view content, unsigned mode) const {
    const std::filesystem::path file = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
    if (::chmod(file.c_str(), mode) != 0)
        throw std::runtime_error("chmod " + file.string());
}

std::size_t page_size() {
    return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

Pages::Pages(std::size_t count, int protection, int flags) : size_(count * page_size()) {
    void *const mapped =
        ::mmap(nullptr, size_, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (mapped == MAP_FAILED)
        throw std::runtime_error(std::string("mmap: ") + std::strerror(errno));
    data_ = static_cast<char *>(mapped);
}

Pages::~Pages() {
    (void)::munmap(data_, size_);
}

void Pages::fill(char value) const {
    std::memset(data_, value, size_);
}

std::string vm_flags(const void *address) {
    const auto wanted = reinterpret_cast<std::uintptr_t>(address);
    std::ifstream smaps("/proc/self/smaps");
    bool inside = false;
    for (std::string line; std::getline(smaps, line);) {
        unsigned long start = 0;
        unsigned long end = 0;
        // NOLINTNEXTLINE(cert-err34-c): a line of another form is told by the count
        if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2)
            inside = start <= wanted && wanted < end;
        else if (inside && line.starts_with("VmFlags: "))
            return line.substr(std::strlen("VmFlags: "));
    }
    return "";
}

std::string read_file(const std::string &path) {
    const Fd fd(must(::open(path.c_str(), O_RDONLY | O_CLOEXEC), path.c_str()));
    std::string text;
    std::array<char, 4096> chunk{};
    for (;;) {
        const ssize_t n = must(::read(fd.get(), chunk.data(), chunk.size()), path.c_str());
        if (n == 0)
            return text;
        text.append(chunk.data(), static_cast<std::size_t>(n));
    }
}

namespace {

[[noreturn]] void exec(const std::vector<std::string> &arguments,
                       const std::vector<std::string> &environment) {
    for (const std::string &entry : environment) {
        const std::size_t equals = entry.find('=');
        if (equals == std::string::npos)
            (void)::unsetenv(entry.c_str());
        else
            (void)::setenv(entry.substr(0, equals).c_str(), entry.c_str() + equals + 1, 1);
    }
    std::vector<char *> argv;
    argv.reserve(arguments.size() + 1);
    for (const std::string &argument : arguments)
        argv.push_back(const_cast<char *>(argument.c_str()));
    argv.push_back(nullptr);
    (void)::execv(argv[0], argv.data());
    ::_exit(127);
}

} // namespace

Finished run(const std::vector<std::string> &arguments,
             const std::vector<std::string> &environment) {
    const TempDir dir;
    const std::string out = dir.path() + "/out";
    const std::string err = dir.path() + "/err";
    Finished finished;
    finished.status = in_child([&] {
        if (std::freopen(out.c_str(), "w", stdout) == nullptr ||
            std::freopen(err.c_str(), "w", stderr) == nullptr)
            return 126;
        exec(arguments, environment);
    });
    finished.out = read_file(out);
    finished.err = read_file(err);
    return finished;
}

} // namespace upm::test
