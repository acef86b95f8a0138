#!/usr/bin/env python3
"""Measure atoll-vmm beside other monitors, on a host with KVM: tests/bench/peers starts this there.

    peers.py WORK MONITOR KERNEL BZIMAGE INITRD

WORK is a directory for what the machines save. Prints Markdown. One way of starting after the other is
measured in each round, so that what else happens on the machine meets all alike.
"""
import os
import re
import signal
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from peers_machines import Broken, Kvmtool, Micro, Qemu, find_program, now, version_of  # noqa: E402

ROUNDS = int(os.environ.get("PEERS_ROUNDS", "10"))
SETTLE = 0.5  # seconds between a start in advance and its use: the kernel puts work off (RCU)
AHEAD, START, BOOT = "started in advance, from the request", "from process start", "cold boot"


class Way:
    """One way to a running guest, and what it took."""

    def __init__(self, kind, title, machine, run):
        self.kind = kind
        self.title = title
        self.machine = machine
        self.run = run  # () -> (process, when it began)
        self.tick = []
        self.agent = []
        self.private = []
        self.failure = None

    def measure(self):
        process, begin = self.run()
        try:
            self.tick.append(process.wait_tick() - begin)
            self.agent.append(self.machine.wait_agent(process) - begin)
            time.sleep(0.2)
            process.drain()
            self.private.append(process.private_kib(self.machine.memory_file))
        finally:
            process.end()


def ahead(prepare, load):
    def run():
        process = prepare()
        try:
            time.sleep(SETTLE)
            begin = now()
            load()
        except Exception:
            process.end()
            raise
        return process, begin
    return run


def at_once(start):
    def run():
        process = start()
        return process, process.started
    return run


def micro_ways(name, program, title, places):
    machine = Micro(name, program, *places)
    machine.save()
    return [Way(AHEAD, title, machine, ahead(machine.prepare, machine.load)),
            Way(START, title, machine, at_once(machine.restore)),
            Way(BOOT, title, machine, at_once(machine.boot))]


def our_ways(program, places):
    """With a recorded working set too; and all of it with a guest that knows no ACPI, as QEMU's here and kvmtool's."""
    shell = ("--shell", "1")
    ways = []
    for name, arguments, title in (("atoll", "", "atoll-vmm"),
                                   ("atoll-plain", " acpi=off", "atoll-vmm, guest without ACPI")):
        machine = Micro(name, program, *places, arguments)
        machine.save()
        working_set = machine.record(shell)

        def prepare(machine=machine):
            return machine.prepare(*shell)

        def load(machine=machine, working_set=working_set):
            machine.load(working_set)

        ways += [Way(AHEAD, title, machine, ahead(prepare, machine.load)),
                 Way(AHEAD, f"{title}, recorded working set", machine, ahead(prepare, load)),
                 Way(START, title, machine, at_once(machine.restore))]
        if not arguments:
            ways.append(Way(BOOT, title, machine, at_once(machine.boot)))
    return ways


def qemu_ways(program, places):
    stream = Qemu("qemu-stream", program, *places, cid=101, mapped=False)
    mapped = Qemu("qemu-mapped", program, *places, cid=102, mapped=True)
    for machine in (stream, mapped):
        machine.save()
    return [Way(AHEAD, "QEMU, migration stream", stream, ahead(stream.prepare, stream.load)),
            Way(AHEAD, "QEMU, memory file mapped", mapped, ahead(mapped.prepare, mapped.load)),
            Way(START, "QEMU, migration stream", stream, at_once(stream.restore)),
            Way(START, "QEMU, memory file mapped", mapped, at_once(mapped.restore)),
            Way(BOOT, "QEMU", stream, at_once(stream.boot))]


def collect(work, monitor, kernel, bzimage, initrd):
    """All ways, ours first; and a line for each peer: its version, or why it is not there."""
    places = (work, kernel, initrd)
    ways = our_ways(monitor, places)
    told = [f"atoll-vmm: {version_of(monitor, '--version')}"]
    qemu = find_program("QEMU", "qemu-system-x86_64")
    firecracker = find_program("FIRECRACKER")
    kvmtool = find_program("LKVM", "lkvm")

    def add(name, program, missing, make, version="--version"):
        if not program:
            told.append(f"{name}: skipped, {missing}")
            return
        try:
            ways.extend(make())
            told.append(f"{name}: {version_of(program, version)}")
        except (Broken, OSError) as error:
            told.append(f"{name}: skipped, {error}")

    add("QEMU", qemu, "qemu-system-x86_64 is not installed (QEMU= names it)", lambda: qemu_ways(qemu, places))
    add("Firecracker", firecracker, "FIRECRACKER= names no program",
        lambda: micro_ways("firecracker", firecracker, "Firecracker", places))
    add("kvmtool", kvmtool, "lkvm is not installed; Debian 12 does not package it (LKVM= names it)",
        lambda: [Way(BOOT, "kvmtool", machine, at_once(machine.boot))
                 for machine in [Kvmtool(kvmtool, work, bzimage, initrd)]], "version")
    return ways, told


def measure(ways):
    # The first round fills caches and is not counted.
    for number in range(ROUNDS + 1):
        for way in ways:
            if way.failure:
                continue
            try:
                way.measure()
            except (Broken, OSError) as error:
                way.failure = str(error)
        print(f"peers: round {number} of {ROUNDS}", file=sys.stderr, flush=True)
        if number == 0:
            for way in ways:
                way.tick.clear()
                way.agent.clear()
                way.private.clear()


def middle(values):
    return statistics.median(values)


def times(theirs, ours):
    return f"{middle(theirs) / middle(ours):.1f}"


def print_table(ways):
    print("| | what | first instruction: median (best), ms | times ours | agent's answer: median (best), ms "
          "| times ours | private MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in (AHEAD, START, BOOT):
        ours = next(way for way in ways if way.kind == kind)
        for way in ways:
            if way.kind != kind:
                continue
            if way.failure or not way.agent:
                print(f"| {kind} | {way.title} | failed: {way.failure} | | | | |")
                continue
            cells = [f"{middle(way.tick):.1f} ({min(way.tick):.1f})", times(way.tick, ours.tick),
                     f"{middle(way.agent):.1f} ({min(way.agent):.1f})", times(way.agent, ours.agent),
                     f"{middle(way.private) / 1024:.2f}"]
            print(f"| {kind} | {way.title} | " + " | ".join(cells) + " |")


def print_trace(machine):
    """Where the time of one load goes; the second of two, so that nothing is new."""
    for _ in range(2):
        process = machine.prepare("--shell", "1", "--trace-restore")
        try:
            time.sleep(SETTLE)
            idle = process.private_kib(None)
            begin = now()
            machine.load(machine.path("working-set"))
            answered = now() - begin
            process.wait_tick()
        finally:
            process.end()
    print(f"\nPrivate memory of a shell before its load: {idle / 1024:.2f} MiB.\n")
    print(f"`--trace-restore` of one load with a working set (the request was answered after {answered:.1f} ms):\n")
    print("```")
    with open(machine.log, encoding="utf-8", errors="replace") as log:
        for line in log:
            found = re.search(r"trace: .*", line)
            if found:
                print(found.group())
    print("```")


def on_terminate(number, frame):
    del number, frame
    sys.exit("peers: terminated")  # what runs is ended on the way


def main():
    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGHUP, on_terminate)
    work, monitor, kernel, bzimage, initrd = sys.argv[1:]
    if 0 in os.sched_getaffinity(0) and os.environ.get("PEERS_LAB"):
        sys.exit("peers: guests must not run on the lab host's CPU 0 (docs/development.md)")
    ways, told = collect(work, monitor, kernel, bzimage, initrd)
    measure(ways)
    for line in told:
        print(f"- {line}")
    print(f"- {ROUNDS} rounds\n")
    print_table(ways)
    print_trace(ways[0].machine)
    return 1 if any(way.failure for way in ways) else 0


sys.exit(main())
