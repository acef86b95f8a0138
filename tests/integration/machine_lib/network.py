"""Network interfaces and the metadata service."""

import hashlib
import json
import os
import socket
import subprocess
import threading
import time

from harness import Machine, check, equal, say, until

MIB = 1 << 20
MAC = "06:00:ac:1f:00:02"


def md5(data):
    return hashlib.md5(data).hexdigest()


class Tap:
    """A tap of ours: 172.31.N.1, and the guest has 172.31.N.2."""

    def __init__(self, number):
        self.name = "atolltest%d" % number
        self.host = "172.31.%d.1" % number
        self.guest = "172.31.%d.2" % number
        self.remove()
        self.ip("tuntap add dev %s mode tap" % self.name)
        self.ip("addr add %s/30 dev %s" % (self.host, self.name))
        self.ip("link set %s up" % self.name)

    @staticmethod
    def ip(arguments, must=True):
        subprocess.run(["ip", *arguments.split()], check=must, capture_output=True)

    def remove(self):
        self.ip("link del %s" % self.name, must=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def config(self, **more):
        return {"iface_id": "eth", "host_dev_name": self.name, "guest_mac": MAC, **more}

    def up(self, machine):
        machine.out("ip addr add %s/30 dev eth0; ip link set eth0 up" % self.guest)

    def pings(self):
        """From this side, until the guest answers."""
        return bool(until(lambda: subprocess.run(["busybox", "ping", "-c", "1", "-W", "2", self.guest], check=False,
                                                 capture_output=True).returncode == 0))


def serve(tap, handle):
    """Port of a server for one connection."""
    listener = socket.create_server((tap.host, 0))

    def run():
        stream = listener.accept()[0]
        listener.close()
        with stream:
            stream.settimeout(180)
            handle(stream)

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def everything(stream):
    data = bytearray()
    while chunk := stream.recv(1 << 18):
        data += chunk
    return bytes(data)


def throughput_to_guest(tap, machine, seconds):
    """Bytes a second that come through, without the beginning."""
    def connect():
        """As soon as it listens."""
        try:
            return socket.create_connection((tap.guest, 5003), 60)
        except ConnectionError:
            return None

    with machine.command("nc -l -p 5003 >/dev/null"):
        with until(connect) as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
            block = bytes(16384)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                stream.sendall(block)
            begin, before = time.monotonic(), counter(machine, "rx_bytes_count")
            while time.monotonic() < begin + seconds:
                stream.sendall(block)
            return (counter(machine, "rx_bytes_count") - before) / (time.monotonic() - begin)


def counter(machine, name):
    return {line.split("{")[0]: int(line.split()[-1]) for line in machine.api("GET", "/metrics")[1].splitlines()}["atoll_vmm_net_" + name]


def interface():
    """A network interface on a tap."""
    with Tap(1) as tap, Tap(2) as other:
        machine = Machine().configure()
        for body, word in ((tap.config(guest_mac="06:00"), "guest_mac"), (tap.config(mtu=10), "mtu"),
                           (tap.config(iface_id="x"), "x"), ({"iface_id": "eth"}, "host_dev_name"), (tap.config(speed=1), "speed"),
                           (tap.config(rx_rate_limiter={"ops": {}}), "size")):
            status, message = machine.fault("PUT", "/network-interfaces/eth", body)
            check("refused: an interface with a wrong %s" % word, status == 400 and message and word in message, (status, message))
        machine.put("/network-interfaces/eth", tap.config(mtu=1400))
        status, message = machine.fault("PUT", "/network-interfaces/two", {"iface_id": "two", "host_dev_name": tap.name})
        check("refused: two interfaces on one tap", status == 400 and message and tap.name in message, (status, message))
        missing = Machine().configure()
        missing.put("/network-interfaces/eth", tap.config(host_dev_name="nosuchtap"))
        status, message = missing.fault("PUT", "/actions", {"action_type": "InstanceStart"})
        check("refused: a tap that is not there", status == 400 and message and "nosuchtap" in message, (status, message))
        missing.close()

        machine.start().wait()
        equal("its MAC address", machine.out("cat /sys/class/net/eth0/address"), MAC)
        equal("its MTU", machine.out("cat /sys/class/net/eth0/mtu"), "1400")
        features = machine.out("cat /sys/class/net/eth0/device/features")
        equal("offloads: checksums, TSO and joint buffers", [features[bit] for bit in (0, 1, 3, 5, 7, 8, 11, 12, 15)], ["1"] * 9)
        tap.up(machine)
        check("ping to the guest", tap.pings())
        equal("ping from the guest", machine.run("ping -c 3 -i 0.1 -W 20 %s >/dev/null" % tap.host)[1], 0)
        equal("in fragments", machine.run("ping -c 2 -s 6000 -W 20 %s >/dev/null" % tap.host)[1], 0)
        data = os.urandom(10 * MIB)
        begin = time.monotonic()
        port = serve(tap, lambda stream: stream.sendall(data))
        equal("10 MiB of TCP to the guest", machine.out("nc %s %d </dev/null | md5sum" % (tap.host, port)).split()[0], md5(data))
        say("%.1f MiB/s" % (10 / (time.monotonic() - begin)))
        machine.out("dd if=/dev/urandom of=/tmp/r bs=1M count=10 2>/dev/null")
        wanted = machine.out("md5sum /tmp/r").split()[0]
        got = []
        begin = time.monotonic()
        port = serve(tap, lambda stream: got.append(everything(stream)))
        machine.run("nc %s %d </tmp/r" % (tap.host, port))
        until(lambda: got)
        say("%.1f MiB/s" % (10 / (time.monotonic() - begin)))
        equal("10 MiB of TCP from the guest", [md5(one) for one in got], [wanted])
        check("large segments go through whole", counter(machine, "tx_packets_count") < 10 * MIB / 1400,
              counter(machine, "tx_packets_count"))
        check("frames are counted", counter(machine, "rx_bytes_count") > 10 * MIB and counter(machine, "tx_bytes_count") > 10 * MIB)
        status, message = machine.fault("PATCH", "/network-interfaces/x", {"iface_id": "x"})
        check("refused: a change of one that is not there", status == 400 and message, (status, message))

        limit = {"bandwidth": {"size": 150000, "refill_time": 1000}}
        machine.patch("/network-interfaces/eth", {"iface_id": "eth", "rx_rate_limiter": limit})
        # A stall of the machine spoils a measurement, a wrong limit all of them.
        seen = []
        while len(seen) < 8 and not (seen and 0.9 * 150e3 < seen[-1] < 1.1 * 150e3):
            seen.append(throughput_to_guest(tap, machine, 3))
        check("a limit of 150 kB/s to the guest, set at run time", 0.9 * 150e3 < seen[-1] < 1.1 * 150e3, seen)
        none = {"bandwidth": {"size": 0, "refill_time": 0}}
        machine.patch("/network-interfaces/eth", {"iface_id": "eth", "rx_rate_limiter": none, "tx_rate_limiter": limit})
        sizes = []

        def timed(stream):
            while sum(sizes) < 200000:
                sizes.append(len(stream.recv(65536)))
            begin, size = time.monotonic(), 0
            while size < 500000:
                size += len(stream.recv(65536))
            got.append(size / (time.monotonic() - begin))

        del got[:]
        # One segment of up to 64 KiB may have waited in our socket when the clock began.
        most = 1.15 * 150e3 * (1 + 65536 / 500000)
        for number in range(1, 9):
            del sizes[:]
            port = serve(tap, timed)
            machine.run("nc %s %d </tmp/r" % (tap.host, port))
            until(lambda: len(got) == number)
            if got and 0.85 * 150e3 < got[-1] < most:
                break
        check("a limit of 150 kB/s from the guest", got and 0.85 * 150e3 < got[-1] < most, got)
        machine.patch("/network-interfaces/eth", {"iface_id": "eth", "tx_rate_limiter": none})
        equal("and without limits again", machine.run("ping -c 2 -i 0.1 -W 20 %s >/dev/null" % tap.host)[1], 0)

        # A copy on another tap, beside the original.
        snapshot = machine.snapshot("net", resume=True)
        copy = Machine.load(snapshot, network_overrides=[{"iface_id": "eth", "host_dev_name": other.name}])
        copy.out("ip addr flush dev eth0; ip addr add %s/30 dev eth0" % other.guest)
        check("network_overrides: the copy answers on its tap", other.pings())
        check("and the original on its own", tap.pings())
        status, message = Machine().fault("PUT", "/snapshot/load", copy.load_body(snapshot))
        check("a load onto a tap that is in use is refused", status == 400 and message and tap.name in message, (status, message))
        # The tap goes away under a running guest.
        copy.out("ping -i 0.1 %s >/dev/null 2>&1 </dev/null &" % other.host)
        other.remove()
        time.sleep(0.5)
        equal("a guest whose tap goes away goes on", copy.out("echo here"), "here")
        snapshot.remove()


def ask(machine, path, *headers, method="GET"):
    """(status, body) of a request by the guest."""
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: 169.254.169.254", "Connection: close", *headers, "", ""]
    head, _, body = machine.out("nc -w 30 169.254.169.254 80", given="\r\n".join(lines).encode()).partition("\r\n\r\n")
    return int(head.split()[1]) if head.startswith("HTTP/1.1 ") else head, body


def metadata():
    """The metadata service."""
    document = {"latest": {"meta-data": {"id": "i-1", "tags": {"a": "b"}}, "user-data": "text\nof two lines"}}
    with Tap(3) as tap:
        for version in ("V1", "V2"):
            machine = Machine().configure()
            status, message = machine.fault("PUT", "/mmds/config", {"version": version, "network_interfaces": ["eth"]})
            check("refused: an interface that is not there yet", status == 400 and message and "eth" in message, (status, message))
            machine.put("/network-interfaces/eth", tap.config())
            machine.put("/mmds/config", {"version": version, "network_interfaces": ["eth"]})
            equal("GET of nothing", machine.get("/mmds"), {})
            check("refused: a PATCH of nothing", machine.fault("PATCH", "/mmds", {"x": 1})[0] in (400, 404))
            machine.put("/mmds", document)
            machine.start().wait()
            tap.up(machine)
            machine.out("ip route add 169.254.169.254 dev eth0")
            header = []
            if version == "V2":
                equal("V2: without a token", ask(machine, "/latest/meta-data/id")[0], 401)
                status, token = ask(machine, "/latest/api/token", "X-metadata-token-ttl-seconds: 21600", method="PUT")
                check("V2: a token", status == 200 and len(token) > 20, (status, token))
                header = ["X-metadata-token: " + token]
            equal(version + ": a value", ask(machine, "/latest/meta-data/id", *header), (200, "i-1"))
            equal(version + ": keys", ask(machine, "/latest/meta-data/", *header), (200, "id\ntags/"))
            equal(version + ": a text of lines", ask(machine, "/latest/user-data", *header)[1], document["latest"]["user-data"])
            status, output = ask(machine, "/latest", "Accept: application/json", *header)
            equal(version + ": JSON", json.loads(output), document["latest"])
            equal(version + ": what is not there", ask(machine, "/nothing", *header)[0], 404)
            machine.patch("/mmds", {"latest": {"meta-data": {"id": "i-2", "tags": None}}})
            equal(version + ": after a PATCH", ask(machine, "/latest/meta-data/id", *header), (200, "i-2"))
            equal(version + ": GET by the API", machine.get("/mmds")["latest"]["meta-data"], {"id": "i-2"})
            status, message = machine.fault("PATCH", "/mmds", {"x": "y" * 51150})
            check(version + ": more than the limit is refused", status in (400, 413) and message, (status, message))
            names = sorted("key%d" % number for number in range(1000))
            machine.patch("/mmds", {"many": {name: "" for name in names}})
            equal(version + ": a thousand keys", ask(machine, "/many", *header), (200, "\n".join(names)))
            check(version + ": the rest of the network works", tap.pings())
            for request in ("\0\1\2\n\n", "GET / HTTP/1.1\n" + "a: b\n" * 2000 + "\n", "DELETE / HTTP/1.1\n\n"):
                machine.run("printf '%s' | nc -w 2 169.254.169.254 80" % request.replace("\0", "\\000").replace("\1", "\\001")[:4000].replace("\n", "\\r\\n"))
            equal(version + ": it answers after garbage", ask(machine, "/latest/meta-data/id", *header), (200, "i-2"))
            machine.close()


PARTS = [interface, metadata]
