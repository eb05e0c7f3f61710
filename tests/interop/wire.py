"""What the tests' connections speak: HTTP alone, or TLS on every leg, with an authority of the run's own.

Each run is one of both (`SLIME_INTEROP_WIRE`), and the tests do not know which, except where what is seen differs. Clients are told of the
authority by the variables that their makers read, which must stand in the environment before these are imported.
"""

import atexit
import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

IS_TLS = os.environ.get("SLIME_INTEROP_WIRE") == "tls"
SCHEME = "https" if IS_TLS else "http"
# An upload or a download may take as long; the same as in the harness, which needs this module.
PATIENCE = 15

KEYS = {
    "rsa": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "rsa-pkcs1": ["genrsa", "-traditional", "2048"],
    "ec-sec1": ["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
    "ec-pkcs8": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "ed25519": ["genpkey", "-algorithm", "ED25519"],
}


def openssl(*arguments):
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Authority:
    """An authority of OpenSSL's making, which signs for this machine."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "ca.pem"
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / "ca.key")
        request = ["-new", "-x509", "-key", folder / "ca.key", "-subj", "/CN=authority", "-days", "3"]
        openssl("req", *request, "-out", self.file)

    def sign(self, kind="ec-sec1", names="IP:127.0.0.1,IP:::1,DNS:localhost", days=2):
        """The files of a certificate and of its key."""
        certificate, key, request = (self.folder / f"{kind}.{end}" for end in ["pem", "key", "csr"])
        (self.folder / "extensions").write_text(f"subjectAltName={names}\n")
        command, *options = KEYS[kind]
        openssl(command, "-out", key, *options)
        openssl("req", "-new", "-key", key, "-subj", "/CN=leaf", "-out", request)
        signer = ["-CA", self.file, "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-days", days]
        extensions = ["-extfile", self.folder / "extensions"]
        openssl("x509", "-req", "-in", request, *signer, *extensions, "-out", certificate)
        return certificate, key

    def context(self):
        return ssl.create_default_context(cafile=str(self.file))


def prepare():
    """Makes the authority of the run, and tells the clients of it."""
    folder = Path(tempfile.mkdtemp(prefix="slime-interop-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Servers that drop their privileges read their files, too.
    folder.chmod(0o755)
    authority = Authority(folder)
    certificate, key = authority.sign()
    # HAProxy wants both in one file.
    (folder / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    key.chmod(0o644)
    for variable in ["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"]:
        os.environ[variable] = str(authority.file)
    # The servers of the `upstreams` folder.
    os.environ.update(SLIME_INTEROP_CERT=str(certificate), SLIME_INTEROP_KEY=str(key))
    return authority, certificate, key


AUTHORITY, CERTIFICATE, KEY = prepare() if IS_TLS else (None, None, None)


def flags(certificate, key):
    """How a program is told its certificate, if it has one."""
    return [certificate, CERTIFICATE, key, KEY] if IS_TLS else []


def url(authority):
    return f"{SCHEME}://{authority}"


def trust(hub, upstreams):
    """What an agent needs to trust them."""
    found = ["--hub-ca", AUTHORITY.file] if IS_TLS and hub.startswith("https:") else []
    return found + (["--upstream-ca", AUTHORITY.file] if IS_TLS and "https:" in upstreams else [])


def secured(connection, host="localhost"):
    """A connection as whoever made it uses it."""
    return AUTHORITY.context().wrap_socket(connection, server_hostname=host) if IS_TLS else connection


def connect(host, port):
    """A connection to a server; raw bytes can be sent and received."""
    return secured(socket.create_connection((host, port), PATIENCE), host)


def accepted(connection):
    """A connection as whoever accepted it uses it."""
    return server_context().wrap_socket(connection, server_side=True) if IS_TLS else connection


def say_end(connection):
    """What must come before the end of a connection, if the end is to be that of a body."""
    if IS_TLS:
        with contextlib.suppress(OSError):
            connection.unwrap()


def server_context():
    """For Python's servers. None without TLS."""
    if not IS_TLS:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    return context


def http_connection(authority, **options):
    """A client of Python's http.client."""
    options = {"timeout": PATIENCE, **options}
    if IS_TLS:
        return http.client.HTTPSConnection(authority, context=AUTHORITY.context(), **options)
    return http.client.HTTPConnection(authority, **options)
