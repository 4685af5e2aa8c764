// Moments of the front that cannot be had by waiting for them: its parts, with a model that is a stand-in.
import { execFileSync } from "node:child_process";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { project } from "../../scripts/locations.cjs";
import { temporaryFolder } from "./datasets/folder";

/** What a program says that has imported the front. */
function said(program: string): string {
    const options = { cwd: temporaryFolder(), env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" }, timeout: 20_000 };
    const start = `import sys; sys.path.insert(0, sys.argv[1]); import front\n${program}`;
    return execFileSync("python3", ["-c", start, path.join(project, "pipeline", "runner")], options)
        .toString()
        .trim();
}

test("a request that is taken while models are swapped goes to the new one, and is not counted for the old one", () => {
    const program = `
import threading
class Model:
    def __init__(self): self.inflight, self.lock = 0, threading.Lock()
old, new = Model(), Model()
class Swapping(front.Front):
    def __init__(self): self.looks = 0
    @property
    def active(self):
        self.looks += 1
        return old if self.looks == 1 else new
print(Swapping().take() is new, old.inflight, new.inflight)
`;
    expect(said(program)).toBe("True 0 1");
});

/** A front before a model that is a listening socket, and what a client sends it. */
const FRONT = `
import http.client, pathlib, socket, threading, time
listener = socket.socket(socket.AF_UNIX)
listener.bind("model.sock")
listener.listen()
class Model:
    wanted = {"digest": "d" * 64}
    def __init__(self): self.inflight, self.lock = 0, threading.Lock()
    def connect(self): return front.UnixConnection(pathlib.Path("model.sock"))
one = front.Front.__new__(front.Front)
one.key, one.active, one.clients, one.requests = "key", Model(), front.Clients(), front.Requests()
server = front.Server(("127.0.0.1", 0), front.handler_of(one))
threading.Thread(target=server.serve_forever, daemon=True).start()
client = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
client.request("POST", "/v1/chat/completions", b"{}", {"Authorization": "Bearer key"})
`;

test("a model that does not answer in time is no model that has ended", () => {
    const program = `
front.PATIENCE = 0.3
${FRONT}
answer = client.getresponse()
print(answer.status, answer.read().decode())
`;
    const message = "the model did not answer within 0.3 seconds";
    expect(said(program)).toBe(
        `504 {"error": {"message": "${message}", "type": "server_error", "code": "model_timeout"}}`,
    );
});

test("one that begins to go on as another while it is asked is not silent: nothing ends it", () => {
    const program = `
import json, pathlib
runner = front.runner
home = pathlib.Path("home")
folder = home / "services" / "8000"
(folder / "1").mkdir(parents=True)
wanted = {"owner": "stack a (service)", "attempt": 1}
for file in (folder / "wanted.json", folder / "1" / "wanted.json"): runner.write_json(file, wanted)
(folder / "key").write_text("secret")
state = {**runner.me(), "owner": wanted["owner"], "code": "older", "active": {"key": "one", "attempt": 1}}
def begins(port, key):
    runner.write_json(folder / "state.json", {**state, "renewing": True})
ended = []
runner.asked, runner.end_front = begins, lambda *_, **__: ended.append(1)
def serve():
    runner.write_json(folder / "state.json", {**state, "renewing": False})
    programs = {"front.py": "", "serve.py": ""}
    return runner.serve(home, {"port": 8000, "owner": wanted["owner"], "job": {"key": "one"}, "programs": programs})
print(serve()["started"], ended)
runner.write_json(folder / "state.json", {**state, "renewing": False})
print(runner.service(home, 8000, ask=True)["reason"])
runner.asked = lambda port, key: None
print(serve()["started"], ended)
`;
    expect(said(program)).toBe("False []\nNone\nFalse [1]");
});

test("an answer that breaks off is no whole one", () => {
    const program = `
${FRONT}
model, _ = listener.accept()
request = b""
while not request.endswith(b"{}"): request += model.recv(1 << 16)
model.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nhalf")
model.close()
try: client.getresponse().read()
except http.client.IncompleteRead as error: print(error)
`;
    expect(said(program)).toBe("IncompleteRead(4 bytes read, 6 more expected)");
});

describe("a client that goes away", () => {
    const begun = String.raw`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n`;
    test.each([
        ["before the answer begins", "", "client.sock.close()"],
        [
            "in the middle of a stream",
            begun,
            "answer = client.getresponse(); answer.read(5); answer.close(); client.close()",
        ],
        ["by ending its half of the connection", "", "client.sock.shutdown(socket.SHUT_WR)"],
    ])("%s ends its request at the model", (_, answered, leave) => {
        const program = `
${FRONT}
model, _ = listener.accept()
request = model.recv(1 << 16)
model.sendall(b"${answered}")
${leave}
model.settimeout(5)
rest = b"?"
while rest: rest = model.recv(1 << 16)
until = time.monotonic() + 5
while one.active.inflight and time.monotonic() < until: time.sleep(0.01)
print(request.split(b" ")[0].decode(), one.active.inflight, one.clients.waiting)
`;
        expect(said(program)).toBe("POST 0 {}");
    });

    test("leaves those alone that wait as it did", () => {
        const program = `
${FRONT}
model, _ = listener.accept()
other = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
other.request("POST", "/v1/chat/completions", b"{}", {"Authorization": "Bearer key"})
others, _ = listener.accept()
client.sock.close()
while model.recv(1 << 16): pass
others.recv(1 << 16)
others.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
print(other.getresponse().read().decode())
`;
        expect(said(program)).toBe("hi");
    });
});
