"""The cases of Autobahn's groups 1 to 7, re-driven: frames written byte by byte to an echo server of wsproto.

    websocket.py serve PORT            the echo server
    websocket.py drive DIRECT PROXY... each case at each PORT; what comes back must be what the case asks for, and the
                                       same at every port

Autobahn's own suite is Python 2 only. Its cases are told by their numbers; group 6 (UTF-8) is the table of Markus Kuhn's
decoder stress test that it uses. Beyond them, group S: what matters to something between the two ends.
"""

import hashlib
import os
import socket
import struct
import sys
import threading
import time

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

PATIENCE = 30
TEXT, BINARY, CLOSE, PING, PONG, MORE = 1, 2, 8, 9, 10, 0


# The server.

def serve(port):
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    print("listening", flush=True)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=echo, args=(stream,), daemon=True).start()


def echo(stream):
    stream.settimeout(PATIENCE)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = WSConnection(ConnectionType.SERVER)
    try:
        while converse(stream, connection):
            pass
        # Closed with care: a reset could destroy what the client has not read yet.
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(65536):
            pass
    except OSError:
        pass
    stream.close()


def converse(stream, connection):
    """One read and the answers to it; whether it goes on."""
    data = stream.recv(65536)
    try:
        connection.receive_data(data or None)
        for event in connection.events():
            if isinstance(event, Request):
                stream.sendall(connection.send(AcceptConnection()))
            elif isinstance(event, Ping):
                stream.sendall(connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                if data:
                    stream.sendall(connection.send(event.response()))
                return False
            elif isinstance(event, (TextMessage, BytesMessage)):
                kept.parts.append(event.data)
                if event.message_finished:
                    whole = kept.parts[0][:0].join(kept.parts)
                    kept.parts.clear()
                    stream.sendall(connection.send(type(event)(data=whole)))
    except RemoteProtocolError as error:
        try:
            stream.sendall(connection.send(error.event_hint or CloseConnection(code=1002)))
        except LocalProtocolError:
            pass
        return False
    return bool(data)


class Kept(threading.local):
    def __init__(self):
        self.parts = []


kept = Kept()


# The client.

def frame(opcode, payload=b"", fin=True, rsv=0):
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        head += struct.pack("!BH", 0x80 | 126, len(payload))
    else:
        head += struct.pack("!BQ", 0x80 | 127, len(payload))
    mask = b"\x5a\x01\xc3\x7e"
    stretched = mask * (len(payload) // 4 + 1)
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stretched[:len(payload)], "big")
    return head + mask + masked.to_bytes(len(payload), "big")


def bye(code=1000, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


def parse(data):
    """Frames of a server: (opcode, fin and rsv, length, digest of the payload)."""
    frames = []
    while data:
        if len(data) < 2:
            return frames + ["cut"]
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = struct.unpack("!H", data[2:4])[0], 4
        elif size == 127:
            size, at = struct.unpack("!Q", data[2:10])[0], 10
        payload = data[at:at + size]
        if len(payload) < size:
            return frames + ["cut"]
        frames.append(seen(data[0] & 15, payload, data[0] >> 4))
        data = data[at + size:]
    return frames


def seen(opcode, payload, first=8):
    shown = payload.hex() if len(payload) <= 125 else hashlib.sha256(payload).hexdigest()
    return (opcode, first, len(payload), shown)


def drive(port, pieces, half_close):
    """Sends the pieces, each with a write of its own; returns all that came back."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.sendall(
        b"GET /chat HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    got = b""
    while b"\r\n\r\n" not in got:
        data = stream.recv(65536)
        assert data, f"no handshake: {got!r}"
        got += data
    head, _, got = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, head
    chunks = [got]

    def receive():
        try:
            while data := stream.recv(65536):
                chunks.append(data)
            chunks.append(None)
        except ConnectionError:
            chunks.append(None)
        except OSError:
            pass

    reader = threading.Thread(target=receive, daemon=True)
    reader.start()
    try:
        for piece in pieces:
            if piece is None:
                time.sleep(0.01)
            else:
                stream.sendall(piece)
        if half_close:
            stream.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    reader.join(PATIENCE)
    stream.close()
    closed = chunks[-1] is None
    return parse(b"".join(chunk for chunk in chunks if chunk)) + (["closed"] if closed else ["open"])


# The cases: name -> (pieces, what comes back; None where the server must fail the connection).

CASES = {}


def case(name, frames, back, chop=0, half_close=False):
    """`chop`: 0 all at once, 1 by frame, more: by so many bytes less one."""
    if back is not None:
        frames = frames if half_close or any(f and f[0] & 15 == CLOSE for f in frames) else frames + [bye()]
    pieces = frames
    if chop == 0 and None not in frames:
        pieces = [b"".join(frames)]
    elif chop > 1:
        whole = b"".join(f for f in frames if f)
        pieces = [whole[i:i + chop - 1] for i in range(0, len(whole), chop - 1)]
    assert name not in CASES, name
    CASES[name] = (pieces, back, half_close)


def messages():
    for group, opcode, letter in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for number, size in enumerate((0, 125, 126, 127, 128, 65535, 65536, 65536), 1):
            body = letter * size
            case(f"1.{group}.{number}", [frame(opcode, body)], [seen(opcode, body)], 998 if number == 8 else 0)


def pings():
    for number, body in ((1, b""), (2, b"Hello, world!"), (3, b"\0\xff\xfe\xfd\xfc\xfb\0\xff"), (4, b"\xfe" * 125)):
        case(f"2.{number}", [frame(PING, body)], [seen(PONG, body)])
    case("2.5", [frame(PING, b"\xfe" * 126)], None)
    case("2.6", [frame(PING, b"\xfe" * 125)], [seen(PONG, b"\xfe" * 125)], 2)
    case("2.7", [frame(PONG)], [])
    case("2.8", [frame(PONG, b"unsolicited")], [])
    case("2.9", [frame(PONG, b"unsolicited"), frame(PING, b"ping")], [seen(PONG, b"ping")])
    bodies = [f"payload-{i}".encode() for i in range(10)]
    case("2.10", [frame(PING, body) for body in bodies], [seen(PONG, body) for body in bodies])
    case("2.11", [frame(PING, body) for body in bodies], [seen(PONG, body) for body in bodies], 2)


def reserved():
    hello, ping = frame(TEXT, b"Hello"), frame(PING)
    case("3.1", [frame(TEXT, b"Hello", rsv=1)], None)
    case("3.2", [hello, frame(TEXT, b"Hello", rsv=2), ping], None)
    case("3.3", [hello, frame(TEXT, b"Hello", rsv=3), ping], None, 1)
    case("3.4", [hello, frame(TEXT, b"Hello", rsv=4), ping], None, 2)
    case("3.5", [frame(BINARY, b"\0\xff" * 4, rsv=5)], None)
    case("3.6", [frame(PING, b"Hello", rsv=6)], None)
    case("3.7", [frame(CLOSE, b"\x03\xe8", rsv=7)], None)
    for group, first in ((1, 3), (2, 11)):
        case(f"4.{group}.1", [frame(first)], None)
        case(f"4.{group}.2", [frame(first + 1, b"reserved")], None)
        case(f"4.{group}.3", [hello, frame(first + 2), ping], None)
        case(f"4.{group}.4", [hello, frame(first + 3, b"reserved"), ping], None, 1)
        case(f"4.{group}.5", [hello, frame(first + 4, b"reserved"), ping], None, 2)


def fragments():
    first, last = frame(TEXT, b"fragment1", fin=False), frame(MORE, b"fragment2")
    both, pong = seen(TEXT, b"fragment1fragment2"), seen(PONG, b"pongme")
    ping = frame(PING, b"pongme")
    case("5.1", [frame(PING, b"fragment1", fin=False), last], None)
    case("5.2", [frame(PONG, b"fragment1", fin=False), last], None)
    for number, chop in ((3, 0), (4, 1), (5, 2)):
        case(f"5.{number}", [first, last], [both], chop)
    for number, chop in ((6, 0), (7, 1), (8, 2)):
        case(f"5.{number}", [first, ping, last], [pong, both], chop)
    for start, fin in ((9, True), (12, False)):
        for number, chop in ((start, 0), (start + 1, 1), (start + 2, 2)):
            case(f"5.{number}", [frame(MORE, b"no message", fin=fin), frame(TEXT, b"Hello")], None, chop)
    case("5.15", [first, last, frame(MORE, b"fragment3", fin=False), frame(TEXT, b"fragment4")], None)
    for number, fin in ((16, False), (17, True)):
        case(f"5.{number}", [frame(MORE, b"a", fin=fin), frame(TEXT, b"b", fin=False), frame(MORE, b"c")] * 2, None)
    case("5.18", [first, frame(TEXT, b"fragment2")], None)
    for number, chop in ((19, 1), (20, 2)):
        parts = [frame(TEXT, b"fragment1", fin=False), frame(MORE, b"fragment2", fin=False), ping]
        parts += [None] if chop == 1 else []
        parts += [frame(MORE, b"fragment3", fin=False), frame(MORE, b"fragment4", fin=False), ping]
        parts += [frame(MORE, b"fragment5")]
        whole = b"".join(b"fragment%d" % i for i in range(1, 6))
        case(f"5.{number}", parts, [pong, pong, seen(TEXT, whole)], chop)


UTF8 = {  # Valid and invalid sequences of each group of the decoder stress test.
    5: "cebae1bdb9cf83cebcceb5 68656c6c6f24c2a2e282acf0a4ada2 cebae1bdb9cf83cebcceb5f0908080 20 7f",
    6: "-ce ceba -cebae1 -cebae1bd cebae1bdb9 -cebae1bdb9cf cebae1bdb9cf83 -cebae1bdb9cf83ce cebae1bdb9cf83cebc "
       "-cebae1bdb9cf83cebcce cebae1bdb9cf83cebcceb5",
    7: "00 c280 e0a080 f0908080",
    8: "-f888808080 -fc8480808080",
    9: "7f dfbf efbfbf f48fbfbf",
    10: "-f7bfbfbf -fbbfbfbfbf -fdbfbfbfbfbf",
    11: "ed9fbf ee8080 efbfbd f48fbfbf -f4908080",
    12: "-80 -bf -80bf -80bf80 -80bf80bf -80bf80bf80 -80bf80bf80bf -"
        + "".join(f"{b:02x}" for b in range(0x80, 0xC0)),
    13: " ".join("-" + "".join(f"{b:02x}20" for b in bytes_) for bytes_ in (
        range(0xC0, 0xE0), range(0xE0, 0xF0), range(0xF0, 0xF8), range(0xF8, 0xFC), range(0xFC, 0xFE))),
    14: "-c0 -e080 -f08080 -f8808080 -fc80808080 -df -efbf -f7bfbf -fbbfbfbf -fdbfbfbfbf",
    15: "-c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf",
    16: "-fe -ff -fefeffff",
    17: "-c0af -e080af -f08080af -f8808080af -fc80808080af",
    18: "-c1bf -e09fbf -f08fbfbf -f887bfbfbf -fc83bfbfbfbf",
    19: "-c080 -e08080 -f0808080 -f880808080 -fc8080808080",
    20: "-eda080 -edadbf -edaebf -edafbf -edb080 -edbe80 -edbfbf",
    21: "-eda080edb080 -eda080edbfbf -edadbfedb080 -edadbfedbfbf -edae80edb080 -edae80edbfbf -edafbfedb080 "
        "-edafbfedbfbf",
    22: "efbfbe efbfbf " + " ".join(
        chr(plane << 16 | 0xFFFE | low).encode().hex() for plane in range(1, 17) for low in (0, 1)),
    23: "efbfbd efbfbe efbfbf efbfb9 efbfba efbfbb efbfbc",
}


def unicode():
    case("6.1.1", [frame(TEXT)], [seen(TEXT, b"")])
    empty = [frame(TEXT, fin=False), frame(MORE, fin=False), frame(MORE)]
    case("6.1.2", empty, [seen(TEXT, b"")])
    case("6.1.3", [empty[0], frame(MORE, b"middle", fin=False), empty[2]], [seen(TEXT, b"middle")])
    valid = "Hello-µ@ßöäüàá-UTF-8!!".encode()
    case("6.2.1", [frame(TEXT, valid)], [seen(TEXT, valid)])
    case("6.2.2", [frame(TEXT, valid[:9], fin=False), frame(MORE, valid[9:])], [seen(TEXT, valid)])
    one_by_one = [frame(TEXT, valid[:1], fin=False)] + [frame(MORE, valid[i:i + 1], fin=False) for i in range(1, len(valid))]
    case("6.2.3", one_by_one + [frame(MORE)], [seen(TEXT, valid)])
    greek = "κόσμε".encode()
    case("6.2.4", [frame(TEXT, greek[:1], fin=False)] + [frame(MORE, greek[i:i + 1], fin=False)
                                                       for i in range(1, len(greek))] + [frame(MORE)], [seen(TEXT, greek)])
    broken = greek + b"\xed\xa0\x80edited"
    case("6.3.1", [frame(TEXT, broken)], None)
    case("6.3.2", [frame(TEXT, broken[:1], fin=False)] + [frame(MORE, broken[i:i + 1], fin=False)
                                                        for i in range(1, len(broken))] + [frame(MORE)], None)
    parts = (greek, b"\xf4\x90\x80\x80", b"edited")
    cut = (greek + b"\xf4", b"\x90", b"\x80\x80edited")
    for number, texts in ((1, parts), (2, cut)):
        case(f"6.4.{number}", [frame(TEXT, texts[0], fin=False), None, frame(MORE, texts[1], fin=False), None,
                               frame(MORE, texts[2])], None, 1)
        whole = frame(TEXT, b"".join(texts))
        at = len(whole) - len(texts[1]) - len(texts[2])
        case(f"6.4.{number + 2}", [whole[:at], None, whole[at:at + len(texts[1])], None, whole[at + len(texts[1]):]],
             None, 1)
    for group, table in UTF8.items():
        for number, text in enumerate(table.split(), 1):
            body = bytes.fromhex(text.lstrip("-"))
            try:
                body.decode()
                back = [seen(TEXT, body)]
            except UnicodeDecodeError:
                back = None
            case(f"6.{group}.{number}", [frame(TEXT, body)], back)


def closing():
    hello, echoed = frame(TEXT, b"Hello World!"), seen(TEXT, b"Hello World!")
    case("7.1.1", [hello, bye()], [echoed])
    case("7.1.2", [bye(), bye()], [])
    case("7.1.3", [bye(), frame(PING)], [])
    case("7.1.4", [bye(), hello], [])
    case("7.1.5", [frame(TEXT, b"fragment1", fin=False), bye(), frame(MORE, b"fragment2")], [])
    large = b"BAsd7&jh23" * 26214
    case("7.1.6", [frame(TEXT, large), hello, bye(), frame(PING)], [seen(TEXT, large), echoed])
    case("7.3.1", [frame(CLOSE)], [])
    case("7.3.2", [frame(CLOSE, b"a")], None)
    case("7.3.3", [bye()], [])
    case("7.3.4", [bye(1000, b"Hello World!")], [])
    case("7.3.5", [bye(1000, b"*" * 123)], [])
    case("7.3.6", [bye(1000, b"*" * 124)], None)
    case("7.5.1", [bye(1000, "κόσμε".encode() + b"\xed\xa0\x80edited")], None)
    good = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    for number, code in enumerate(good, 1):
        case(f"7.7.{number}", [bye(code)], [])
    for number, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        case(f"7.9.{number}", [bye(code)], None)
    # Autobahn leaves these two open: only that all ports agree is asked.
    for number, code in enumerate((5000, 65535), 1):
        case(f"7.13.{number}", [bye(code)], "any")


def between():
    large = os.urandom(1 << 20) * 8
    case("S.1", [frame(BINARY, large)], [seen(BINARY, large)])
    case("S.2", [frame(TEXT, b"half")], [seen(TEXT, b"half")], half_close=True)
    case("S.3", [frame(TEXT, b"half")[:3]], [], half_close=True)


def codes(frame):
    """A close without its reason: wsproto tells the position of a fault within what it happened to have read."""
    return (CLOSE, frame[3][:4]) if frame[0] == CLOSE else frame


def judge(name, got, back):
    """What is wrong with what came back, if anything."""
    if got[-1] != "closed":
        return "the connection stays open"
    if back == "any":
        return None
    frames = [f for f in got[:-1] if f != "cut"]
    closes = [f for f in frames if f[0] == CLOSE]
    if back is None:
        codes = [int(f[3][:4], 16) for f in closes if f[2] >= 2]
        return None if not closes or codes and codes[0] in (1002, 1007) else f"not failed: {closes}"
    if [f for f in frames if f[0] != CLOSE] != back or "cut" in got:
        return f"came back: {frames}, expected: {back}"
    half_closed = CASES[name][2]
    return None if closes or half_closed else "no close came back"


def main():
    if sys.argv[1] == "serve":
        return serve(int(sys.argv[2]))
    for group in (messages, pings, reserved, fragments, unicode, closing, between):
        group()
    ports, failed = [int(port) for port in sys.argv[2:]], 0
    for name, (pieces, back, half_close) in CASES.items():
        answers = [drive(port, pieces, half_close) for port in ports]
        faults = [judge(name, answer, back) for answer in answers]
        told = [answer if isinstance(back, list) else [codes(frame) for frame in answer] for answer in answers]
        if any(faults) or any(other != told[0] for other in told):
            failed += 1
            print(f"{name}: {faults} {[repr(answer)[:400] for answer in answers]}")
    print(f"websocket: {len(CASES) - failed} of {len(CASES)} cases passed at {len(ports)} ports")
    sys.exit(failed > 0)


main()
