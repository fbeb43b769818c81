"""Why an endpoint does not serve us, found by a look of our own at it.

gRPC's texts ("failed to connect to all addresses; last error: ...; Socket closed") do not tell TLS on a plaintext port
from a server that is no etcd. One TCP connection, one TLS handshake and one `GET /version` do; every etcd answers that.
"""

import asyncio
import errno
import json
import os
import socket
import ssl

from flanneld_py.etcd.endpoints import Endpoint
from flanneld_py.etcd.tls import TlsFiles
from flanneld_py.etcd.verdict import Trouble

_LOOK_S = 2.0
_ANSWER_BYTES = 4096
_PLAINTEXT = Trouble("answers without TLS", "write http:// for this endpoint, or give etcd a certificate")
_TLS = Trouble("speaks TLS", "write https:// for this endpoint")


async def diagnose(endpoint: Endpoint, tls: TlsFiles) -> Trouble | None:
    """What is wrong with the endpoint; None if it looks well. Takes 2 s at most, and raises nothing."""
    try:
        async with asyncio.timeout(_LOOK_S):
            return await _look(endpoint, tls)
    except TimeoutError:
        return Trouble("does not answer: no reply within 2 s", "is it up, and does a firewall drop the port?")
    except socket.gaierror as error:
        return Trouble(f"does not answer: {endpoint.host} cannot be resolved ({error.strerror})", "check the name")
    except OSError as error:
        return Trouble(f"does not answer: {_words(error)}", "is etcd running, and is the port right?")


async def _look(endpoint: Endpoint, tls: TlsFiles) -> Trouble | None:
    try:
        answer = await _ask_version(endpoint, tls.context() if endpoint.tls else None)
    except ssl.SSLCertVerificationError as error:
        return Trouble(f"has a certificate that we do not trust: {error.verify_message}", _trust_hint(tls))
    except (ConnectionResetError, ssl.SSLEOFError):
        answer = b""
    except ssl.SSLError as error:
        return _tls_trouble(error, tls)
    if answer:
        return _judge_answer(answer, endpoint)
    # etcd hangs up on who speaks TLS when it does not, and the other way round.
    if endpoint.tls:
        return _PLAINTEXT if await _answers(endpoint, None) else Trouble("ends the TLS handshake", _trust_hint(tls))
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    return _TLS if await _answers(endpoint, stranger) else Trouble("is not etcd: it hangs up", "check host and port")


async def _answers(endpoint: Endpoint, context: ssl.SSLContext | None) -> bool:
    """Whether it understands us: plain HTTP, or TLS with `context`. A request for a certificate of ours counts too."""
    try:
        return (await _ask_version(endpoint, context)).startswith(b"HTTP/")
    except ssl.SSLEOFError:
        return False
    except ssl.SSLError:
        return True
    except ConnectionResetError:
        return False


async def _ask_version(endpoint: Endpoint, context: ssl.SSLContext | None) -> bytes:
    host = endpoint.host if context else None
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, server_hostname=host)
    try:
        request = f"GET /version HTTP/1.1\r\nHost: {endpoint.authority}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("idna" if not request.isascii() else "ascii"))
        answer = b""
        while len(answer) < _ANSWER_BYTES and (chunk := await reader.read(_ANSWER_BYTES)):
            answer += chunk
        return answer
    finally:
        writer.transport.abort()


def _words(error: OSError) -> str:
    """asyncio wraps the reason in a sentence of its own, in which the errno is the part that says something."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def _trust_hint(tls: TlsFiles) -> str:
    if tls.ca is None:
        return "give the CA that signed it: --etcd-cafile"
    return f"is {tls.ca} (--etcd-cafile) the CA that signed it, and the endpoint a name in the certificate?"


def _tls_trouble(error: ssl.SSLError, tls: TlsFiles) -> Trouble:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "wrong version number" in reason or "record layer failure" in reason or "http request" in reason:
        return _PLAINTEXT
    if "certificate" in reason and "alert" in reason:
        if tls.cert is None:
            return Trouble(f"asks for a client certificate ({reason})", "give --etcd-certfile and --etcd-keyfile")
        return Trouble(f"refuses our client certificate {tls.cert} ({reason})", "is it of etcd's CA, and not expired?")
    return Trouble(f"fails the TLS handshake: {reason}")


def _judge_answer(answer: bytes, endpoint: Endpoint) -> Trouble | None:
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/"):
        if not endpoint.tls and answer[:1] in (b"\x15", b"\x16"):  # TLS alert, TLS handshake: RFC 8446 section 5.1
            return _TLS
        return Trouble("is not etcd: it does not answer to GET /version", "check host and port")
    if b"HTTP request to an HTTPS server" in body:  # Go's net/http, in which etcd is written
        return _TLS
    try:
        version = json.loads(body)["etcdserver"]
        major = int(version.split(".")[0])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Trouble("is not etcd: GET /version gives no etcd version", "check host and port")
    if major < 3:
        return Trouble(f"is etcd {version}, which has no v3 API", "flanneld needs etcd 3.3 or later")
    return None
