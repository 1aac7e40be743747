// SPDX-License-Identifier: MIT
//
// upm-runc: an OCI runtime for container engines, which gives the programs of containers
// that are members of a domain the layout of the domain's key, and leaves everything else to
// the real runtime, whose place it takes. Inside of a container nobody may switch address
// randomisation off (the engines' seccomp profiles forbid it), but it is inherited: it is
// switched off here, and upm-layout inside makes the layout of the key from it. No other
// limit or setting of the container changes. Whatever is unusual is left alone: a container
// that starts without this program starts with it.
#include "tools/common/descriptor.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/common/text.hpp"
#include "tools/upm-runc/command_line.hpp"
#include "tools/upm-runc/spec.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <fcntl.h>
#include <string>
#include <string_view>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>
#include <vector>

namespace upm::tool::runc {

namespace {

constexpr int kNotFound = 127; // as shells say it
constexpr off_t kLargest = 16 << 20;

// The log of the system. Standard error is that of the container.
void log(const CommandLine &line, const std::string &what) {
    ::openlog("upm-runc", LOG_PID, LOG_DAEMON);
    ::syslog(LOG_WARNING, "container %s: %s", printable(line.id).c_str(), printable(what).c_str());
    ::closelog();
}

// By a rename: an engine that reads the file sees the old text or the new one.
void replace_file(const std::string &path, const struct stat &before, const std::string &text) {
    std::string draft = path + ".upm-XXXXXX";
    const Descriptor file(::mkostemp(draft.data(), O_CLOEXEC));
    if (!file)
        throw SystemError("write", path, errno);
    const ssize_t wrote = ::write(file.get(), text.data(), text.size());
    if (wrote != static_cast<ssize_t>(text.size()) ||
        ::fchown(file.get(), before.st_uid, before.st_gid) != 0 ||
        ::fchmod(file.get(), before.st_mode & ALLPERMS) != 0 ||
        ::rename(draft.c_str(), path.c_str()) != 0) {
        const int error = wrote >= 0 && errno == 0 ? ENOSPC : errno;
        (void)::unlink(draft.c_str());
        throw SystemError("write", path, error);
    }
}

std::uint64_t hard_stack_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_STACK, &limit) != 0)
        throw Failure("cannot read the limit of the stack", errno);
    return limit.rlim_max;
}

// Throws whatever stands in the way; then nothing has changed.
void change_container(const CommandLine &line) {
    const std::string path = line.bundle + "/config.json";
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0)
        return; // the runtime will say so
    if (line.other_config || !S_ISREG(status.st_mode) || status.st_size > kLargest)
        throw Failure("its specification is not a file config.json of usual size");
    const std::string before = read_file(path);
    Json spec = parse_spec(before);
    if (!change_spec(spec, hard_stack_limit()))
        return;
    const int now = ::personality(0xffffffff); // asks only
    if (now < 0 || ::personality(static_cast<unsigned>(now) | ADDR_NO_RANDOMIZE) < 0)
        throw Failure("cannot switch address randomisation off", errno);
    try {
        errno = 0;
        if (const std::string after = spec.dump(); after != before)
            replace_file(path, status, after);
    } catch (...) {
        (void)::personality(static_cast<unsigned>(now));
        throw;
    }
}

bool is_runtime(const std::string &path) {
    struct stat found {};
    struct stat self {};
    const bool other = ::stat("/proc/self/exe", &self) != 0 || ::stat(path.c_str(), &found) != 0 ||
                       found.st_dev != self.st_dev || found.st_ino != self.st_ino;
    return other && ::access(path.c_str(), X_OK) == 0;
}

// UPM_RUNTIME; else what stands behind "upm-" in this program's name: a link upm-crun to it
// is for crun.
std::string wanted_runtime(std::string_view called) {
    constexpr std::string_view kPrefix = "upm-";
    if (const char *const wish = std::getenv("UPM_RUNTIME"); wish != nullptr && *wish != '\0')
        return wish;
    called.remove_prefix(called.rfind('/') + 1); // npos + 1 is 0
    return std::string(called.starts_with(kPrefix) ? called.substr(kPrefix.size()) : "runc");
}

// Empty: there is none but this program.
std::string find_runtime(const std::string &name) {
    if (name.find('/') != std::string::npos)
        return is_runtime(name) ? name : "";
    const char *const path = std::getenv("PATH");
    const std::string folders = std::string(path != nullptr ? path : "") +
                                ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for (const std::string &folder : split(folders, ':')) {
        std::string file = folder;
        file.append("/").append(name);
        if (folder.starts_with('/') && is_runtime(file))
            return file;
    }
    return "";
}

// To the engine as runtimes do, which shows it to who asked for the container.
int complain(const CommandLine &line, const std::string &what) {
    (void)std::fprintf(stderr, "upm-runc: %s\n", what.c_str());
    log(line, what);
    if (line.log.empty())
        return kNotFound;
    char now[64] = "";
    const std::time_t seconds = std::time(nullptr);
    std::tm parts{};
    (void)std::strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&seconds, &parts));
    const Json entry = {{"level", "error"}, {"msg", "upm-runc: " + what}, {"time", now}};
    try {
        append_line(line.log, line.json_log ? dump(entry, -1) : "upm-runc: " + what);
    } catch (const Failure &) {
        return kNotFound; // it was said
    }
    return kNotFound;
}

int run(int argc, char **argv) {
    const CommandLine line = read_command_line(std::vector<std::string>(argv + 1, argv + argc));
    const std::string wanted = wanted_runtime(argv[0]);
    std::string runtime = find_runtime(wanted);
    if (runtime.empty())
        return complain(line, "cannot find the runtime " + printable(wanted) +
                                  " (UPM_RUNTIME, or what this program is called after upm-)");
    if (line.makes_container()) {
        try {
            change_container(line);
        } catch (const std::exception &error) {
            log(line, std::string("left as it is: ") + error.what());
        }
    }
    argv[0] = runtime.data();
    (void)::execv(runtime.c_str(), argv);
    return complain(line, "cannot run " + printable(runtime) + ": " + std::strerror(errno));
}

} // namespace

} // namespace upm::tool::runc

int main(int argc, char **argv) {
    if (argc < 1)
        return 1;
    try {
        return upm::tool::runc::run(argc, argv);
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-runc: %s\n", error.what());
        return 1;
    }
}
