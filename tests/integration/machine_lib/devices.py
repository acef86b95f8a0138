"""Drives, entropy, vsock, serial port and the ends of a guest."""

import hashlib
import os
import socket
import threading

from harness import (SHELL_PORT, Machine, Settings, Unexpected, allocated, check, equal, exited, finish, make_file, ready,
                     receive, until)

MIB = 1 << 20


def md5(data):
    return hashlib.md5(data).hexdigest()


def file_md5(path):
    with open(path, "rb") as file:
        return md5(file.read())


def names_of(machine):
    """Drive ids by the guest's device names."""
    return dict(line.split() for line in machine.out(
        'for d in /sys/block/vd*; do echo "$(cat $d/serial)" "${d##*/}"; done').splitlines())


def drives_of(engine):
    content = os.urandom(MIB)
    plain = make_file("plain.img", 4 * MIB, content)
    fixed = make_file("fixed.img", 4 * MIB, content)
    shrinks = make_file("shrinks.img", 64 * MIB)
    base = make_file("base.img", 8 * MIB, content)
    overlay = os.path.join(Settings.work, engine + ".layer")
    machine = Machine().boot(drives=[
        {"drive_id": "shrinks", "path_on_host": shrinks, "io_engine": engine},
        {"drive_id": "plain", "path_on_host": plain, "cache_type": "Writeback", "io_engine": engine},
        {"drive_id": "fixed", "path_on_host": fixed, "is_read_only": True, "io_engine": engine},
        {"drive_id": "layered", "path_on_host": base, "overlay_path": overlay, "cache_type": "Writeback", "io_engine": engine},
        {"drive_id": "root_of_all", "path_on_host": plain + ".root", "is_root_device": True, "is_read_only": True,
         "io_engine": engine}] if os.path.exists(make_file("plain.img.root", 123 * 512)) else [])
    names = names_of(machine)
    equal("drives tell their serials", sorted(names), ["fixed", "layered", "plain", "root_of_all", "shrinks"])
    equal("the root device is the first", names["root_of_all"], "vda")
    equal("a drive's size in sectors", machine.out("cat /sys/block/vda/size"), "123")
    disk = {name: "/dev/" + device for name, device in names.items()}
    for name in ("plain", "fixed", "layered"):
        equal("%s: the file's bytes" % name, machine.out("dd if=%s bs=1M count=1 2>/dev/null | md5sum" % disk[name]).split()[0],
              md5(content))
    return machine, names, disk, {"plain": plain, "fixed": fixed, "shrinks": shrinks, "base": base, "overlay": overlay}


def drives(engine="Sync"):
    """Drives, as a guest sees them."""
    machine, names, disk, files = drives_of(engine)
    base = file_md5(files["base"])
    equal("fixed: it is read-only", machine.out("cat /sys/block/%s/ro" % names["fixed"]), "1")
    check("fixed: a write fails", machine.run("dd if=/dev/zero of=%s bs=4096 count=1 oflag=direct" % disk["fixed"])[1] != 0)
    equal("plain: a cache that can be flushed", machine.out("cat /sys/block/%s/queue/write_cache" % names["plain"]), "write back")
    equal("shrinks: none", machine.out("cat /sys/block/%s/queue/write_cache" % names["shrinks"]), "write through")
    # What is written shows in the file, at any offset and size.
    for name, bs, seek, count in (("plain", 512, 3, 1), ("plain", 65536, 20, 7), ("layered", 512, 1001, 3), ("layered", 1 << 20, 3, 2)):
        data = os.urandom(bs * count)
        machine.out("cat >/tmp/data", given=data)
        machine.out("dd if=/tmp/data of=%s bs=%d seek=%d oflag=direct conv=fsync,notrunc 2>/dev/null" % (disk[name], bs, seek))
        back = machine.out("dd if=%s bs=%d skip=%d count=%d iflag=direct 2>/dev/null | md5sum" % (disk[name], bs, seek, count))
        equal("%s: %d times %d bytes written and read" % (name, count, bs), back.split()[0], md5(data))
        if name == "plain":
            with open(files["plain"], "rb") as file:
                file.seek(bs * seek)
                equal("and they are in the file", md5(file.read(bs * count)), md5(data))
    equal("layered: the base is untouched", file_md5(files["base"]), base)
    check("layered: writes lie in the overlay", allocated(files["overlay"]) >= 2 * MIB, allocated(files["overlay"]))
    check("a read behind the end fails", machine.run("dd if=%s bs=4096 skip=1024 count=1 iflag=direct 2>/dev/null | grep -q ." %
                                                       disk["plain"])[1] != 0)
    flushes = machine.api("GET", "/metrics")[1]
    check("flushes are counted", 'flush_count{machine="%s",device="plain"} 0' % machine.id not in flushes)
    # Discard: by the whole device, and by a file system.
    machine.out("dd if=/dev/zero of=%s bs=1M count=16 2>/dev/null; sync" % disk["shrinks"])
    full = allocated(files["shrinks"])
    machine.out("blkdiscard -o 0 -l %d %s" % (8 * MIB, disk["shrinks"]))
    half = allocated(files["shrinks"])
    machine.out("blkdiscard %s" % disk["shrinks"])
    empty = allocated(files["shrinks"])
    check("blkdiscard: the file shrinks", full >= 16 * MIB and half <= full - 7 * MIB and empty <= MIB, (full, half, empty))
    equal("what was discarded is zero", machine.out("dd if=%s bs=1M count=16 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c" %
                                                    disk["shrinks"]), "0")
    machine.out("mke2fs %s >/dev/null 2>&1; mkdir -p /mnt; mount -t ext4 %s /mnt" % (disk["shrinks"], disk["shrinks"]))
    machine.out("dd if=/dev/urandom of=/mnt/file bs=1M count=8 2>/dev/null; sync")
    full = allocated(files["shrinks"])
    equal("a file on a file system", len(machine.out("md5sum /mnt/file").split()[0]), 32)
    machine.out("rm /mnt/file; sync; fstrim /mnt")
    check("fstrim: the file shrinks", full - allocated(files["shrinks"]) >= 7 * MIB, (full, allocated(files["shrinks"])))
    machine.out("umount /mnt")
    # Another file for a drive of a running guest.
    machine.patch("/drives/fixed", {"drive_id": "fixed", "path_on_host": make_file("other.img", 2 * MIB, b"other" * 100)})
    check("PATCH of path_on_host: the guest learns the new size",
          until(lambda: machine.out("cat /sys/block/%s/size" % names["fixed"]) == "4096"))
    equal("and reads the other file", machine.out("dd if=%s bs=512 count=1 iflag=direct 2>/dev/null | head -c 5" % disk["fixed"]), "other")
    status, message = machine.fault("PATCH", "/drives/fixed", {"drive_id": "fixed", "path_on_host": "/nowhere/disk"})
    check("refused: a file that is not there", status == 400 and message and "/nowhere/disk" in message, (status, message))
    equal("and the old one stays", machine.out("dd if=%s bs=512 count=1 iflag=direct 2>/dev/null | head -c 5" % disk["fixed"]), "other")
    # A new process over the same layers has what was written.
    machine.out("dd if=/dev/zero of=%s bs=4096 count=2 oflag=direct conv=fsync,notrunc 2>/dev/null" % disk["layered"])
    before = machine.out("md5sum %s" % disk["layered"]).split()[0]
    equal("a reboot ends the monitor with 0", reboot(machine), 0)
    if engine != "Sync":
        return
    again = Machine().boot(drives=[{"drive_id": "layered", "path_on_host": files["base"], "layers": [files["overlay"]],
                                    "is_read_only": True, "io_engine": engine}])
    equal("a later machine reads the frozen layer", again.out("md5sum /dev/vda").split()[0], before)


def drives_async():
    """Drives with the Async engine."""
    drives("Async")


def reboot(machine):
    with machine.command("reboot -f"):
        return exited(machine.process)


def entropy():
    """Entropy, serial port, and how guests end."""
    machine = Machine().boot(args="sysrq_always_enabled")
    equal("rng: the guest's source", machine.out("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0")
    values = {machine.out("dd if=/dev/hwrng bs=512 count=1 2>/dev/null | md5sum") for _ in range(4)}
    equal("rng: no value comes twice", len(values), 4)
    sizes = machine.out("for s in 1 7 64 4096 70000; do dd if=/dev/hwrng bs=$s count=1 iflag=fullblock 2>/dev/null | wc -c; done")
    equal("rng: any size", sizes.split(), ["1", "7", "64", "4096", "70000"])
    data = machine.run("dd if=/dev/hwrng bs=65536 count=1 iflag=fullblock 2>/dev/null | gzip -1 | wc -c")[0]
    check("rng: bytes do not compress", int(data) >= 65536, data)
    machine.out("echo to the console >/dev/console; printf 'a\\tb\\001\\n' >/dev/ttyS0")
    check("serial: output comes whole", until(lambda: "to the console" in machine.text("serial") and "a\tb\1" in machine.text("serial")),
          machine.text("serial")[-200:])
    equal("the guest's processes are there", machine.out("head -n 1 /proc/1/comm"), "guest_shell")
    # The end: by panic, which resets by i8042.
    with machine.command("kill -9 -1; kill -SEGV 1; echo c >/proc/sysrq-trigger; sleep 1; reboot -f"):
        equal("a panic ends the monitor", exited(machine.process), 0)
    triple = Machine.load(ready()[0])
    triple.out("echo triple >/sys/kernel/reboot/type")
    equal("a triple fault ends it too", reboot(triple), 0)
    off = Machine.load(ready()[0])
    with off.command("poweroff -f"):
        # Without a way to switch off Linux halts; SIGTERM must still work.
        check("a guest that halts does not end by itself with a failure", exited(off.process, 2) in (None, 0))
    equal("and SIGTERM ends it", off.end(), 0)


# --- vsock ---


class Listener:
    """What guests reach at a port of the host: `handle` runs in a thread per connection."""

    def __init__(self, machine, port, handle):
        self.handle = handle
        self.count = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind("%s_%d" % (machine.vsock, port))
        self.socket.listen(512)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                stream = self.socket.accept()[0]
            except OSError:
                return
            self.count += 1
            stream.settimeout(180)
            threading.Thread(target=self.guarded, args=(stream,), daemon=True).start()

    def guarded(self, stream):
        try:
            self.handle(stream)
        except OSError:
            pass
        finally:
            stream.close()

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def vsock_host():
    """vsock: connections from the host."""
    machine = Machine.load(ready()[0])
    data = os.urandom(10 * MIB)
    # The host has no more to say, the guest answers at length; and the other way round.
    equal("10 MiB to the guest, then half-closed", machine.out("md5sum", given=data).split()[0], md5(data))
    output = machine.out("dd if=/dev/urandom of=/tmp/r bs=1M count=10 2>/dev/null; md5sum /tmp/r").split()[0]
    with machine.command("cat /tmp/r") as stream:
        stream.shutdown(socket.SHUT_WR)
        received, _, status = receive(stream).rpartition(b"\0exit ")
    equal("10 MiB from the guest, after our half", (md5(received), status), (output, b"0\n"))
    with machine.connect(1000) as stream:
        sender = threading.Thread(target=lambda: (stream.sendall(data), stream.shutdown(socket.SHUT_WR)))
        sender.start()
        back = receive(stream)
        sender.join()
    equal("10 MiB there and back at once", md5(back), md5(data))
    with machine.command("exec </dev/null; sleep 0.3; cat /dev/null") as stream:
        equal("the guest's end is seen", finish(stream), ("", 0))
    for port in (4, 1, 0xfffffffe):
        try:
            machine.connect(port).close()
            check("port %d is refused" % port, False)
        except (Unexpected, ConnectionError):
            check("port %d is refused" % port, True)
    for line in (b"CONNECT\n", b"CONNECT x\n", b"CONNECT 99999999999\n", b"HELLO 52\n", b"CONNECT -1\n", b"\n", b"x" * 1000):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(60)
            stream.connect(machine.vsock)
            try:
                stream.sendall(line)
                answer = stream.recv(100)
            except ConnectionError:
                answer = b""
            equal("no command of the protocol: %r" % line[:20], answer, b"")
    streams = [machine.connect(1000) for _ in range(200)]
    for number, stream in enumerate(streams):
        stream.sendall(b"%d" % number)
        stream.shutdown(socket.SHUT_WR)
    answers = [receive(stream) for stream in streams]
    equal("200 connections at once", answers, [b"%d" % number for number in range(200)])
    for stream in streams:
        stream.close()
    with machine.command("cat") as slow:
        slow.setblocking(False)
        sent = 0
        try:
            while sent < 8 * MIB:
                sent += slow.send(data[:65536])
        except BlockingIOError:
            pass
        check("who does not read is slowed down", sent < 8 * MIB, sent)
        equal("while others are served", machine.out("echo here"), "here")
    equal("half of the guest's shell commands are not left", until(lambda: int(machine.out(
        "ps | grep -c '[g]uest_shell serve'")) <= 3), True)
    equal("it ends", machine.end(), 0)


def vsock_guest():
    """vsock: connections from the guest."""
    machine = Machine.load(ready()[0])
    sums = {}

    def take(stream):
        sums["in"] = md5(receive(stream))
        stream.sendall(sums["in"].encode())

    def echo(stream):
        data = receive(stream)
        stream.sendall(data)

    Listener(machine, 2000, take)
    Listener(machine, 2001, echo)
    data = os.urandom(10 * MIB)
    Listener(machine, 2002, lambda stream: stream.sendall(data))
    machine.out("dd if=/dev/urandom of=/tmp/r bs=1M count=10 2>/dev/null")
    wanted = machine.out("md5sum /tmp/r").split()[0]
    equal("10 MiB from the guest, then half-closed", machine.out("guest_shell connect 2000 </tmp/r"), wanted)
    equal("there and back", machine.out("guest_shell connect 2001 </tmp/r | md5sum").split()[0], wanted)
    equal("10 MiB to the guest", machine.out("guest_shell connect 2002 </dev/null | md5sum").split()[0], md5(data))
    equal("nobody listens: it is refused", machine.run("guest_shell connect 2999 </dev/null")[1], 3)
    hold = threading.Event()
    many = Listener(machine, 2003, lambda stream: hold.wait(600))
    equal("200 connections at once", machine.out("guest_shell many 2003 200"), "200")
    hold.set()
    check("all came", until(lambda: many.count == 200), many.count)
    many.close()
    equal("a listener that is gone refuses", machine.run("guest_shell connect 2003 </dev/null")[1], 3)
    equal("and the socket is the guest's no more", machine.out("echo %d" % SHELL_PORT), "52")


PARTS = [drives, drives_async, entropy, vsock_host, vsock_guest]
