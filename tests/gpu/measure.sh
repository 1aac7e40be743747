#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs the conformance suite on the GPU of this machine, then measures what sharing
# costs there, writes both with the machine's description to
# bench/results/cuda-HOST-DATE.json, and prints them beside the targets. Takes some
# minutes, and 32 GiB of GPU memory unless --bytes says otherwise.
#
#   tests/gpu/measure.sh [--fake] [--out FILE] [OPTION of upm-cuda-measure]...
#
#   --fake   on the fake driver, small: to test this script; the times mean nothing
#
# Needs a finished `make tests`. Exit status 4: there is no GPU here.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=build/bin
fake=
out=
options=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --fake) fake=1 ;;
    --out) out=$2 && shift ;;
    -h | --help)
        sed -n 's/^# \{0,1\}//; 3,16p' "$0"
        exit
        ;;
    *) options+=("$1") ;;
    esac
    shift
done

for program in upm-cuda-measure upm-cuda-tests upm-cudad; do
    if [[ ! -x $bin/$program ]]; then
        echo "measure.sh: no $bin/$program: run 'make tests' first" >&2
        exit 1
    fi
done

driver=real
if [[ $fake ]]; then
    driver=fake
    export UPM_CUDA_DRIVER=$PWD/build/lib/fake-cuda/libcuda.so.1
    options=(--bytes 16777216 --extent 4194304 --rounds 3 --processes 2 "${options[@]}")
elif ! /usr/bin/python3 -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null; then
    echo "skipped: the loader finds no libcuda.so.1, so there is no GPU to measure"
    exit 4
fi
out=${out:-bench/results/cuda-$(hostname)-$(date +%Y%m%d-%H%M).json}

scratch=$(mktemp -d)
broker=
finish() {
    [[ -z $broker ]] || kill "$broker" 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT

export UPM_CUDA_SOCKET=$scratch/broker.sock
"$bin/upm-cudad" >"$scratch/broker.log" &
broker=$!
for _ in {1..100}; do
    [[ ! -S $UPM_CUDA_SOCKET ]] || break
    sleep 0.05
done

# Each test in a process of its own: a forbidden write costs it its context.
for name in $("$bin/upm-cuda-tests" --gtest_list_tests --gtest_filter="Driver/Conformance.*/$driver" |
    sed -n "s,^  \([A-Za-z]*/$driver\).*,\1,p"); do
    status=0
    "$bin/upm-cuda-tests" --gtest_filter="Driver/Conformance.$name" \
        --gtest_output="json:$scratch/test.json" >"$scratch/test.log" 2>&1 || status=$?
    result=passed
    ! grep -q '^\[  SKIPPED \]' "$scratch/test.log" || result=skipped
    [[ $status -eq 0 ]] || result=failed
    detail=$(sed -n 's/.*"cuda_status": "\([0-9]*\)".*/\1/p' "$scratch/test.json" | head -n 1)
    printf '%s\t%s\t%s\n' "${name%/*}" "$result" "$detail" | tee -a "$scratch/conformance"
done

"$bin/upm-cuda-measure" "${options[@]}" >"$scratch/measured.json"

mkdir -p "$(dirname "$out")"
status=0
/usr/bin/python3 - "$scratch" "$out" <<'PYTHON' || status=$?
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

scratch, out = Path(sys.argv[1]), Path(sys.argv[2])
result = json.loads((scratch / "measured.json").read_text())
rows = [line.split("\t") for line in (scratch / "conformance").read_text().splitlines()]
result["conformance"] = {name: verdict for name, verdict, _ in rows}
result["status_of_forbidden_write"] = next((int(row[2]) for row in rows if row[2]), None)
result["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
result["machine"]["cpu"] = cpu[0].partition(":")[2].strip() if cpu else None
out.write_text(json.dumps(result, indent=2) + "\n")
failed = [name for name, verdict in result["conformance"].items() if verdict == "failed"]
print(f"wrote {out}" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
sys.exit(1 if failed else 0)
PYTHON
tests/gpu/targets.py "$out"
((status == 0))
