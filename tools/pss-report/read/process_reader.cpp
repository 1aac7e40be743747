// SPDX-License-Identifier: MIT
//
// smaps_rollup costs the kernel half of what smaps does, so smaps is read only when its
// detail is asked for, or when UPM may have merged pages of the process: the module's
// show as a flag of a mapping, the store's as a name, and the sum has neither.
#include "tools/pss-report/read/process_reader.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

std::uint64_t saturating_sub(std::uint64_t a, std::uint64_t b) {
    return a > b ? a - b : 0;
}

bool gone(int error) {
    return error == ENOENT || error == ESRCH;
}

Usage usage_of(const Figures &figures) {
    Usage usage;
    usage.rss = figures.rss;
    usage.pss = figures.pss;
    usage.uss = figures.private_clean + figures.private_dirty;
    usage.anon = std::min(figures.anonymous, figures.rss);
    usage.swap = figures.swap;
    usage.swap_pss = figures.swap_pss;
    usage.hugetlb = figures.shared_hugetlb + figures.private_hugetlb;
    usage.huge = figures.anon_huge;
    usage.locked = figures.locked;
    usage.ksm = figures.ksm;
    return usage;
}

// What of `rss` is neither anonymous nor merged by UPM is of files, or shmem.
void split_rest(Usage &usage, std::uint64_t shmem) {
    const std::uint64_t rest = saturating_sub(usage.rss, usage.anon + usage.upm);
    usage.shmem = std::min(shmem, rest);
    usage.file = rest - usage.shmem;
}

} // namespace

ProcessReader::ProcessReader(const Root &root, CollectOptions options, BeforeMemory before_memory)
    : proc_(root), options_(std::move(options)), before_memory_(std::move(before_memory)),
      frames_(proc_.root()), container_names_(proc_.root()),
      page_size_(static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))) {
    int error = 0;
    users_ = parse_passwd(proc_.read("/etc/passwd", error));
    container_runtimes_ = container_runtimes(proc_.root());
}

void ProcessReader::begin(const System &system, bool mappings) {
    system_ = system;
    options_.mappings = mappings;
    exact_ = true;
}

std::string_view ProcessReader::read_process_file(const Process &process, const char *name,
                                                  int &error) {
    return proc_.read_process(process.pid, file_of(process, name).c_str(), error);
}

const std::string &ProcessReader::user_name(std::uint32_t uid) {
    return users_.try_emplace(uid, std::to_string(uid)).first->second;
}

// A first thread that has ended is in the root of the hierarchies of version 1.
void ProcessReader::read_cgroup(Process &process, int &error) {
    process.cgroups = cgroup_paths(read_process_file(process, "cgroup", error));
    Placement place = placement_of(process.cgroups, container_runtimes_);
    process.cgroup = std::move(place.cgroup);
    process.container = std::move(place.container);
    container_names_.add(process.container, process.cgroup);
}

// The process is there, and so is its memory, when its first thread has ended: until the
// others have, /proc shows it as a zombie without memory.
int ProcessReader::living_thread(int pid, const Threads &ended, Status &status) {
    for (const std::string &name : proc_.root().names(fmt::format("/proc/{}/task", pid))) {
        const auto thread = parse_integer<int>(name);
        if (!thread || *thread == pid || ended.contains(*thread))
            continue;
        int error = 0;
        const Status found =
            parse_status(proc_.read_process(pid, of_thread(*thread, "status").c_str(), error));
        if (error != 0 || !found.has_memory || found.state == 'Z' || found.state == 'X')
            continue;
        // Its name is that of the process.
        const std::string command = status.name;
        status = found;
        status.name = command;
        return *thread;
    }
    return 0;
}

// The thread by which a process is read, the first one or another, may end before it is
// read, and the process go on.
Reading ProcessReader::read(int pid) {
    constexpr int kTries = 20;
    Threads ended;
    Reading reading;
    for (int tried = 0; tried < kTries; ++tried) {
        reading = read_once(pid, ended);
        if (reading.fate != Fate::kVanished || reading.process.pid == 0)
            break;
        ended.insert(reading.process.thread);
    }
    return reading;
}

Reading ProcessReader::read_once(int pid, const Threads &ended) {
    Reading reading;
    if (options_.filter.without.contains(pid))
        return reading;
    int error = 0;
    Status status = parse_status(proc_.read_process(pid, "status", error));
    reading.fate = Fate::kVanished;
    if (gone(error))
        return reading;
    Process &process = reading.process;
    process.pid = pid;
    process.ppid = status.ppid;
    process.uid = status.uid;
    process.command = status.name;
    if (error == 0 && status.state == 'Z') {
        process.thread = living_thread(pid, ended, status);
        reading.fate = Fate::kZombie;
        if (process.thread == 0)
            return reading;
        reading.fate = Fate::kVanished;
    }
    // Linux before 6.8 does not say "Kthread"; there a process without memory that is
    // neither dead nor a zombie is one.
    if (error == 0 && (status.kernel_thread || !status.has_memory)) {
        reading.fate = status.state == 'X' ? Fate::kVanished : Fate::kKernelThread;
        return reading;
    }
    process.user = user_name(process.uid);
    if (int unread = 0; error == 0) {
        read_cgroup(process, unread);
        if (process.thread != 0 && gone(unread))
            return reading;
    }
    reading.fate = Fate::kFiltered;
    if (!wanted(options_.filter, process))
        return reading;
    reading.rss = status.rss;
    before_memory_(process, status.rss);
    const bool smaps = options_.mappings || options_.exact || !system_.upm.empty() ||
                       may_hold_store(process, status);
    if (error == 0)
        read_memory(process, status, smaps, error);
    reading.exact = exact_;
    reading.smaps = smaps;
    reading.error = error;
    reading.fate = gone(error) ? Fate::kVanished : error != 0 ? Fate::kUnreadable : Fate::kTaken;
    return reading;
}

// The pages of a memfd count as shmem, so most processes need no look at their maps.
bool ProcessReader::may_hold_store(const Process &process, const Status &status) {
    if (status.rss_shmem == 0)
        return false;
    int error = 0;
    return read_process_file(process, "maps", error).find("/memfd:upm") != std::string_view::npos;
}

void ProcessReader::read_memory(Process &process, const Status &status, bool smaps, int &error) {
    if (smaps)
        from_smaps(process, status, error);
    else
        from_rollup(process, status, error);
    if (error != 0)
        return;
    add_ksm(process);
    process.usage.saved = process.usage.ksm_saved + process.usage.upm_saved;
    if (process.kinds)
        for (KindUsage &kind : *process.kinds)
            kind.usage.saved = kind.usage.ksm_saved + kind.usage.upm_saved;
}

void ProcessReader::from_rollup(Process &process, const Status &status, int &error) {
    const std::string_view text = read_process_file(process, "smaps_rollup", error);
    if (error == ENOENT && proc_.open_process(process.pid, file_of(process, "smaps").c_str()))
        return from_smaps(process, status, error); // Linux before 4.14
    if (error != 0)
        return;
    process.usage = usage_of(parse_rollup(text));
    split_rest(process.usage, status.rss_shmem);
}

void ProcessReader::from_smaps(Process &process, const Status &status, int &error) {
    const std::string_view text = read_process_file(process, "smaps", error);
    if (error == 0 && text.empty())
        error = ESRCH; // the thread has ended meanwhile
    if (error != 0)
        return;
    const std::vector<MeasuredMapping> mappings = parse_smaps(text);
    const std::vector<Kind> kinds = classify(mappings);
    std::vector<Usage> usages;
    usages.reserve(mappings.size());
    for (const MeasuredMapping &mapping : mappings)
        usages.push_back(usage_of(mapping.figures));
    add_merged(process, mappings, kinds, usages);
    std::array<KindUsage, kKinds> by_kind{};
    for (std::size_t i = 0; i < mappings.size(); ++i) {
        const bool shmem = kinds[i] == Kind::kShmem;
        split_rest(usages[i], shmem ? usages[i].rss : 0);
        KindUsage &kind = by_kind[static_cast<std::size_t>(kinds[i])];
        kind.usage += usages[i];
        ++kind.mappings;
        kind.size += mappings[i].size();
        process.usage += usages[i];
    }
    // Files on a tmpfs look like files, except in the process's own count.
    const std::uint64_t of_store = by_kind[static_cast<std::size_t>(Kind::kStore)].usage.upm;
    split_rest(process.usage, saturating_sub(status.rss_shmem, of_store));
    if (options_.mappings)
        process.kinds = by_kind;
}

void ProcessReader::add_merged(const Process &process, const std::vector<MeasuredMapping> &mappings,
                               const std::vector<Kind> &kinds, std::vector<Usage> &usages) {
    std::optional<Pagemap> pagemap;
    for (std::size_t i = 0; i < mappings.size(); ++i) {
        const MeasuredMapping &mapping = mappings[i];
        Usage &usage = usages[i];
        const std::uint64_t rest = usage.rss - usage.anon;
        // Without frames: the mapping's pss less what it has alone.
        const std::uint64_t rest_pss = std::min(saturating_sub(usage.pss, usage.anon), rest);
        if (kinds[i] == Kind::kStore) {
            usage.upm = rest;
            usage.upm_saved = rest - rest_pss;
            continue;
        }
        const bool upm = mapping.flags.mixed && !mapping.no_memory() && !mapping.shared();
        const bool ksm = options_.exact && (usage.ksm != 0 || mapping.flags.mergeable);
        if (!upm && !ksm)
            continue;
        if (!pagemap)
            pagemap.emplace(proc_, process, page_size_);
        Merged merged;
        if (count_merged(*pagemap, frames_, mapping, page_size_, merged)) {
            usage.upm = std::min(merged.upm, rest);
            usage.upm_saved = merged.upm_saved;
            usage.ksm = std::min(merged.ksm, usage.anon);
            usage.ksm_saved = merged.ksm_saved;
            continue;
        }
        exact_ = exact_ && !upm;
        if (upm && !mapping.file()) {
            usage.upm = rest;
            usage.upm_saved = rest - rest_pss;
        }
    }
}

// Without frames, KSM's saving is divided by the pages that each process has merged:
// the sum over all processes is then what KSM says, as far as it goes.
void ProcessReader::add_ksm(Process &process) {
    const auto value = [&](const char *name) {
        const auto found = system_.ksm.find(name);
        return found == system_.ksm.end() ? 0 : std::max<std::int64_t>(found->second, 0);
    };
    const auto shared = static_cast<double>(value("pages_shared"));
    const auto sharing = static_cast<double>(value("pages_sharing"));
    if (shared + sharing == 0 && value("ksm_zero_pages") == 0)
        return;
    int error = 0;
    const KsmStat stat = parse_ksm_stat(read_process_file(process, "ksm_stat", error));
    if (error != 0)
        return;
    Usage &usage = process.usage;
    usage.ksm_zero = stat.zero_pages * page_size_;
    if (usage.ksm == 0)
        usage.ksm = std::min(stat.merging_pages * page_size_, usage.anon);
    const bool counted = options_.exact && frames_.valid();
    const double ratio = shared + sharing > 0 ? sharing / (shared + sharing) : 0;
    const auto part = [&](std::uint64_t bytes) {
        return static_cast<std::uint64_t>(static_cast<double>(bytes) * ratio);
    };
    if (!counted) {
        usage.ksm_saved = part(usage.ksm);
        if (process.kinds)
            for (KindUsage &kind : *process.kinds)
                kind.usage.ksm_saved = part(kind.usage.ksm);
    }
    usage.ksm_saved += usage.ksm_zero;
}

} // namespace upm::tool::pss
