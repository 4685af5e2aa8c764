import { execFileSync } from "node:child_process";
import path from "node:path";
import { expect, test } from "vitest";
import { project } from "../../scripts/locations.cjs";

// LLaMA-Factory and FastAPI are stand-ins: no more of them is used here than how long a request is.
const PROGRAM = `
import json, sys, types
class HTTPException(Exception):
    def __init__(self, status_code, detail): self.status_code, self.detail = status_code, detail
class Request:
    @staticmethod
    def model_validate(request):
        return types.SimpleNamespace(messages=[], stream=False, tools=None, n=1, max_tokens=request.get("max_tokens"))
modules = {
    "answering": {"abandoned": None, "context_of": lambda _: 2048, "tokens_of": lambda *_: 48},
    "fastapi": {"HTTPException": HTTPException},
    "llamafactory.api.chat": {"_process_request": lambda _: ([], None, None)},
    "llamafactory.api.protocol": {"ChatCompletionRequest": Request},
    "pydantic": {"ValidationError": ValueError},
}
for name, parts in modules.items(): sys.modules[name] = types.SimpleNamespace(**parts)
sys.path.insert(0, sys.argv[1])
import guard
try: print(json.loads(guard.Guard(None, None).checked(sys.argv[2].encode()))["max_tokens"])
except guard.RefusedError as error: print(error.status_code, error.detail)
`;

test.each([
    [{}, "1024"],
    [{ max_tokens: 5 }, "5"],
    [{ max_completion_tokens: 7 }, "7"],
    [{ max_tokens: 5, max_completion_tokens: 7 }, "5"],
    [{ max_completion_tokens: 5000 }, "2000"],
    [{ max_completion_tokens: "7" }, "400 max_completion_tokens must be a whole number"],
])("an answer to %j has at most so many tokens: %s", (request, said) => {
    const programs = path.join(project, "pipeline", "llamafactory", "programs");
    const env = { ...process.env, PYTHONDONTWRITEBYTECODE: "1" };
    expect(
        execFileSync("python3", ["-c", PROGRAM, programs, JSON.stringify(request)], { env })
            .toString()
            .trim(),
    ).toBe(said);
});
