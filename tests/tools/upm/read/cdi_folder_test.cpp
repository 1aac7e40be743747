// SPDX-License-Identifier: MIT
//
// Which files of a folder define a device, as engines see it.
#include "tools/upm/read/cdi_folder.hpp"

#include "tests/support/support.hpp"
#include "tools/upm/model/cdi.hpp"

#include <gmock/gmock.h>

namespace upm::tool::cli {

namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class CdiFolder : public testing::Test {
  protected:
    CdiFolder() { dir.mkdir("etc/cdi"); }

    void write(const std::string &file, const std::string &device) const {
        const CdiDevice one{.name = device,
                            .key = std::string(32, 'a'),
                            .hook = "/usr/lib/hook.so",
                            .launcher = "",
                            .with_module = false,
                            .preload = ""};
        dir.write("etc/cdi/" + file, dump(cdi_specification(one)));
    }
    [[nodiscard]] std::vector<CdiFile> files() const {
        return read_cdi_folder(Root(dir.path()), kCdiFolder);
    }

    const test::TempDir dir;
};

TEST_F(CdiFolder, WhatAFileDefinesIsInIt) {
    EXPECT_THAT(files(), IsEmpty());
    write("upm.dev-share-a.json", "a");
    write("renamed.yaml", "b");
    write("upm.dev-share-no.txt", "c");
    dir.write("etc/cdi/other.json", R"({"kind":"vendor.com/gpu","devices":[{"name":"a"}]})");
    dir.write("etc/cdi/upm.dev-share-bad.json", "{");
    dir.mkdir("etc/cdi/upm.dev-share-folder.json");
    const std::vector<CdiFile> found = files();
    ASSERT_EQ(found.size(), 3U);
    EXPECT_EQ(found[0].path, "/etc/cdi/renamed.yaml");
    EXPECT_EQ(found[0].domain, std::nullopt);
    EXPECT_THAT(found[0].devices, ElementsAre("b"));
    EXPECT_EQ(found[1].path, "/etc/cdi/upm.dev-share-a.json");
    EXPECT_TRUE(found[1].is_of("a"));
    EXPECT_THAT(found[2].devices, IsEmpty());
    EXPECT_EQ(find_cdi_conflict(found), std::nullopt);
}

// Whatever is sorted first, the device's own file stays.
TEST_F(CdiFolder, ACopyIsFound) {
    write("upm.dev-share-a.json", "a");
    for (const char *name :
         {"backup.json", "upm.dev-share-a (copy).json", "upm.dev-share-a.old.json", "z.yaml"}) {
        write(name, "a");
        const auto found = find_cdi_conflict(files());
        ASSERT_TRUE(found) << name;
        EXPECT_EQ(found->device, "a");
        EXPECT_EQ(found->file, "/etc/cdi/upm.dev-share-a.json");
        EXPECT_EQ(found->copy, std::string("/etc/cdi/") + name);
        ASSERT_EQ(::unlink((dir.path() + "/etc/cdi/" + name).c_str()), 0);
    }
    EXPECT_EQ(find_cdi_conflict(files()), std::nullopt);
}

} // namespace

} // namespace upm::tool::cli
