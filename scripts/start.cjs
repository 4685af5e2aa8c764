// Starts a command: set-up where something is missing, then the command in TypeScript. Plain Node, because on a fresh
// machine there is nothing else yet.
"use strict";
const tty = require("node:tty");

/** Exit code for a mistake in the command line or the configuration. */
const USAGE = 2;

/** The streams that are a terminal now. */
const terminals = () => [0, 1, 2].filter((stream) => tty.isatty(stream));

/** `answerFor` makes of an error what is printed on stdout, where anything is. */
module.exports = async function start(needs, command, answerFor = () => undefined) {
    const args = process.argv.slice(2);
    const before = terminals();
    try {
        const { setup } = require("./setup.cjs");
        const tools = await setup({ only: needs });
        require("./ts.cjs");
        process.exitCode = await command(tools, args);
    } catch (error) {
        const forPeople = error.name === "UserError";
        const refused = require("./file-errors.cjs").explainFileError(error);
        process.stderr.write(`${forPeople ? error.message : (refused ?? error.stack ?? error)}\n`);
        const answer = answerFor(error, args);
        if (answer !== undefined) process.stdout.write(`${JSON.stringify(answer)}\n`);
        process.exitCode = error.exitCode ?? (forPeople && error.usage ? USAGE : 1);
    }
    // Node aborts when it exits and cannot reset a terminal that is gone: dying of the hang-up is what is usual.
    if (terminals().length < before.length) {
        process.removeAllListeners("SIGHUP"); // an update that was asked to detach still listens
        process.kill(process.pid, "SIGHUP");
    }
};
