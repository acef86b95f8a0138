#!/usr/bin/python3
"""The monitor's tests with real guests. On a machine with KVM, or in the lab host (tests/integration/machine)."""

import argparse
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "machine_lib"))
sys.dont_write_bytecode = True

import harness  # noqa: E402
from harness import Settings  # noqa: E402

MODULES = ["snapshots", "devices", "network", "api", "vcpus", "command_line", "balloon", "backends"]
ALONE = ["hostile", "limits"]  # these look at the clock


def parts(name, wanted):
    """What of a module is wanted: all, when nothing is."""
    return [function for function in __import__(name).PARTS
            if not wanted or name in wanted or name + "." + function.__name__ in wanted]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--vmm", required=True)
    arguments.add_argument("--kernel", required=True)
    arguments.add_argument("--initrd", required=True)
    arguments.add_argument("--fuzz", required=True)
    arguments.add_argument("--boot-args", default="", help="for guests, beside what every one gets")
    arguments.add_argument("--emulated", action="store_true", help="KVM is that of a lab host")
    arguments.add_argument("parts", nargs="*", help="modules, or single parts of them: MODULE.NAME")
    options = arguments.parse_args()
    Settings.vmm = options.vmm
    Settings.kernel = options.kernel
    Settings.initrd = options.initrd
    Settings.fuzz = options.fuzz
    Settings.emulated = options.emulated
    Settings.boot_args += " " + options.boot_args
    harness.make_work()
    begin = time.monotonic()
    try:
        harness.run_parts([parts(name, options.parts) for name in MODULES])
        for name in ALONE:
            for function in parts(name, options.parts):
                harness.part(function)
    finally:
        shutil.rmtree(Settings.work, ignore_errors=True)
    print("took %.0f s" % (time.monotonic() - begin))
    print("%d passed, %d failed" % (harness.passed, harness.failed))
    return 1 if harness.failed else 0


if __name__ == "__main__":
    sys.exit(main())
