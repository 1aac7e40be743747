// SPDX-License-Identifier: MIT
//
// The values that calls return, as Python objects that print themselves.
#include "python/core.hpp"

#include <upm/hook.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

namespace py = pybind11;
using namespace py::literals; // NOLINT(google-build-using-namespace): only literals

namespace upm::python {

namespace {

// --- counts ---

py::dict skipped(const Counts &counts) {
    py::dict reasons;
    for (unsigned i = 0; i < UPM_SKIPPED_NR; ++i)
        if (counts.skipped[i] != 0) {
            const std::string_view name = skip_name(i);
            reasons[py::str(name.empty() ? "reason " + std::to_string(i) : std::string(name))] =
                counts.skipped[i];
        }
    return reasons;
}

double seconds(const Counts &counts) {
    return static_cast<double>(counts.nanoseconds) / 1e9;
}

py::dict as_dict(const Counts &counts) {
    return py::dict(
        "pages"_a = counts.pages, "merged"_a = counts.merged, "inserted"_a = counts.inserted,
        "zero"_a = counts.zero, "already"_a = counts.already, "queued"_a = counts.queued,
        "unmerged"_a = counts.unmerged, "kept"_a = counts.kept, "skipped"_a = skipped(counts),
        "bytes"_a = counts.bytes, "seconds"_a = seconds(counts));
}

// "upm.Counts(pages=4096, merged=4096, bytes=16777216, seconds=0.006)"
std::string describe(const Counts &counts) {
    std::string text = "upm.Counts(pages=" + std::to_string(counts.pages);
    for (const auto &[name, value] : as_dict(counts)) {
        const auto key = name.cast<std::string>();
        if (key != "pages" && PyObject_IsTrue(value.ptr()) == 1)
            text += ", " + key + "=" + py::repr(value).cast<std::string>();
    }
    return text + ")";
}

bool equal(const Counts &left, const Counts &right) noexcept {
    return std::memcmp(static_cast<const ::upm_counts *>(&left),
                       static_cast<const ::upm_counts *>(&right), sizeof(::upm_counts)) == 0;
}

void add_counts(py::module_ &module) {
    py::class_<Counts>(module, "Counts",
                       "What became of each page of a range, in pages unless said otherwise.\n\n"
                       "pages is the sum of merged, inserted, zero, already, queued, unmerged,\n"
                       "kept and skipped_pages. Counts add up with +.")
        .def(py::init<>())
        .def_property_readonly(
            "pages", [](const Counts &c) { return c.pages; }, "Whole pages inside the range.")
        .def_property_readonly(
            "merged", [](const Counts &c) { return c.merged; },
            "Now share a page that was known before.")
        .def_property_readonly(
            "inserted", [](const Counts &c) { return c.inserted; },
            "New content, now a page that others can share.")
        .def_property_readonly(
            "zero", [](const Counts &c) { return c.zero; }, "All zero, and dropped.")
        .def_property_readonly(
            "already", [](const Counts &c) { return c.already; }, "Were merged before.")
        .def_property_readonly(
            "queued", [](const Counts &c) { return c.queued; },
            "Handed to the kernel's scanner (backend ksm).")
        .def_property_readonly(
            "unmerged", [](const Counts &c) { return c.unmerged; }, "unmerge: private again.")
        .def_property_readonly(
            "kept", [](const Counts &c) { return c.kept; }, "unmerge: were not merged.")
        .def_property_readonly("skipped", &skipped,
                               "Left as they were: pages by reason, without zeros.")
        .def_property_readonly("skipped_pages", &Counts::skipped_pages, "Sum of skipped.")
        .def_property_readonly(
            "bytes", [](const Counts &c) { return c.bytes; },
            "(merged + inserted + zero) in bytes.")
        .def_property_readonly("seconds", &seconds, "Time spent.")
        .def("as_dict", &as_dict, "All of it, for JSON.")
        .def("__add__",
             [](const Counts &left, const Counts &right) {
                 Counts sum = left;
                 return sum += right;
             })
        .def("__eq__", &equal)
        .def("__repr__", &describe);
}

// --- information ---

std::string describe_info(const Info &info) {
    return "upm.Info(backend=" + py::repr(py::str(info.backend)).cast<std::string>() +
           ", reason=" + py::repr(py::str(info.reason)).cast<std::string>() + ", version='" +
           info.version + "')";
}

void add_info(py::module_ &module) {
    py::class_<Info>(module, "Info", "Which backend is active, and what it can do.")
        .def_property_readonly(
            "backend", [](const Info &i) { return i.backend; }, "kmod, store, ksm or none.")
        .def_property_readonly(
            "reason", [](const Info &i) { return i.reason; },
            "One line: why this one and not a better one.")
        .def_property_readonly(
            "version", [](const Info &i) { return i.version; }, "Of the library.")
        .def_readonly("page_size", &Info::page_size, "Bytes.")
        .def_property_readonly(
            "immediate", [](const Info &i) { return i.immediate != 0; },
            "advise merges before it returns.")
        .def_property_readonly(
            "remote", [](const Info &i) { return i.remote != 0; },
            "advise_range takes the pid of another process, given the privilege.")
        .def_property_readonly(
            "file_pages", [](const Info &i) { return i.file_pages != 0; },
            "Private file mappings merge.")
        .def_property_readonly(
            "unmerge", [](const Info &i) { return i.unmerge != 0; }, "unmerge works.")
        .def_property_readonly(
            "dry_run", [](const Info &i) { return i.dry_run != 0; }, "dry_run works.")
        .def_property_readonly(
            "domains", [](const Info &i) { return i.domains != 0; }, "Domain works.")
        .def_property_readonly(
            "quiescent", [](const Info &i) { return i.quiescent != 0; },
            "advise takes only calls with quiescent=True.")
        .def_property_readonly(
            "load", [](const Info &i) { return i.load != 0; },
            "load and read_into share; else they are plain reads.")
        .def("__repr__", &describe_info);
}

std::string describe_stats(const Stats &stats) {
    return "upm.Stats(pages_shared=" + std::to_string(stats.pages_shared) +
           ", pages_sharing=" + std::to_string(stats.pages_sharing) +
           ", pages_unused=" + std::to_string(stats.pages_unused) +
           ", max_pages=" + std::to_string(stats.max_pages) +
           ", metadata_bytes=" + std::to_string(stats.metadata_bytes) + ")";
}

void add_stats(py::module_ &module) {
    py::class_<Stats>(module, "Stats",
                      "Totals of a domain (backends kmod and store) or of the machine (ksm).")
        .def_readonly("pages_shared", &Stats::pages_shared, "Shared pages in use.")
        .def_readonly("pages_sharing", &Stats::pages_sharing,
                      "Further places that map one of them: pages saved.")
        .def_readonly("pages_unused", &Stats::pages_unused,
                      "Shared pages that nobody maps any more.")
        .def_readonly("max_pages", &Stats::max_pages, "Limit; 0: none.")
        .def_readonly("metadata_bytes", &Stats::metadata_bytes, "Cost of the bookkeeping.")
        .def("__repr__", &describe_stats);
}

// --- the hook ---

Counts counts_of(const upm_hook_stats &stats) {
    Counts counts;
    return counts += stats.counts;
}

std::string describe_hook(const upm_hook_stats &stats) {
    return "upm.HookStats(blocks=" + std::to_string(stats.blocks) +
           ", bytes=" + std::to_string(stats.bytes) +
           ", live_blocks=" + std::to_string(stats.live_blocks) +
           ", live_bytes=" + std::to_string(stats.live_bytes) +
           ", passes=" + std::to_string(stats.passes) +
           ", retired=" + std::to_string(stats.retired) +
           ", trimmed_bytes=" + std::to_string(stats.trimmed_bytes) +
           ", counts=" + describe(counts_of(stats)) + ")";
}

void add_hook_stats(py::module_ &module) {
    py::class_<upm_hook_stats>(module, "HookStats", "What the hook did in this process so far.")
        .def_readonly("blocks", &upm_hook_stats::blocks, "Large blocks taken on, in all.")
        .def_readonly("bytes", &upm_hook_stats::bytes, "Of these.")
        .def_readonly("live_blocks", &upm_hook_stats::live_blocks, "Of these, now.")
        .def_readonly("live_bytes", &upm_hook_stats::live_bytes, "Of these.")
        .def_readonly("passes", &upm_hook_stats::passes,
                      "Times that it looked for something to advise.")
        .def_readonly("retired", &upm_hook_stats::retired,
                      "Blocks given up, because their pages kept breaking.")
        .def_readonly("trimmed_bytes", &upm_hook_stats::trimmed_bytes,
                      "Freed by trimming the heap; not by merging.")
        .def_property_readonly("counts", &counts_of, "Sums over all calls.")
        .def("__repr__", &describe_hook);
}

// --- domains ---

SharedDomain open_domain(const py::bytes &key) {
    const std::string_view bytes = key;
    std::array<std::byte, 16> digits{};
    if (bytes.size() != digits.size())
        throw py::value_error("the key of a domain has 16 bytes, not " +
                              std::to_string(bytes.size()));
    std::transform(bytes.begin(), bytes.end(), digits.begin(),
                   [](char byte) { return static_cast<std::byte>(byte); });
    Result<Domain> opened = Domain::open(digits);
    if (!opened)
        raise(opened.error(), {});
    return {std::make_shared<const Domain>(std::move(opened).value())};
}

SharedDomain take_over(int fd) {
    if (fd < 0)
        throw py::value_error("not a descriptor: " + std::to_string(fd));
    return {std::make_shared<const Domain>(Domain::from_fd(fd))};
}

std::string describe_domain(const SharedDomain &self) {
    return self.domain ? "<upm.Domain fd=" + std::to_string(self.domain->fd()) + ">"
                       : "<upm.Domain closed>";
}

void add_domain(py::module_ &module) {
    py::class_<SharedDomain>(module, "Domain",
                             "A named domain: pages merge only with pages of the same domain.\n\n"
                             "Made from a key of 16 bytes that its members know. Use it in a\n"
                             "with statement, or close() it; what was merged stays merged.")
        .def(py::init(&open_domain), py::arg("key"))
        .def_static("from_fd", &take_over, py::arg("fd"),
                    "Takes over a descriptor that another process has passed.")
        .def(
            "fileno", [](const SharedDomain &self) { return self.open()->fd(); },
            "Its descriptor, to be passed to another process.")
        .def(
            "close", [](SharedDomain &self) { self.domain.reset(); },
            "Ends the membership. May be called again.")
        .def_property_readonly(
            "closed", [](const SharedDomain &self) { return self.domain == nullptr; },
            "Whether close() was called.")
        .def("__enter__",
             [](py::object self) {
                 (void)self.cast<const SharedDomain &>().open();
                 return self;
             })
        .def("__exit__", [](SharedDomain &self, const py::args &) { self.domain.reset(); })
        .def("__repr__", &describe_domain);
}

} // namespace

std::shared_ptr<const Domain> SharedDomain::open() const {
    if (domain == nullptr)
        throw py::value_error("the domain is closed");
    return domain;
}

void add_types(py::module_ &module) {
    add_counts(module);
    add_info(module);
    add_stats(module);
    add_hook_stats(module);
    add_domain(module);
}

} // namespace upm::python
