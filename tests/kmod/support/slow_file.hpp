// SPDX-License-Identifier: MIT
//
// A file whose reads last as long as the test wants: a FUSE file system of one file,
// opened for direct I/O, so that the kernel holds the reader's own pages while the
// read is in flight, as with O_DIRECT.
#ifndef UPM_TESTS_KMOD_SUPPORT_SLOW_FILE_HPP
#define UPM_TESTS_KMOD_SUPPORT_SLOW_FILE_HPP

#include "tests/support/file.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

struct fuse_in_header;

namespace upm::test {

class SlowFile {
  public:
    // False where the kernel has no FUSE.
    static bool available();

    explicit SlowFile(std::vector<std::byte> content);
    ~SlowFile();
    SlowFile(const SlowFile &) = delete;
    SlowFile &operator=(const SlowFile &) = delete;

    [[nodiscard]] std::string path() const { return directory_ + "/file"; }
    // Has a read arrived that is not answered?
    [[nodiscard]] bool reading() const { return waiting_ != 0; }
    // Answers it, and all that follow.
    void release() { released_ = true; }

  private:
    void serve();
    void answer(const fuse_in_header &header, const std::byte *body);
    void reply(std::uint64_t unique, int error, const void *bytes, std::size_t len);

    std::vector<std::byte> content_;
    std::string directory_;
    Fd device_;
    std::atomic<unsigned> waiting_{0};
    std::atomic<bool> released_{false};
    std::thread server_;
};

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_SLOW_FILE_HPP
