// Where Retune keeps things. Plain Node, because set-up needs it before anything in TypeScript can run.
"use strict";
const crypto = require("node:crypto");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const project = path.dirname(__dirname);

/** A relative path is relative to where the user is: npm starts its scripts in the project. */
const fromUser = (folder) => path.resolve(process.env.INIT_CWD || process.cwd(), folder);

/** What must last: runs, artifacts, Pulumi state. */
const home = () => fromUser(process.env.RETUNE_HOME || path.join(os.homedir(), ".retune"));

/** What can be had again: the Pulumi CLI, Python environments, downloads, compiled TypeScript. */
const cache = () => fromUser(process.env.RETUNE_CACHE || path.join(os.homedir(), ".cache", "retune"));

const lockFiles = ["requirements.lock", "model-packages.lock"].map((name) =>
    path.join(project, "pipeline", "llamafactory", name),
);

/** The LLaMA-Factory environment of this checkout: one folder per content of its lock files. */
function pythonEnvironment() {
    const digest = crypto.createHash("sha256");
    for (const file of lockFiles) digest.update(fs.readFileSync(file)).update("\0");
    return path.join(cache(), "python", digest.digest("hex").slice(0, 16));
}

module.exports = { project, fromUser, home, cache, lockFiles, pythonEnvironment };
