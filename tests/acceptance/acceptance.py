"""The main job through the official Python SDK, unmodified. Reads E2B_* from the environment."""

import base64
import os
import sys
import threading
import time

from e2b import (
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    InvalidArgumentException,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    TimeoutException,
)
from e2b import Sandbox as PlainSandbox
from e2b_code_interpreter import Sandbox

# The service may run under software emulation, so nothing here is in a hurry.
SLOW = int(os.environ.get("ACCEPTANCE_TIMEOUT_MS", "300000")) / 1000
REQUEST = {"request_timeout": SLOW}
UNKNOWN = "i" + "0" * 19

counts = {"passed": 0, "failed": 0}


def check(name):
    """Run the decorated function at once as a check; it becomes the function's result, None when it failed."""

    def run(body):
        start = time.monotonic()
        try:
            result = body()
        except Exception as error:
            counts["failed"] += 1
            text = "\n        ".join(f"{type(error).__name__}: {error}".splitlines()[:12])
            print(f"FAILED  py  {name} ({(time.monotonic() - start) * 1000:.0f} ms)\n        {text}", flush=True)
            return None
        counts["passed"] += 1
        print(f"ok      py  {name} ({(time.monotonic() - start) * 1000:.0f} ms)", flush=True)
        return result

    return run


def equal(actual, wanted):
    if actual != wanted:
        raise AssertionError(f"{actual!r}, want {wanted!r}")


def raises(kind, body):
    try:
        result = body()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"raised {type(error).__name__} ({error}), want {kind.__name__}")
    raise AssertionError(f"no {kind.__name__}, but {result!r}")


def until(what, body, timeout=SLOW):
    end = time.monotonic() + timeout
    while not body():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.2)


def run(sandbox, command, **more):
    return sandbox.commands.run(command, **{"timeout": SLOW, **REQUEST, **more})


def code(sandbox, text, **more):
    return sandbox.run_code(text, **{"timeout": SLOW, **REQUEST, **more})


def commands(sandbox):
    @check("commands.run: stdout, stderr and exit code")
    def _():
        result = run(sandbox, "echo out; echo err >&2")
        equal((result.stdout, result.stderr, result.exit_code), ("out\n", "err\n", 0))

    @check("commands.run: a failing command raises CommandExitException")
    def _():
        error = raises(CommandExitException, lambda: run(sandbox, "echo why >&2; exit 3"))
        equal((error.exit_code, error.stderr), (3, "why\n"))

    @check("commands.run: output is streamed while the command runs")
    def _():
        seen = []

        def on_stdout(data):
            seen.append(("out", data))
            sandbox.files.write("/tmp/seen-py", "", **REQUEST)

        # It goes on when its first line has arrived.
        run(
            sandbox,
            "echo 1; until [ -e /tmp/seen-py ]; do sleep 0.1; done; echo 2 >&2",
            on_stdout=on_stdout,
            on_stderr=lambda data: seen.append(("err", data)),
        )
        equal(seen, [("out", "1\n"), ("err", "2\n")])

    @check("commands.run: environment, working directory, user")
    def _():
        result = run(sandbox, 'echo "$ACCEPTANCE:$OF_SANDBOX"', envs={"ACCEPTANCE": "a b$c"})
        equal(result.stdout, "a b$c:yes\n")
        equal(run(sandbox, "pwd", cwd="/usr/lib").stdout, "/usr/lib\n")
        equal(run(sandbox, "whoami; pwd").stdout, "user\n/home/user\n")
        equal(run(sandbox, "whoami", user="root").stdout, "root\n")

    @check("commands.run: background, list, stdin, wait")
    def _():
        handle = run(sandbox, 'read line; echo "got $line"', background=True, stdin=True)
        assert any(process.pid == handle.pid for process in sandbox.commands.list(**REQUEST))
        sandbox.commands.send_stdin(handle.pid, "hello\n", **REQUEST)
        equal(handle.wait().stdout, "got hello\n")

    @check("commands.run: background and kill")
    def _():
        handle = run(sandbox, "sleep 1000", background=True)
        equal(handle.kill(), True)
        raises(CommandExitException, handle.wait)
        raises(CommandExitException, lambda: run(sandbox, f"kill -0 {handle.pid}"))
        equal(sandbox.commands.kill(4_000_000, **REQUEST), False)

    @check("commands.run: its timeout raises TimeoutException")
    def _():
        raises(TimeoutException, lambda: run(sandbox, "sleep 1000", timeout=2))


def files(sandbox):
    directory = f"/home/user/acceptance-py-{time.time_ns()}"

    @check("files.make_dir, exists")
    def _():
        equal(sandbox.files.make_dir(directory, **REQUEST), True)
        equal(sandbox.files.make_dir(directory, **REQUEST), False)
        equal(sandbox.files.exists(directory, **REQUEST), True)
        equal(sandbox.files.exists(directory + "/none", **REQUEST), False)

    @check("files.write and read: text")
    def _():
        info = sandbox.files.write(f"{directory}/deep/er/text.txt", "grüße 🌊\n", **REQUEST)
        equal((info.name, info.path), ("text.txt", f"{directory}/deep/er/text.txt"))
        equal(sandbox.files.read(f"{directory}/deep/er/text.txt", **REQUEST), "grüße 🌊\n")

    @check("files.write and read: bytes")
    def _():
        data = bytes((i * 7919) & 0xFF for i in range(300_000))
        sandbox.files.write(f"{directory}/bytes", data, **REQUEST)
        equal(bytes(sandbox.files.read(f"{directory}/bytes", format="bytes", **REQUEST)) == data, True)

    @check("files.watch_dir: new events")
    def _():
        seen = []
        watcher = sandbox.files.watch_dir(directory, **REQUEST)
        sandbox.files.write(f"{directory}/watched.txt", "text", **REQUEST)

        def told():
            seen.extend((event.type.value, event.name) for event in watcher.get_new_events())
            return ("create", "watched.txt") in seen and ("write", "watched.txt") in seen

        until("the events", told)
        watcher.stop()
        sandbox.files.remove(f"{directory}/watched.txt", **REQUEST)

    @check("files.list, rename, remove")
    def _():
        kinds = {entry.name: entry.type.value for entry in sandbox.files.list(directory, **REQUEST)}
        equal(kinds, {"bytes": "file", "deep": "dir"})
        equal(sandbox.files.rename(f"{directory}/bytes", f"{directory}/new", **REQUEST).path, f"{directory}/new")
        equal(sandbox.files.exists(f"{directory}/bytes", **REQUEST), False)
        sandbox.files.remove(f"{directory}/new", **REQUEST)
        sandbox.files.remove(directory, **REQUEST)
        equal(sandbox.files.exists(directory, **REQUEST), False)


def interpreter(sandbox):
    @check("run_code: text result")
    def _():
        execution = code(sandbox, "1+1")
        equal((execution.text, execution.error), ("2", None))

    @check("run_code: state is kept between calls")
    def _():
        code(sandbox, "x = 41")
        equal(code(sandbox, "x += 1\nx").text, "42")

    @check("run_code: stdout and stderr are streamed")
    def _():
        seen = []

        def on_stdout(message):
            seen.append(("out", message.line))
            sandbox.files.write("/tmp/a-py", "", **REQUEST)

        execution = code(
            sandbox,
            "import os, sys, time\nprint('a', flush=True)\n"
            "while not os.path.exists('/tmp/a-py'): time.sleep(0.1)\nprint('b', file=sys.stderr)",
            on_stdout=on_stdout,
            on_stderr=lambda message: seen.append(("err", message.line)),
        )
        equal(seen, [("out", "a\n"), ("err", "b\n")])
        equal(("".join(execution.logs.stdout), "".join(execution.logs.stderr)), ("a\n", "b\n"))

    @check("run_code: an exception is execution.error")
    def _():
        error = code(sandbox, 'def f():\n    raise ValueError("no good")\nf()').error
        equal((error.name, error.value), ("ValueError", "no good"))
        assert "ValueError" in error.traceback

    @check("run_code: a matplotlib figure is a PNG")
    def _():
        execution = code(sandbox, "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()")
        equal(execution.error, None)
        equal(base64.b64decode(execution.results[0].png)[:8], b"\x89PNG\r\n\x1a\n")

    @check("run_code: environment of the sandbox and of the call")
    def _():
        text = 'import os\nos.environ.get("OF_SANDBOX"), os.environ.get("OF_CALL")'
        equal(code(sandbox, text, envs={"OF_CALL": "now"}).text, "('yes', 'now')")
        equal(code(sandbox, text).text, "('yes', None)")

    @check("run_code: a context of its own")
    def _():
        context = sandbox.create_code_context(cwd="/tmp", **REQUEST)
        equal(code(sandbox, "import os; os.getcwd()", context=context).text, "/tmp")
        sandbox.remove_code_context(context)
        raises(SandboxException, lambda: code(sandbox, "1", context=context))

    @check("run_code: a timeout interrupts the cell")
    def _():
        raises(TimeoutException, lambda: code(sandbox, "import time\ntime.sleep(1000)", timeout=3))
        equal(code(sandbox, "5+5").text, "10")


def bad_input(sandbox):
    @check("bad: wrong API key, no API key")
    def _():
        raises(AuthenticationException, lambda: Sandbox.create(api_key="e2b_" + "0" * 40, **REQUEST))
        key = os.environ.pop("E2B_API_KEY")
        try:
            raises(AuthenticationException, lambda: Sandbox.create(**REQUEST))
        finally:
            os.environ["E2B_API_KEY"] = key

    @check("bad: unknown template")
    def _():
        raises(SandboxException, lambda: Sandbox.create("no-such-template", **REQUEST))

    @check("bad: unknown sandbox")
    def _():
        raises(SandboxNotFoundException, lambda: Sandbox.get_info(UNKNOWN, **REQUEST))
        raises(SandboxNotFoundException, lambda: Sandbox.connect(UNKNOWN, **REQUEST))
        raises(SandboxNotFoundException, lambda: Sandbox.set_timeout(UNKNOWN, 10, **REQUEST))
        equal(Sandbox.kill(UNKNOWN, **REQUEST), False)

    @check("bad: timeout out of range")
    def _():
        raises(SandboxException, lambda: Sandbox.create(timeout=10**9, **REQUEST))

    @check("bad: missing file, and a path that does not fit")
    def _():
        raises(FileNotFoundException, lambda: sandbox.files.read("/no/such/file", **REQUEST))
        raises(FileNotFoundException, lambda: sandbox.files.list("/no/such/directory", **REQUEST))
        raises(InvalidArgumentException, lambda: sandbox.files.read("/etc", **REQUEST))
        raises(InvalidArgumentException, lambda: sandbox.files.list("/etc/passwd", **REQUEST))

    @check("bad: command not found, working directory that is missing")
    def _():
        equal(raises(CommandExitException, lambda: run(sandbox, "no-such-command-here")).exit_code, 127)
        raises(InvalidArgumentException, lambda: run(sandbox, "true", cwd="/no/such/directory"))

    @check("the service still serves")
    def _():
        equal(code(sandbox, '"still " + "here"').text, "still here")


def lifecycle(sandbox):
    @check("get_info")
    def _():
        info = sandbox.get_info(**REQUEST)
        equal((info.sandbox_id, info.state.value), (sandbox.sandbox_id, "running"))
        equal(info.metadata, {"test": "acceptance-py"})
        assert info.end_at > info.started_at

    @check("list, with a metadata filter")
    def _():
        query = SandboxQuery(metadata={"test": "acceptance-py"})
        page = Sandbox.list(query=query, **REQUEST).next_items()
        assert any(item.sandbox_id == sandbox.sandbox_id for item in page), "not listed"

    @check("set_timeout")
    def _():
        sandbox.set_timeout(3600, **REQUEST)
        left = sandbox.get_info(**REQUEST).end_at.timestamp() - time.time()
        assert 3400 < left < 3800, f"{left} s left"

    @check("connect from elsewhere")
    def _():
        other = Sandbox.connect(sandbox.sandbox_id, **REQUEST)
        equal(run(other, "echo there").stdout, "there\n")

    @check("two clients at once")
    def _():
        texts = {}

        def client(number):
            texts[number] = run(sandbox, f"sleep 1; echo {number}").stdout

        threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(texts, {number: f"{number}\n" for number in range(4)})

    @check("kill, and what is said of a killed sandbox")
    def _():
        equal(sandbox.is_running(**REQUEST), True)
        equal(sandbox.kill(**REQUEST), True)
        equal(Sandbox.kill(sandbox.sandbox_id, **REQUEST), False)
        equal(sandbox.is_running(**REQUEST), False)
        raises(SandboxNotFoundException, lambda: Sandbox.get_info(sandbox.sandbox_id, **REQUEST))
        raises(TimeoutException, lambda: run(sandbox, "true"))
        raises(TimeoutException, lambda: sandbox.files.read("/etc/hostname", **REQUEST))
        raises(TimeoutException, lambda: code(sandbox, "1"))

    @check("a sandbox whose timeout passes is gone")
    def _():
        short = PlainSandbox.create("base", timeout=5, **REQUEST)
        until("end of the sandbox", lambda: not short.is_running(**REQUEST))
        raises(SandboxNotFoundException, lambda: PlainSandbox.get_info(short.sandbox_id, **REQUEST))


def main():
    for name in ("E2B_API_KEY", "E2B_API_URL", "E2B_SANDBOX_URL"):
        if not os.environ.get(name):
            sys.exit(f'{name} is not set: eval "$(./atoll env)"')

    @check("Sandbox.create")
    def sandbox():
        return Sandbox.create(
            timeout=3600, metadata={"test": "acceptance-py"}, envs={"OF_SANDBOX": "yes"}, **REQUEST
        )

    if sandbox:
        for part in (commands, files, interpreter, bad_input, lifecycle):
            part(sandbox)
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    sys.exit(1 if counts["failed"] else 0)


main()
