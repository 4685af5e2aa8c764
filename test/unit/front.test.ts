// Moments of the front that cannot be had by waiting for them: its parts, with a model that is a stand-in.
import { execFileSync } from "node:child_process";
import path from "node:path";
import { expect, test } from "vitest";
import { project } from "../../scripts/locations.cjs";
import { temporaryFolder } from "./datasets/folder";

/** What a program says that has imported the front. */
function said(program: string): string {
    const options = { cwd: temporaryFolder(), env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" } };
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

test("a model that does not answer in time is no model that has ended", () => {
    const program = `
import http.client, pathlib, socket, threading
front.PATIENCE = 0.3
listener = socket.socket(socket.AF_UNIX)
listener.bind("model.sock")
listener.listen()
class Model:
    def __init__(self): self.inflight, self.lock = 0, threading.Lock()
    def connect(self): return front.UnixConnection(pathlib.Path("model.sock"))
one = front.Front.__new__(front.Front)
one.key, one.active = "key", Model()
server = front.Server(("127.0.0.1", 0), front.handler_of(one))
threading.Thread(target=server.serve_forever, daemon=True).start()
client = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
client.request("POST", "/v1/chat/completions", b"{}", {"Authorization": "Bearer key"})
answer = client.getresponse()
print(answer.status, answer.read().decode())
`;
    const message = "the model did not answer within 0.3 seconds";
    expect(said(program)).toBe(
        `504 {"error": {"message": "${message}", "type": "server_error", "code": "model_timeout"}}`,
    );
});
