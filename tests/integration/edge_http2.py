"""A client of HTTP/2 that may misbehave: frames by hand, heads without compression."""
import socket
import struct

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def number(value, prefix_bits):
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([value])
    data, value = bytes([most]), value - most
    while value >= 128:
        data += bytes([value % 128 + 128])
        value //= 128
    return data + bytes([value])


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return number(len(value), 7) + value


def head(fields):
    """Literals that are never put into the table."""
    return b"".join(b"\x00" + text(name) + text(value) for name, value in fields)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Client:
    def __init__(self, connection, settings=b"", greet=True):
        self.connection, self.rest, self.next = connection, b"", 1
        self.connection.settimeout(60)
        if greet:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data):
        self.connection.sendall(data)

    def read(self):
        """(kind, flags, stream, payload), or None at the end."""
        try:
            while len(self.rest) < 9 or len(self.rest) < 9 + int.from_bytes(self.rest[:3], "big"):
                data = self.connection.recv(65536)
                if not data:
                    return None
                self.rest += data
        except ConnectionError:
            return None
        size = int.from_bytes(self.rest[:3], "big")
        kind, flags = self.rest[3], self.rest[4]
        stream, payload = int.from_bytes(self.rest[5:9], "big"), self.rest[9:9 + size]
        self.rest = self.rest[9 + size:]
        if kind == SETTINGS and not flags & ACK:
            try:
                self.send(frame(SETTINGS, ACK, 0))
            except ConnectionError:
                pass
        return kind, flags, stream, payload

    def wait(self, kind, stream=None):
        """The next of a kind; None when the connection ends before."""
        while got := self.read():
            if got[0] == kind and stream in (None, got[2]):
                return got
        return None

    def websocket(self, host, path, more=(), protocol="websocket"):
        """An extended CONNECT: RFC 8441."""
        return self.request(host, path, "CONNECT", [(":protocol", protocol), ("sec-websocket-version", "13"), *more], False)

    def data(self, stream, payload, end=False):
        self.send(frame(DATA, END_STREAM if end else 0, stream, payload))

    def take(self, stream, size):
        """So many bytes of data, or those up to the end of the stream; None when it was torn."""
        data = b""
        while len(data) < size and (got := self.read()):
            kind, flags, which, payload = got
            if which != stream or kind not in (DATA, RST_STREAM):
                continue
            if kind == RST_STREAM:
                return None
            data += payload
            if payload:
                more = struct.pack(">I", len(payload))
                self.send(frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, stream, more))
            if flags & END_STREAM:
                return data
        return data

    def request(self, host, path, method="GET", more=(), end=True):
        stream, self.next = self.next, self.next + 2
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", host), *more]
        block = head(fields)
        pieces = [block[at:at + 16384] for at in range(0, len(block), 16384)]
        for index, piece in enumerate(pieces):
            flags = END_HEADERS if index == len(pieces) - 1 else 0
            self.send(frame(CONTINUATION if index else HEADERS, flags | (END_STREAM if end and not index else 0), stream,
                            piece))
        return stream

    def body(self, stream, grant=True):
        """All of the answer's data; None when it was torn."""
        data = b""
        while got := self.read():
            kind, flags, which, payload = got
            if which != stream:
                continue
            if kind == RST_STREAM:
                return None
            if kind == DATA:
                data += payload
                if grant and payload:
                    size = struct.pack(">I", len(payload))
                    self.send(frame(WINDOW_UPDATE, 0, 0, size) + frame(WINDOW_UPDATE, 0, stream, size))
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                return data
        return None

    def goodbye(self):
        """The code of GOAWAY."""
        got = self.wait(GOAWAY)
        return got and struct.unpack(">I", got[3][4:8])[0]

    def close(self):
        self.connection.close()


def connect(port):
    return Client(socket.create_connection(("127.0.0.1", port), timeout=60))
