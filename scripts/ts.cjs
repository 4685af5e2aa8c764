// Lets Node require .ts files: esbuild strips the types once per content, the result stays in RETUNE_CACHE. No build
// step, no type check at start (`npm run check` does that), and a fraction of what ts-node or tsx cost at every start.
"use strict";
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { cache } = require("./locations.cjs");

const options = {
    loader: "ts",
    format: "cjs",
    target: "node20",
    sourcemap: "inline",
    // A module that is imported when it is needed is a .ts file too: only require() comes by here.
    supported: { "dynamic-import": false },
    tsconfigRaw: { compilerOptions: { useDefineForClassFields: false } },
};
// The compiler's version comes from the lock file's copy of it without loading it (it is 8 ms even unused).
const esbuildVersion = require("esbuild/package.json").version;
const salt = JSON.stringify([options, esbuildVersion]);
const folder = path.join(cache(), "ts");

require.extensions[".ts"] = (module, file) => {
    const source = fs.readFileSync(file, "utf8");
    const name = crypto.createHash("sha256").update(salt).update(file).update("\0").update(source).digest("hex");
    const compiled = path.join(folder, `${name.slice(0, 32)}.js`);
    let code;
    try {
        code = fs.readFileSync(compiled, "utf8");
    } catch {
        code = require("esbuild").transformSync(source, { ...options, sourcefile: file }).code;
        fs.mkdirSync(folder, { recursive: true });
        const temporary = `${compiled}.${process.pid}`;
        fs.writeFileSync(temporary, code);
        fs.renameSync(temporary, compiled);
    }
    module._compile(code, file);
};
