// Lints the runner and the programs with ruff, which uv fetches once in the version that is named here.
"use strict";
const { spawnSync } = require("node:child_process");
const path = require("node:path");
const { cache, project } = require("./locations.cjs");
const { uvEnvironment } = require("./setup/pip-settings.cjs");
const { uvVersion } = require("./setup/python.cjs");
const { isExecutable, onPath } = require("./setup/work.cjs");

const RUFF = "ruff@0.17.6";

async function check() {
    const own = path.join(cache(), "uv", uvVersion, "bin", "uv");
    const uv = isExecutable(own) ? own : onPath("uv");
    if (uv === undefined) throw new Error("there is no uv to fetch ruff with: `npm run setup` brings it");
    const env = { ...process.env, ...(await uvEnvironment("python3")) };
    const ruff = (...args) =>
        spawnSync(uv, ["tool", "run", "--quiet", RUFF, ...args], { cwd: project, env, stdio: "inherit" });
    const results = [ruff("check", "--quiet", "pipeline"), ruff("format", "--check", "--quiet", "pipeline")];
    return results.every(({ status }) => status === 0);
}

check().then(
    (clean) => {
        process.exitCode = clean ? 0 : 1;
    },
    (error) => {
        console.error(error.message);
        process.exitCode = 1;
    },
);
