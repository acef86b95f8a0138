"""The API's side of mounted volumes over a directory of this machine, by src/volume/volume.h. Used by volume-mount."""
import contextlib
import errno
import os
import socket
import stat
import struct
import threading

REQUEST = struct.Struct("<IIHHIIIIIQqqIHH")
REPLY = struct.Struct("<IIIIQQQqqqIIII")
ENTRY = struct.Struct("<QQII")
(STAT, SET, READLINK, SYMLINK, MKDIR, CREATE, UNLINK, RMDIR, RENAME, READ, WRITE, READDIR, SPACE, SYNC) = range(1, 15)
AGAIN, NOREPLACE = 1, 2


def attributes(path):
    st = os.lstat(path)
    return (st.st_ino, st.st_size, st.st_blocks, st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns, st.st_mode, st.st_nlink, st.st_uid, st.st_gid)


class Volume:
    """`cut_after`: when that many more have been done the connection ends, without the answer to the last."""

    def __init__(self, socket_path, volume_id, directory):
        self.socket_path, self.id, self.root = socket_path, volume_id, directory
        self.connection = None
        self.cut_after = None
        self.comes_back = False  # a little after such an end
        self.coming = None
        self.before = None  # called with each operation and its paths, before it is done; may raise an OSError
        self.overtaken = None  # whether an operation on a path lets those that come after it be done before it
        self.again = 0
        self.requests = 0

    def connect(self, volume_id=None):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.socket_path)
        connection.sendall(f"VOLUME {volume_id or self.id}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            got = connection.recv(1)
            if not got:
                break
            line += got
        if line != b"OK\n":
            connection.close()
            return line.decode()
        self.connection = connection
        threading.Thread(target=self.serve, args=(connection,), daemon=True).start()
        return "OK"

    def close(self):
        if self.connection:
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.connection.close()
        self.connection = None

    def is_cut(self):
        left = self.cut_after
        if left is not None:
            self.cut_after = left - 1 if left > 1 else None
        return left is not None and left <= 1

    @contextlib.contextmanager
    def cut(self, after=None):
        """In here the connection is cut, after so many have been done or when `cut_after` is set, and comes back by itself."""
        self.coming, self.comes_back, self.cut_after = None, True, after
        try:
            yield
        finally:
            self.comes_back, self.cut_after = False, None
            if self.coming:
                self.coming.join()

    def take(self, connection, size):
        data = bytearray()
        while len(data) < size:
            got = connection.recv(size - len(data))
            if not got:
                raise ConnectionError
            data += got
        return bytes(data)

    def serve(self, connection):
        try:
            while True:
                head = REQUEST.unpack(self.take(connection, REQUEST.size))
                size, tag, op, flags, valid, mode, uid, gid, count, offset, atime, mtime, data_size, path_size, other_size = head
                assert size == REQUEST.size + path_size + other_size + data_size, head
                path, other, data = (self.take(connection, n) for n in (path_size, other_size, data_size))
                self.requests += 1
                self.again += flags & AGAIN
                request = (op, flags, valid, mode, uid, gid, count, offset, atime, mtime, path, other, data)
                if self.overtaken and self.overtaken(op, path):
                    threading.Thread(target=lambda tag, request: connection.sendall(self.reply(tag, request)), args=(tag, request),
                                     daemon=True).start()
                    continue
                reply = self.reply(tag, request)
                if self.is_cut():
                    connection.close()
                    if self.comes_back:
                        coming = threading.Timer(0.3, self.connect)
                        coming.start()
                        self.coming = coming
                    return
                connection.sendall(reply)
        except (ConnectionError, OSError):
            pass

    def reply(self, tag, request):
        code, result, attr = 0, b"", (0,) * 10
        try:
            result, attr = self.do(*request)
        except OSError as error:
            code = error.errno
        return REPLY.pack(REPLY.size + len(result), tag, code, len(result), *(attr or (0,) * 10)) + result

    def do(self, op, flags, valid, mode, uid, gid, count, offset, atime, mtime, path, other, data):
        if self.before:
            self.before(op, path, other)
        path = os.path.join(self.root.encode(), path) if path else self.root.encode()
        if op == STAT:
            return b"", attributes(path)
        if op == SET:
            if valid & 8:
                os.truncate(path, offset)
            if valid & 6:
                os.lchown(path, uid if valid & 2 else -1, gid if valid & 4 else -1)
            if valid & 1:
                os.chmod(path, mode)
            if valid & 48:
                st = os.lstat(path)
                os.utime(path, ns=(atime if valid & 16 else st.st_atime_ns, mtime if valid & 32 else st.st_mtime_ns), follow_symlinks=False)
            return b"", attributes(path)
        if op == READLINK:
            return os.readlink(path), None
        if op in (SYMLINK, MKDIR, CREATE):
            if op == SYMLINK:
                os.symlink(other, path)
            elif op == MKDIR:
                os.mkdir(path)
            else:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.lchown(path, uid, gid)
            if op != SYMLINK:
                os.chmod(path, mode)
            return b"", attributes(path)
        if op == UNLINK:
            os.unlink(path)
        elif op == RMDIR:
            os.rmdir(path)
        elif op == RENAME:
            other = os.path.join(self.root.encode(), other)
            if flags & NOREPLACE and os.path.lexists(path) and os.path.lexists(other):
                raise OSError(errno.EEXIST, "exists")
            os.rename(path, other)
        elif op == READ:
            with open(path, "rb") as file:
                return os.pread(file.fileno(), count, offset), None
        elif op == WRITE:
            fd = os.open(path, os.O_WRONLY)
            try:
                assert os.pwrite(fd, data, offset) == len(data)
            finally:
                os.close(fd)
        elif op == READDIR:
            return self.list(path, count, offset), None
        elif op == SPACE:
            return struct.pack("<QQ", 1 << 30, 1 << 29), None
        elif op == SYNC:
            os.stat(path)
        else:
            raise OSError(errno.ENOSYS, "what?")
        return b"", None

    def list(self, path, count, offset):
        result = b""
        names = sorted(os.listdir(path))
        for index in range(offset, len(names)):
            st = os.lstat(os.path.join(path, names[index]))
            entry = ENTRY.pack(st.st_ino, index + 1, stat.S_IFMT(st.st_mode), len(names[index])) + names[index]
            if len(result) + len(entry) > count:
                break
            result += entry
        return result
