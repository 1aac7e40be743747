// SPDX-License-Identifier: MIT
//
// A file of which each page has a content of its own, loaded with the backend store and a
// broker of the test's.
#ifndef UPM_TESTS_LIBUPM_STORE_LOAD_FIXTURE_HPP
#define UPM_TESTS_LIBUPM_STORE_LOAD_FIXTURE_HPP

#include "tests/libupm/store/fixture.hpp"

#include <algorithm>
#include <fcntl.h>
#include <memory>
#include <string>
#include <unistd.h>

namespace upm::test {

inline constexpr std::size_t kPagesOfFile = 5000; // more than a window

class StoreLoad : public StoreTest {
  protected:
    StoreLoad() {
        const Pages content(kPagesOfFile);
        fill_pattern(content, 7);
        dir_.write("file", {content.data(), content.size()});
        fd_ = ::open((dir_.path() + "/file").c_str(), O_RDWR | O_CLOEXEC);
    }
    ~StoreLoad() override { ::close(fd_); }
    StoreLoad(const StoreLoad &) = delete;
    StoreLoad &operator=(const StoreLoad &) = delete;

    // Loads the file, and expects its bytes.
    std::int64_t load(const Pages &into) { return load_from(fd_, into); }
    std::int64_t load_from(int fd, const Pages &into) {
        loaded = {};
        const std::int64_t got = backend.load({.fd = fd,
                                               .offset = 0,
                                               .into = reinterpret_cast<std::byte *>(into.data()),
                                               .len = into.size(),
                                               .ordinary = true},
                                              loaded);
        made_ever += loaded.made;
        EXPECT_EQ(loaded.shared + loaded.made + loaded.copied,
                  static_cast<std::uint64_t>(std::max<std::int64_t>(got, 0)));
        return got;
    }
    void expect_whole_file() {
        const Pages into(kPagesOfFile);
        EXPECT_EQ(load(into), static_cast<std::int64_t>(into.size()));
        EXPECT_TRUE(has_pattern(into, 7));
    }
    // The same until nothing of it was copied: on a busy machine the broker may be late.
    std::unique_ptr<Pages> load_without_copies() {
        for (int i = 0; i < 100; ++i) {
            auto into = std::make_unique<Pages>(kPagesOfFile);
            EXPECT_EQ(load(*into), static_cast<std::int64_t>(into->size()));
            EXPECT_TRUE(has_pattern(*into, 7));
            if (loaded.copied == 0)
                return into;
            ::usleep(200'000);
        }
        return nullptr;
    }
    // By another backend, such as a child's own. Returns true if the file's bytes came.
    bool loads_by(StoreBackend &other, const Pages &into, upm_load_counts &sums) const {
        return other.load({.fd = fd_,
                           .into = reinterpret_cast<std::byte *>(into.data()),
                           .len = into.size(),
                           .ordinary = true},
                          sums) == static_cast<std::int64_t>(into.size()) &&
               has_pattern(into, 7);
    }
    [[nodiscard]] int file() const { return fd_; }

    upm_load_counts loaded{};
    std::uint64_t made_ever = 0; // a later try finds what was made in one that was late

  private:
    TempDir dir_;
    int fd_ = -1;
};

} // namespace upm::test

#endif // UPM_TESTS_LIBUPM_STORE_LOAD_FIXTURE_HPP
