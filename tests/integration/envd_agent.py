"""A native atoll-envd, what it holds of the machine, and files to and from it. Used by envd-limits."""
import http.client
import json
import os
import random
import re
import socket
import subprocess
import time
import urllib.parse

from ports import free_port

BLOCK = 1 << 20
FORM_HEAD = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
FORM_TAIL = b"\r\n--frontier--\r\n"


def until(what, truth, seconds=60):
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Pattern:
    """Content without end: each block differs from all others, and none is zeros."""

    def __init__(self):
        self.block = bytearray(random.Random(1).randbytes(BLOCK))
        # Text that looks like the beginning of a boundary, so that forms have something to look at.
        self.block[5000:5000 + 8] = b"\r\n--fron"

    def at(self, index):
        self.block[0:8] = self.block[-8:] = (index * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "little")
        return self.block


class Reply:
    def __init__(self, response):
        self.status, self.headers, self.data = response.status, response.headers, response.read()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("agent")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def listens(path):
    """Whether somebody does at a unix socket: its file is there a little earlier."""
    with open("/proc/net/unix") as file:
        rows = [line.split() for line in file]
    return any(row[-1] == path and row[3].isdigit() and int(row[3], 16) & 0x10000 for row in rows)


class Agent:
    """The program under test."""

    def __init__(self, program, door):
        with open(program, "rb") as file:
            self.sanitized = re.search(rb"__(asan|ubsan|msan|tsan)_", file.read()) is not None
        self.port = free_port()
        self.door = door
        # (It ends without clearing up.)
        environment = {"ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=8", **os.environ}
        command = [program, "--native", "--port", str(self.port), "--control", self.door]
        self.process = subprocess.Popen(command, env=environment)
        self.pid = self.process.pid
        until("listening", lambda: self.process.poll() is not None or listens(self.door))
        assert self.process.poll() is None, "it did not start"
        self.at_rest = self.descriptors()  # how many without clients

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(60)

    # --- what it holds ---

    def memory(self):
        """KiB, by the kernel's names."""
        with open(f"/proc/{self.pid}/smaps_rollup") as file:
            return {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", file.read(), re.M)}

    def peak(self):
        with open(f"/proc/{self.pid}/status") as file:
            return int(re.search(r"VmHWM:\s+(\d+)", file.read())[1])

    def reset_peak(self):
        with open(f"/proc/{self.pid}/clear_refs", "w") as file:
            file.write("5")
        return self.peak()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def children(self):
        """Its own, those included that have ended and nobody waited for."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
            return len(file.read().split())

    # --- requests ---

    def control(self, method, path, body=None):
        """By the node's door."""
        connection = UnixConnection(self.door)
        connection.request(method, path, json.dumps(body) if body is not None else None)
        reply = Reply(connection.getresponse())
        connection.close()
        assert reply.status in (200, 204), (reply.status, reply.data)
        return json.loads(reply.data) if reply.data else None

    def init(self):
        self.control("POST", "/init", {"sandboxId": "limits", "envVars": {"A": "1"}, "defaultUser": "root", "accessToken": None})

    def fetch_logs(self):
        """All that there are, as the node does: it says that the last have arrived when there are more."""
        seq, last = 0, -1
        while seq != last:
            logs = self.control("GET", f"/logs?after={seq}")
            seq, last = logs["entries"][-1]["seq"], logs["last"]

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    @staticmethod
    def target(path):
        return f"/files?path={urllib.parse.quote(path)}"

    def request(self, method, path, headers):
        connection = self.connect()
        connection.request(method, self.target(path), headers=headers)
        reply = Reply(connection.getresponse())
        connection.close()
        return reply

    # --- files ---

    def upload(self, path, mib):
        """As bytes, in chunks: as the SDKs send a stream."""
        pattern = Pattern()
        connection = self.connect()
        blocks = (pattern.at(index) for index in range(mib))
        connection.request("POST", self.target(path), blocks, {"Content-Type": "application/octet-stream"}, encode_chunked=True)
        self.uploaded(connection, path)

    def upload_form(self, path, mib):
        pattern = Pattern()
        connection = self.connect()
        connection.putrequest("POST", self.target(path))
        connection.putheader("Content-Type", "multipart/form-data; boundary=frontier")
        connection.putheader("Content-Length", str(len(FORM_HEAD) + mib * BLOCK + len(FORM_TAIL)))
        connection.endheaders(FORM_HEAD)
        for index in range(mib):
            connection.send(pattern.at(index))
        connection.send(FORM_TAIL)
        self.uploaded(connection, path)

    @staticmethod
    def uploaded(connection, path):
        reply = Reply(connection.getresponse())
        connection.close()
        assert reply.status == 200, (reply.status, reply.data)
        assert json.loads(reply.data)[0]["path"] == path, reply.data

    def download(self, path, mib):
        """The beginning of a file, all of it when it is not larger; its content must be the pattern's."""
        connection = self.connect()
        size = os.stat(path).st_size
        headers = {} if size == mib * BLOCK else {"Range": f"bytes=0-{mib * BLOCK - 1}"}
        connection.request("GET", self.target(path), headers=headers)
        response = connection.getresponse()
        assert response.status == (206 if headers else 200), (response.status, response.read())
        assert response.length == mib * BLOCK, f"{response.length} bytes are announced"
        check_pattern(response, mib)
        connection.close()

    def stall(self, path, seconds):
        """Ask for a file and read none of it."""
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(f"GET {self.target(path)} HTTP/1.1\r\nHost: agent\r\n\r\n".encode())
            time.sleep(seconds)

    @staticmethod
    def check_file(path, mib):
        with open(path, "rb", buffering=0) as file:
            check_pattern(file, mib)


def check_pattern(source, mib):
    """That `source`, to be read to its end, has this many blocks of the pattern."""
    pattern = Pattern()
    block = bytearray(BLOCK)
    view = memoryview(block)
    for index in range(mib):
        got = 0
        while got < BLOCK:
            part = source.readinto(view[got:])
            assert part, f"it ends in block {index} of {mib}"
            got += part
        assert block == pattern.at(index), f"block {index} of {mib} is not what was sent"
    assert not source.read(1), "it is longer than what was sent"
