// SPDX-License-Identifier: MIT
//
// Memory of every kind, with a model of what it must hold.
#ifndef UPM_TESTS_SUPPORT_REGION_HPP
#define UPM_TESTS_SUPPORT_REGION_HPP

#include "tests/support/file.hpp"
#include "tests/support/pattern.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/types.h>

namespace upm::test {

// A mapping that ends with the object.
class Mapping {
  public:
    Mapping() = default;
    // mmap(2); throws if it fails.
    Mapping(std::size_t len, int protection, int flags, int fd = -1, off_t offset = 0);
    // Anonymous, private, readable and writable, of small pages only.
    explicit Mapping(std::size_t len);
    ~Mapping();
    Mapping(Mapping &&other) noexcept
        : base_(std::exchange(other.base_, nullptr)), len_(std::exchange(other.len_, 0)) {}
    Mapping &operator=(Mapping &&other) noexcept;
    Mapping(const Mapping &) = delete;
    Mapping &operator=(const Mapping &) = delete;

    [[nodiscard]] std::byte *base() const { return base_; }
    [[nodiscard]] std::byte *page(std::size_t page) const { return base_ + page * kPage; }
    [[nodiscard]] std::size_t len() const { return len_; }
    [[nodiscard]] std::size_t pages() const { return len_ / kPage; }

    // The memory is elsewhere now (mremap), or a part of it is gone.
    void moved(std::byte *base, std::size_t len) { base_ = base, len_ = len; }
    // It is somebody else's from now on, or was.
    void release() { moved(nullptr, 0); }

    // Writes the pattern into all pages.
    void fill(const Pattern &pattern) const;

    // Aligned to huge pages, of which it consists from the first touch on.
    static Mapping huge(std::size_t len);

  private:
    std::byte *base_ = nullptr;
    std::size_t len_ = 0;
};

enum class Kind : std::uint8_t {
    kAnonymous, // 4 KiB pages
    kHuge,      // transparent huge pages: freezing splits them, but see huge_test.cpp
    kTornHuge,  // the same, cut off by munmap(2), so that it is mapped page by page
    kReadOnly,  // anonymous, mprotect after the fill
    kFileClean, // private mapping of a file on a disk, only read
    kFileDirty, // the same, every page written: like .data
    kText,      // the same, readable and executable: like a library's code
    kMemfd,     // private mapping of a memfd, only read
    kStack,     // MAP_GROWSDOWN
    kMainStack, // of the main thread: with_region() only
    kHeap,      // brk: neighbours of the range belong to the allocator
    kLocked,    // mlock
};

struct KindInfo {
    const char *name;
    bool file = false;       // of a file
    bool clean = false;      // of a file, and nobody wrote to it through the mapping
    bool own_mapping = true; // single pages may be unmapped without harm to others
    bool store = false;      // the store merges it
};

const KindInfo &info_of(Kind kind);

const char *name_of(Kind kind);
std::ostream &operator<<(std::ostream &out, Kind kind);

inline bool of_file(Kind kind) {
    return info_of(kind).file;
}
// Pages of a file that nobody wrote to through the mapping.
inline bool clean_file(Kind kind) {
    return info_of(kind).clean;
}

// A size that does the kind justice and takes little time.
std::size_t pages_of(Kind kind);

// The machine has no memory of that kind to give.
struct NoSuchMemory : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An unnamed file on a disk (ext4, see use_disk()), or in memory if there is none.
Fd temporary_file();
// Holds `pages` pages of the pattern, written back.
Fd temporary_file(const Pattern &pattern, std::size_t pages);

// Makes and mounts the disk. Called once, before any other process is made.
void use_disk();
void drop_disk();
// Directory of the disk, empty if there is none.
const std::string &disk();

class Region {
  public:
    // Throws NoSuchMemory.
    Region(Kind kind, const Pattern &pattern, std::size_t pages);
    // In memory of the caller's, which outlives it.
    Region(Kind kind, const Pattern &pattern, std::size_t pages, std::byte *place);
    Region(Region &&) = default;
    Region &operator=(Region &&) = delete;
    Region(const Region &) = delete;
    Region &operator=(const Region &) = delete;
    ~Region();

    [[nodiscard]] Kind kind() const { return kind_; }
    [[nodiscard]] std::byte *base() const { return mapping_.base(); }
    [[nodiscard]] std::byte *page(std::size_t page) const { return mapping_.page(page); }
    [[nodiscard]] std::size_t len() const { return mapping_.len(); }
    [[nodiscard]] std::size_t pages() const { return mapping_.pages(); }
    [[nodiscard]] int file() const { return file_.get(); }
    [[nodiscard]] const Pattern &pattern() const { return pattern_; }
    Mapping &mapping() { return mapping_; }

    // For the kinds that are mapped without write permission.
    void allow_writes();

    // Writes into memory and model.
    void write(std::size_t offset, const void *bytes, std::size_t len);
    void write(std::size_t page, std::uint64_t value) {
        write(page * kPage + 8 * (page % 500), &value, sizeof(value));
    }

    // The model alone: somebody else wrote, or the kernel dropped pages.
    std::byte *model(std::size_t offset) { return model_.data() + offset; }
    void expect_zeros(std::size_t page, std::size_t pages);
    void expect_file(std::size_t page, std::size_t pages);

    // Offset of the first byte that differs from the model, or -1.
    [[nodiscard]] std::ptrdiff_t first_wrong() const;
    // Expects the memory to be what the model says.
    void check() const;
    // Expects its file, if it has one, to be what it was.
    void check_file() const;

  private:
    void fill_model();
    void map(std::size_t len);
    void map_file(std::size_t len, int protection);
    void fill();

    Kind kind_;
    Pattern pattern_;
    Pattern file_pattern_;
    Fd file_;
    Mapping mapping_;
    bool borrowed_ = false; // the mapping is not ours
    std::unique_ptr<void, decltype(&std::free)> block_{nullptr, &std::free};
    std::vector<std::byte> model_;
};

// Calls `use` with a region of that kind, of any. Throws NoSuchMemory.
void with_region(Kind kind, const Pattern &pattern, const std::function<void(Region &)> &use);

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_REGION_HPP
