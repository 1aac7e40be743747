// SPDX-License-Identifier: MIT
//
// An object in a mapping of its own: for what is too large for a stack, where nothing may
// be taken from the program's heap.
#ifndef UPM_MM_MAPPED_HPP
#define UPM_MM_MAPPED_HPP

#include <memory>
#include <new>
#include <sys/mman.h>
#include <utility>

namespace upm {

template <class T>
class Mapped {
  public:
    // Post: true as a condition, or there was no memory.
    template <class... Arguments>
    explicit Mapped(Arguments &&...arguments) noexcept {
        void *const memory =
            ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED)
            object_ = ::new (memory) T(std::forward<Arguments>(arguments)...);
    }
    Mapped(const Mapped &) = delete;
    Mapped &operator=(const Mapped &) = delete;
    ~Mapped() {
        if (object_ == nullptr)
            return;
        std::destroy_at(object_);
        (void)::munmap(object_, sizeof(T));
    }

    explicit operator bool() const noexcept { return object_ != nullptr; }
    T &operator*() const noexcept { return *object_; }
    T *operator->() const noexcept { return object_; }

  private:
    T *object_ = nullptr;
};

} // namespace upm

#endif // UPM_MM_MAPPED_HPP
