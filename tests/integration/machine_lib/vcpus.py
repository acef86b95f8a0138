"""Processors and memory."""

import os

from harness import Machine, allocated, check, equal, ready

GIB = 1 << 30


def count(vcpus):
    machine = Machine().boot(vcpus=vcpus, memory=256 if vcpus > 4 else 128) if vcpus > 1 else Machine.load(ready()[0])
    equal("%d vCPUs: nproc" % vcpus, machine.out("nproc"), str(vcpus))
    if vcpus <= 4:
        cpus = sorted(line.split()[1] for line in machine.out("guest_shell load 1").splitlines())
        equal("%d vCPUs: each carries a load" % vcpus, cpus, [str(cpu) for cpu in range(vcpus)])
        machine.out("dd if=/dev/urandom of=/tmp/x bs=1M count=4; for i in $(seq %d); do md5sum /tmp/x >/tmp/$i & done; wait" % (2 * vcpus))
        sums = set(machine.out("cat /tmp/[0-9]*").split()) - {"/tmp/x"}
        equal("%d vCPUs: they see the same memory" % vcpus, len(sums), 1)
    machine.pause()
    machine.resume()
    equal("%d vCPUs: pause and resume" % vcpus, machine.out("echo here"), "here")
    metrics = machine.api("GET", "/metrics")[1]
    check("%d vCPUs: exits are counted" % vcpus, "atoll_vmm_vcpu_exit_io_out" in metrics, metrics[:200])
    equal("%d vCPUs: it ends" % vcpus, machine.end(), 0)


def vcpus_1():
    """One vCPU."""
    count(1)


def vcpus_2():
    """Two vCPUs."""
    count(2)


def vcpus_4():
    """Four vCPUs."""
    count(4)


def vcpus_16():
    """Sixteen vCPUs."""
    count(16)


def high_memory():
    """Memory above 4 GiB."""
    machine = Machine().boot(memory=4608, huge_pages="Transparent")
    regions = machine.out("grep 'System RAM' /proc/iomem").split("\n")
    equal("4608 MiB: the region above 4 GiB has what the hole took", regions[-1].strip(), "100000000-15fffffff : System RAM")
    total = int(machine.out("awk '/MemTotal/ {print $2}' /proc/meminfo")) >> 10
    check("4608 MiB: the guest has them", 4300 < total <= 4608, total)
    machine.out("dd if=/dev/urandom of=/tmp/x bs=1M count=64")
    before = machine.out("md5sum /tmp/x")
    snapshot = machine.snapshot("high")
    with open(snapshot.memory, "rb") as file:
        high = sum(end - begin for begin, end in data_of(file.fileno()) if begin >= 3 * GIB)
    check("4608 MiB: the guest uses the region above 4 GiB", high > 48 << 20, high)
    equal("4608 MiB: the memory file has their size", os.stat(snapshot.memory).st_size, 4608 << 20)
    check("4608 MiB: and holes where nothing was written", allocated(snapshot.memory) < 1 * GIB, allocated(snapshot.memory))
    machine.close()
    copy = Machine.load(snapshot)
    equal("4608 MiB: a copy has the same bytes there", copy.out("md5sum /tmp/x"), before)
    snapshot.remove()


def data_of(fd):
    """(begin, end) of what is no hole of a file."""
    end = 0
    while True:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, end


PARTS = [vcpus_1, vcpus_2, vcpus_4, vcpus_16, high_memory]
