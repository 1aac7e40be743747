// SPDX-License-Identifier: MIT
//
// Preloaded: a /dev/upm that merges nothing but answers as the module does, so
// that the real library and command can be tested where no module can be loaded.
//
//   FAKE_UPM       what goes wrong: "" nothing; abi: another ABI version; eacces:
//                  it cannot be opened; eperm: no right to other processes; enomem:
//                  every second advise finds a hole; esrch: the process is gone;
//                  disabled: merging is switched off
//   FAKE_UPM_LOG   a file to which each call adds a line
#include "kmod/uapi/upm.h"

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr const char *kDeviceName = "upm-fake-device";
constexpr const char *kDomainName = "upm-fake-domain";

bool mode(std::string_view name) {
    const char *value = std::getenv("FAKE_UPM");
    return value != nullptr && name == value;
}

// By its name, not by its number: numbers are closed and used again.
bool is(int fd, const char *name) {
    char link[64];
    char target[256];
    (void)std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    const ssize_t length = ::readlink(link, target, sizeof(target) - 1);
    if (length < 0)
        return false;
    target[length] = '\0';
    return std::strstr(target, name) != nullptr;
}

template <class... Values>
void log(const char *format, Values... values) {
    const char *path = std::getenv("FAKE_UPM_LOG");
    if (path == nullptr)
        return;
    char line[256];
    const int length = std::snprintf(line, sizeof(line), format, values...);
    static auto *const real_open =
        reinterpret_cast<int (*)(const char *, int, ...)>(::dlsym(RTLD_NEXT, "open"));
    const int fd = real_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        (void)!::write(fd, line, static_cast<std::size_t>(length));
        (void)::close(fd);
    }
}

int answer_info(upm_ioc_info &info) {
    log("info abi=%u\n", info.abi_version);
    info = {};
    info.abi_version = UPM_ABI_VERSION + (mode("abi") ? 1 : 0);
    info.page_size = static_cast<__u32>(::sysconf(_SC_PAGESIZE));
    info.features = UPM_FEATURE_REMOTE | UPM_FEATURE_FILE_PAGES | UPM_FEATURE_DOMAINS |
                    UPM_FEATURE_DRY_RUN | UPM_FEATURE_UNMERGE;
    info.advise_flags = UPM_ADVISE_UNMERGE | UPM_ADVISE_DRY_RUN;
    info.enabled = mode("disabled") ? 0 : 1;
    std::strcpy(info.version, "0.0.9-fake");
    return 0;
}

int advise_error(const upm_ioc_advise &call) {
    static int calls = 0;
    ++calls;
    if (call.domain_fd >= 0 && !is(call.domain_fd, kDomainName))
        return EBADF;
    if (mode("eperm") && call.pid != 0)
        return EPERM;
    if (mode("esrch") && call.pid != 0)
        return ESRCH;
    if (mode("enomem") && calls % 2 == 0)
        return ENOMEM;
    return mode("disabled") ? EOPNOTSUPP : 0;
}

int answer_advise(upm_ioc_advise &call) {
    log("advise flags=%u pid=%d domain=%d addr=%llx len=%llx\n", call.flags, call.pid,
        call.domain_fd >= 0 ? 1 : 0, call.addr, call.len);
    const int error = advise_error(call);
    call.counts = {};
    if (error != 0)
        return error;
    const __u64 pages = call.len / static_cast<__u64>(::sysconf(_SC_PAGESIZE));
    call.counts.pages = pages;
    if ((call.flags & UPM_ADVISE_UNMERGE) != 0) {
        call.counts.unmerged = pages;
    } else {
        call.counts.merged = pages - 1;
        call.counts.skipped[UPM_SKIP_BUSY] = 1;
    }
    call.counts.nanoseconds = 1000000;
    return 0;
}

int answer(unsigned long request, void *argument) {
    switch (request) {
    case UPM_IOC_INFO:
        return answer_info(*static_cast<upm_ioc_info *>(argument));
    case UPM_IOC_ADVISE:
        return answer_advise(*static_cast<upm_ioc_advise *>(argument));
    case UPM_IOC_DOMAIN_OPEN:
        static_cast<upm_ioc_domain *>(argument)->fd = ::memfd_create(kDomainName, MFD_CLOEXEC);
        return 0;
    case UPM_IOC_STATS:
        static_cast<upm_ioc_stats *>(argument)->pages_shared = 10;
        static_cast<upm_ioc_stats *>(argument)->pages_sharing = 256;
        return 0;
    default:
        return ENOTTY;
    }
}

} // namespace

extern "C" {

// The hook asks whether it may be there.
// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int access(const char *path, int mode) noexcept {
    static auto *const real =
        reinterpret_cast<int (*)(const char *, int)>(::dlsym(RTLD_NEXT, "access"));
    return std::string_view(path) == UPM_DEVICE ? 0 : real(path, mode);
}

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int open(const char *path, int flags, ...) {
    if (std::strcmp(path, UPM_DEVICE) == 0) {
        if (mode("eacces")) {
            errno = EACCES;
            return -1;
        }
        return ::memfd_create(kDeviceName, MFD_CLOEXEC);
    }
    static auto *const real =
        reinterpret_cast<int (*)(const char *, int, ...)>(::dlsym(RTLD_NEXT, "open"));
    va_list args;
    va_start(args, flags);
    const unsigned permissions = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, unsigned) : 0;
    va_end(args);
    return real(path, flags, permissions);
}

int ioctl(int fd, unsigned long request, ...) noexcept {
    va_list args;
    va_start(args, request);
    void *const argument = va_arg(args, void *);
    va_end(args);
    if (_IOC_TYPE(request) == UPM_IOC_MAGIC && is(fd, kDeviceName)) {
        const int error = answer(request, argument);
        if (error == 0)
            return 0;
        errno = error;
        return -1;
    }
    static auto *const real =
        reinterpret_cast<int (*)(int, unsigned long, ...)>(::dlsym(RTLD_NEXT, "ioctl"));
    return real(fd, request, argument);
}
}
