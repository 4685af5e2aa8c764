// Lints the runner, the programs and the probe of hosts with ruff.
"use strict";
const { spawnSync } = require("node:child_process");
const { project } = require("./locations.cjs");
const { uvTool } = require("./uv-tool.cjs");

const FOLDERS = ["pipeline", "infra"];

uvTool("ruff==0.17.6", "ruff")
    .then(([program, args, env]) => {
        const ruff = (...more) =>
            spawnSync(program, [...args, ...more, ...FOLDERS], { cwd: project, env, stdio: "inherit" }).status === 0;
        const results = [ruff("check", "--quiet"), ruff("format", "--check", "--quiet")];
        process.exitCode = results.every(Boolean) ? 0 : 1;
    })
    .catch((error) => {
        console.error(error.message);
        process.exitCode = 1;
    });
