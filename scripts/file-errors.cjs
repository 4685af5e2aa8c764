// What to say about a file system that refuses: plain words and a way out. Plain Node, because set-up needs it too.
"use strict";
const { cache } = require("./locations.cjs");

const FULL = ["ENOSPC", "EDQUOT"];
const REFUSED = ["EROFS", "EACCES", "EPERM"];

/** Undefined for any other error. */
exports.explainFileError = function explainFileError(error) {
    const { code, path: file = "", message } = error ?? {};
    const folder = file.startsWith(cache()) ? "RETUNE_CACHE" : "RETUNE_HOME";
    if (FULL.includes(code)) return `no space left on the disk: make room, or move ${folder} to a larger one`;
    if (!REFUSED.includes(code)) return undefined;
    const words = /^\w+: (.*?), \w+/.exec(message)?.[1] ?? message;
    return `${file}: ${words}; ${folder} must be a folder that you can write to`;
};
