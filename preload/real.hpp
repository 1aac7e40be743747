// SPDX-License-Identifier: MIT
//
// The functions that the hook stands in front of, and where they lead to.
#ifndef UPM_PRELOAD_REAL_HPP
#define UPM_PRELOAD_REAL_HPP

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <pthread.h>
#include <sys/types.h>
#include <sys/uio.h>

// X(return type, name, parameters): all that is hooked, and nothing else is.
// C++'s operator new and delete come in through malloc and free.
#define UPM_HOOKED_FUNCTIONS(X)                                                                    \
    X(void *, malloc, (std::size_t size))                                                          \
    X(void *, calloc, (std::size_t count, std::size_t size))                                       \
    X(void *, realloc, (void *pointer, std::size_t size))                                          \
    X(void *, reallocarray, (void *pointer, std::size_t count, std::size_t size))                  \
    X(void, free, (void *pointer))                                                                 \
    X(int, posix_memalign, (void **result, std::size_t alignment, std::size_t size))               \
    X(void *, aligned_alloc, (std::size_t alignment, std::size_t size))                            \
    X(void *, memalign, (std::size_t alignment, std::size_t size))                                 \
    X(void *, valloc, (std::size_t size))                                                          \
    X(void *, pvalloc, (std::size_t size))                                                         \
    X(std::size_t, malloc_usable_size, (void *pointer))                                            \
    X(int, malloc_trim, (std::size_t pad))                                                         \
    X(char *, getenv, (const char *name))                                                          \
    X(void, pthread_exit, (void *result))                                                          \
    X(void, thrd_exit, (int result))                                                               \
    X(void *, mmap, (void *addr, std::size_t len, int prot, int flags, int fd, off_t offset))      \
    X(void *, mmap64, (void *addr, std::size_t len, int prot, int flags, int fd, off_t offset))    \
    X(int, munmap, (void *addr, std::size_t len))                                                  \
    X(void *, mremap, (void *addr, std::size_t old_len, std::size_t len, int flags, ...))          \
    X(int, mprotect, (void *addr, std::size_t len, int prot))                                      \
    X(int, pkey_mprotect, (void *addr, std::size_t len, int prot, int key))                        \
    X(int, madvise, (void *addr, std::size_t len, int advice))                                     \
    X(ssize_t, process_madvise,                                                                    \
      (int pid, const iovec *vector, std::size_t count, int advice, unsigned flags))               \
    X(void *, shmat, (int id, const void *addr, int flags))                                        \
    X(ssize_t, read, (int fd, void *buffer, std::size_t len))                                      \
    X(ssize_t, pread, (int fd, void *buffer, std::size_t len, off_t offset))                       \
    X(ssize_t, pread64, (int fd, void *buffer, std::size_t len, off_t offset))                     \
    X(ssize_t, __read_chk, (int fd, void *buffer, std::size_t len, std::size_t room))              \
    X(ssize_t, __pread_chk,                                                                        \
      (int fd, void *buffer, std::size_t len, off_t offset, std::size_t room))                     \
    X(ssize_t, __pread64_chk,                                                                      \
      (int fd, void *buffer, std::size_t len, off_t offset, std::size_t room))                     \
    X(ssize_t, readv, (int fd, const iovec *vector, int count))                                    \
    X(ssize_t, preadv, (int fd, const iovec *vector, int count, off_t offset))                     \
    X(ssize_t, preadv64, (int fd, const iovec *vector, int count, off_t offset))                   \
    X(ssize_t, preadv2, (int fd, const iovec *vector, int count, off_t offset, int flags))         \
    X(ssize_t, preadv64v2, (int fd, const iovec *vector, int count, off_t offset, int flags))      \
    X(std::size_t, fread, (void *buffer, std::size_t size, std::size_t count, FILE *stream))       \
    X(std::size_t, fread_unlocked,                                                                 \
      (void *buffer, std::size_t size, std::size_t count, FILE *stream))                           \
    X(std::size_t, __fread_chk,                                                                    \
      (void *buffer, std::size_t room, std::size_t size, std::size_t count, FILE *stream))         \
    X(std::size_t, __fread_unlocked_chk,                                                           \
      (void *buffer, std::size_t room, std::size_t size, std::size_t count, FILE *stream))

namespace upm::hook {

struct Real {
#define UPM_DECLARE(type, name, parameters) type(*name) parameters = nullptr;
    UPM_HOOKED_FUNCTIONS(UPM_DECLARE)
#undef UPM_DECLARE
};

namespace detail {
extern constinit Real table;
extern constinit std::atomic<bool> resolved;
void resolve() noexcept;
} // namespace detail

// False: this is a call from inside the search for the real functions.
inline bool ready() noexcept {
    if (!detail::resolved.load(std::memory_order_acquire)) [[unlikely]] {
        detail::resolve();
        return detail::resolved.load(std::memory_order_acquire);
    }
    return true;
}

// The next definitions in line: those of libc, or of another allocator that is
// preloaded behind the hook. Found at the first call of ready(), which is before
// any constructor runs.
// Those that read can be called before: they find themselves.
inline const Real &real() noexcept {
    return detail::table;
}

// The search (dlsym) may want memory itself. Memory for that, and whether a
// pointer is such memory; it is never freed.
void *early_alloc(std::size_t size, std::size_t alignment) noexcept;
bool is_early(const void *pointer) noexcept;
// Bytes from there to the end of that memory: no block in it is longer.
std::size_t early_rest(const void *pointer) noexcept;

// Set while the calling thread is inside the hook. What it asks for then goes to
// the real functions, and is not recorded. Nor is the thread cancelled there: most of the
// hooked functions are no place for that, and none of the hook's own can be unwound.
class Guard {
  public:
    Guard() noexcept {
        ++depth;
        (void)::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state_);
    }
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;
    ~Guard() {
        (void)::pthread_setcancelstate(cancel_state_, nullptr);
        --depth;
    }
    [[nodiscard]] static bool active() noexcept { return depth != 0; }

  private:
    // initial-exec: any other model may call malloc to make room for it.
    [[gnu::tls_model("initial-exec")]] static thread_local int depth;

    int cancel_state_ = PTHREAD_CANCEL_ENABLE;
};

} // namespace upm::hook

#endif // UPM_PRELOAD_REAL_HPP
