// SPDX-License-Identifier: MIT
//
// What several unit tests need.
#ifndef UPM_TESTS_SUPPORT_SUPPORT_HPP
#define UPM_TESTS_SUPPORT_SUPPORT_HPP

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

namespace upm::test {

// A folder of its own, removed with all that is in it.
class TempDir {
  public:
    TempDir();
    TempDir(const TempDir &) = delete;
    TempDir &operator=(const TempDir &) = delete;
    ~TempDir();
    [[nodiscard]] const std::string &path() const { return path_; }
    // Makes the folders above it as well. `name` is relative.
    void write(std::string_view name, std::string_view content, unsigned mode = 0644) const;
    void mkdir(std::string_view name) const;

  private:
    std::string path_;
};

std::size_t page_size();

// Pages of this process, unmapped again at the end.
class Pages {
  public:
    explicit Pages(std::size_t count, int protection = 3 /* read and write */, int flags = 0);
    Pages(const Pages &) = delete;
    Pages &operator=(const Pages &) = delete;
    ~Pages();
    [[nodiscard]] char *data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] char *page(std::size_t index) const { return data_ + index * page_size(); }
    void fill(char value) const;

  private:
    char *data_;
    std::size_t size_;
};

// Runs `body` in a child and returns its exit status, or 128 + the signal that
// killed it. The child is killed after `seconds`, so that a deadlock is a failure.
int in_child(const std::function<int()> &body, unsigned seconds = 120);

// VmFlags of the mapping that holds `address`, as "rd wr mg ".
std::string vm_flags(const void *address);

std::string read_file(const std::string &path);

struct Finished {
    int status = -1; // exit status, or 128 + the signal
    std::string out;
    std::string err;
};

// Runs a program to its end. `environment` holds "NAME=value", added to the own,
// and "NAME", removed from it.
Finished run(const std::vector<std::string> &arguments,
             const std::vector<std::string> &environment = {});

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_SUPPORT_HPP
