"""A guest's end of a tap, frame by frame: ARP, UDP and TCP of IPv4."""
import ctypes
import fcntl
import os
import random
import select
import socket
import struct
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x20000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
MAC = bytes.fromhex("02fc00000005")
GUEST, GATEWAY = "169.254.0.21", "169.254.0.22"
SYN, RST, ACK, PSH = 2, 4, 16, 8
COMES = 30  # seconds for what is to come


def call(name, *arguments):
    if getattr(LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def open_tap(pid, user):
    """As the monitor does it: in the name space of `pid`, as `user`, without capabilities."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            with open(f"/proc/{pid}/ns/net") as space:
                call("setns", space.fileno(), CLONE_NEWNET)
            # In its jail the device is its own.
            tap = os.open("/dev/net/tun", os.O_RDWR)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI))
            socket.send_fds(theirs, [b"+"], [tap])
        except OSError as error:
            theirs.send(str(error).encode())
        os._exit(0)
    theirs.close()
    text, fds, _, _ = socket.recv_fds(ours, 200, 1)
    os.waitpid(child, 0)
    ours.close()
    if not fds:
        raise OSError(text.decode())
    return fds[0]


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def packet(source, target, protocol, body):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def with_checksum(source, target, protocol, body, at):
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, protocol, len(body))
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2:]


class Guest:
    def __init__(self, pid, user):
        self.pid = pid
        self.tap = open_tap(pid, user)
        # The other end may remember connections of guests before.
        self.port = random.randrange(20000, 60000)
        self.gateway = None
        self.flows = set()  # (far address, protocol, ports) of what has been answered: more may follow
        self.unasked = []  # what came from outside and answers nothing
        until = time.monotonic() + COMES
        while not self.gateway:
            assert time.monotonic() < until, "the gateway does not answer ARP"
            self.arp(1, b"\xff" * 6, GATEWAY)
            self.receive(0.3, lambda _: self.gateway)

    def close(self):
        os.close(self.tap)

    def expects_more(self, target, protocol, far, near):
        self.flows.add((target, protocol, struct.pack("!HH", far, near)))

    def arp(self, operation, target_mac, target):
        os.write(self.tap, target_mac + MAC + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + MAC
                 + socket.inet_aton(GUEST) + (target_mac if operation == 2 else b"\0" * 6) + socket.inet_aton(target))

    def receive(self, seconds, wanted):
        """The first packet that `wanted` takes: (source, protocol, body). None: none came."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not select.select([self.tap], [], [], max(0, end - time.monotonic()))[0]:
                break
            frame = os.read(self.tap, 65536)
            kind = frame[12:14]
            if kind == b"\x08\x06":
                if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(GATEWAY):
                    self.gateway = frame[22:28]
                elif frame[20:22] == b"\0\1" and frame[38:42] == socket.inet_aton(GUEST):
                    self.arp(2, frame[22:28], socket.inet_ntoa(frame[28:32]))
                answer = None
            elif kind == b"\x08\0":
                answer = socket.inet_ntoa(frame[26:30]), frame[23], frame[14 + (frame[14] & 15) * 4:14 + struct.unpack("!H", frame[16:18])[0]]
                assert socket.inet_ntoa(frame[30:34]) == GUEST
            else:
                answer = None
            result = wanted(answer)
            if result:
                return result
            # What was answered late is sent again by the other end.
            if answer and (*answer[:2], answer[2][:4]) not in self.flows:
                self.unasked.append(answer)
        return None

    def send(self, target, protocol, body, source=GUEST):
        os.write(self.tap, self.gateway + MAC + b"\x08\0" + packet(source, target, protocol, body))

    def send_udp(self, target, port, data, local, source=GUEST):
        body = struct.pack("!HHHH", local, port, 8 + len(data), 0) + data
        self.send(target, 17, with_checksum(source, target, 17, body, 6), source)

    def asks(self, target, port, data=b"question", local=None):
        """What is answered, of which there must be something: asked again as clients do, as the gateway forgets a packet when
        it has asked for our MAC in vain."""
        self.port += 1
        local = local or self.port
        for _ in range(COMES // 3):
            answer = self.udp(target, port, data, seconds=3, local=local)
            if answer:
                self.expects_more(target, 17, port, local)
                return answer
        return None

    def udp(self, target, port, data=b"question", source=GUEST, seconds=0.4, local=None):
        """What is answered; None: nothing, in this time."""
        self.port += 1
        local = local or self.port
        self.send_udp(target, port, data, local, source)
        return self.receive(seconds, lambda got: got and got[0] == target and got[1] == 17
                            and struct.unpack("!HH", got[2][:4]) == (port, local) and got[2].endswith(data) and got[2][8:])


    def send_tcp(self, target, port, flags, local, sequence):
        body = struct.pack("!HHIIBBHHH", local, port, sequence, 0, 0x50, flags, 65535, 0, 0)
        self.send(target, 6, with_checksum(GUEST, target, 6, body, 16))

    def send_echo(self, target, number):
        body = struct.pack("!BBHHH", 8, 0, 0, number, 1)
        self.send(target, 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


class Stream:
    """A TCP connection of a guest."""

    def __init__(self, guest, target, port, seconds=0.5):
        guest.port += 1
        self.guest, self.target, self.far, self.near = guest, target, port, guest.port
        self.sequence, self.expected = 1000, 0
        self.send(SYN)
        got = self.receive(seconds)
        self.open = bool(got) and got[1] == SYN | ACK
        if self.open:
            guest.expects_more(target, 6, port, self.near)
            self.sequence, self.expected = 1001, got[0] + 1
            self.send(ACK)

    def send(self, flags, data=b""):
        body = struct.pack("!HHIIBBHHH", self.near, self.far, self.sequence, self.expected, 0x50, flags, 65535, 0, 0) + data
        self.guest.send(self.target, 6, with_checksum(GUEST, self.target, 6, body, 16))

    def reset(self):
        self.send(RST | ACK)

    def receive(self, seconds):
        def ours(got):
            if not got or got[0] != self.target or got[1] != 6 or struct.unpack("!HH", got[2][:4]) != (self.far, self.near):
                return None
            return struct.unpack("!I", got[2][4:8])[0], got[2][13] & 0x17, got[2][(got[2][12] >> 4) * 4:]

        return self.guest.receive(seconds, ours)

    def echoes(self, data, seconds=0.6):
        """Send, and whether it comes back."""
        self.send(PSH | ACK, data)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            got = self.receive(end - time.monotonic())
            if got and got[2] == data:
                self.sequence += len(data)
                self.expected = got[0] + len(data)
                self.send(ACK)
                return True
        return False
