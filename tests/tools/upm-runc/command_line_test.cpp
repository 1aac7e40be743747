// SPDX-License-Identifier: MIT
//
// Command lines as engines give them to a runtime.
#include "tools/upm-runc/command_line.hpp"

#include <gtest/gtest.h>

namespace upm::tool::runc {

namespace {

// conmon's, with podman 4.3.
TEST(CommandLine, OfPodman) {
    const CommandLine line =
        read_command_line({"--log-format=json", "--log", "/c/oci-log", "create", "--bundle",
                           "/c/userdata", "--pid-file", "/c/pidfile", "0123abcd"});
    EXPECT_TRUE(line.makes_container());
    EXPECT_EQ(line.bundle, "/c/userdata");
    EXPECT_EQ(line.id, "0123abcd");
    EXPECT_EQ(line.log, "/c/oci-log");
    EXPECT_TRUE(line.json_log);
}

// The shim's of containerd, with a terminal.
TEST(CommandLine, OfContainerd) {
    const CommandLine line =
        read_command_line({"--root", "/run/containerd/runc/moby", "--log", "/b/log.json",
                           "--log-format", "json", "--systemd-cgroup", "create", "--bundle", "/b",
                           "--pid-file", "/b/init.pid", "--console-socket", "/t/pty.sock", "id"});
    EXPECT_EQ(line.command, "create");
    EXPECT_EQ(line.bundle, "/b");
    EXPECT_EQ(line.id, "id");
    EXPECT_EQ(line.log, "/b/log.json");
    EXPECT_TRUE(line.json_log);
}

TEST(CommandLine, OfPeople) {
    const CommandLine line = read_command_line({"run", "-b", "there", "name"});
    EXPECT_TRUE(line.makes_container());
    EXPECT_EQ(line.bundle, "there");
    EXPECT_EQ(read_command_line({"run", "-bundle=there", "name"}).bundle, "there");
    EXPECT_EQ(read_command_line({"run", "name"}).bundle, ".");
    EXPECT_FALSE(read_command_line({"run", "name"}).json_log);
}

TEST(CommandLine, OtherCommandsMakeNoContainer) {
    for (const char *command : {"exec", "start", "kill", "delete", "state", "restore", "spec"})
        EXPECT_FALSE(read_command_line({"--root", "create", command, "create"}).makes_container())
            << command;
    EXPECT_FALSE(read_command_line({}).makes_container());
    EXPECT_FALSE(read_command_line({"--version"}).makes_container());
    EXPECT_FALSE(read_command_line({"--root"}).makes_container());
}

// Completions of shells ask so, in whatever folder somebody stands.
TEST(CommandLine, HelpMakesNoContainer) {
    EXPECT_FALSE(read_command_line({"create", "--help"}).makes_container());
    EXPECT_FALSE(read_command_line({"run", "-h"}).makes_container());
    EXPECT_FALSE(read_command_line({"--help", "create"}).makes_container());
}

// An option that nobody knows, with a value: the value is taken for the command.
TEST(CommandLine, WhatIsUnknownMakesNothing) {
    EXPECT_FALSE(read_command_line({"--new-option", "value", "create", "id"}).makes_container());
}

TEST(CommandLine, CrunsOwnSpecification) {
    EXPECT_TRUE(read_command_line({"run", "--config", "x.json", "id"}).other_config);
    EXPECT_TRUE(read_command_line({"run", "-f", "x.json", "id"}).other_config);
    EXPECT_FALSE(read_command_line({"run", "id"}).other_config);
}

} // namespace

} // namespace upm::tool::runc
