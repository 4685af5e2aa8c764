// uv reads its own settings only. Whoever has pip set up for a mirror, a proxy or a certificate expects it to count
// here as well. Addresses may hold passwords, so everything goes through the environment, nothing onto a command line.
"use strict";
const fs = require("node:fs");
const { ask } = require("./work.cjs");

const words = (value) => value.split(/\s+/).filter(Boolean);
const isTrue = (value) => /^(1|true|yes|on)$/i.test(value);

/** What pip's configuration files say, by pip's own account of where they are and which wins. */
async function configured(python) {
    const listing = (await ask(python, ["-m", "pip", "config", "list"])) ?? "";
    const settings = new Map();
    for (const section of ["global", "install"]) {
        for (const [, key, value] of listing.matchAll(new RegExp(`^${section}\\.([\\w-]+)=['"](.*)['"]$`, "gm"))) {
            settings.set(key, value.replaceAll("\\n", " "));
        }
    }
    return settings;
}

/** The environment for uv: this process's, with pip's settings where uv has none of its own. */
async function uvEnvironment(python) {
    const env = { ...process.env };
    const files = await configured(python);
    const pip = (key) => process.env[`PIP_${key.toUpperCase().replaceAll("-", "_")}`] || files.get(key);
    const set = (names, value) => {
        if (value && !names.some((name) => env[name])) env[names[0]] = value;
    };

    const more = words(pip("extra-index-url") ?? "");
    if (more.length > 0 && !env.UV_INDEX && !env.UV_EXTRA_INDEX_URL) {
        env.UV_INDEX = more.join(" ");
        // pip looks at all indexes, uv stops at the first one that knows the name. The hashes keep that safe.
        set(["UV_INDEX_STRATEGY"], "unsafe-best-match");
    }
    set(["UV_DEFAULT_INDEX", "UV_INDEX_URL"], pip("index-url"));
    if (isTrue(pip("no-index") ?? "")) set(["UV_NO_INDEX"], "1");
    // pip passes over a folder that is not there, uv fails.
    const links = words(pip("find-links") ?? "").filter((link) => link.includes("://") || fs.existsSync(link));
    set(["UV_FIND_LINKS"], links.join(","));
    set(["UV_INSECURE_HOST"], words(pip("trusted-host") ?? "").join(" "));
    set(["UV_HTTP_TIMEOUT"], pip("timeout") ?? pip("default-timeout"));
    set(["SSL_CERT_FILE"], pip("cert"));
    set(["SSL_CLIENT_CERT"], pip("client-cert"));
    set(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"], pip("proxy"));
    set(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"], pip("proxy"));

    // Set, it would throw away the bytecode that makes each later start 5 to 10 seconds faster. The others say which
    // environment uv works on, which is ours to say.
    for (const name of ["PYTHONDONTWRITEBYTECODE", "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_TARGET", "UV_PREFIX"]) {
        delete env[name];
    }
    return env;
}

module.exports = { uvEnvironment };
