"""Guests that do what they should not."""

import os
import threading
import time

from devices import Listener
from harness import ECHO_PORT, Machine, Settings, Unexpected, check, equal, exited, make_file, ready, until


def slowest(machine, times):
    """Seconds that the slowest of some pauses and resumes took."""
    worst = 0
    for _ in range(times):
        begin = time.monotonic()
        machine.pause()
        machine.resume()
        worst = max(worst, time.monotonic() - begin)
        time.sleep(0.02)
    return worst


def quick(name, machine, times=5):
    """Pause and resume answer soon whatever the guest does. A stall of the machine spoils one round, a guest that holds
    them up all three."""
    rounds = []
    while len(rounds) < 3 and (not rounds or rounds[-1] >= 2):
        rounds.append(slowest(machine, times))
    check("%s: pause and resume answer quickly" % name, rounds[-1] < 2, ", ".join("%.2f s" % one for one in rounds))


def bare(command, **options):
    """A guest without an operating system."""
    machine = Machine()
    options.setdefault("serial", {"serial_out_path": machine.path("serial")})
    machine.put("/machine-config", {"vcpu_count": options.get("vcpus", 1), "mem_size_mib": 128})
    machine.put("/boot-source", {"kernel_image_path": Settings.fuzz, "boot_args": command})
    machine.put("/serial", options["serial"])
    machine.put("/entropy", {})
    machine.put("/vsock", {"guest_cid": 3, "uds_path": machine.vsock})
    image = make_file("fuzz.img", 1 << 20)
    machine.put("/drives/a", {"drive_id": "a", "path_on_host": image, "is_root_device": False})
    machine.put("/drives/b", {"drive_id": "b", "path_on_host": image, "is_root_device": False, "is_read_only": True})
    return machine.start()


def bare_guests():
    """Guests without an operating system: loops, floods, faults."""
    machine = bare("spin")
    quick("a loop", machine)
    equal("a loop is ended from outside", machine.end(), 0)
    machine = bare("halt")
    quick("a halt with interrupts off", machine)
    equal("a halt is ended from outside", machine.end(), 0)
    for command in ("triple", "nowhere"):
        machine = bare(command)
        status = exited(machine.process)
        check("%s: a triple fault ends the monitor" % command, status in (0, 1), (status, machine.text("log")))
    machine = bare("flood")
    size = lambda: os.stat(machine.path("serial")).st_size if os.path.exists(machine.path("serial")) else 0
    until(lambda: size() > 1000)
    quick("a flood of the console", machine)
    check("a flood of the console: it comes out", 1000 < size() <= 16 << 20, size())
    equal("a flood of the console is ended from outside", machine.end(), 0)
    path = os.path.join(Settings.work, "limited")
    begin = time.monotonic()
    machine = bare("flood", serial={"serial_out_path": path, "rate_limiter": {"size": 1000, "refill_time": 500}})
    size = lambda: os.stat(path).st_size if os.path.exists(path) else 0
    until(lambda: size() >= 3000)
    machine.pause()
    most = 1000 + 2000 * (time.monotonic() - begin) + 1000
    check("a console with a limit: no more than that", 3000 <= size() <= most, (size(), most))
    check("the rest is counted", 'dropped_bytes{machine="%s"} 0' % machine.id not in machine.api("GET", "/metrics")[1])


def fuzzed():
    """Odd accesses to device windows."""
    worst = []
    for seed in range(1, 7):
        machine = bare("fuzz %d 1500" % seed)
        status = exited(machine.process, 180)
        # A request of garbage may be a failure that ends the machine; never a signal.
        if status not in (0, 1):
            worst.append((seed, status, machine.text("log")[-300:]))
        machine.close()
    check("6 drivers that write anything end nothing by a signal", not worst, worst)
    machine = bare("fuzz 9 100000000")
    time.sleep(0.5)
    quick("in the middle of it", machine)

    def counts():
        return {line.split("{")[0]: int(line.split()[-1]) for line in machine.api("GET", "/metrics")[1].splitlines()}

    check("they reach the devices", until(lambda: counts()["atoll_vmm_vcpu_exit_mmio_write"] > 500 and
                                          counts()["atoll_vmm_block_queue_event_count"] > 0), counts)
    snapshot = machine.snapshot("fuzz")
    machine.close()
    copy = Machine()
    status, message = copy.fault("PUT", "/snapshot/load", copy.load_body(snapshot))
    check("and what it left is loaded, or refused", status in (204, 400), (status, message))
    copy.end()
    check("without a crash", copy.process.returncode in (0, 1), copy.process.returncode)
    snapshot.remove()


def busy():
    """A guest that is busy everywhere at once."""
    path = make_file("busy.img", 16 << 20)
    machine = Machine().boot(vcpus=2, drives=[{"drive_id": "d", "path_on_host": path}])
    # A device is reset while it has requests.
    machine.out("(while :; do dd if=/dev/vda of=/dev/null bs=64k iflag=direct; done) >/dev/null 2>&1 </dev/null & sleep 0.2")
    device = machine.out("basename $(readlink -f /sys/block/vda/device)")
    for number in range(3):
        machine.out("cd /sys/bus/virtio/drivers/virtio_blk; echo %s >unbind; echo %s >bind" % (device, device))
    equal("a drive works after it was taken away under load, three times",
          machine.out("dd if=/dev/vda of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null && echo fine"), "fine")
    machine.out("for i in 1 2 3; do cat /dev/hwrng >/dev/null 2>&1 </dev/null & done; "
                "(while :; do :; done) >/dev/null 2>&1 </dev/null & (while :; do :; done) >/dev/null 2>&1 </dev/null & "
                "(guest_shell fill /dev/ttyS0 100) >/dev/null 2>&1 </dev/null & "
                "(while :; do dd if=/dev/zero of=/dev/vda bs=64k oflag=direct; done) >/dev/null 2>&1 </dev/null &")
    quick("loops, console, drive and entropy at once", machine)
    snapshot = machine.snapshot("busy")
    machine.close()
    copy = Machine.load(snapshot)
    equal("saved and loaded in the middle of it, it goes on", copy.out("echo here", 300), "here")
    quick("the copy", copy, 2)
    equal("and ends when it is asked to", copy.end(), 0)
    snapshot.remove()


def connections():
    """A flood of vsock connections."""
    machine = Machine.load(ready()[0])
    hold = threading.Event()
    listener = Listener(machine, 2000, lambda stream: hold.wait(600))
    made = int(machine.out("ulimit -n 4096; guest_shell many 2000 1100 & sleep 1; wait", 300).split()[-1])
    check("a guest gets no more connections than the limit", 500 < made < 1100, made)
    equal("others work after that", machine.out("echo here"), "here")
    hold.set()
    listener.close()
    check("and all can be made again", until(lambda: machine.run("true")[1] == 0))
    streams = []

    def connect():
        """There is room as soon as the last of the guest's have gone."""
        try:
            streams.append(machine.connect(ECHO_PORT))
        except (OSError, Unexpected):
            return False
        return True

    while len(streams) < 300 and until(connect):
        pass
    equal("300 from the host", len(streams), 300)
    for stream in streams:
        stream.close()
    equal("the guest's shell answers", machine.out("echo here"), "here")
    equal("it ends", machine.end(), 0)


PARTS = [bare_guests, fuzzed, busy, connections]
