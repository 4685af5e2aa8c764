// Starts one of the four operations on a stack. Plain Node: see start.cjs.
"use strict";
const start = require("./start.cjs");

module.exports = (operation) => {
    const needs = ["node-modules", "pulumi-cli", "python"];
    const run = ({ pulumi }, args) => require("./operation.ts").operate(operation, args, pulumi);
    return start(needs, run, answerFor);
};

/** What `--json` prints where an operation ended before there was anything to tell: a script always gets an object. */
function answerFor(error, args) {
    if (!args.includes("--json")) return undefined;
    // By hand: what reads the options may be what is missing.
    const at = args.findLastIndex((one) => /^--stack(=|$)/.test(one));
    const stack = at < 0 ? "dev" : args[at].includes("=") ? args[at].slice("--stack=".length) : args[at + 1];
    return { stack: stack ?? "", result: "failed", stages: [], outputs: {}, error: error.message };
}
