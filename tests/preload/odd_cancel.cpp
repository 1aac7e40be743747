// SPDX-License-Identifier: MIT
//
// Threads that are to be cancelled, in the calls that the hook has a hand in.
#include "tests/preload/odd.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <thread>

namespace odd {

namespace {

// Calls that are no place to be cancelled at.
struct Call {
    const char *name;
    void (*make)(char *block);
};
constexpr Call kCalls[] = {
    {"free", [](char *block) { std::free(block); }},
    {"realloc", [](char *block) { std::free(std::realloc(block, 4 * kBlock)); }},
    {"munmap", [](char *block) { (void)::munmap(block + kMib, kMib); }},
    {"mprotect", [](char *block) { (void)::mprotect(block, kMib, PROT_READ); }},
    {"advice", [](char *block) { (void)::madvise(block, kMib, MADV_DONTNEED); }},
    {"advice to parts",
     [](char *block) {
         (void)::mprotect(block, kPage, PROT_READ);
         (void)::madvise(block, kMib, MADV_DONTNEED);
     }},
    {"no fork", [](char *block) { (void)::madvise(block, kMib, MADV_DONTFORK); }},
    {"mremap", [](char *block) { (void)::mremap(block, kBlock, kBlock + kMib, MREMAP_MAYMOVE); }},
};

// Calls at which a thread is cancelled, if it is to be: often the only ones of a loop.
int file_to_read() {
    static const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    return fd;
}
iovec whole(char *block) {
    return {.iov_base = block, .iov_len = kBlock};
}
constexpr Call kReads[] = {
    {"read", [](char *block) { (void)!::read(file_to_read(), block, kBlock); }},
    {"pread", [](char *block) { (void)!::pread(file_to_read(), block, kBlock, 0); }},
    {"readv",
     [](char *block) {
         const iovec part = whole(block);
         (void)!::readv(file_to_read(), &part, 1);
     }},
    {"preadv",
     [](char *block) {
         const iovec part = whole(block);
         (void)!::preadv(file_to_read(), &part, 1, 0);
     }},
    {"fread",
     [](char *block) {
         FILE *const file = ::fdopen(file_to_read(), "r");
         (void)!std::fread(block, 1, kBlock, file);
     }},
};

struct Cancelled {
    const Call &call;
    char *block;
    std::atomic<int> step{0};
};

void *call_cancelled(void *argument) {
    auto &work = *static_cast<Cancelled *>(argument);
    int before = 0;
    (void)::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    work.step = 1;
    while (work.step != 2)
        std::this_thread::yield();
    (void)::pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before);
    work.call.make(work.block);
    work.step = 3;
    ::pthread_testcancel();
    return nullptr;
}

int cancel_at(const Call &call, char *block, bool in_it) {
    Cancelled work{.call = call, .block = block};
    pthread_t thread{};
    UPM_CHECK(::pthread_create(&thread, nullptr, call_cancelled, &work) == 0);
    while (work.step != 1)
        std::this_thread::yield();
    UPM_CHECK(::pthread_cancel(thread) == 0);
    work.step = 2;
    void *result = nullptr;
    UPM_CHECK(::pthread_join(thread, &result) == 0);
    UPM_CHECK(work.step == (in_it ? 2 : 3)); // 3: it got to the end of the call
    UPM_CHECK(result == PTHREAD_CANCELED);
    return 0;
}

} // namespace

// A child has no thread of the hook's, so that it does itself what that does otherwise.
int cancelled() {
    char *const block = load();
    for (const Call &call : kCalls)
        for (const bool fresh : {false, true}) {
            const int status =
                in_child([&] { return cancel_at(call, fresh ? load() : block, false); });
            if (status == kNothingTried << 8)
                return kNothingTried;
            if (status != 0)
                (void)std::fprintf(stderr, "%s: status %x\n", call.name, unsigned(status));
            UPM_CHECK(status == 0);
        }
    return 0;
}

int cancelled_in_reads() {
    free_later(load());
    for (const Call &call : kReads) {
        UPM_CHECK(in_child([&] {
                      free_later(load());
                      (void)file_to_read();
                      return cancel_at(call, allocate(kBlock), true);
                  }) == 0);
    }
    return 0;
}

} // namespace odd
