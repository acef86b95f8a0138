"""The Python half of atoll-interpreter: makes ipykernel processes, quickly and with quick answers.

atoll-interpreter writes this file to its runtime directory and runs it once. It imports IPython and the
libraries that notebooks use most, then forks one kernel for each request that comes as a line of JSON on
descriptor 3: {"connection_file": ..., "cwd": ...} -> {"pid": ...}. A forked kernel shares all those imports,
so a new context costs a fork instead of seconds. Descriptor 3 says {"ready": true} when forking can begin.

The kernel is ipykernel's own. What is changed, and why:
- Replies are sent by the thread that made them, under a lock, not by way of the IOPub thread; a request does
  not wait for the control thread, which nobody uses here; there is no sleep after a cell. Each of these is a
  wait for another thread, and they were most of the time that `1+1` took.
- What a cell's subprocesses write to descriptors 1 and 2 is collected before the cell ends, so it is part of
  that cell's output.
- A request's metadata may hold {"atoll": {"envs", "sandbox_envs", "reseed"}}: see Kernel.execute_request.
- What ipykernel computes anew for every cell and is always the same (see speed_up) is computed once.
- No history database, no debugger, no heartbeat, no TCP port.
"""

import asyncio
import codecs
import contextlib
import ctypes
import datetime
import fcntl
import functools
import gc
import importlib
import io
import itertools
import json
import logging
import math
import os
import select
import signal
import socket
import sys
import threading
import traceback

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
sys.path.pop(0)  # the directory of this file is nobody's business in a user's kernel

# Read when pyplot is imported, which happens before ipykernel would set it.
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")

import ipykernel.ipkernel
import ipykernel.kernelbase
import IPython.core.interactiveshell
import jupyter_client.jsonutil
import stack_data
import zmq
from IPython.core.formatters import BaseFormatter, DisplayFormatter
from IPython.core.ultratb import AutoFormattedTB
from ipykernel.iostream import BackgroundSocket, IOPubThread, OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import DELIM, Session, json_default, json_packer, protocol_version
from traitlets import ObjectName, Unicode
from traitlets.config import Config
from zmq.backend import Socket as PlainSocket
from zmq.eventloop.zmqstream import ZMQStream

WARM_MODULES = ("numpy", "pandas", "matplotlib.pyplot", "matplotlib.backends.backend_agg")
PR_SET_PDEATHSIG = 1
SEND_MORE = int(zmq.SNDMORE)


class DirectIOPub(IOPubThread):
    """Sends in the calling thread. The thread is kept for timed flushes and for output of forked children."""

    def __init__(self, endpoint, zmq_socket):
        self._send_lock = threading.RLock()
        self._child_endpoint = endpoint + "-children"
        super().__init__(zmq_socket, pipe=True)

    def _setup_pipe_in(self):
        self._pipe_uuid = os.urandom(16)
        pipe = self.socket.context.socket(zmq.PULL)
        pipe.linger = 0
        pipe.bind(self._child_endpoint)
        self._pipe_in = ZMQStream(pipe, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self):
        context = zmq.Context()
        pipe = context.socket(zmq.PUSH)
        pipe.linger = 3000
        pipe.connect(self._child_endpoint)
        return context, pipe

    def send_multipart(self, *args, **kwargs):
        if not self._is_master_process():  # forked: the lock may have been held by a thread that is not here
            self._really_send(*args, **kwargs)
            return
        with self._send_lock:
            self._really_send(*args, **kwargs)

    def send_parts(self, parts):
        """As send_multipart, by the function that pyzmq's own wraps: a message has seven parts."""
        if not self._is_master_process():
            self._really_send(parts)
            return
        with self._send_lock:
            if self.closed:
                return
            for part in parts[:-1]:
                PlainSocket.send(self.socket, part, SEND_MORE)
            PlainSocket.send(self.socket, parts[-1])


class DirectOutStream(OutStream):
    """Output stream whose flush also takes what subprocesses left in the pipe behind the descriptor."""

    def __init__(self, *args, **kwargs):
        self._drain_lock = threading.RLock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        super().__init__(*args, **kwargs)

    def _watch_pipe_fd(self):
        os.set_blocking(self._fid, False)
        poller = select.poll()
        poller.register(self._fid, select.POLLIN)
        while self._should_watch:
            if poller.poll(1000 if sys.is_finalizing() else None):
                self._drain()

    def _drain(self):
        if not self._is_master_process():
            return
        with self._drain_lock:
            while True:
                try:
                    data = os.read(self._fid, 65536)
                except BlockingIOError:
                    return
                text = self._decoder.decode(data)
                if text:
                    super().write(text)

    def write(self, string):
        # What a subprocess wrote before this call comes before it, however late the watching thread is.
        if getattr(self, "_should_watch", False) and threading.current_thread() is not self.pub_thread.thread:
            self._drain()
        return super().write(string)

    def flush(self):
        if threading.current_thread() is not self.pub_thread.thread:
            self._drain()
        self._flush()


class Kernel(IPythonKernel):
    """The kernel with environments per request and without the wait for the control thread."""

    def _publish_status(self, status, channel, parent=None):
        if status != "busy":  # who listens knows what it asked for
            super()._publish_status(status, channel, parent)

    async def _flush_control_queue(self):
        async def nothing():
            pass

        return nothing()

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future):
        """Interrupt a cell that awaits: ipykernel's own way does not wake a loop that sleeps."""
        loop = asyncio.get_running_loop()

        def interrupt(*_):
            if asyncio.current_task(loop) is future:
                raise KeyboardInterrupt
            loop.call_soon_threadsafe(future.cancel)

        previous = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    async def execute_request(self, stream, ident, parent):
        """Runs a cell in its environment.

        metadata["atoll"], all parts optional: "sandbox_envs" are set for good, "envs" are set for this cell
        and put back after it, and "reseed" gives the libraries' generators a new start: many sandboxes
        are restored from one snapshot, and would otherwise draw the same numbers.
        """
        extra = (parent.get("metadata") or {}).get("atoll") or {}
        if extra.get("reseed"):
            reseed_generators()
        os.environ.update(extra.get("sandbox_envs") or {})
        envs = extra.get("envs") or {}
        before = {name: os.environ.get(name) for name in envs}
        os.environ.update(envs)
        try:
            await super().execute_request(stream, ident, parent)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class QuickSession(Session):
    """Packs the parent's header, the same in all messages of a cell, once; sends output without detours."""

    packed_parent = (None, b"{}")
    numbers = itertools.count()

    @property
    def msg_id(self):  # jupyter_client counts in a trait, whose observers are told of each number
        return f"{self.session}_{os.getpid()}_{next(self.numbers)}"

    @staticmethod
    def encode(value):
        try:
            # What json.JSONEncoder(default=json_default, ensure_ascii=False, allow_nan=False) makes anew each time.
            encoder = json.encoder.c_make_encoder(
                {}, json_default, json.encoder.encode_basestring, None, ": ", ", ", False, False, False
            )
            return "".join(encoder(value, 0)).encode("utf8", "surrogateescape")
        except (TypeError, ValueError):
            return json_packer(value)  # cleans what JSON does not know

    def msg_header(self, msg_type):
        date = datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
        return {
            "msg_id": self.msg_id,
            "msg_type": msg_type,
            "username": self.username,
            "session": self.session,
            "date": date,
            "version": protocol_version,
        }

    def send(self, stream, msg_or_type, content=None, parent=None, ident=None, buffers=None, **more):
        if type(stream) is not BackgroundSocket or buffers or more or os.getpid() != self.pid:
            return super().send(stream, msg_or_type, content, parent, ident, buffers, **more)
        message = msg_or_type if isinstance(msg_or_type, dict) else self.msg(msg_or_type, content, parent)
        stream.io_thread.send_parts(self.serialize(message, ident))
        return message

    def serialize(self, msg, ident=None):
        parent = msg["parent_header"]
        packed = self.packed_parent
        if packed[0] is not parent:
            packed = self.packed_parent = (parent, self.encode(parent))
        metadata = self.encode(msg["metadata"]) if msg["metadata"] else b"{}"
        idents = ident if isinstance(ident, list) else [] if ident is None else [ident]
        body = [self.encode(msg["header"]), packed[1], metadata, self.encode(msg["content"])]
        return [*idents, DELIM, self.sign(body), *body]


class KernelApp(IPKernelApp):
    """ipykernel's application with our kernel, our output path and no heartbeat."""

    def init_iopub(self, context):
        self.iopub_socket = context.socket(zmq.PUB)
        self.iopub_socket.linger = 1000
        self.iopub_socket.sndhwm = 0  # a slow reader must not lose the message that ends a cell
        self.iopub_port = self._bind_socket(self.iopub_socket, self.iopub_port)
        self.configure_tornado_logger()
        self.iopub_thread = DirectIOPub("ipc://" + self.ip, self.iopub_socket)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_heartbeat(self):
        pass

    def _session_default(self):
        return QuickSession(parent=self)


def reseed_generators():
    import random

    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


class DataFormatter(BaseFormatter):
    """A DataFrame as {column: [values]}, which the SDK shows as result.data."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict
    MOST_CELLS = 1_000_000

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.for_type_by_name("pandas.core.frame", "DataFrame", self.columns)

    def columns(self, frame):
        if frame.size > self.MOST_CELLS:
            return None
        return {str(name): [self.plain(value) for value in frame.iloc[:, at]] for at, name in enumerate(frame.columns)}

    @classmethod
    def plain(cls, value):
        """A value as JSON knows it: what is missing is null, times are ISO 8601, what is unknown is text."""
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            value = value.item()
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if hasattr(value, "isoformat"):
            return None if value != value else value.isoformat()  # NaT is not itself
        if isinstance(value, (list, tuple)):
            return [cls.plain(part) for part in value]
        return str(value)


class QuickDisplayFormatter(DisplayFormatter):
    """Asks only the text formatter about plain values, unless somebody registered another one for them."""

    PLAIN = frozenset((int, float, bool, str, bytes, complex, type(None), list, tuple, dict, set, frozenset))

    def format(self, obj, include=None, exclude=None):
        kind = type(obj)
        if kind in self.PLAIN and not include and not exclude:
            printers = (f.type_printers for f in self.formatters.values() if f is not self.plain)
            if not any(kind in known or object in known for known in printers):
                return {"text/plain": self.plain(obj)}, {}
        return super().format(obj, include=include, exclude=exclude)

    @functools.cached_property
    def plain(self):
        return self.formatters["text/plain"]


def speed_up():
    """Answer what is asked for each cell from memory."""
    accepts = functools.cache(ipykernel.kernelbase._accepts_cell_id)
    ipykernel.kernelbase._accepts_cell_id = accepts
    ipykernel.ipkernel._accepts_cell_id = accepts

    def parse_date(text):  # dateutil takes ten times longer for what our requests carry
        if not isinstance(text, str) or len(text) < 20 or text[4:5] != "-" or text[10:11] != "T":
            return text
        try:
            return datetime.datetime.fromisoformat(text)
        except ValueError:
            return text

    jupyter_client.jsonutil.parse_date = parse_date


def transform_once(shell):
    """ipykernel transforms each cell, to see whether it awaits, and IPython transforms it again to run it."""
    transform = shell.transform_cell
    last = [None, None]

    def transform_cell(text):
        if text is not last[0]:
            last[:] = text, transform(text)
        return last[1]

    shell.transform_cell = transform_cell


def kernel_config():
    config = Config()
    config.KernelApp.kernel_class = Kernel
    config.KernelApp.outstream_class = "atoll_kernel.DirectOutStream"
    config.IPKernelApp.parent_handle = 1  # someone manages us: print no instructions
    config.Kernel._execute_sleep = 0.0
    config.HistoryManager.enabled = False
    config.Completer.use_jedi = False
    config.IPCompleter.use_jedi = False
    return config


def kernel_run(connection_file):
    """Become a kernel. Does not return before the kernel ends."""
    sys.argv = ["ipykernel_launcher", "-f", connection_file]
    sys.modules.pop("__mp_main__", None)
    app = KernelApp.instance(config=kernel_config())
    app.initialize(["-f", connection_file])
    # traitlets formats every debug message before it drops it
    getattr(app.log, "logger", app.log).setLevel(logging.WARNING)
    transform_once(app.shell)
    display = app.shell.display_formatter
    display.__class__ = QuickDisplayFormatter
    display.formatters["e2b/data"] = DataFormatter(parent=display)
    if "e2b/data" not in display.active_types:
        display.active_types = display.active_types + ["e2b/data"]
    app.start()


def fork_kernel(channel, request):
    """Fork. In the parent: the child's pid. In the child: 0, set up as a process of its own."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    os.close(channel.detach())  # close() would leave it open for the file that reads from it
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.chdir(request["cwd"])
    # What goes to these descriptors is output of cells from here on, and nothing for the service's log.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    return 0


def warm_up():
    """Import what most cells use and do once what is slow only the first time."""
    for name in WARM_MODULES:
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # a template without this library
    if "pandas" in sys.modules:
        sys.modules["pandas"].DataFrame({"a": [1.5]})._repr_html_()
    try:
        1 / 0
    except ZeroDivisionError:
        AutoFormattedTB(mode="Context", color_scheme="Linux").text(*sys.exc_info())
    # Each traceback passes through this file, and the first one would have it parsed.
    stack_data.Source.for_filename(IPython.core.interactiveshell.__file__)
    if "matplotlib.figure" in sys.modules:  # finds the fonts, and makes their cache when there is none
        figure = sys.modules["matplotlib.figure"].Figure()
        figure.subplots().plot([0, 1])
        figure.savefig(io.BytesIO(), format="png")


def serve(channel):
    """Answer fork requests. Returns the request in each child, and None when the parent goes away."""
    lines = channel.makefile("rb")
    for line in lines:
        request = json.loads(line)
        pid = fork_kernel(channel, request)
        if pid == 0:
            return request
        channel.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    return None


def main():
    channel = socket.socket(fileno=3)
    channel.set_inheritable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the system, watched by the service
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    speed_up()
    warm_up()
    gc.collect()
    gc.freeze()  # the collector has no reason to touch, and so copy, what all kernels share
    channel.sendall(b'{"ready": true}\n')
    request = serve(channel)
    if request is None:
        return
    log = os.fdopen(fcntl.fcntl(LOG_DESCRIPTOR, fcntl.F_DUPFD_CLOEXEC, 10), "w", buffering=1)
    try:
        kernel_run(request["connection_file"])
    except BaseException:
        traceback.print_exc(file=log)
        os._exit(1)


LOG_DESCRIPTOR = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 10)

if __name__ == "__main__":
    sys.modules["atoll_kernel"] = sys.modules["__main__"]  # __main__ becomes the user's module
    main()
