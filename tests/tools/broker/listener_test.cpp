// SPDX-License-Identifier: MIT
//
// Where a broker listens, and what stands against it.
#include "tools/broker/listener.hpp"

#include "tests/support/support.hpp"

#include <filesystem>
#include <gmock/gmock.h>
#include <stdexcept>
#include <string>

namespace upm::test {

namespace {

using testing::HasSubstr;

std::string refusal(const std::string &path) {
    try {
        broker::Listener listener;
        (void)listener.make(path, 0600);
    } catch (const std::exception &error) {
        return error.what();
    }
    return "";
}

// No folder and no lock, either.
TEST(Listener, LeavesNothingWhereItCannotListen) {
    const TempDir folder;
    folder.write("file", "text");
    folder.mkdir("folder");
    EXPECT_THAT(refusal(folder.path() + "/file"), HasSubstr("/file is there, and is no socket"));
    EXPECT_THAT(refusal(folder.path() + "/folder"), HasSubstr("is there, and is no socket"));
    EXPECT_THAT(refusal(folder.path() + "/new/" + std::string(200, 'x')),
                HasSubstr("longer than 107 bytes"));
    EXPECT_THAT(refusal("relative"), HasSubstr("an absolute path"));
    EXPECT_EQ(read_file(folder.path() + "/file"), "text");
    std::size_t entries = 0;
    for (const auto &entry : std::filesystem::recursive_directory_iterator(folder.path()))
        entries += entry.exists() ? 1 : 0;
    EXPECT_EQ(entries, 2U);
}

} // namespace

} // namespace upm::test
