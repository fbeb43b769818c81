"""The address of an API server. sans-I/O, and without lightkube."""

from urllib.parse import urlsplit

from flanneld_py.errors import UsageError


def parse_api_url(text: str) -> str:
    """`text`, if it may be the address of an API server, and may stand in logs. UsageError: what is wrong with it."""
    if "@" in text:
        raise UsageError("holds a user or a password", hint="put them into a --kubeconfig-file")
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{text[:60]!a} is no address", hint="such as https://10.0.0.1:6443")
    return text
