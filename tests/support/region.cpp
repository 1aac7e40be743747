// SPDX-License-Identifier: MIT
#include "tests/support/region.hpp"

#include "tests/support/proc.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <iterator>

#include <alloca.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr const char *kDisk = "/tmp/upm-disk";
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

std::string &disk_path() {
    static std::string path;
    return path;
}

// Maps every page of the region for reading.
void touch(const Mapping &mapping) {
    for (std::size_t i = 0; i < mapping.pages(); i++)
        static_cast<void>(*static_cast<volatile std::byte *>(mapping.page(i)));
}

// mlock(2) on one processor from beginning to end. New locked pages wait in a list of
// each processor, which holds a reference to them, so that they could not be merged until
// something empties it. An mlock does so before it adds its own: the second one, of
// another page, empties what the first has left.
void lock_pages(void *base, std::size_t len) {
    cpu_set_t before;
    must(::sched_getaffinity(0, sizeof(before), &before), "sched_getaffinity");
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(must(::sched_getcpu(), "sched_getcpu"), &here);
    must(::sched_setaffinity(0, sizeof(here), &here), "sched_setaffinity");
    must(::mlock(base, len), "mlock");
    const Mapping other(kPage);
    must(::mlock(other.base(), other.len()), "mlock");
    must(::sched_setaffinity(0, sizeof(before), &before), "sched_setaffinity");
}

} // namespace

// ---- Mapping ---------------------------------------------------------------

Mapping::Mapping(std::size_t len, int protection, int flags, int fd, off_t offset) : len_(len) {
    void *base = ::mmap(nullptr, len, protection, flags, fd, offset);
    if (base == MAP_FAILED)
        fail("mmap");
    base_ = static_cast<std::byte *>(base);
}

Mapping::Mapping(std::size_t len) : Mapping(len, kReadWrite, kPrivate) {
    must(::madvise(base_, len_, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
}

Mapping::~Mapping() {
    if (base_)
        ::munmap(base_, len_);
}

Mapping &Mapping::operator=(Mapping &&other) noexcept {
    std::swap(base_, other.base_);
    std::swap(len_, other.len_);
    return *this;
}

void Mapping::fill(const Pattern &pattern) const {
    for (std::size_t i = 0; i < pages(); i++)
        pattern.fill(i, page(i));
}

Mapping Mapping::huge(std::size_t len) {
    Mapping whole(len + kHugePage, PROT_NONE, kPrivate);
    const auto address = reinterpret_cast<std::uintptr_t>(whole.base());
    std::byte *base = whole.base() + (kHugePage - address % kHugePage) % kHugePage;
    // Cut off what is not aligned.
    if (base != whole.base())
        ::munmap(whole.base(), static_cast<std::size_t>(base - whole.base()));
    std::byte *end = whole.base() + whole.len();
    if (base + len != end)
        ::munmap(base + len, static_cast<std::size_t>(end - (base + len)));
    whole.moved(base, len);
    must(::mprotect(base, len, kReadWrite), "mprotect");
    if (::madvise(base, len, MADV_HUGEPAGE) != 0)
        throw NoSuchMemory("this kernel has no transparent huge pages");
    for (std::size_t at = 0; at < len; at += kHugePage)
        base[at] = std::byte{1};
    return whole;
}

// ---- kinds -----------------------------------------------------------------

const KindInfo &info_of(Kind kind) {
    static constexpr KindInfo kInfo[] = {
        {.name = "anonymous", .store = true},
        {.name = "huge", .store = true},
        {.name = "torn_huge", .store = true},
        {.name = "read_only", .store = true},
        {.name = "file_clean", .file = true, .clean = true},
        {.name = "file_dirty", .file = true},
        {.name = "text", .file = true, .clean = true},
        {.name = "memfd", .file = true, .clean = true},
        {.name = "stack"},
        {.name = "main_stack", .own_mapping = false},
        {.name = "heap", .own_mapping = false},
        {.name = "locked"},
    };
    static_assert(std::size(kInfo) == static_cast<std::size_t>(Kind::kLocked) + 1);
    return kInfo[static_cast<std::size_t>(kind)];
}

const char *name_of(Kind kind) {
    return info_of(kind).name;
}

std::ostream &operator<<(std::ostream &out, Kind kind) {
    return out << name_of(kind);
}

std::size_t pages_of(Kind kind) {
    constexpr std::size_t kSome = 88;
    constexpr std::size_t kHuge = kHugePage / kPage;
    return kind == Kind::kHuge ? kHuge : kind == Kind::kTornHuge ? kHuge - kSome : kSome;
}

// ---- files -----------------------------------------------------------------

const std::string &disk() {
    return disk_path();
}

void use_disk() {
    const std::string dir = kDisk;
    const std::string image = dir + ".img";
    load_module("loop");
    load_module("ext4");
    if (shell("truncate -s 128M " + image + " && mkfs.ext4 -q -F -O ^has_journal " + image +
              " && mkdir -p " + dir + " && mount -o loop " + image + " " + dir))
        disk_path() = dir;
}

void drop_disk() {
    if (!disk_path().empty())
        shell("umount " + disk_path());
    disk_path().clear();
}

Fd temporary_file() {
    const std::string dir = disk().empty() ? "/tmp" : disk();
    Fd unnamed(::open(dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (unnamed)
        return unnamed;
    // Not every file system has such files.
    std::string path = dir + "/upm-test-XXXXXX";
    Fd named(must(::mkostemp(path.data(), O_CLOEXEC), "mkostemp"));
    ::unlink(path.c_str());
    return named;
}

namespace {

void write_pattern(int fd, const Pattern &pattern, std::size_t pages) {
    std::array<std::byte, kPage> bytes{};
    for (std::size_t i = 0; i < pages; i++) {
        pattern.fill(i, bytes.data());
        const auto offset = static_cast<off_t>(i * kPage);
        must(::pwrite(fd, bytes.data(), kPage, offset), "pwrite");
    }
    ::fsync(fd);
}

} // namespace

Fd temporary_file(const Pattern &pattern, std::size_t pages) {
    Fd fd = temporary_file();
    write_pattern(fd.get(), pattern, pages);
    return fd;
}

// ---- Region ----------------------------------------------------------------

Region::Region(Kind kind, const Pattern &pattern, std::size_t pages)
    : kind_(kind), pattern_(pattern), file_pattern_(pattern), model_(pages * kPage) {
    if (kind == Kind::kFileDirty) // so that mixing them up shows
        file_pattern_ = {Content::kDistinct, ~pattern.seed};
    fill_model();
    map(pages * kPage);
    fill();
}

Region::Region(Kind kind, const Pattern &pattern, std::size_t pages, std::byte *place)
    : kind_(kind), pattern_(pattern), file_pattern_(pattern), borrowed_(true),
      model_(pages * kPage) {
    fill_model();
    mapping_.moved(place, pages * kPage);
    fill();
}

Region::~Region() {
    if (borrowed_)
        mapping_.release();
}

void Region::fill_model() {
    for (std::size_t at = 0; at < model_.size(); at += kPage)
        pattern_.fill(at / kPage, model(at));
}

void Region::fill() {
    if (!clean_file(kind_))
        std::memcpy(base(), model_.data(), model_.size());
    if (kind_ == Kind::kReadOnly)
        must(::mprotect(base(), len(), PROT_READ), "mprotect");
    touch(mapping_);
    if (kind_ == Kind::kHuge && usage_of(0, base(), len()).anon_huge != len())
        throw NoSuchMemory("the kernel gave no huge pages");
    if (kind_ == Kind::kTornHuge) { // what follows belongs to the huge page still
        if (usage_of(0, base(), len()).anon_huge == 0)
            throw NoSuchMemory("the kernel gave no huge page");
        must(::munmap(base() + len(), kHugePage - len() % kHugePage), "munmap");
    }
}

void Region::map_file(std::size_t len, int protection) {
    if (kind_ == Kind::kMemfd) {
        file_ = Fd(must(::memfd_create("upm-test", MFD_CLOEXEC), "memfd_create"));
        write_pattern(file_.get(), file_pattern_, len / kPage);
    } else {
        file_ = temporary_file(file_pattern_, len / kPage);
    }
    mapping_ = Mapping(len, protection, MAP_PRIVATE, file_.get());
}

void Region::map(std::size_t len) {
    switch (kind_) {
    case Kind::kHuge:
        mapping_ = Mapping::huge(len);
        return;
    case Kind::kTornHuge:
        mapping_ = Mapping::huge((len / kHugePage + 1) * kHugePage);
        mapping_.moved(mapping_.base(), len);
        return;
    case Kind::kFileClean:
    case Kind::kFileDirty:
    case Kind::kMemfd:
        map_file(len, kReadWrite);
        return;
    case Kind::kText:
        map_file(len, PROT_READ | PROT_EXEC);
        return;
    case Kind::kHeap:
        ::mallopt(M_MMAP_THRESHOLD, 1 << 30); // else it would be a mapping of its own
        block_.reset(std::aligned_alloc(kPage, len));
        borrowed_ = true;
        mapping_.moved(static_cast<std::byte *>(block_.get()), len);
        return;
    case Kind::kMainStack:
        throw NoSuchMemory("a stack is its function's");
    case Kind::kStack:
        mapping_ = Mapping(len, kReadWrite, kPrivate | MAP_GROWSDOWN | MAP_STACK);
        break;
    case Kind::kAnonymous:
    case Kind::kReadOnly:
    case Kind::kLocked:
        mapping_ = Mapping(len);
    }
    if (kind_ == Kind::kLocked)
        lock_pages(base(), len);
    must(::madvise(base(), len, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
}

void Region::allow_writes() {
    if (kind_ == Kind::kReadOnly || kind_ == Kind::kText)
        must(::mprotect(base(), len(), kReadWrite), "mprotect");
}

void Region::write(std::size_t offset, const void *bytes, std::size_t len) {
    std::memcpy(base() + offset, bytes, len);
    std::memcpy(model(offset), bytes, len);
}

void Region::expect_zeros(std::size_t page, std::size_t pages) {
    std::memset(model(page * kPage), 0, pages * kPage);
}

void Region::expect_file(std::size_t page, std::size_t pages) {
    for (std::size_t i = page; i < page + pages; i++)
        file_pattern_.fill(i, model(i * kPage));
}

std::ptrdiff_t Region::first_wrong() const {
    for (std::size_t at = 0; at < len(); at += kPage) {
        if (std::memcmp(base() + at, &model_[at], kPage) == 0)
            continue;
        while (base()[at] == model_[at])
            at++;
        return static_cast<std::ptrdiff_t>(at);
    }
    return -1;
}

void Region::check() const {
    const std::ptrdiff_t wrong = first_wrong();
    EXPECT_EQ(wrong, -1) << "page " << static_cast<std::size_t>(wrong) / kPage << ", offset "
                         << static_cast<std::size_t>(wrong) % kPage << ": "
                         << static_cast<int>(base()[wrong]) << " instead of "
                         << static_cast<int>(model_[static_cast<std::size_t>(wrong)]);
}

void Region::check_file() const {
    std::vector<std::byte> expected(kPage);
    std::vector<std::byte> found(kPage);
    for (std::size_t i = 0; file_ && i < model_.size() / kPage; i++) {
        file_pattern_.fill(i, expected.data());
        must(::pread(file(), found.data(), kPage, static_cast<off_t>(i * kPage)), "pread");
        EXPECT_EQ(found, expected) << "page " << i << " of the file itself";
    }
}

namespace {

// Not inlined: the memory must stay a part of this frame while it is used.
[[gnu::noinline]] void with_main_stack(const Pattern &pattern,
                                       const std::function<void(Region &)> &use) {
    const std::size_t pages = pages_of(Kind::kMainStack);
    auto *const raw = static_cast<std::byte *>(alloca((pages + 1) * kPage));
    const auto address = reinterpret_cast<std::uintptr_t>(raw);
    Region region(Kind::kMainStack, pattern, pages, raw + (kPage - address % kPage) % kPage);
    use(region);
}

} // namespace

void with_region(Kind kind, const Pattern &pattern, const std::function<void(Region &)> &use) {
    if (kind == Kind::kMainStack)
        return with_main_stack(pattern, use);
    Region region(kind, pattern, pages_of(kind));
    use(region);
    region.check_file();
}

} // namespace upm::test
