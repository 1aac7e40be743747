// SPDX-License-Identifier: MIT
//
// A file to load from, with a model of what it holds.
#ifndef UPM_TESTS_KMOD_SUPPORT_SOURCE_HPP
#define UPM_TESTS_KMOD_SUPPORT_SOURCE_HPP

#include "tests/support/file.hpp"
#include "tests/support/pattern.hpp"
#include "tests/support/region.hpp"

#include <cstddef>
#include <cstring>
#include <vector>

#include <unistd.h>

namespace upm::test {

class Source {
  public:
    // Whole pages of the pattern, and `tail` bytes of one more.
    Source(const Pattern &pattern, std::size_t pages, std::size_t tail = 0)
        : content_((pages + 1) * kPage), file_(temporary_file()) {
        for (std::size_t i = 0; i <= pages; i++)
            pattern.fill(i, content_.data() + i * kPage);
        content_.resize(pages * kPage + tail);
        write(0, content_.size());
    }

    [[nodiscard]] int fd() const { return file_.get(); }
    [[nodiscard]] std::size_t size() const { return content_.size(); }
    [[nodiscard]] const std::byte *at(std::size_t offset) const { return content_.data() + offset; }

    // Changes one byte of the file.
    void change(std::size_t offset) {
        content_[offset] ^= std::byte{0x5a};
        write(offset, 1);
    }
    // Does the memory hold what the file has from `offset` on?
    [[nodiscard]] bool equal(const std::byte *memory, std::size_t offset, std::size_t len) const {
        return std::memcmp(memory, at(offset), len) == 0;
    }

  private:
    void write(std::size_t offset, std::size_t len) {
        while (len != 0) {
            const ssize_t n =
                must(::pwrite(file_.get(), at(offset), len, static_cast<off_t>(offset)), "pwrite");
            offset += static_cast<std::size_t>(n);
            len -= static_cast<std::size_t>(n);
        }
    }

    std::vector<std::byte> content_;
    Fd file_;
};

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_SOURCE_HPP
