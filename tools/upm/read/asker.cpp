// SPDX-License-Identifier: MIT
#include "tools/upm/read/asker.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <fmt/format.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

std::string read_link(const std::string &path) {
    std::array<char, PATH_MAX> text{};
    const ssize_t length = ::readlink(path.c_str(), text.data(), text.size());
    return {text.data(), static_cast<std::size_t>(length > 0 ? length : 0)};
}

// The pid namespace of the machine has a fixed number; engines give containers their own.
bool is_container(const Root &root) {
    constexpr std::string_view kInitial = "pid:[4026531836]"; // PROC_PID_INIT_INO
    const std::string space = read_link(root.path("/proc/self/ns/pid"));
    return root.exists("/run/.containerenv") || (!space.empty() && space != kInitial);
}

// Names a folder that the shell looks into.
bool in_path(std::string_view folder) {
    const char *const path = std::getenv("PATH");
    const std::vector<std::string> folders = split(path != nullptr ? path : "", ':');
    return std::ranges::find(folders, folder) != folders.end();
}

// Where sudo and su look, whatever the PATH of the one who types is.
bool is_for_all(std::string_view folder) {
    constexpr std::array kFolders = {"/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"};
    return std::ranges::find(kFolders, folder) != kFolders.end();
}

bool has_program(const Root &root, std::string_view name) {
    constexpr std::array kFolders = {"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/",
                                     "/usr/local/bin/"};
    return std::ranges::any_of(
        kFolders, [&](const char *folder) { return root.exists(folder + std::string(name)); });
}

} // namespace

std::string Asker::as_root(std::string_view command) const {
    if (root)
        return std::string(command);
    const bool plain = command.find_first_of(">&|;'\"$") == std::string_view::npos;
    if (sudo && plain)
        return fmt::format("sudo {}", command);
    return (sudo ? "sudo sh -c " : "su -c ") + shell_word(command);
}

std::string Asker::program(std::string_view name) const {
    const bool found = folder.empty() || (in_path(folder) && (root || is_for_all(folder)));
    return found ? std::string(name) : fmt::format("{}/{}", folder, name);
}

std::string Asker::broker_command() const {
    if (systemd && packaged)
        return "systemctl enable --now upmd.socket";
    return program("upmd") + " --mode 0666 &";
}

Asker read_asker(const Root &root) {
    Asker asker;
    asker.root = ::geteuid() == 0;
    asker.container = is_container(root);
    asker.systemd = root.is_directory("/run/systemd/system");
    asker.apt = has_program(root, "apt-get");
    asker.sudo = has_program(root, "sudo");
    const std::string self = read_link("/proc/self/exe");
    asker.folder = self.substr(0, self.rfind('/'));
    // A file that each Debian package has, in images without documentation, too.
    asker.packaged = asker.folder == "/usr/bin" && root.exists("/usr/share/doc/upm/copyright");
    constexpr std::string_view kBuilt = "/build/bin";
    if (asker.folder.ends_with(kBuilt)) {
        const std::string tree = asker.folder.substr(0, asker.folder.size() - kBuilt.size());
        if (::access((tree + "/kmod/dkms.conf").c_str(), R_OK) == 0)
            asker.tree = tree;
    }
    return asker;
}

} // namespace upm::tool::cli
