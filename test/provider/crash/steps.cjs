// Loaded before the client: counts its steps, which are every call into the file system below CRASH_FOLDER and every
// process that it starts. At the step that CRASH_AT names, `client:number:signal`, the client sends itself that signal.
"use strict";
const childProcess = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const folder = path.join(process.env.CRASH_FOLDER, path.sep);
const recording = process.env.CRASH_RECORD;
const [doomed, number, signal] = (process.env.CRASH_AT || "nobody:0:SIGKILL").split(":");
const { appendFileSync, writeFileSync } = fs;
const descriptors = new Set();
let count = 0;

function step(name) {
    count += 1;
    if (recording) appendFileSync(recording, `client ${count} ${name}\n`);
    if (doomed === "client" && count === Number(number)) {
        writeFileSync(path.join(process.env.CRASH_CONTROL, "hit"), "");
        process.kill(process.pid, signal);
    }
}

const isOurs = (one) => (typeof one === "string" ? one.startsWith(folder) : descriptors.has(one));

/** Has every function of an object count as a step where it is about one of our files. */
function watch(object, prefix, concerns) {
    for (const [name, original] of Object.entries(object)) {
        if (typeof original !== "function" || /^[A-Z_]/.test(name)) continue;
        object[name] = function (...args) {
            if (!concerns(args)) return original.apply(this, args);
            step(`${prefix}${name}`);
            return original.apply(this, args);
        };
        // fs.realpath.native and the like.
        Object.assign(object[name], original);
    }
}

watch(fs, "", ([first, second]) => isOurs(first) || isOurs(second));
watch(fs.promises, "promises.", ([first, second]) => isOurs(first) || isOurs(second));

const open = fs.open;
fs.open = (file, ...rest) => {
    const done = rest.pop();
    open(file, ...rest, (error, descriptor) => {
        if (!error && isOurs(file)) descriptors.add(descriptor);
        done(error, descriptor);
    });
};
const close = fs.close;
fs.close = (descriptor, ...rest) => {
    close(descriptor, ...rest);
    descriptors.delete(descriptor);
};

const openHandle = fs.promises.open;
fs.promises.open = async (file, ...rest) => {
    const handle = await openHandle(file, ...rest);
    for (const name of ["writeFile", "sync", "close", "read", "write", "stat", "truncate", "readFile"]) {
        const original = handle[name];
        handle[name] = (...args) => {
            if (isOurs(file)) step(`handle.${name}`);
            return original.apply(handle, args);
        };
    }
    return handle;
};

// Others go on beside a client that has just started them: here the moment after is another than that before what is next.
const { spawn } = childProcess;
childProcess.spawn = (...args) => {
    const verb = args[1][1];
    step(`spawn ${verb}`);
    const child = spawn(...args);
    step(`spawned ${verb}`);
    const { end } = child.stdin;
    child.stdin.end = (...input) => {
        const answer = end.apply(child.stdin, input);
        step(`told ${verb}`);
        return answer;
    };
    return child;
};

process.on("exit", () => {
    step("exit");
});
