"""A small client of the REST API and of the agent, that knows nothing of retries: a crash test wants to see each answer."""

import base64
import contextlib
import http.client
import json
import os
import struct
import subprocess
import urllib.parse

ATOLL = os.environ.get("ATOLL", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "atoll"))
PATIENCE = 120  # seconds
AGENT_PORT = "49983"


class Broken(Exception):
    """No answer: the other side went away."""


def on_service_host(script, timeout=60):
    """Run a shell script where the service runs. Its output."""
    return subprocess.run([ATOLL, "lab", "exec", "--", "sh", "-c", script], stdout=subprocess.PIPE, timeout=timeout,
                          check=False).stdout.decode()


def node_sandboxes():
    """What the node says of those that there are, by their ids."""
    answer = on_service_host("curl -s --unix-socket /run/atoll/node.sock http://node/v1/sandboxes")
    if not answer.startswith("["):
        raise Broken("the node lists no sandboxes: %r" % answer[:200])
    return {item["sandbox_id"]: item for item in json.loads(answer)}


def start_on_service_host(script):
    return subprocess.Popen([ATOLL, "lab", "exec", "--", "bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def request(base, method, path, body=None, headers=None, timeout=PATIENCE):
    """(status, body bytes)."""
    url = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Broken("%s %s: %s: %s" % (method, path, type(error).__name__, error)) from error
    finally:
        connection.close()


def api(method, path, body=None, timeout=PATIENCE):
    """(status, JSON or None) of a request to the control plane."""
    headers = {"X-API-Key": os.environ["E2B_API_KEY"]}
    if body is not None:
        headers["Content-Type"] = "application/json"
    status, data = request(os.environ["E2B_API_URL"], method, path, None if body is None else json.dumps(body), headers, timeout)
    return status, json.loads(data) if data else None


def agent(sandbox, method, path, body=None, kind=None, timeout=PATIENCE):
    headers = {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": AGENT_PORT, "Authorization": "Basic dXNlcjo="}
    if kind:
        headers["Content-Type"] = kind
        headers["Connect-Protocol-Version"] = "1"
    return request(os.environ["E2B_SANDBOX_URL"], method, path, body, headers, timeout)


class Stream:
    """A process that begins, and what it tells."""

    def __init__(self, sandbox, command, tag):
        self.sandbox = sandbox
        message = json.dumps({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", command]}, "tag": tag}).encode()
        url = urllib.parse.urlsplit(os.environ["E2B_SANDBOX_URL"])
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
        with self.breaking():
            self.connection.request("POST", "/process.Process/Start", struct.pack(">BI", 0, len(message)) + message, {
                "E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": AGENT_PORT, "Authorization": "Basic dXNlcjo=",
                "Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"})
            self.answer = self.connection.getresponse()

    @contextlib.contextmanager
    def breaking(self):
        try:
            yield
        except (OSError, http.client.HTTPException, struct.error, KeyError, ValueError) as error:
            self.connection.close()
            raise Broken("a process of %s: %s: %s" % (self.sandbox, type(error).__name__, error)) from error

    def event(self):
        """The next one."""
        with self.breaking():
            size = struct.unpack(">BI", self.answer.read(5))[1]
            return json.loads(self.answer.read(size))["event"]


def start_process(sandbox, command, tag):
    """Start a process that outlives this call: the stream is left as soon as it tells the process id."""
    stream = Stream(sandbox, command, tag)
    pid = stream.event()["start"]["pid"]
    stream.connection.close()
    return pid


def run_process(sandbox, command):
    """What a process wrote to its standard output until its end."""
    stream = Stream(sandbox, command, "run")
    output = b""
    while True:
        event = stream.event()
        output += base64.b64decode(event.get("data", {}).get("stdout", ""))
        if "end" in event:
            stream.connection.close()
            return output.decode()


def has_process(sandbox, tag):
    status, data = agent(sandbox, "POST", "/process.Process/List", "{}", "application/json")
    if status != 200:
        raise Broken("list the processes of %s: status %d" % (sandbox, status))
    return any(process.get("tag") == tag for process in json.loads(data).get("processes", []))


def try_to_write_file(sandbox, path, text, timeout=PATIENCE):
    """(status, body bytes)."""
    boundary = "atollcrashtest"
    body = ('--%s\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n%s\r\n--%s--\r\n' % (boundary, text, boundary))
    return agent(sandbox, "POST", "/files?username=user&path=" + urllib.parse.quote(path), body.encode(),
                 "multipart/form-data; boundary=" + boundary, timeout)


def write_file(sandbox, path, text):
    status, data = try_to_write_file(sandbox, path, text)
    if status != 200:
        raise Broken("write %s of %s: status %d: %s" % (path, sandbox, status, data[:200]))


def read_file(sandbox, path):
    status, data = agent(sandbox, "GET", "/files?username=user&path=" + urllib.parse.quote(path))
    if status != 200:
        raise Broken("read %s of %s: status %d: %s" % (path, sandbox, status, data[:200]))
    return data.decode()
