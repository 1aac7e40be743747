// SPDX-License-Identifier: MIT
#include "libupm/store/domain_file.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::store {

namespace {

// What a domain's descriptor refers to: a sealed memfd with this content. It can
// be passed on, and tells nobody the key who does not hold it.
struct DomainFile {
    char magic[16];
    std::uint8_t key[16];
};
constexpr char kDomainMagic[16] = "upm-domain-key1";
constexpr int kDomainSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

} // namespace

int read_domain(int fd, DomainKey &domain) noexcept {
    domain = {};
    DomainFile file{};
    const int seals = ::fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & kDomainSeals) != kDomainSeals ||
        ::pread(fd, &file, sizeof(file), 0) != static_cast<ssize_t>(sizeof(file)) ||
        std::memcmp(file.magic, kDomainMagic, sizeof(file.magic)) != 0)
        return -EBADF;
    domain.named = true;
    std::memcpy(domain.key, file.key, sizeof(domain.key));
    return 0;
}

int make_domain(const std::uint8_t (&key)[16]) noexcept {
    DomainFile file{};
    std::memcpy(file.magic, kDomainMagic, sizeof(file.magic));
    std::memcpy(file.key, key, sizeof(file.key));
    const int fd = ::memfd_create("upm-domain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int error = 0;
    if (::pwrite(fd, &file, sizeof(file), 0) != static_cast<ssize_t>(sizeof(file)))
        error = ENOSPC;
    else if (::fcntl(fd, F_ADD_SEALS, kDomainSeals) != 0)
        error = errno;
    if (error == 0)
        return fd;
    ::close(fd);
    return -error;
}

} // namespace upm::store
