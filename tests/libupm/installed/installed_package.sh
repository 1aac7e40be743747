#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Installs the build below a folder of its own, moves that, and builds and runs
# another project against it: with CMake's package, and with pkg-config.
#
#   installed_package.sh CMAKE BUILD CONSUMER
set -euo pipefail

cmake=$1 build=$2 consumer=$3
dir=$(mktemp -d "${TMPDIR:-/tmp}/upm-package-XXXXXX")
trap 'rm -rf "$dir"' EXIT

"$cmake" --install "$build" --prefix "$dir/staged" >"$dir/install.log"
# A package that knows its own place by heart would fail now.
mv "$dir/staged" "$dir/installed"
prefix=$dir/installed

for file in include/upm/upm.h include/upm/upm.hpp; do
    [[ -f $prefix/$file ]] || { echo "not installed: $file"; exit 1; }
done
library=$(find "$prefix" -name 'libupm.so')
soname=$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
[[ $soname == libupm.so.1 ]] || { echo "SONAME is '$soname'"; exit 1; }
libdir=$(dirname "$library")

export UPM_BACKEND=none LD_LIBRARY_PATH=$libdir
"$cmake" -S "$consumer" -B "$dir/consumer" -DCMAKE_PREFIX_PATH="$prefix" >"$dir/configure.log" || {
    cat "$dir/configure.log"
    exit 1
}
"$cmake" --build "$dir/consumer" >"$dir/build.log" || {
    cat "$dir/build.log"
    exit 1
}
for program in from_cxx from_cxx_static from_c; do
    echo "cmake: $program"
    "$dir/consumer/$program"
done

if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$libdir/pkgconfig
    # Word splitting is what a compiler's command line wants.
    # shellcheck disable=SC2046
    ${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror "$consumer/main.c" -o "$dir/by_pkg_config" \
        $(pkg-config --cflags --libs upm)
    echo "pkg-config: $(pkg-config --modversion upm)"
    "$dir/by_pkg_config"
fi

if [[ -x $prefix/bin/upm ]]; then
    unset LD_LIBRARY_PATH # the command finds its library by itself
    "$prefix/bin/upm" --version
fi
