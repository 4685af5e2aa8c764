"""The front of a service: owns its port and key, and passes each request on to the model that serves now.

    front.py FOLDER [HANDED]     FOLDER is services/PORT of a RETUNE_HOME: see runner.py

The model is a process of its own behind a socket that only this user reaches. Another model comes up beside it, is
asked one question, and only then gets the next request; the old one ends when it has answered all of its own. One that
does not come up changes nothing. What to serve is in wanted.json, what became of it in state.json.

Where the sources beside this file have become others, the front goes on as what they say, in the same process: HANDED
is what it then has of itself.
"""

import contextlib
import errno
import fcntl
import hmac
import http.client
import http.server
import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import runner

# Seconds between two looks at what is wanted, and at the processes.
PERIOD = 0.1
# Seconds that an old model has to finish its answers, and that a new one has for its first.
PATIENCE = 600
# Seconds that a front with newer sources waits for a moment without requests; then it has new ones wait.
QUIET = 5
# Seconds until a model that has its process, but cannot be reached, is given up for a request.
REACHABLE = 5
# Where memory runs out the kernel ends the process with the highest score first, and no other has more than this.
FIRST_TO_DIE = 1000
# Bytes of a request; a text that long is beyond any model.
LARGEST_REQUEST = 1 << 24
# Bytes of the log, and as many of the one before.
LARGEST_LOG = 1 << 22
# Headers that belong to one connection, not to a request.
OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "upgrade", "te"}


class Log:
    """What the models print. Where it cannot be written nothing is lost but that, which the log says afterwards."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.Lock()
        self.lost = 0
        self.reason = ""

    def write(self, data: bytes) -> None:
        with self.lock, contextlib.suppress(OSError):
            note = f"\n[{self.lost} bytes of this log are lost: {self.reason}]\n" if self.lost else ""
            try:
                with self.path.open("ab") as file:
                    file.write(note.encode() + data)
                self.lost = 0
            except OSError as error:
                self.lost += len(data)
                self.reason = runner.explain(error)
            if self.path.is_file() and self.path.stat().st_size > LARGEST_LOG:
                self.path.replace(self.path.with_name("log.before"))


class Model:
    """One model and its process."""

    def __init__(self, wanted: dict, process, address: Path, log: Log):
        self.wanted = wanted
        self.process = process
        self.address = address
        self.folder = Path(wanted["folder"])
        self.inflight = 0
        self.lock = threading.Lock()
        self.said = b""
        self.ready = threading.Event()
        self.problem = None
        self.phase = "loading the model"
        self.kills = runner.memory_kills()
        threading.Thread(target=self.listen, args=(log,), daemon=True).start()

    @classmethod
    def start(cls, wanted: dict, key: str, log: Log):
        """A model that comes up."""
        job, folder = wanted["job"], Path(wanted["folder"])
        # Below RETUNE_HOME: a folder of the login's goes with the login. Relative to the working folder, the front's
        # here and the model's there: the path of a socket has at most 107 bytes. One of its own for each process: one
        # that ends, and removes its own, may be of the same attempt.
        address = Path(str(wanted["attempt"]), "work", f"{secrets.token_hex(4)}.sock")
        (folder / "work" / "outcome.json").unlink(missing_ok=True)
        environment = {**os.environ, **job["environment"]}
        # Without its bytecode LLaMA-Factory takes 2.4 x as long to import.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        # From the thread that lives as long as this process: the model dies with it.
        process = subprocess.Popen(
            [job["python"], str(folder / "programs" / job["program"])],
            cwd=folder / "work",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=begin_as_the_first_to_die,
        )
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"key": key, "socket": address.name}).encode() + b"\n")
            process.stdin.close()
        model = cls(wanted, process, address, log)
        threading.Thread(target=model.come_up, args=(key,), daemon=True).start()
        return model

    def listen(self, log: Log) -> None:
        while block := os.read(self.process.stdout.fileno(), 1 << 16):
            self.said = (self.said + block)[-4000:]
            log.write(block)

    def come_up(self, key: str) -> None:
        """Waits until the model listens, and asks it one question."""
        while self.process.poll() is None:
            if self.address.exists() and self.listens():
                break
            time.sleep(PERIOD)
        else:
            return
        self.phase = "asking it a question"
        question = {"model": "", "messages": [{"role": "user", "content": "?"}], "max_tokens": 4, "temperature": 0}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        try:
            connection = self.connect()
            connection.request("POST", "/v1/chat/completions", json.dumps(question).encode(), headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
            if answer.status != 200 or not isinstance(json.loads(text)["choices"][0]["message"]["content"], str):
                raise ValueError(f"it answered {answer.status}: {text[:200]}")
            self.ready.set()
        except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
            self.problem = f"the model was loaded, but did not answer a question: {error}"

    def listens(self) -> bool:
        with contextlib.suppress(OSError):
            self.connect().connect()
            return True
        return False

    def connect(self) -> http.client.HTTPConnection:
        return UnixConnection(self.address)

    def spare(self) -> None:
        """From here on memory that runs out ends it no sooner than anything else."""
        usual = Path("/proc/self/oom_score_adj").read_text()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                stat = (process / "stat").read_text()
                session = int(stat[stat.rindex(")") + 2 :].split()[3])
                if session == self.process.pid:
                    (process / "oom_score_adj").write_text(usual)

    def why_ended(self) -> str:
        """Why its process ended, in words."""
        code = self.process.wait()
        outcome = runner.read_json(self.folder / "work" / "outcome.json") or {}
        said = self.said.decode("utf-8", "replace")
        if "error" in outcome:
            return outcome["error"]
        if code == -signal.SIGKILL:
            if runner.memory_kills() > self.kills:
                return "the machine ran out of memory, and the kernel killed the process (signal 9)"
            return "its process was killed (signal 9); where nobody did it, the machine ran out of memory"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        errors = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*$", said, re.MULTILINE)
        return errors[-1] if errors else f"its process ended with code {code}"

    def end(self, patience: float) -> None:
        """Lets it finish its answers, for so many seconds, and ends it."""
        until = time.monotonic() + patience
        while self.inflight > 0 and self.process.poll() is None and time.monotonic() < until:
            time.sleep(PERIOD)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.address.unlink(missing_ok=True)

    def described(self) -> dict:
        wanted = self.wanted
        return {"key": wanted["job"]["key"], "attempt": wanted["attempt"], "pid": self.process.pid}


def begin_as_the_first_to_die() -> None:
    """Of a model that is loaded beside one that serves: where there is no memory for both, that one goes on."""
    runner.die_with_parent()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_DIE))


class Inherited:
    """A model's process that this one has started when it was the front before. As much of a Popen as is needed."""

    def __init__(self, pid: int, output: int):
        self.pid = pid
        self.stdout = os.fdopen(output, "rb", 0)
        self.code = None
        self.lock = threading.Lock()

    def poll(self):
        with self.lock:
            if self.code is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self.code = os.waitstatus_to_exitcode(status) if ended else None
            return self.code

    def wait(self, seconds: float = float("inf")) -> int:
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("model", seconds)
            time.sleep(PERIOD)
        return code


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, address: Path):
        super().__init__("localhost", timeout=PATIENCE)
        self.address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.address))


class Clients:
    """Those who wait for an answer. When one goes away its request is ended: the model would compute on for nobody."""

    def __init__(self):
        self.lock = threading.Lock()
        self.epoll = select.epoll()
        self.waiting = {}  # a client's file descriptor -> its connection to the model, and whether it has gone
        threading.Thread(target=self.watch, daemon=True).start()

    @contextlib.contextmanager
    def one(self, client: socket.socket, model: socket.socket):
        """Watches a client, who has nothing more to say, and gives an event that is set once it has gone."""
        gone = threading.Event()
        with self.lock:
            self.waiting[client.fileno()] = model, gone
            self.epoll.register(client, select.EPOLLRDHUP | select.EPOLLONESHOT)
        try:
            yield gone
        finally:
            with self.lock:
                self.epoll.unregister(client)
                del self.waiting[client.fileno()]

    def watch(self) -> None:
        while True:
            for descriptor, _ in self.epoll.poll():
                with self.lock:
                    if descriptor not in self.waiting:
                        continue
                    model, gone = self.waiting[descriptor]
                    gone.set()
                    with contextlib.suppress(OSError):
                        model.shutdown(socket.SHUT_RDWR)


class Requests:
    """How many are being answered."""

    def __init__(self):
        self.condition = threading.Condition()
        self.count = 0
        self.are_held = False

    @contextlib.contextmanager
    def one(self):
        """Begins one, where none is held."""
        with self.condition:
            self.condition.wait_for(lambda: not self.are_held)
            self.count += 1
        try:
            yield
        finally:
            with self.condition:
                self.count -= 1
                self.condition.notify_all()

    def hold(self, seconds: float) -> bool:
        """Lets none begin from here on. Whether those that had begun have ended within so many seconds."""
        with self.condition:
            self.are_held = True
            return self.condition.wait_for(lambda: self.count == 0, seconds)


class Front:
    def __init__(self, folder: Path, lock: int):
        self.folder = folder
        self.lock = lock
        self.code = runner.code_of_front(folder)
        self.outdated_since = None
        self.renewing = False
        self.key = (folder / "key").read_text("utf-8").strip()
        self.log = Log(folder / "log")
        self.clients = Clients()
        self.requests = Requests()
        self.server = None
        self.retired = []
        self.active = None
        self.starting = None
        self.failed = None
        self.reason = None
        self.seen = None
        self.written = None
        self.ending = False

    def read_wanted(self):
        """What is wanted now; None where that is what it was at the last look."""
        file = self.folder / "wanted.json"
        with contextlib.suppress(FileNotFoundError):
            stat = file.stat()
            mark = (stat.st_ino, stat.st_mtime_ns)
            if mark != self.seen:
                self.seen = mark
                return runner.read_json(file)
        return None

    def last_served(self):
        """What was wanted of the front before that served, where nobody has asked for this one: after a reboot.

        What came up then, or had failed to, is not tried: whoever wants it asks again.
        """
        state = runner.read_json(self.folder / "state.json") or {}
        attempt = (state.get("active") or {}).get("attempt")
        return runner.read_json(self.folder / str(attempt) / "wanted.json")

    def open(self, wanted: dict) -> bool:
        """Whether the port could be had."""
        port = wanted["port"]
        try:
            # Loopback only: whoever is to reach it from elsewhere comes through a tunnel.
            self.server = Server(("127.0.0.1", port), handler_of(self))
        except OSError as error:
            self.failed = {"attempt": wanted["attempt"], "reason": f"port {port} cannot be had: {error.strerror}"}
            if error.errno == errno.EADDRINUSE:
                self.failed["reason"] = f"port {port} is taken by another program on this machine: set service.port"
        return self.server is not None

    def take_over(self, handed: dict) -> None:
        """Goes on as the front that this process was."""
        self.failed, self.reason = handed["failed"], handed["reason"]
        if handed["active"] is not None:
            attempt, pid, output, address = handed["active"]
            wanted = runner.read_json(self.folder / str(attempt) / "wanted.json")
            self.active = Model(wanted, Inherited(pid, output), Path(address), self.log)
        self.server = Server(None, handler_of(self), bind_and_activate=False)
        self.server.socket.close()
        self.server.socket = socket.socket(fileno=handed["listener"])
        for descriptor in handed["clients"]:
            client = socket.socket(fileno=descriptor)
            self.server.process_request(client, None)

    def renew(self) -> None:
        """Goes on with the sources that are there now. It does not come back, unless the service is being ended.

        No request is lost: those that have begun are answered first; what has not been read yet, at open connections
        and at the port, the next one reads. Nor is the model: it stays a child of this process.
        """
        self.server.shutdown()
        until = time.monotonic() + PATIENCE
        while not self.requests.hold(PERIOD) and time.monotonic() < until:
            if self.ending:
                return
        for thread in self.retired:
            thread.join()
        active = self.active
        if active is not None and active.process.poll() is None:
            output = active.process.stdout.fileno()
            model = [active.wanted["attempt"], active.process.pid, output, str(active.address)]
        else:
            model, output = None, self.lock
        clients = [client.fileno() for client in self.server.clients]
        listener = self.server.socket.fileno()
        for descriptor in (*clients, listener, output, self.lock):
            os.set_inheritable(descriptor, True)
        handed = {"lock": self.lock, "listener": listener, "clients": clients, "active": model}
        handed |= {"failed": self.failed, "reason": self.reason}
        os.execv(sys.executable, [*runner.front_command(self.folder), json.dumps(handed)])

    def run(self, handed) -> None:
        """Until it is ended, or there is nothing that it could serve."""
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: setattr(self, "ending", True))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        wanted = self.read_wanted()
        if handed is not None:
            self.take_over(handed)
        else:
            wanted = self.last_served() or wanted
        if handed is None and not self.open(wanted):
            return self.tell(wanted["owner"])
        threading.Thread(target=self.server.serve_forever, args=(PERIOD,), daemon=True).start()
        while not self.ending:
            if wanted is not None:
                owner = wanted["owner"]
                self.want(wanted)
            if self.outdated_since is not None:
                if self.requests.count == 0 or time.monotonic() - self.outdated_since > QUIET:
                    self.renewing = True
                    self.tell(owner)
                    self.renew()
            elif self.active is None and self.starting is None:
                break  # the next start is that of another front
            self.look()
            self.tell(owner)
            time.sleep(PERIOD)
            wanted = self.read_wanted()
        self.server.shutdown()
        for model in (self.starting, self.active):
            if model is not None:
                model.end(0)
        return None

    def want(self, wanted: dict) -> None:
        if self.starting is not None:
            self.retire(self.starting, 0)
        self.starting = None
        if runner.code_of_front(self.folder) != self.code:
            self.outdated_since = time.monotonic()  # newer sources are to bring the model up
            return
        attempt = wanted["attempt"]
        if self.active is not None and attempt == self.active.wanted["attempt"]:
            self.failed = None  # back to what serves already
            return
        try:
            self.starting = Model.start(wanted, self.key, self.log)
        except OSError as error:
            self.failed = {"attempt": attempt, "reason": runner.explain(error)}

    def retire(self, model: Model, patience: float) -> None:
        thread = threading.Thread(target=model.end, args=(patience,))
        thread.start()
        self.retired = [one for one in self.retired if one.is_alive()] + [thread]

    def look(self) -> None:
        """Swaps to a model that has come up, gives up one that has not, and notes one that has ended."""
        new = self.starting
        if new is not None and new.ready.is_set():
            old, self.active, self.starting, self.failed, self.reason = self.active, new, None, None, None
            new.spare()
            if old is not None:
                self.retire(old, PATIENCE)
        elif new is not None and (new.problem or new.process.poll() is not None):
            reason = new.problem or new.why_ended()
            said = new.said.decode("utf-8", "replace")
            self.failed = {"attempt": new.wanted["attempt"], "reason": reason, "log": said}
            self.starting = None
            new.end(0)
        if self.active is not None and self.active.process.poll() is not None:
            self.reason = self.active.why_ended()
            self.active.address.unlink(missing_ok=True)
            self.active = None

    def tell(self, owner: str) -> None:
        """Writes state.json where it has changed; where that fails, as on a full disk, the next look tries again."""
        state = {
            **runner.me(),
            "bootedAt": None,
            "code": self.code,
            "renewing": self.renewing,
            "owner": owner,
            "failed": self.failed,
            "reason": self.reason,
        }
        if self.active is not None:
            state["active"] = self.active.described()
        if self.starting is not None:
            state["starting"] = {**self.starting.described(), "phase": self.starting.phase}
        if state == self.written:
            return
        with contextlib.suppress(OSError):
            runner.write_json(self.folder / "state.json", state)
            self.written = state

    def take(self):
        """The model that the next request is for, which then waits for it; None where there is none."""
        while (model := self.active) is not None:
            with model.lock:
                model.inflight += 1
            if self.active is model:
                return model
            # Swapped meanwhile: what ends the old one may not have seen this request.
            self.give_back(model)
        return None

    def give_back(self, model: Model) -> None:
        with model.lock:
            model.inflight -= 1


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, *args, **options):
        self.clients = set()
        super().__init__(*args, **options)

    def process_request(self, request, client_address) -> None:
        self.clients.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        self.clients.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:
        """A client that has gone away is nothing to tell."""


def handler_of(front: Front) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "retune"
        sys_version = ""
        timeout = 300

        def log_message(self, *_args) -> None:
            """Requests are nobody's business: what patients ask is in them."""

        def handle_one_request(self) -> None:
            """Of a request that has not begun nothing is read: another front may have to."""
            try:
                self.close_connection = not self.connection.recv(1, socket.MSG_PEEK)
            except OSError:
                self.close_connection = True
            if self.close_connection:
                return
            with front.requests.one():
                super().handle_one_request()
                while not self.close_connection and self.has_read_on():
                    super().handle_one_request()

        def has_read_on(self) -> bool:
            self.connection.settimeout(0)
            try:
                return len(self.rfile.peek(1)) > 0
            finally:
                self.connection.settimeout(self.timeout)

        def serve(self) -> None:
            length = self.headers.get("Content-Length", "0")
            if "Transfer-Encoding" in self.headers or not length.isdigit():
                return self.refuse(411, "a request must say its length", "length_required", unread=True)
            if int(length) > LARGEST_REQUEST:
                most = f"a request has at most {LARGEST_REQUEST} bytes"
                return self.refuse(413, most, "request_too_large", unread=True)
            body = self.rfile.read(int(length))
            given = self.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {front.key}".encode()):
                return self.refuse(401, "this service wants its key: Authorization: Bearer …", "invalid_api_key")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in OF_THE_CONNECTION}
            until = time.monotonic() + REACHABLE
            while (model := front.take()) is not None:
                try:
                    connection = model.connect()
                    try:
                        connection.connect()
                    except OSError as error:
                        if time.monotonic() > until:
                            why = f"the model cannot be reached: {error.strerror or error}"
                            return self.refuse(502, why, "model_unreachable")
                        # It has just ended: the next look knows, and which other model serves then.
                        time.sleep(PERIOD)
                        continue
                    return self.relay(model, connection, body, headers)
                finally:
                    front.give_back(model)
            why = front.reason or "it is just coming up"
            return self.refuse(503, f"no model is served: {why}", "no_model")

        def relay(self, model: Model, connection: http.client.HTTPConnection, body: bytes, headers: dict) -> None:
            with contextlib.closing(connection), front.clients.one(self.connection, connection.sock) as gone:
                try:
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                except (OSError, http.client.HTTPException) as error:
                    if gone.is_set():
                        self.close_connection = True
                        return None
                    if isinstance(error, TimeoutError):
                        return self.refuse(504, f"the model did not answer within {PATIENCE} seconds", "model_timeout")
                    return self.refuse(502, "the model's process ended before it answered", "model_ended")
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in OF_THE_CONNECTION | {"date", "server"}:
                        self.send_header(name, value)
                self.send_header("X-Retune-Model", model.wanted["digest"][:12])
                length = answer.getheader("Content-Length")
                self.send_header(*(("Transfer-Encoding", "chunked") if length is None else ("Content-Length", length)))
                self.end_headers()
                sent = 0
                try:
                    while block := answer.read1(1 << 16):
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if length is None else block)
                        sent += len(block)
                    if length is None:
                        self.wfile.write(b"0\r\n\r\n")
                    elif sent < int(length):
                        self.close_connection = True
                except (OSError, http.client.HTTPException):
                    self.close_connection = True  # half an answer must not look like a whole one
            return None

        def refuse(self, status: int, message: str, code: str, unread: bool = False) -> None:
            kind = "invalid_request_error" if status < 500 else "server_error"
            body = json.dumps({"error": {"message": message, "type": kind, "code": code}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if unread:
                self.close_connection = True
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        setattr(Handler, f"do_{method}", Handler.serve)
    return Handler


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    os.chdir(folder)
    handed = json.loads(sys.argv[2]) if len(sys.argv) > 2 else None
    if handed is not None:
        return Front(folder, handed["lock"]).run(handed)
    with (folder / "front.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return Front(folder, lock.fileno()).run(None)


if __name__ == "__main__":
    main()
