"""A Hub on 127.0.0.1 for tests: the HTTP contract that the real `huggingface_hub` client needs, held in memory.

    with LocalHub() as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("zoo/net")
        hub.faults.append(Fault("corrupt", path="model.weights.h5", times=1))

It proves the client's side and ours, not the public Hub: no Xet, no rate limits, no malware scan.
"""

import base64
import contextlib
import hashlib
import json
import re
import secrets
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE_FILES = (".h5", ".npz", ".safetensors")
HTML = b"<!DOCTYPE html><html><body>Too many users have viewed this file.</body></html>"


@dataclass
class Fault:
    """What goes wrong: a status to answer, or what happens to a file's body.

    'corrupt' flips a byte, 'html' sends a page instead, 'truncate' half of it with an honest length; 'drop' closes
    the connection after half of it, 'reset' resets the connection there.
    """

    action: int | str
    method: str = "GET"
    path: str = ""
    times: int = 1_000_000

    def applies(self, method: str, path: str) -> bool:
        if self.times <= 0 or method != self.method or self.path not in path:
            return False
        self.times -= 1
        return True


@dataclass
class Repo:
    """Commits (each a whole tree of bytes), branches and tags; `parents` gives the history."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = secrets.token_hex(20)
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str:
        found = self.branches.get(revision) or self.tags.get(revision)
        if found is None and revision not in self.commits:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found or revision


class RefusalError(Exception):
    """An answer that is an error; `code` is the Hub's X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message, **{k.replace("_", "-"): v for k, v in headers.items()}}
        if code:
            self.headers["X-Error-Code"] = code


class LocalHub:
    """Server, repositories, faults and the list of requests, as (method, path, authorization)."""

    def __init__(self, user: str = "zoo", redirect: bool = False):
        self.user, self.token, self.redirect = user, "hf_local", redirect
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None]] = []
        self.connections: list[socket.socket] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # Another origin than `url`: the client must not send its token there.
        self.storage_url = f"http://localhost:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:  # clients keep theirs open
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a commit; change what it returns to tamper with the repository."""
        repo = self.repos[repo_id]
        return repo.commits[repo.resolve(revision)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag(path: str, data: bytes) -> str:
    return sha256(data) if path.endswith(LARGE_FILES) else git_blob(data)


def _description(path, data):
    entry = {"type": "file", "path": path, "size": len(data), "oid": git_blob(data)}
    if path.endswith(LARGE_FILES):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def setup(self):
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *_):
        pass

    def handle_request(self):
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.payload = self._read()
        self.fault = None
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
            for fault in self.hub.faults:
                if fault.applies(self.command, url.path):
                    self.fault = fault.action
                    break
        try:
            if isinstance(self.fault, int):
                raise RefusalError(self.fault, "injected fault")
            for method, pattern, answer in _ROUTES:
                match = re.fullmatch(pattern, url.path)
                if match and self.command in method:
                    with self.hub.lock:
                        reply = answer(self, *(unquote(group) for group in match.groups()))
                    self.answer(*reply)
                    return
            raise RefusalError(404, f"no route for {self.command} {url.path}")
        except RefusalError as refusal:
            self.answer(refusal.status, {"error": refusal.message}, refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def _read(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        for _ in range(1_000_000):
            size = int(self.rfile.readline().split(b";")[0], 16)
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
            if size == 0:
                break
        return b"".join(chunks)

    def answer(self, status, body=b"", headers=None):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault in ("drop", "reset"):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            if self.fault == "reset":
                # Linger of zero seconds: the client sees a reset, not an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            return
        self.wfile.write(body)

    def caller(self):
        header = self.headers.get("Authorization")
        if header is None:
            return None
        if header != f"Bearer {self.hub.token}":
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.hub.user

    def repo(self, repo_id, write=False):
        caller, repo = self.caller(), self.hub.repos.get(repo_id)
        if write and caller is None:
            raise RefusalError(401, "Invalid username or password.")
        if write and caller != repo_id.split("/")[0]:
            raise RefusalError(403, "You don't have the rights to write to this repository")
        if repo is None or (repo.private and caller != repo_id.split("/")[0]):
            # The public Hub tells anonymous callers 401, so that nobody learns which private names exist.
            raise RefusalError(401 if caller is None else 404, "Repository not found", "RepoNotFound")
        return repo

    # Every answer below is (status, body, headers).

    def whoami(self):
        if self.caller() is None:
            raise RefusalError(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return 200, {"type": "user", "name": self.hub.user, "fullname": self.hub.user, "orgs": [], "auth": auth}

    def create(self):
        wanted = json.loads(self.payload)
        repo_id = f"{wanted.get('organization') or self.hub.user}/{wanted['name']}"
        if self.caller() is None:
            raise RefusalError(401, "Invalid username or password.")
        if repo_id.split("/")[0] != self.hub.user:
            raise RefusalError(403, "You don't have the rights to create a repository under this namespace")
        url = {"url": f"{self.hub.url}/{repo_id}"}
        if repo_id in self.hub.repos:
            return 409, {"error": "You already created this model repo", **url}
        repo = self.hub.repos[repo_id] = Repo(private=wanted.get("visibility") == "private")
        repo.commit("main", {".gitattributes": b"*.h5 filter=lfs diff=lfs merge=lfs -text\n"})
        return 200, url

    def validate_yaml(self):
        content = json.loads(self.payload)["content"]
        try:
            card = yaml.safe_load(content.split("---")[1]) if content.startswith("---\n") else None
        except yaml.YAMLError as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}
        return 200, {"errors": [], "warnings": [] if card else [{"message": "empty or missing yaml metadata"}]}

    def preupload(self, repo_id, revision):
        repo = self.repo(repo_id, write=True)
        present = repo.commits[repo.resolve(revision)]
        answers = []
        for file in json.loads(self.payload)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(LARGE_FILES) else "regular"
            oid = etag(path, present[path]) if path in present else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": answers}

    def lfs_batch(self, repo_id):
        self.repo(repo_id, write=True)
        answers = []
        for wanted in json.loads(self.payload)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.stored:
                place = f"{self.hub.storage_url}/storage/{wanted['oid']}"
                answer["actions"] = {
                    "upload": {"href": place + "?signature=1"},
                    "verify": {"href": place + "/verify"},
                }
            answers.append(answer)
        return 200, {"transfer": "basic", "objects": answers}, {"Content-Type": "application/vnd.git-lfs+json"}

    def storage_put(self, oid):
        if self.query.get("signature") != ["1"] or sha256(self.payload) != oid:
            raise RefusalError(403, "bad signature or content")
        self.hub.stored[oid] = self.payload
        return 200, b""

    def storage_verify(self, oid):
        return (200 if len(self.hub.stored.get(oid, b"")) == json.loads(self.payload)["size"] else 404), {}

    def storage_get(self, oid):
        return self._body(self.hub.stored[oid], {"ETag": f'"{oid}"'})

    def commit(self, repo_id, revision):
        repo = self.repo(repo_id, write=True)
        parent = repo.resolve(revision)
        files = dict(repo.commits[parent])
        for line in self.payload.splitlines():
            operation = json.loads(line)
            kind, value = operation["key"], operation["value"]
            if kind == "header" and value.get("parentCommit") not in (None, parent):
                raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif kind == "deletedFile":
                files.pop(value["path"], None)
        oid = repo.commit(revision, files)
        url = f"{self.hub.url}/{repo_id}/commit/{oid}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    def info(self, repo_id, revision="main"):
        repo = self.repo(repo_id)
        sha = repo.resolve(revision)
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        about = {"id": repo_id, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}
        card = repo.commits[sha].get("README.md", b"").decode()
        if card.startswith("---\n"):
            about["cardData"] = yaml.safe_load(card.split("---")[1])
        return 200, about

    def tree(self, repo_id, revision):
        repo = self.repo(repo_id)
        return 200, [_description(*item) for item in sorted(repo.commits[repo.resolve(revision)].items())]

    def paths_info(self, repo_id, revision):
        repo = self.repo(repo_id)
        wanted = parse_qs(self.payload.decode())["paths"]
        files = repo.commits[repo.resolve(revision)]
        return 200, [_description(path, files[path]) for path in wanted if path in files]

    def refs(self, repo_id):
        repo = self.repo(repo_id)

        def listed(refs, kind):
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in refs.items()]

        return 200, {"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags"), "converts": []}

    def tag(self, repo_id, revision):
        repo = self.repo(repo_id, write=True)
        name = json.loads(self.payload)["tag"]
        if name in repo.tags:
            raise RefusalError(409, "Tag already exists")
        repo.tags[name] = repo.resolve(revision)
        return 200, {}

    def resolve(self, repo_id, revision, path):
        repo = self.repo(repo_id)
        sha = repo.resolve(revision)
        if path not in repo.commits[sha]:
            raise RefusalError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=sha)
        data = repo.commits[sha][path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag(path, data)}"'}
        if path.endswith(LARGE_FILES):
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{sha256(data)}"'}
            if self.hub.redirect:
                self.hub.stored[sha256(data)] = data
                return 302, b"", {**headers, "Location": f"{self.hub.storage_url}/storage/{sha256(data)}"}
        return self._body(data, headers)

    def _body(self, data, headers):
        status = 200
        if start := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            total, data = len(data), data[int(start[1]) :]
            status, headers = 206, {**headers, "Content-Range": f"bytes {start[1]}-{total - 1}/{total}"}
        if self.fault == "corrupt":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        elif self.fault == "html":
            data = HTML
        elif self.fault == "truncate":
            data = data[: len(data) // 2]
        return status, data, {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}


_MODEL = r"/api/models/([^/]+/[^/]+)"
_ROUTES = [
    (("GET",), r"/api/whoami-v2", _Handler.whoami),
    (("POST",), r"/api/repos/create", _Handler.create),
    (("POST",), r"/api/validate-yaml", _Handler.validate_yaml),
    (("POST",), _MODEL + r"/preupload/([^/]+)", _Handler.preupload),
    (("POST",), _MODEL + r"/commit/([^/]+)", _Handler.commit),
    (("POST",), _MODEL + r"/paths-info/([^/]+)", _Handler.paths_info),
    (("POST",), _MODEL + r"/tag/([^/]+)", _Handler.tag),
    (("GET",), _MODEL + r"/tree/([^/]+)", _Handler.tree),
    (("GET",), _MODEL + r"/refs", _Handler.refs),
    (("GET",), _MODEL + r"/revision/([^/]+)", _Handler.info),
    (("GET",), _MODEL, _Handler.info),
    (("POST",), r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), r"/storage/([0-9a-f]{64})", _Handler.storage_put),
    (("POST",), r"/storage/([0-9a-f]{64})/verify", _Handler.storage_verify),
    (("GET", "HEAD"), r"/storage/([0-9a-f]{64})", _Handler.storage_get),
    (("GET", "HEAD"), r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.resolve),
]
