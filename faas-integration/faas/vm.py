# SPDX-License-Identifier: MIT
"""The demo in a virtual machine with the module, where this machine may load none.

The machine is emulated: importing PyTorch takes 30 s and more there, a request of
AlexNet 6 s and more. Memory is what it would be on any machine, times are not.
"""

from __future__ import annotations

import subprocess

from faas.session import ROOT, Plan, Session

PATIENCE = 8.0  # factor of timeouts that suit a real machine
BASE, EACH = 2048, 640  # MiB of the machine: without containers, and for each


def run(kernel: str, plan: Plan) -> int:
    """Runs the plan there; the exit status is the demo's, or tests/vm/run's own.

    Raises ImageError, OSError.
    """
    machine = [str(ROOT / "tests" / "vm" / "run"), "--kernel", kernel]
    if status := subprocess.call([*machine, "--prepare"]):  # before minutes of work for it
        return status
    function = plan.function
    Session(plan, print).host().make_image()  # and the weights: here, where it is quick
    memory = BASE + EACH * plan.n
    phases = 2 + len(plan.layouts)
    print(f"booting {kernel} with {memory} MiB; each of {phases} phases takes minutes", flush=True)
    machine += ["--mem", str(memory), "--timeout", str(3600 + 600 * plan.n)]
    machine += ["--out", str(plan.out), "--"]
    demo = ["/usr/bin/python3", "-B", str(ROOT / "faas-integration" / "demo"), "-n", str(plan.n)]
    demo += ["--function", function.name, "--model", plan.model, "--backend", plan.backend]
    demo += ["--containers", plan.containers, "--images", "copies" if plan.copies else "shared"]
    demo += ["--warm", str(plan.warm), "--pairs", str(plan.pairs), "--out", str(plan.out)]
    demo += ["--patience", str(PATIENCE)]
    demo += ["--layouts", *plan.layouts]
    running = subprocess.Popen([*machine, *demo])
    try:
        return running.wait()
    finally:
        running.terminate()  # after SIGTERM: it ends the machine
        running.wait()
