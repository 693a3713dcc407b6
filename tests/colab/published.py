"""What GitHub would answer: lets the setup cell's own command install a release that is not out.

pip is told of a proxy. For the two names of GitHub that serve an archive, the proxy answers itself,
over TLS with a certificate made for the occasion; every other address it passes through unread
(pip needs the registry to build a package from its sources, on Colab too).
"""

import os
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pip._vendor import certifi

HOSTS = ("github.com", "codeload.github.com")


@contextmanager
def published(archive: Path, address: str, tag: str, folder: Path) -> Iterator[dict[str, str]]:
    """Serve one archive as a GitHub repository would under a tag, as long as the block runs.

    Args:
        archive: the zip file of the release.
        address: https://github.com/OWNER/NAME.
        tag: the only tag that there is; all other paths are a 404.
        folder: for the certificate, not to be shared.

    Yields:
        Environment variables with which pip finds it.
    """
    context, bundle = _certificate(folder)
    name = address.removeprefix("https://github.com/")
    paths = {f"/{name}/archive/refs/tags/{tag}.zip", f"/{name}/zip/refs/tags/{tag}"}
    listener = socket.create_server(("127.0.0.1", 0))
    content = archive.read_bytes()
    label = f"{name.partition('/')[2]}-{tag.removeprefix('v')}.zip"

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed: the block has ended
                return
            threading.Thread(
                target=_answer, args=(client, context, paths, content, label), daemon=True
            ).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield {
            "PIP_PROXY": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "PIP_CERT": str(bundle),
            "PIP_DISABLE_PIP_VERSION_CHECK": "0",
        }
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS for `HOSTS`, and the certificates to trust: all usual ones and it."""
    key, certificate, bundle = (folder / name for name in ("key.pem", "cert.pem", "bundle.pem"))
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=emulated github", "-addext",
         f"subjectAltName={names}", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    bundle.write_text(_usual().read_text("utf-8") + certificate.read_text("utf-8"), "utf-8")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, bundle


def _usual() -> Path:
    """The certificates that pip trusts here; many a Python names no file of the system's."""
    told = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    return Path(told or certifi.where())


def _answer(
    client: socket.socket, context: ssl.SSLContext, paths: set[str], content: bytes, label: str
) -> None:
    with client:
        head = _head(client)
        if not head.startswith("CONNECT "):
            return
        host, _, port = head.split()[1].partition(":")
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if host not in HOSTS:
            _pass_through(client, host, int(port))
            return
        with context.wrap_socket(client, server_side=True) as secure:
            while head := _head(secure):
                secure.sendall(_page(host, head.split()[1], paths, content, label))


def _page(host: str, path: str, paths: set[str], content: bytes, label: str) -> bytes:
    """GitHub sends from the address of the archive to another host, which has the bytes."""
    if path not in paths:
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    if host == HOSTS[0]:
        name, _, tag = path.removesuffix(".zip").partition("/archive/refs/tags/")
        place = f"https://{HOSTS[1]}{name}/zip/refs/tags/{tag}"
        return f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\n"
        f"Content-Disposition: attachment; filename={label}\r\nContent-Length: {len(content)}\r\n"
    )
    return head.encode() + b"\r\n" + content


def _head(connection: socket.socket) -> str:
    """The lines before the body of a request; none if the other side has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(4096)
        if not more or len(data) > 65536:
            return ""
        data += more
    return data.decode("latin-1")


def _pass_through(client: socket.socket, host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=60) as server:
        pairs = {client: server, server: client}
        while True:
            ready, _, _ = select.select(list(pairs), [], [], 120)
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                pairs[source].sendall(data)
            if not ready:
                return
