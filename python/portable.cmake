# SPDX-License-Identifier: MIT
#
# For wheels that other systems can use (tools/dev/wheel): zig compiles with the headers of an
# old glibc, which those of this system in /usr/include must not get in the way of. What is
# wanted of that folder is in one of its own, as links.
set(portable_include "${CMAKE_BINARY_DIR}/portable")
file(MAKE_DIRECTORY "${portable_include}/x86_64-linux-gnu")
foreach(name cxxopts.hpp fmt nlohmann xxhash.h)
  file(CREATE_LINK "/usr/include/${name}" "${portable_include}/${name}" SYMBOLIC)
endforeach()
# Debian's Python.h asks for what is particular to a processor by this name.
foreach(version 3.11 3.12 3.13)
  file(CREATE_LINK "/usr/include/x86_64-linux-gnu/python${version}"
       "${portable_include}/x86_64-linux-gnu/python${version}" SYMBOLIC)
endforeach()
include_directories(SYSTEM "${portable_include}")
# Where Debian has the CMake files of those libraries.
set(CMAKE_LIBRARY_ARCHITECTURE x86_64-linux-gnu)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)
# CMake names no folder to the compiler that it takes for one of the compiler's own.
foreach(language C CXX)
  list(APPEND CMAKE_${language}_IMPLICIT_INCLUDE_DIRECTORIES /usr/include)
endforeach()
