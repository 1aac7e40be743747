// SPDX-License-Identifier: MIT
//
// upm cdi: lets container engines hand the hook and the broker's socket to containers.
#include "libupm/base/broker_socket.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/common/key.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/cli.hpp"
#include "tools/upm/model/cdi.hpp"
#include "tools/upm/read/asker.hpp"
#include "tools/upm/read/cdi_folder.hpp"
#include "tools/upm/read/hook_file.hpp"
#include "tools/upm/read/installed.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

// Containers that were started with a key keep it: a new one would split the domain.
std::string key_for(const std::string &path, bool renew) {
    if (renew || ::access(path.c_str(), F_OK) != 0)
        return fresh_key();
    if (auto key = key_in_specification(read_file(path)))
        return *key;
    throw Failure(fmt::format("{} is no specification of upm cdi; remove it, or choose another "
                              "--domain or --output",
                              printable(path)));
}

// Marks a folder that `generate` has made. A file system without attributes keeps no mark, and
// the folder then stays.
constexpr const char *kMade = "user.upm.made";

void make_folder(const std::string &folder) {
    if (::mkdir(folder.c_str(), 0755) == 0)
        (void)::setxattr(folder.c_str(), kMade, "1", 1, 0);
    else if (errno != EEXIST)
        throw SystemError("make", folder, errno);
}

// If `generate` made it and nothing is in it.
void remove_folder(const std::string &folder) {
    if (::getxattr(folder.c_str(), kMade, nullptr, 0) >= 0)
        (void)::rmdir(folder.c_str());
}

std::string path_in(const std::string &folder, const std::string &domain) {
    return folder + "/" + cdi_file_name(domain);
}

// The device as it was asked for, but for its key. Throws UsageError.
CdiDevice asked_device(const cxxopts::ParseResult &chosen) {
    CdiDevice device{.name = chosen["domain"].as<std::string>(),
                     .key = "",
                     .hook =
                         chosen.count("hook") != 0 ? chosen["hook"].as<std::string>() : find_hook(),
                     .launcher = find_launcher(),
                     .with_module = chosen.count("module") != 0,
                     .preload = chosen["preload"].as<std::string>()};
    if (!is_cdi_name(device.name))
        throw UsageError(fmt::format("--domain '{}' is no name of a device: letters, digits and "
                                     "_-.: between them, 63 at most",
                                     printable(device.name)));
    if (!device.hook.starts_with("/") || ::access(device.hook.c_str(), R_OK) != 0)
        throw UsageError(fmt::format("--hook '{}' is no readable file by its full path",
                                     printable(device.hook)));
    if (!parse_hook_file(read_file(device.hook)))
        throw UsageError(fmt::format("--hook '{}' is no shared library of this machine",
                                     printable(device.hook)));
    if (!device.preload.empty() && !is_preload_list(device.preload))
        throw UsageError(fmt::format("--preload '{}' is no list of full paths in the container, "
                                     "with ':' between them",
                                     printable(device.preload)));
    return device;
}

// Engines start no container whose device mounts what is not there. A file system that is
// read-only or full is told by what is written there next.
void make_socket_folder() {
    const std::string folder =
        std::string(kSystemSocket).substr(0, std::string_view(kSystemSocket).rfind('/'));
    constexpr mode_t kSearchable = 0755;
    if (::mkdir(folder.c_str(), kSearchable) == 0)
        (void)::chmod(folder.c_str(), kSearchable); // whatever the umask
}

// Engines refuse a device that two files define, and give one that is left to containers.
void say_who_else_defines(const std::string &folder, const std::string &device,
                          const std::string &what_follows) {
    for (const CdiFile &file : read_cdi_folder(Root(), folder))
        if (!file.is_of(device) && std::ranges::find(file.devices, device) != file.devices.end())
            complain("cdi", fmt::format("{} defines upm.dev/share={} as well, and {}: rm {}",
                                        printable(file.path), device, what_follows,
                                        shell_word(printable(file.path))));
}

// What containers of the device will lack, and what helps.
void say_what_is_missing(const CdiDevice &device) {
    const Asker asker = read_asker(Root());
    if (::access(kSystemSocket, F_OK) != 0)
        complain("cdi", fmt::format("there is no {}: {}", kSystemSocket,
                                    asker.as_root(asker.broker_command())));
    if (device.with_module && ::access("/dev/upm", F_OK) != 0)
        complain("cdi", fmt::format("there is no /dev/upm, and containers with this device do not "
                                    "start without it: {}",
                                    asker.as_root("modprobe upm")));
}

int generate(const cxxopts::ParseResult &chosen) {
    const std::string folder = chosen["output"].as<std::string>();
    CdiDevice device = asked_device(chosen);
    if (folder == "-") {
        device.key = fresh_key();
        print(dump(cdi_specification(device)) + "\n");
        return kSuccess;
    }
    make_folder(folder);
    const std::string path = path_in(folder, device.name);
    device.key = key_for(path, chosen.count("new-key") != 0);
    // The key is the right to be a member: for root only, as the engines are.
    const mode_t before = ::umask(S_IRWXG | S_IRWXO);
    write_atomically(path, dump(cdi_specification(device)) + "\n");
    (void)::umask(before);
    if (::chmod(path.c_str(), S_IRUSR | S_IWUSR) != 0)
        throw SystemError("make private", path, errno);
    print(fmt::format("{}\n\npodman run --device upm.dev/share={} IMAGE\n", path, device.name));
    if (folder == kCdiFolder)
        make_socket_folder();
    say_what_is_missing(device);
    say_who_else_defines(folder, device.name, "engines then take neither");
    return kSuccess;
}

int remove(const cxxopts::ParseResult &chosen) {
    const std::string name = chosen["domain"].as<std::string>();
    if (!is_cdi_name(name))
        throw UsageError(fmt::format("--domain '{}' is no name of a device", printable(name)));
    const std::string folder = chosen["output"].as<std::string>();
    const std::string path = path_in(folder, name);
    if (::unlink(path.c_str()) != 0)
        throw SystemError("remove", path, errno);
    say_who_else_defines(folder, name, "containers still get it");
    remove_folder(folder);
    return kSuccess;
}

} // namespace

int run_cdi(const Arguments &arguments) {
    cxxopts::Options options(
        "upm cdi", "Makes a device of the Container Device Interface: containers that ask for\n"
                   "upm.dev/share=NAME share memory among themselves, with nothing of their\n"
                   "image changed. Engines read it from /etc/cdi.\n");
    options.custom_help("generate|remove [OPTION...]");
    options.add_options()("domain", "the device's name; its containers share with each other",
                          cxxopts::value<std::string>()->default_value("default"),
                          "NAME")("module", "pass /dev/upm in as well")(
        "hook", "the hook on this machine (default: that of this installation)",
        cxxopts::value<std::string>(),
        "FILE")("preload", "what else programs of these containers preload, after the hook",
                cxxopts::value<std::string>()->default_value(""),
                "FILE[:FILE]")("new-key", "make a new key: running containers keep theirs")(
        "output", "folder of the specification; - prints it",
        cxxopts::value<std::string>()->default_value(kCdiFolder),
        "DIR")("h,help", "this text")("what", "", cxxopts::value<std::string>()->default_value(""));
    options.parse_positional("what");
    options.positional_help("");
    Common common;
    const cxxopts::ParseResult chosen = parse(options, arguments, common);
    if (common.help)
        return kSuccess;
    const std::string what = chosen["what"].as<std::string>();
    if (what == "generate")
        return generate(chosen);
    if (what == "remove")
        return remove(chosen);
    throw UsageError("say upm cdi generate, or upm cdi remove");
}

} // namespace upm::tool::cli
