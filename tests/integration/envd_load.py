"""Many processes of atoll-envd at once, each with its own client, and what they wrote. Used by envd-limits."""
import base64
import json
import os
import selectors
import socket
import struct
import time

LINES = 2048  # of 17 bytes each, in each half of a process's output
ERROR_LINES = 256
# Half of it before a gate that opens for all at once. (It is opened first: who comes late must not wait for ever.)
SCRIPT = """exec 3<"$0"
seq -f "$1 out %07.0f" 1 $2; seq -f "$1 err %07.0f" 1 $3 >&2
read x <&3
seq -f "$1 out %07.0f" $(($2 + 1)) $((2 * $2)); seq -f "$1 err %07.0f" $(($3 + 1)) $((2 * $3)) >&2
exit $4"""


def envelope(message):
    data = json.dumps(message).encode()
    return struct.pack(">BI", 0, len(data)) + data


def take_chunks(data):
    """The content of a chunked body, which must be whole."""
    at, content = 0, []
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        content.append(data[end + 2:end + 2 + size])
        at = end + 2 + size + 2
        assert data[at - 2:at] == b"\r\n", "a chunk does not end in a line end"
        if size == 0:
            assert at == len(data), "there is more behind the last chunk"
            return b"".join(content)


def take_envelopes(data):
    at = 0
    while at < len(data):
        flags, size = struct.unpack_from(">BI", data, at)
        assert at + 5 + size <= len(data), "an envelope is cut short"
        yield flags, json.loads(data[at + 5:at + 5 + size])
        at += 5 + size


class Client:
    """One call of process.Process/Start."""

    def __init__(self, agent, number, gate):
        self.number, self.code = number, number % 3
        self.head = f"{number:04d}"
        self.received = bytearray()
        config = {"cmd": "/bin/sh", "args": ["-c", SCRIPT, gate, self.head, str(LINES), str(ERROR_LINES), str(self.code)]}
        body = envelope({"process": config, "stdin": False})
        head = (f"POST /process.Process/Start HTTP/1.1\r\nHost: agent\r\nContent-Type: application/connect+json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n")
        self.socket = socket.create_connection(("127.0.0.1", agent.port), timeout=60)
        self.socket.sendall(head.encode() + body)
        self.socket.setblocking(False)

    def read(self):
        """Take what has come. True when that is all."""
        data = self.socket.recv(1 << 20)
        assert data, f"process {self.number}: the connection ends after {len(self.received)} bytes"
        self.received += data
        return self.received.endswith(b"\r\n0\r\n\r\n")

    def lines(self, kind, count):
        return "".join(f"{self.head} {kind} {i:07d}\n" for i in range(1, count + 1)).encode()

    def verify(self):
        """The bytes of output, all of which must be there, in order, and their process's end behind them."""
        head, _, body = bytes(self.received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        *messages, end = take_envelopes(take_chunks(body))
        events = [message["event"] for flags, message in messages if flags == 0]
        assert len(events) == len(messages) and end == (2, {}), f"process {self.number}: {end}"
        assert events[0]["start"]["pid"] > 1, events[0]
        assert events[-1]["end"]["exitCode"] == self.code and events[-1]["end"]["exited"], events[-1]
        total = 0
        for name, kind, count in (("stdout", "out", 2 * LINES), ("stderr", "err", 2 * ERROR_LINES)):
            output = b"".join(base64.b64decode(e["data"][name]) for e in events[1:-1] if name in e["data"])
            assert output == self.lines(kind, count), f"process {self.number}: {len(output)} bytes of {name} are not what it wrote"
            total += len(output)
        return total


class Load:
    def __init__(self, agent, count, gate):
        self.agent, self.count, self.gate = agent, count, gate
        self.clients = []
        self.selector = selectors.DefaultSelector()
        os.mkfifo(gate)
        self.opener = os.open(gate, os.O_RDWR)

    def pump(self, seconds):
        """Take what comes within this time. False when nothing did."""
        ready = self.selector.select(seconds)
        for key, _ in ready:
            if key.data.read():
                self.selector.unregister(key.fileobj)
        return bool(ready)

    def start(self):
        """All run, and have written the first half."""
        for number in range(self.count):
            client = Client(self.agent, number, self.gate)
            self.clients.append(client)
            self.selector.register(client.socket, selectors.EVENT_READ, client)
            while self.pump(0):
                pass
        # The second half of the errors is the last that comes; of the first half nobody tells how much is on its way.
        end = time.monotonic() + 600
        while self.pump(1.0) or self.agent.children() < self.count:
            assert time.monotonic() < end, f"the first half does not come: {self.agent.children()} of {self.count} run"
        assert len(self.selector.get_map()) == self.count, "some ended before the gate was opened"

    def finish(self):
        os.close(self.opener)
        self.opener = -1
        end = time.monotonic() + 600
        while self.selector.get_map():
            self.pump(1.0)
            assert time.monotonic() < end, f"{len(self.selector.get_map())} have not ended"

    def verify(self):
        return sum(client.verify() for client in self.clients)

    def close(self):
        if self.opener >= 0:
            os.close(self.opener)
        for client in self.clients:
            client.socket.close()
        self.selector.close()
        os.unlink(self.gate)
