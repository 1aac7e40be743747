// SPDX-License-Identifier: MIT
//
// Reading files below a root folder, which is "/" but for tests. Files of /proc are
// read whole into one buffer that is used again: reading is most of a report's cost.
#ifndef UPM_TOOLS_PSS_REPORT_FILES_HPP
#define UPM_TOOLS_PSS_REPORT_FILES_HPP

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::pss {

class Descriptor {
  public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    Descriptor(Descriptor &&other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
    Descriptor &operator=(Descriptor &&other) noexcept;
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    ~Descriptor();
    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] bool valid() const { return fd_ >= 0; }

  private:
    int fd_;
};

class Root {
  public:
    explicit Root(std::string prefix = "");

    // `absolute` starts with a slash.
    [[nodiscard]] std::string path(std::string_view absolute) const {
        return prefix_ + std::string(absolute);
    }
    [[nodiscard]] bool real() const { return prefix_.empty(); }

    // The whole file, valid until the next call; `error` is 0 or an errno.
    std::string_view read(std::string_view absolute, int &error);
    // /proc/PID/NAME, opened relative to /proc.
    std::string_view read_process(int pid, const char *name, int &error);
    [[nodiscard]] Descriptor open_process(int pid, const char *name) const;
    [[nodiscard]] Descriptor open(std::string_view absolute) const;

    // Names in a folder, sorted; empty when it is not there.
    [[nodiscard]] std::vector<std::string> list(std::string_view absolute) const;
    // Sorted. Throws Failure when /proc cannot be listed.
    [[nodiscard]] std::vector<int> pids() const;
    [[nodiscard]] bool exists(std::string_view absolute) const;
    std::optional<std::int64_t> number(std::string_view absolute);

  private:
    std::string_view drain(int fd, int &error);

    std::string prefix_;
    Descriptor proc_;
    std::vector<char> buffer_;
};

// Writes a file beside the wanted one and renames it over that, so that readers see
// the old or the new content, whole; devices, pipes and terminals are written as they
// are. Throws Failure.
void write_atomically(const std::string &path, std::string_view content);
void append_line(const std::string &path, std::string_view line);
// Throws Failure.
std::string read_file(const std::string &path);

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_FILES_HPP
