"""Snapshots: full, in layers, damaged, and many in a row."""

import os
import random
import shutil
import socket
import time

from harness import Machine, Settings, Snapshot, allocated, check, equal, exited, make_file, ready, say, set_up, until, vmm

MIB = 1 << 20


def ticks(machine):
    return int(machine.out("cat /tmp/ticks"))


def read_clock(machine):
    begin = time.time()
    guest = float(machine.out("guest_shell clock"))
    return begin, guest, time.time()


def clock_lag(machine):
    """How far the guest's wall clock is behind ours at least and at most, seconds: by the quickest of three answers, or of
    more if they were slow."""
    quickest = begin, guest, end = read_clock(machine)
    for number in range(1, 30):
        if number >= 3 and end - begin <= 0.2:
            break
        quickest = begin, guest, end = min(quickest, read_clock(machine), key=lambda answer: answer[2] - answer[0])
    return begin - guest, end - guest


def clock_error(machine, lag):
    """How far it is off beside that. The first command after a load takes long: the guest read its clock meanwhile."""
    begin, guest, end = read_clock(machine)
    least, most = guest + lag[0], guest + lag[1]
    return begin - most if most < begin else end - least if least > end else 0


def goes_on():
    """A guest goes on, there and in copies."""
    image = make_file("snap.img", 8 * MIB, b"disk" * 1000)
    machine = Machine().boot(drives=[{"drive_id": "d", "path_on_host": image, "cache_type": "Writeback"}])
    data = set_up(machine)
    held = machine.command("cat")
    machine.out("dd if=/dev/zero of=/dev/vda bs=4096 seek=100 count=1 2>/dev/null; sync")
    before = ticks(machine)
    lag = clock_lag(machine)  # what it lost while it booted, before it had a clock
    snapshot = machine.snapshot("on")
    taken = time.time()
    equal("the memory file is as long as the memory", os.stat(snapshot.memory).st_size, 128 * MIB)
    check("it has holes where the memory is zero", allocated(snapshot.memory) < 100 * MIB, allocated(snapshot.memory))
    shutil.copy(image, image + ".copy")
    machine.resume()
    check("resumed: processes go on", until(lambda: ticks(machine) > before + 1))
    equal("resumed: files are there", machine.out("md5sum </tmp/data"), data)
    held.sendall(b"still\n")
    equal("resumed: connections stay", held.recv(100), b"still\n")
    held.close()
    check("resumed: timers ring", until(lambda: machine.run("cat /tmp/timer")[0] == "rang\n"))
    machine.close()

    override = [{"drive_id": "d", "path_on_host": image + ".copy"}]
    copies = [Machine.load(snapshot, clock_realtime=True, drive_overrides=override)]
    error = clock_error(copies[0], lag)
    check("a copy's wall clock is right (clock_realtime)", abs(error) < 0.2, error)
    gap = time.time() - taken
    copies.append(Machine.load(snapshot, drive_overrides=override))
    behind = clock_lag(copies[1])[0] - lag[1]
    check("without clock_realtime it goes on where it was", behind > gap / 2, (behind, gap))
    randoms = [copy.out("head -c 32 /dev/urandom | md5sum") for copy in copies]
    check("two copies draw different random numbers", randoms[0] != randoms[1], randoms)
    for number, copy in enumerate(copies):
        name = "copy %d: " % number
        forks = lambda: copy.out("dmesg").count("crng reseeded due to virtual machine fork")
        until(forks)
        equal(name + "the kernel hears of the fork", forks(), 1)
        equal(name + "files are there", copy.out("md5sum </tmp/data"), data)
        now = ticks(copy)
        check(name + "processes go on", until(lambda: ticks(copy) > now + 1))
        check(name + "timers ring", until(lambda: copy.run("cat /tmp/timer")[0] == "rang\n"))
        with copy.connect(1000) as stream:
            stream.sendall(b"hello")
            stream.shutdown(socket.SHUT_WR)
            equal(name + "an open listener accepts", stream.recv(100), b"hello")
        check(name + "connections of the original are closed", until(lambda: copy.run("pidof cat")[1] != 0))
        copy.out("echo copy %d >/dev/console" % number)
        check(name + "serial_override", until(lambda: "copy %d" % number in copy.text("serial")), copy.text("serial"))
        equal(name + "its drive", copy.out("dd if=/dev/vda bs=4 skip=1 count=1 2>/dev/null"), "disk")
        copy.out("printf %d | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null" % (number + 5))
        with open(image + ".copy", "rb") as file:
            equal(name + "drive_overrides: writes go to the copy", file.read(4), b"%d" % (number + 5) + b"isk")
        equal(name + "GET /vm/config tells the override", copy.get("/vm/config")["drives"][0]["path_on_host"], image + ".copy")
        again = copy.snapshot("again%d" % number)
        copy.resume()
        equal(name + "it can be saved itself and runs on", copy.out("echo here"), "here")
        again.remove()
    snapshot.remove()


def diffs():
    """Layers of dirty pages."""
    machine = Machine().boot(track_dirty_pages=True)
    machine.out("dd if=/dev/urandom of=/tmp/0 bs=1M count=2 2>/dev/null; sync; sleep 0.5")
    base = machine.snapshot("base", resume=True)
    sums = [machine.out("md5sum </tmp/0")]
    layers = []
    for number, size in ((1, 8), (2, 0), (3, 4)):
        if size:
            machine.out("dd if=/dev/urandom of=/tmp/%d bs=1M count=%d 2>/dev/null" % (number, size))
            sums.append(machine.out("md5sum </tmp/%d" % number))
        layers.append(machine.snapshot("layer%d" % number, "Diff", resume=True))
        taken = allocated(layers[-1].memory)
        check("a layer holds what was dirtied since the last: %d MiB and little more" % size,
              size * MIB <= taken <= (size + 6) * MIB, "%.1f MiB" % (taken / MIB))
    machine.close()
    paths = [layer.memory for layer in layers]

    def verify(name, copy, count):
        equal(name, [copy.out("md5sum </tmp/%d" % number) for number in (0, 1, 3, 4)[:count]], sums[:count])

    stack = {"mem_backend": {"backend_type": "File", "backend_path": base.memory}}
    verify("a stack of three layers is loaded", Machine.load(layers[2], **stack, mem_layers=paths), 3)
    middle = Machine.load(layers[1], **stack, mem_layers=paths[:2])
    verify("and of two", middle, 2)
    check("which does not know of the third", middle.run("cat /tmp/3")[1] != 0)
    for tracked in (True, False):
        copy = Machine.load(layers[2], **stack, mem_layers=paths, track_dirty_pages=tracked)
        copy.out("dd if=/dev/urandom of=/tmp/4 bs=1M count=3 2>/dev/null")
        del sums[3:]
        sums.append(copy.out("md5sum </tmp/4"))
        top = copy.snapshot("top%d" % tracked, "Diff", resume=True)
        taken = allocated(top.memory)
        check("a copy's layer holds what it dirtied (%s)" % ("dirty log" if tracked else "page tables"),
              3 * MIB <= taken <= 12 * MIB, "%.1f MiB" % (taken / MIB))
        verify("the copy goes on", copy, 4)
        if tracked:
            copy.out("sleep 0.2")
            taken = allocated(copy.snapshot("more", "Diff").memory)
            check("its next one only what came since", taken <= 5 * MIB, "%.1f MiB" % (taken / MIB))
        copy.close()
        verify("the stack with it on top is loaded", Machine.load(top, **stack, mem_layers=paths + [top.memory]), 4)
    # A full one of a stack is the stack in one file.
    copy = Machine.load(layers[2], **stack, mem_layers=paths)
    flat = copy.snapshot("flat")
    copy.close()
    verify("a full snapshot of a stack stands alone", Machine.load(flat), 3)
    for snapshot in (base, flat, *layers):
        snapshot.remove()


def options():
    """What a load takes, and what it refuses."""
    snapshot, data = ready()
    for name, change, word in (
            ("an unknown field", {"resume": True}, "resume"),
            ("no state file", {"snapshot_path": "/nowhere/s"}, "/nowhere/s"),
            ("no path of one", {"snapshot_path": None}, "snapshot_path"),
            ("both kinds of memory", {"mem_file_path": snapshot.memory}, "mem_backend"),
            ("neither", {"mem_backend": None}, "mem_backend"),
            ("an unknown backend", {"mem_backend": {"backend_type": "Tape", "backend_path": "/x"}}, "Tape"),
            ("a memory file that is not there", {"mem_backend": {"backend_type": "File", "backend_path": "/nowhere/m"}}, "/nowhere/m"),
            ("a layer that is not there", {"mem_layers": ["/nowhere/l"]}, "/nowhere/l"),
            ("a handler that is not there", {"mem_backend": {"backend_type": "Uffd", "backend_path": "/nowhere/u"}}, "/nowhere/u"),
            ("a drive that it does not have", {"drive_overrides": [{"drive_id": "x", "path_on_host": "/x"}]}, "x"),
            ("an interface that it does not have", {"network_overrides": [{"iface_id": "x", "host_dev_name": "y"}]}, "x"),
            ("an unknown size of pages", {"huge_pages": "3M"}, "huge_pages")):
        machine = Machine()
        status, message = machine.fault("PUT", "/snapshot/load", machine.load_body(snapshot, **change))
        check("a load with %s is refused" % name, status == 400 and message and word in message, "%s %r" % (status, message))
        machine.end()
        check("and the monitor ends in order", machine.process.returncode in (0, 1), machine.process.returncode)
        machine.close()
    machine = Machine()
    machine.put("/machine-config", {"vcpu_count": 1, "mem_size_mib": 128})
    status, message = machine.fault("PUT", "/snapshot/load", machine.load_body(snapshot))
    check("a configured machine loads nothing", status == 400 and "configured" in message, message)
    status, out, _ = vmm("--describe-snapshot", snapshot.state)
    check("--describe-snapshot", status == 0 and out.startswith("v"), (status, out))

    machine = Machine.load(snapshot, "--shell", "1", resume_vm=False)
    equal("without resume_vm it is paused", machine.get("/")["state"], "Paused")
    machine.resume()
    equal("a shell made ahead takes a snapshot", machine.out("md5sum </tmp/data"), data)
    record = os.path.join(Settings.work, "working-set")
    machine.pause()
    machine.put("/snapshot/working-set", {"working_set_path": record})
    machine.resume()
    equal("a working set is recorded and the guest goes on", machine.out("echo here"), "here")
    size = os.stat(record).st_size
    check("it is a small file", 32 < size < MIB, size)
    machine.close()
    for path, name in ((record, "with a working set"), (snapshot.state, "with a file that is none"), ("/nowhere/w", "with none there")):
        machine = Machine.load(snapshot, "--trace-restore", working_set_path=path)
        equal("loaded %s" % name, machine.out("md5sum </tmp/data"), data)
        if path == record:
            pages = [int(line.split()[-3]) for line in machine.text("log").splitlines() if "pages ahead" in line]
            check("pages are mapped ahead", pages and pages[0] > 100, machine.text("log"))
        machine.close()
    machine = Machine.load(snapshot, huge_pages="Transparent", clock_realtime=True)
    equal("loaded with transparent huge pages", machine.out("md5sum </tmp/data"), data)
    equal("GET /machine-config tells so", machine.get("/machine-config")["huge_pages"], "Transparent")
    machine.close()


# --- damage ---

POLYNOMIAL = 0x82F63B78
TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (POLYNOMIAL if _byte & 1 else 0)
    TABLE.append(_byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def sealed(state):
    """The state with a checksum that is right: where src/vmm/snapshot/format.c has it."""
    state = bytearray(state)
    state[24:28] = bytes(4)
    state[24:28] = crc32c(state).to_bytes(4, "little")
    return bytes(state)


def try_load(snapshot, state, memory=None, layers=None, resume=False):
    """(status, message, exit status) of loading other bytes than the snapshot's."""
    path = os.path.join(Settings.work, "damaged.state")
    with open(path, "wb") as file:
        file.write(state)
    machine = Machine()
    try:
        status, message = machine.fault("PUT", "/snapshot/load", machine.load_body(
            snapshot, snapshot_path=path, mem_layers=layers, resume_vm=resume,
            mem_backend={"backend_type": "File", "backend_path": memory or snapshot.memory}), timeout=60)
    except Exception as error:
        status, message = 0, str(error)
    if resume:
        time.sleep(0.05)
    # A guest of a damaged state may have reset or failed on its own; a signal is what must not end us.
    code = machine.end()
    machine.close()
    return status, message, code


def damaged():
    """Damaged files are refused with a reason, and crash nothing."""
    snapshot, _ = ready()
    with open(snapshot.state, "rb") as file:
        state = file.read()
    equal("the checksum is where it was thought", sealed(state), state)
    size = len(state)
    for length in (0, 7, 39, 40, 100, size // 2, size - 1):
        status, message, code = try_load(snapshot, state[:length])
        check("a state cut to %d bytes is refused" % length, status == 400 and message and code in (0, 1), (status, message, code))
    bits = random.Random(7)
    for _ in range(8):
        at = bits.randrange(size)
        changed = bytearray(state)
        changed[at] ^= 1 << bits.randrange(8)
        status, message, code = try_load(snapshot, bytes(changed))
        check("a flipped bit at %d is refused" % at, status == 400 and message and code in (0, 1), (status, message, code))
    # With a right checksum nobody can tell: but nothing may crash or hang.
    worst = []
    for number in range(25):
        changed = bytearray(state)
        for _ in range(bits.choice((1, 1, 4, 64))):
            at = bits.randrange(40, size)
            changed[at] = bits.choice((0, 0xFF, changed[at] ^ 1 << bits.randrange(8), bits.randrange(256)))
        status, message, code = try_load(snapshot, sealed(changed), resume=True)
        if code not in (0, 1) or (status not in (204, 400) and code != 1):
            worst.append((number, status, message, code))
    check("25 wrong states with right checksums end nothing by a signal", not worst, worst)

    memory = os.path.join(Settings.work, "damaged.memory")
    shutil.copy(snapshot.memory, memory)
    os.truncate(memory, 128 * MIB - 4096)
    status, message, code = try_load(snapshot, state, memory)
    check("a memory file cut short is refused", status == 400 and message and code in (0, 1), (status, message, code))
    os.truncate(memory, 0)
    status, message, code = try_load(snapshot, state, memory)
    check("an empty one", status == 400 and message and code in (0, 1), (status, message, code))
    status, message, code = try_load(snapshot, state, Settings.work)
    check("a folder", status == 400 and message and code in (0, 1), (status, message, code))

    machine = Machine.load(snapshot)
    machine.out("dd if=/dev/urandom of=/tmp/more bs=1M count=1 2>/dev/null")
    layer = machine.snapshot("damage", "Diff")
    machine.close()
    with open(layer.state, "rb") as file:
        state = file.read()
    whole = os.stat(layer.memory).st_size
    equal("the layer itself is taken", try_load(snapshot, state, layers=[layer.memory])[0], 204)
    for name, length, at in (("cut in its table", whole - 8, None), ("without table", 128 * MIB, None), ("cut in its pages", 64 * MIB, None),
                             ("too long", whole + 1, None), ("empty", 0, None), ("with another magic", whole, 128 * MIB),
                             ("with another version", whole, 128 * MIB + 8), ("with another size", whole, 128 * MIB + 17),
                             ("with another number of runs", whole, 128 * MIB + 30), ("with another run", whole, 128 * MIB + 32)):
        shutil.copy(layer.memory, memory)
        os.truncate(memory, length)
        if at is not None:
            with open(memory, "r+b") as file:
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 0x40]))
        status, message, code = try_load(snapshot, state, layers=[memory])
        check("a layer %s is refused" % name, status == 400 and message and code in (0, 1), (status, message, code))


def cycles():
    """Pause, save, load, again and again."""
    count = int(os.environ.get("MACHINE_CYCLES", "20"))
    # Of many cycles not each has to be looked at from the guest's side, which takes most of their time.
    every = int(os.environ.get("MACHINE_CYCLES_CHECK", "1"))
    looks = 0
    image = make_file("cycle.img", MIB)
    machine = Machine().boot(drives=[{"drive_id": "d", "path_on_host": image}])
    data = set_up(machine)
    lag = clock_lag(machine)
    seen = set()
    trouble = ""
    begin = time.monotonic()
    before = ticks(machine)
    for number in range(count):
        snapshot = machine.snapshot("cycle%d" % (number % 2))
        machine.close()
        machine = Machine.load(snapshot, clock_realtime=True)
        if (number + 1) % every and number + 1 < count:
            time.sleep(0.05)
            continue
        looks += 1
        error = clock_error(machine, lag)
        seen.add(machine.out("head -c 16 /dev/urandom | md5sum"))
        machine.out("echo %d | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null" % number)
        if abs(error) > 0.2 or not until(lambda: ticks(machine) > before):
            trouble = "cycle %d: clock %.3f s off, ticks %d after %d" % (number, error, ticks(machine), before)
            break
        before = ticks(machine)
    check("%d cycles of pause, save and load" % count, not trouble, trouble)
    say("a cycle took %.2f s" % ((time.monotonic() - begin) / count))
    equal("each drew its own random numbers", len(seen), looks)
    equal("files are there after them", machine.out("md5sum </tmp/data"), data)
    forks = int(machine.out("dmesg | grep -c 'virtual machine fork'"))
    check("the generation changed each time", looks <= forks <= count, forks)
    with open(image, "rb") as file:
        equal("the drive has the last word", file.read(10).split()[0], b"%d" % (count - 1))
    # A stall of the machine makes one longer, a wrong clock all three.
    seconds = []
    while len(seconds) < 3 and (not seconds or seconds[-1] >= 2):
        before = time.monotonic()
        machine.out("sleep 5")  # of which the way there and back is little, also on a slow machine
        seconds.append((time.monotonic() - before) / 5)
    check("a second is a second", min(seconds) > 0.95 and seconds[-1] < 2, seconds)
    equal("the entropy device works", machine.out("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c"), "64")
    machine.out("echo at the end >/dev/console")
    check("the serial port works", until(lambda: "at the end" in machine.text("serial")))
    with machine.command("reboot -f"):
        equal("it ends in order", exited(machine.process), 0)
    for number in range(2):
        Snapshot("cycle%d" % number).remove()


PARTS = [goes_on, diffs, options, damaged, cycles]
