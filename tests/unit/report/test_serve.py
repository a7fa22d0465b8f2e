"""The live page's server, spoken to byte by byte."""

import json
import socket
import threading

import pytest

from adamesh.errors import ConfigurationError
from adamesh.report.history import History
from adamesh.report.serve import PageServer
from tests.unit.report.folders import MARKUP, append, make_run, step_line

SECRET = "for nobody else"


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / MARKUP, settings=f'data = "{SECRET}"')


@pytest.fixture
def server(folder):
    history = History(folder)
    with PageServer(history) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    history.close()


def ask(server, target="/", method="GET", **headers):
    """One request, its headers' underscores as dashes; returns status, headers and body."""
    given = {"Host": f"127.0.0.1:{server.server_port}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items() if v is not None), "", ""]
    return say(server, "\r\n".join(lines).encode("latin-1"))


def say(server, request):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    return int(status.split()[1]), dict(field.split(": ", 1) for field in fields), body.decode()


def token(server):
    return server.link.partition("token=")[2]


def cookie(server):
    return ask(server, f"/?token={token(server)}")[1]["Set-Cookie"].partition(";")[0]


def test_the_link_leads_to_the_page_and_the_token_leaves_the_address(server):
    status, headers, body = ask(server, f"/?token={token(server)}")
    assert (status, headers["Location"]) == (303, "/")
    assert headers["Set-Cookie"].endswith("; HttpOnly; SameSite=Strict; Path=/")
    assert token(server) not in headers["Set-Cookie"] + body
    status, headers, body = ask(server, Cookie=headers["Set-Cookie"].partition(";")[0])
    assert status == 200
    assert SECRET in body
    assert MARKUP not in body


def test_every_answer_forbids_what_the_page_does_not_need(server):
    for answer in (ask(server), ask(server, Cookie=cookie(server)), ask(server, method="POST")):
        headers = answer[1]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers


# What is changed of a request that would be answered.
REFUSED = {
    "no cookie": {"Cookie": None},
    "an empty cookie": {"Cookie": "adamesh_{port}="},
    "another server's cookie": {"Cookie": "adamesh_1={value}"},
    "a wrong cookie": {"Cookie": "adamesh_{port}=x{value}"},
    "a cookie that is none": {"Cookie": "adamesh_{port}=\xe9\xff; [=;=\x01"},
    "a foreign host": {"Host": "example.org"},
    "a foreign host at this port": {"Host": "example.org:{port}"},
    "a host that begins alike": {"Host": "127.0.0.1:{port}.example.org"},
    "a host that ends alike": {"Host": "example.localhost:{port}"},
    "a host that is loopback too": {"Host": "127.0.0.2:{port}"},
    "no port": {"Host": "127.0.0.1"},
    "no host": {"Host": None},
    "two hosts": {"Host": "127.0.0.1:{port}\r\nHost: example.org"},
    "a foreign origin": {"Origin": "http://example.org"},
    "this host as a foreign origin's name": {"Origin": "http://127.0.0.1:{port}.example.org"},
    "another port's origin": {"Origin": "http://127.0.0.1:1"},
    "another scheme's origin": {"Origin": "https://127.0.0.1:{port}"},
    "an origin that hides itself": {"Origin": "null"},
    "another site, the browser says": {"Sec_Fetch_Site": "cross-site"},
    "another port, the browser says": {"Sec_Fetch_Site": "same-site"},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("target", ["/", "/data", "/?token={token}"])
def test_who_is_not_the_page_gets_nothing(server, changes, target):
    if "Cookie" in changes and "token" in target:
        target = "/?token=x{token}"
    mine = cookie(server)
    known = {"port": server.server_port, "token": token(server), "value": mine.partition("=")[2]}
    filled = {name: value and value.format(**known) for name, value in changes.items()}
    status, headers, body = ask(server, target.format(**known), **({"Cookie": mine} | filled))
    assert (status, body) == (403, "403 Forbidden\n")
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_page_itself_is_answered_by_both_names_of_loopback(server, host):
    place = f"{host}:{server.server_port}"
    headers = {"Host": place, "Origin": f"http://{place}", "Sec_Fetch_Site": "same-origin", "Cookie": cookie(server)}
    assert ask(server, "/data", **headers)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "CONNECT"])
def test_nothing_but_reading_is_understood(server, method):
    assert ask(server, method=method, Cookie=cookie(server))[0] == 501


@pytest.mark.parametrize("target", ["/config.toml", "/../config.toml", "/%2e%2e/etc/passwd", "/data/", "/data/x"])
def test_there_are_no_other_files(server, target):
    status, _, body = ask(server, target, Cookie=cookie(server))
    assert (status, body) == (404, "404 Not Found\n")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x00",
        b"GET /" + b"a" * 70000,
    ],
    ids=["nothing", "half", "another version", "TLS", "too long"],
)
def test_what_is_no_request_is_refused_and_the_next_one_answered(server, request_bytes):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert SECRET.encode() not in answer
    assert ask(server, Cookie=cookie(server))[0] == 200


def test_a_page_is_told_what_it_lacks_and_no_more(server, folder):
    mine = cookie(server)
    whole = json.loads(ask(server, "/data", Cookie=mine)[2])["runs"][0]["steps"]
    append(folder, "metrics.jsonl", step_line(41))
    known = f"/data?known={whole['generation']}:40,{whole['generation']}:4"
    news = json.loads(ask(server, known, Cookie=mine)[2])["runs"][0]
    assert news["steps"]["columns"]["step"]["mean"] == [40, 41]
    assert news["evaluations"]["start"] == 3
    anew = json.loads(ask(server, "/data?known=nonsense", Cookie=mine)[2])["runs"][0]
    assert len(anew["steps"]["columns"]["step"]["mean"]) == 41


def test_it_listens_on_loopback_only_and_says_so_when_a_port_is_taken(server, folder):
    assert server.server_address[0] == "127.0.0.1"
    assert server.link.startswith(f"http://127.0.0.1:{server.server_port}/?token=")
    assert len(token(server)) >= 43
    with pytest.raises(ConfigurationError, match=rf"--port {server.server_port}: cannot be had"):
        PageServer(History(folder), server.server_port)
