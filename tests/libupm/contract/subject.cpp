// SPDX-License-Identifier: MIT
#include "tests/libupm/contract/subject.hpp"

#include "libupm/api/catalog.hpp"
#include "libupm/backends/ksm.hpp"
#include "tests/support/broker_process.hpp"
#include "tests/support/support.hpp"

#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>

namespace upm::test {

namespace {

// Memory becomes mergeable whether or not ksmd runs; so the knob is played, and
// the machine's own stays as it is.
Backend *ksm_backend() {
    static const TempDir knobs;
    static KsmBackend backend(knobs.path().c_str());
    if (!std::filesystem::exists("/sys/kernel/mm/ksm"))
        return nullptr;
    knobs.write("run", "1\n");
    return &backend;
}

// A broker for this process alone: what others have published must not decide.
void start_broker() {
    static const BrokerProcess broker;
    (void)::setenv("UPM_SOCKET", broker.socket().c_str(), 1);
}

Backend *find(const std::string &name) {
    if (name == "ksm")
        return ksm_backend();
    if (name == "store")
        start_broker();
    for (const CatalogRow &row : default_catalog())
        if (name == row.name)
            return row.backend;
    return nullptr;
}

} // namespace

std::vector<std::string> backend_names() {
    std::vector<std::string> names;
    for (const CatalogRow &row : default_catalog())
        if (row.backend != nullptr)
            names.emplace_back(row.name);
    return names;
}

Subject::Subject(const std::string &name) {
    Backend *const backend = find(name);
    if (backend == nullptr) {
        unavailable_ = "backend " + name + " is not there";
        return;
    }
    Reason reason;
    if (backend->open(reason) != 0) {
        unavailable_ = "backend " + name + ": " + reason.c_str();
        return;
    }
    const CatalogRow rows[] = {{name.c_str(), backend}};
    engine_.start({.backend = name, .domain = ""}, rows);
}

// Tests vouch for their memory where a backend asks for that: threads that write
// to it do so by themselves, not by system calls, which is safe in each mode that
// freezes by userfaultfd.
int Subject::submit(Request request) {
    if (can().quiescent)
        request.flags |= UPM_QUIESCENT;
    const int ret = engine_.submit(request, counts_);
    EXPECT_EQ(counts_.pages, counts_.merged + counts_.inserted + counts_.zero + counts_.already +
                                 counts_.queued + counts_.unmerged + counts_.kept + skipped());
    EXPECT_EQ(counts_.bytes, (counts_.merged + counts_.inserted + counts_.zero) * page_size());
    return ret;
}

std::uint64_t Subject::skipped() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t count : counts_.skipped)
        sum += count;
    return sum;
}

int Subject::advise(const void *data, std::size_t len, unsigned flags) {
    return submit({.addr = reinterpret_cast<std::uintptr_t>(data), .len = len, .flags = flags});
}

int Subject::unmerge(const void *data, std::size_t len) {
    return submit({.addr = reinterpret_cast<std::uintptr_t>(data), .len = len, .unmerge = true});
}

} // namespace upm::test
