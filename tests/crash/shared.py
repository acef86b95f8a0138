"""A volume that sandboxes have mounted, and its files as they are outside."""

import json
import os
import urllib.parse

from client import Broken, api, request

MOUNT = "/mnt/shared"


class Volume:
    def __init__(self):
        self.name = "crash-%d" % os.getpid()
        status, made = api("POST", "/volumes", {"name": self.name})
        if status != 201:
            raise Broken("a volume: status %d: %s" % (status, made))
        self.id = made["volumeID"]
        self.token = made["token"]

    def mounts(self):
        return [{"name": self.name, "path": MOUNT}]

    def read(self, path):
        """The content of a file; None: there is none."""
        status, data = request(os.environ["E2B_API_URL"], "GET", "/volumecontent/%s/file?path=%s" % (self.id, urllib.parse.quote(path)),
                               headers={"Authorization": "Bearer " + self.token})
        if status not in (200, 404):
            raise Broken("read %s of the volume: status %d: %s" % (path, status, data[:200]))
        return data.decode() if status == 200 else None

    def hidden(self):
        """The files that have lost their names."""
        status, data = request(os.environ["E2B_API_URL"], "GET", "/volumecontent/%s/dir?path=/" % self.id,
                               headers={"Authorization": "Bearer " + self.token})
        if status != 200:
            raise Broken("list the volume: status %d: %s" % (status, data[:200]))
        return [entry["name"] for entry in json.loads(data) if entry["name"].startswith(".")]

    def remove(self):
        status, answer = api("DELETE", "/volumes/" + self.id)
        if status != 204:
            raise Broken("remove the volume: status %d: %s" % (status, answer))
