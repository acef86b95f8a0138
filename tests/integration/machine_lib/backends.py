"""Memory that another process gives, page by page: Firecracker's Uffd backend."""

import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import threading

from harness import Machine, check, equal, ready, until

UFFDIO_COPY = 0xC028AA03
UFFD_EVENT_PAGEFAULT = 0x12
PAGE = 4096


class Handler:
    """Listens, takes one machine's userfaultfd, and gives it the memory file's pages as they are missed."""

    def __init__(self, path, memory):
        self.path = path
        self.mappings = None
        self.pages = 0
        self.pages_at_once = 1
        self.removed = 0
        self.trouble = None
        with open(memory, "rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.anchor = ctypes.c_char.from_buffer(self.memory)
        self.source = ctypes.addressof(self.anchor)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.stopped, self.stop_fd = os.pipe()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            stream = self.listener.accept()[0]
            message, fds, _, _ = socket.recv_fds(stream, 4096, 4)
            self.mappings = json.loads(message)
            self.serve(fds[0], stream)
        except Exception as error:
            self.trouble = repr(error)

    def serve(self, uffd, stream):
        while True:
            readable, _, _ = select.select([uffd, self.stopped, stream], [], [])
            if self.stopped in readable or stream in readable:
                os.close(uffd)
                return
            try:
                message = os.read(uffd, 32)
            except BlockingIOError:
                continue
            if message[0] == UFFD_EVENT_PAGEFAULT:
                self.give(uffd, struct.unpack_from("Q", message, 16)[0] & ~(PAGE - 1))
            else:
                self.removed += 1

    def give(self, uffd, address):
        for mapping in self.mappings:
            offset = address - mapping["base_host_virt_addr"]
            if 0 <= offset < mapping["size"]:
                size = min(self.pages_at_once * PAGE, mapping["size"] - offset)
                request = struct.pack("QQQQq", address, self.source + mapping["offset"] + offset, size, 0, 0)
                try:
                    fcntl.ioctl(uffd, UFFDIO_COPY, request)
                except (FileExistsError, BlockingIOError):
                    pass
                self.pages += 1
                return
        raise ValueError("a fault at %#x, which nobody told of" % address)

    def close(self):
        os.write(self.stop_fd, b"x")
        self.thread.join(10)
        self.listener.close()


def uffd():
    """A handler of page faults."""
    snapshot, data = ready()
    machine = Machine()
    path = machine.path("uffd.sock")
    handler = Handler(path, snapshot.memory)
    machine.put("/snapshot/load", machine.load_body(snapshot, mem_backend={"backend_type": "Uffd", "backend_path": path}))
    equal("the guest has its memory", machine.out("md5sum </tmp/data"), data)
    equal("and works", machine.out("dd if=/dev/urandom of=/tmp/x bs=1M count=2 2>/dev/null; md5sum /tmp/x | wc -l"), "1")
    equal("the handler was told of the whole memory", [(m["size"], m["offset"], m["page_size"]) for m in handler.mappings],
          [(128 << 20, 0, PAGE)])
    check("pages came one by one, and not all", 200 < handler.pages < 20000, handler.pages)
    check("the handler had no trouble", handler.trouble is None, handler.trouble)
    # All that is left is asked for now: by larger pieces, each up to the next page that is there.
    handler.pages_at_once = 512
    copy = machine.snapshot("uffd")
    equal("a full snapshot has the pages that were never touched, too", os.stat(copy.memory).st_size, 128 << 20)
    machine.close()
    check("the handler is told of the end", until(lambda: not handler.thread.is_alive()))
    handler.close()
    equal("it is loaded from a file", Machine.load(copy).out("md5sum </tmp/data"), data)
    copy.remove()


PARTS = [uffd]
