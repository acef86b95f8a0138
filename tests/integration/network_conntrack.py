"""What the kernel's connection tracking holds: connections() of this network namespace, count(pid) of a process's."""
import socket
import struct
import subprocess

NETLINK_NETFILTER, LIST, DUMP, DONE = 12, 0x101, 0x301, 3
ORIGINAL, ADDRESSES, SOURCE, SECONDS = 1, 1, 1, 7


def attributes(data):
    while len(data) >= 4:
        size, kind = struct.unpack("=HH", data[:4])
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3:]


def messages(link):
    while True:
        data = link.recv(1 << 17)
        while data:
            size, kind = struct.unpack("=IH", data[:6])
            if kind == DONE:
                return
            assert kind != 2, "the kernel does not list its connections"
            yield data[20:size]
            data = data[(size + 3) & ~3:]


def connections():
    """The source of each and how many seconds it has left."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as link:
        link.send(struct.pack("=IHHII4B", 20, LIST, DUMP, 1, 0, socket.AF_INET, 0, 0, 0))
        result = []
        for message in messages(link):
            parts = dict(attributes(message))
            source = dict(attributes(dict(attributes(parts[ORIGINAL]))[ADDRESSES]))[SOURCE]
            result.append((socket.inet_ntoa(source), struct.unpack("!I", parts[SECONDS])[0] if SECONDS in parts else 0))
        return result


def count(pid):
    command = ["nsenter", "-t", str(pid), "-n", "cat", "/proc/sys/net/netfilter/nf_conntrack_count"]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)
