// SPDX-License-Identifier: MIT
//
// Reads /proc/PID/smaps piece by piece: no memory from the heap, since it runs on
// the advise path, and no limit on the length of a line or a file.
#ifndef UPM_MM_VMA_READER_HPP
#define UPM_MM_VMA_READER_HPP

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace upm {

// Flags of smaps' VmFlags line that matter to merging; see proc_pid_smaps(5).
enum VmaFlag : std::uint32_t {
    kVmaShared = 1U << 0,    // from the permissions: rw-s
    kVmaFile = 1U << 1,      // an inode backs it
    kVmaHugetlb = 1U << 2,   // ht
    kVmaSpecial = 1U << 3,   // io pf de mm
    kVmaSecret = 1U << 4,    // dd wf dp
    kVmaUffd = 1U << 5,      // um uw ui
    kVmaMergeable = 1U << 6, // mg
    kVmaLocked = 1U << 7,    // lo
    kVmaDontfork = 1U << 8,  // dc
    kVmaHeap = 1U << 9,      // from the name: [heap]
    kVmaStack = 1U << 10,    // from the name: [stack]; gd
    kVmaSegment = 1U << 11,  // from the name: a segment of the backend store
    kVmaKey = 1U << 12,      // a protection key other than 0
};

struct Vma {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    std::uint32_t flags = 0;
    int protection = 0; // PROT_READ | PROT_WRITE | PROT_EXEC
};

// Parsers of single lines, for the reader and its tests.
// `name`, unless null, gets what the line ends with: a path, [heap], or nothing.
bool parse_vma_header(std::string_view line, Vma &vma, std::string_view *name = nullptr) noexcept;
std::uint32_t parse_vm_flags(std::string_view words) noexcept;

// What the kernel says of this process: in /proc/self, or in /proc/thread-self where the first
// thread has ended, since /proc/self shows no memory then.
//
// The kernel keeps what was looked at below /proc/thread-self until the thread ends. A thread
// that drops it while the process ends, at the time at which the parent takes the process
// away, keeps the parent turning until it had a processor once more: on a busy machine for
// half a second.
const char *own_proc() noexcept;
const char *own_maps() noexcept;
const char *own_smaps() noexcept;

class SmapsReader {
  public:
    // Post: error() is 0 or a negative errno.
    explicit SmapsReader(const char *path) noexcept;
    SmapsReader(const SmapsReader &) = delete;
    SmapsReader &operator=(const SmapsReader &) = delete;
    ~SmapsReader();

    // The next mapping, in order of addresses. False at the end, or on an error.
    bool next(Vma &vma) noexcept;
    // The same without the flags of the VmFlags line: for /proc/PID/maps. The name, unless
    // null, is valid until the next call.
    bool next_header(Vma &vma, std::string_view *name = nullptr) noexcept;
    [[nodiscard]] int error() const noexcept { return error_; }

  private:
    bool line(std::string_view &line) noexcept;
    bool fill() noexcept;

    int fd_;
    int error_ = 0;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    char buffer_[4096];
};

// Whether one private anonymous mapping without any of the above flags holds all of
// [start, end), found out in a few system calls: the kernel walks every page of a
// process for its smaps. False may also mean that it could not be told (before Linux
// 6.11, for one). Post: if true, `vma` is that mapping.
bool find_plain_vma(std::uint64_t start, std::uint64_t end, Vma &vma) noexcept;

} // namespace upm

#endif // UPM_MM_VMA_READER_HPP
