// A linter that uv fetches once, in a pinned version.
"use strict";
const path = require("node:path");
const { cache } = require("./locations.cjs");
const { uvEnvironment } = require("./setup/pip-settings.cjs");
const { uvVersion } = require("./setup/python.cjs");
const { isExecutable, onPath } = require("./setup/work.cjs");

/** Program, first arguments and environment of a tool, as for `spawnSync`. */
async function uvTool(requirement, name) {
    const own = path.join(cache(), "uv", uvVersion, "bin", "uv");
    const uv = isExecutable(own) ? own : onPath("uv");
    if (uv === undefined) throw new Error(`there is no uv to fetch ${name} with: \`npm run setup\` brings it`);
    const env = { ...process.env, ...(await uvEnvironment("python3")) };
    return [uv, ["tool", "run", "--quiet", "--from", requirement, name], env];
}

module.exports = { uvTool };
