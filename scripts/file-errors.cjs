// What to say about a file system that refuses: plain words and a way out. Plain Node, because set-up needs it too.
"use strict";
const { cache, home } = require("./locations.cjs");

const FULL = ["ENOSPC", "EDQUOT"];
const REFUSED = ["EROFS", "EACCES", "EPERM"];

/** Undefined for any other error. */
exports.explainFileError = function explainFileError(error) {
    const { code, path: file = "", message } = error ?? {};
    const folder = file.startsWith(cache())
        ? "RETUNE_CACHE"
        : file === "" || file.startsWith(home())
          ? "RETUNE_HOME"
          : "";
    const elsewhere = folder === "" ? ` (${file})` : `, or move ${folder} to a larger one`;
    if (FULL.includes(code)) return `no space left on the disk: make room${elsewhere}`;
    if (!REFUSED.includes(code)) return undefined;
    const words = /^\w+: (.*?), \w+/.exec(message)?.[1] ?? message;
    return `${file}: ${words}${folder === "" ? "" : `; ${folder} must be a folder that you can write to`}`;
};
