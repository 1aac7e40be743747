// SPDX-License-Identifier: MIT
#include "libupm/mm/layout.hpp"

#include <algorithm>
#include <sys/mman.h>

namespace upm {

namespace {

constexpr std::size_t kFirstRoom = 4096; // mappings

} // namespace

Layout::Layout(bool heap) noexcept {
    SmapsReader smaps(own_smaps());
    Vma vma;
    bool room = true;
    while (room && smaps.next(vma)) {
        if ((vma.flags & kVmaHeap) != 0) {
            heap_start_ = heap_start_ == 0 ? vma.start : heap_start_;
            heap_end_ = vma.end;
            if (heap)
                vma.flags &= ~static_cast<std::uint32_t>(kVmaHeap);
        }
        room = add(vma);
    }
    if (!room || smaps.error() != 0)
        count_ = 0; // not the whole truth: whoever asks looks for itself
}

Layout::~Layout() {
    if (vmas_ != nullptr)
        (void)::munmap(vmas_, room_ * sizeof(Vma));
}

bool Layout::add(const Vma &vma) noexcept {
    if (count_ == room_) {
        const std::size_t more = room_ == 0 ? kFirstRoom : 2 * room_;
        void *const memory = ::mmap(nullptr, more * sizeof(Vma), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            return false;
        std::copy_n(vmas_, count_, static_cast<Vma *>(memory));
        if (vmas_ != nullptr)
            (void)::munmap(vmas_, room_ * sizeof(Vma));
        vmas_ = static_cast<Vma *>(memory);
        room_ = more;
    }
    vmas_[count_++] = vma;
    return true;
}

std::span<const Vma> Layout::covering(std::uint64_t start, std::uint64_t end) const noexcept {
    const std::span<const Vma> all(vmas_, count_);
    const auto first =
        std::upper_bound(all.begin(), all.end(), start,
                         [](std::uint64_t address, const Vma &vma) { return address < vma.end; });
    auto last = first;
    for (std::uint64_t next = start; next < end; ++last) {
        if (last == all.end() || last->start > next)
            return {};
        next = last->end;
    }
    return {first, last};
}

} // namespace upm
