"""HTTP heads and chunked bodies: whatever two parsers could read differently is rejected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelhaul_fetcher.guard.errors import Malformed
from reelhaul_fetcher.guard.http.chunks import ChunkScanner
from reelhaul_fetcher.guard.http.fields import CHUNKED, UNTIL_CLOSE
from reelhaul_fetcher.guard.http.requests import Request, parse_request_head
from reelhaul_fetcher.guard.http.responses import parse_response

LINE = b"GET http://a.test/ HTTP/1.1\r\n"
AMBIGUOUS_REQUESTS = {
    "both lengths": LINE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": LINE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "one length twice": LINE + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "a list of lengths": LINE + b"Content-Length: 5, 5\r\n\r\n",
    "signed length": LINE + b"Content-Length: +5\r\n\r\n",
    "negative length": LINE + b"Content-Length: -5\r\n\r\n",
    "hexadecimal length": LINE + b"Content-Length: 0x5\r\n\r\n",
    "spaced length": LINE + b"Content-Length: 5 5\r\n\r\n",
    "empty length": LINE + b"Content-Length:\r\n\r\n",
    "endless length": LINE + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "unknown coding": LINE + b"Transfer-Encoding: xchunked\r\n\r\n",
    "stacked codings": LINE + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "coding twice": LINE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    "coding in 1.0": b"GET http://a.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "coding behind a tab": LINE + b"Transfer-Encoding:\x0bchunked\r\n\r\n",
    "space before the colon": LINE + b"Content-Length : 5\r\n\r\n",
    "folded field": LINE + b"X-A: b\r\n Content-Length: 5\r\n\r\n",
    "folded first field": LINE + b" Content-Length: 5\r\n\r\n",
    "bare line feed": LINE + b"X-A: b\nContent-Length: 5\r\n\r\n",
    "bare carriage return": LINE + b"X-A: b\rContent-Length: 5\r\n\r\n",
    "nested line ends": LINE + b"X-A: b\r\r\n\nC: d\r\n\r\n",
    "zero byte": LINE + b"X-A: b\0c\r\n\r\n",
    "escape in a value": LINE + b"X-A: \x1b[2J\r\n\r\n",
    "no colon": LINE + b"Content-Length\r\n\r\n",
    "no name": LINE + b": 5\r\n\r\n",
    "name with a slash": LINE + b"Content/Length: 5\r\n\r\n",
    "two hosts": LINE + b"Host: a.test\r\nHost: b.test\r\n\r\n",
    "too many fields": LINE + b"X-A: b\r\n" * 129 + b"\r\n",
    "origin form": b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "authority with GET": b"GET a.test:80 HTTP/1.1\r\n\r\n",
    "absolute with CONNECT": b"CONNECT http://a.test/ HTTP/1.1\r\n\r\n",
    "CONNECT without a port": b"CONNECT a.test HTTP/1.1\r\n\r\n",
    "CONNECT with a path": b"CONNECT a.test:443/x HTTP/1.1\r\n\r\n",
    "user in the target": b"GET http://a.test@b.test/ HTTP/1.1\r\n\r\n",
    "user in CONNECT": b"CONNECT a.test@b.test:443 HTTP/1.1\r\n\r\n",
    "backslash in the host": b"GET http://a.test\\@b.test/ HTTP/1.1\r\n\r\n",
    "fragment": b"GET http://a.test/#@b.test/ HTTP/1.1\r\n\r\n",
    "fragment in the host": b"GET http://a.test#b.test/ HTTP/1.1\r\n\r\n",
    "escaped host": b"GET http://a%2etest/ HTTP/1.1\r\n\r\n",
    "empty host": b"GET http:///etc HTTP/1.1\r\n\r\n",
    "zone": b"GET http://[fe80::1%25lo]/ HTTP/1.1\r\n\r\n",
    "port zero": b"GET http://a.test:0/ HTTP/1.1\r\n\r\n",
    "port beyond": b"GET http://a.test:65536/ HTTP/1.1\r\n\r\n",
    "port that wraps": b"CONNECT a.test:4294967739 HTTP/1.1\r\n\r\n",
    "no port behind the colon": b"GET http://a.test:/ HTTP/1.1\r\n\r\n",
    "another scheme": b"GET ftp://a.test/ HTTP/1.1\r\n\r\n",
    "https without a tunnel": b"GET https://a.test/ HTTP/1.1\r\n\r\n",
    "websocket scheme": b"GET ws://a.test/ HTTP/1.1\r\n\r\n",
    "file": b"GET file:///etc/passwd HTTP/1.1\r\n\r\n",
    "space in the target": b"GET http://a.test/ b HTTP/1.1\r\n\r\n",
    "tab for a space": b"GET\thttp://a.test/\tHTTP/1.1\r\n\r\n",
    "non-ASCII target": "GET http://a.test/é HTTP/1.1\r\n\r\n".encode(),
    "lower-case method": b"get http://a.test/ HTTP/1.1\r\n\r\n",
    "HTTP/0.9": b"GET http://a.test/\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "HTTP/1.2": b"GET http://a.test/ HTTP/1.2\r\n\r\n",
    "empty first line": b"\r\nGET http://a.test/ HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\r\n",
}


def parse_request(head: bytes) -> Request:
    """Parse the whole of *head*. Raises ``Malformed``."""
    return parse_request_head(head).to_request()


@pytest.mark.parametrize("head", AMBIGUOUS_REQUESTS.values(), ids=AMBIGUOUS_REQUESTS)
def test_ambiguous_request(head):
    """A request that a site could parse differently from the guard is malformed."""
    with pytest.raises(Malformed):
        parse_request(head)


def test_plain_request():
    """The target decides where a request goes; Host, credentials and hop-by-hop fields are not forwarded."""
    request = parse_request(
        b"POST http://A.test:8080?q=1 HTTP/1.1\r\nHost: b.test\r\nProxy-Authorization: Basic eDpzOnQ=\r\n"
        b"Connection: X-Hop, close\r\nX-Hop: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\n"
        b"Content-Length: 3\r\nCookie: a=b; c=\xe9\r\n\r\n"
    )
    assert (request.host, request.port, request.path, request.body_length) == ("a.test", 8080, "/?q=1", 3)
    assert not request.keep_alive
    assert request.encode() == (
        b"POST /?q=1 HTTP/1.1\r\nHost: a.test:8080\r\nCookie: a=b; c=\xe9\r\n"
        b"Connection: keep-alive\r\nContent-Length: 3\r\n\r\n"
    )


def test_credentials():
    """The session's name and secret are read before the target is."""
    head = parse_request_head(LINE + b"Proxy-Authorization: Basic eDpzOnQ=\r\n\r\n")
    assert head.credentials() == ("x", "s:t")


def test_framing_fields_in_connection():
    """Host and Content-Length are forwarded even if Connection lists them."""
    request = parse_request(
        LINE + b"Host: a.test\r\nConnection: host, content-length\r\nContent-Length: 3\r\n\r\n"
    )
    assert b"Host: a.test\r\n" in request.encode()
    assert b"Content-Length: 3\r\n" in request.encode()


@pytest.mark.parametrize("value", ["", "Basic", "Basic !!!", "Basic w6k6eA==", "Bearer eDpz", "basic"])
def test_invalid_credentials(value):
    """Credentials that cannot be decoded count as none."""
    request = parse_request_head(LINE + f"Proxy-Authorization: {value}\r\n\r\n".encode())
    assert request.credentials() == ("", "")


def test_sloppy_response():
    """Old servers' line ends, folds and spaces are tolerated; clients get one plain form."""
    response = parse_response(b"HTTP/1.0 200 Fine\nContent-Length : 2\nX-A: b\n  c\nX-Reelhaul-Guard: me\n\n")
    assert response.encode(response.body_length("GET"), keep_alive=True) == (
        b"HTTP/1.1 200 Fine\r\nX-A: b c\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n"
    )
    assert not response.keep_alive


@pytest.mark.parametrize(
    ("fields", "method", "length"),
    [
        (b"Content-Length: 7\r\n", "GET", 7),
        (b"Content-Length: 7, 7\r\n", "GET", 7),
        (b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", "GET", CHUNKED),
        (b"Transfer-Encoding: Chunked\r\n", "GET", CHUNKED),
        (b"", "GET", UNTIL_CLOSE),
        (b"Content-Length: 7\r\n", "HEAD", 0),
    ],
)
def test_response_length(fields, method, length):
    """The length of a response's body follows RFC 9112, section 6.3."""
    assert parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n").body_length(method) == length


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 7\r\nContent-Length: 8\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Content-Length: x\r\n",
    ],
)
def test_ambiguous_response_length(fields):
    """A response whose end is ambiguous is malformed."""
    with pytest.raises(Malformed):
        parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n").body_length("GET")


@pytest.mark.parametrize("head", [b"HTTP/2 200\r\n\r\n", b"ICY 200 OK\r\n\r\n", b"220 ftp\r\n\r\n", b"\r\n"])
def test_not_http(head):
    """A response of another protocol is malformed."""
    with pytest.raises(Malformed):
        parse_response(head)


CHUNKS = st.lists(st.binary(min_size=1, max_size=70), max_size=5)
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(CHUNKS, CUTS, st.binary(max_size=9))
def test_end_of_chunked_body(chunks, cuts, rest):
    """The end of a chunked body is found to the byte, however the network splits it."""
    body = b"".join(b"%x;x=y\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX-T: 1\r\n\r\n"
    stream, scanner, position = body + rest, ChunkScanner(), 0
    while not scanner.done:
        cut = min(position + cuts[position % len(cuts)], len(stream))
        position = scanner.feed(stream, position, cut)
    assert position == len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5 \x0b\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\nX0\r\n\r\n",
        b"\r\n",
        b"1" * 16 + b"\r\n",
        b"5;" + b"x" * 5000,
        b"0\r\nfolded\r\n more\r\n\r\n",
        b"0\r\nX: y\n\r\n",
    ],
)
def test_malformed_chunks(body):
    """Chunks that parsers read differently are malformed."""
    with pytest.raises(Malformed):
        ChunkScanner().feed(body, 0, len(body))
