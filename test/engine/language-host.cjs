#!/usr/bin/env node
// A stand-in for Pulumi's own Node language host (`pulumi-language-nodejs`, part of a full Pulumi), for tests on machines
// that have the CLI alone: the engine finds it on PATH by that name. It serves the part of the protocol that `preview`
// and `up` need, and starts the program as the real one does: node, the project's nodeargs, the SDK's cmd/run.
"use strict";
const { spawn } = require("node:child_process");
const { createRequire } = require("node:module");
const path = require("node:path");

// The engine starts it in the project's folder, whose SDK it speaks.
const fromProject = createRequire(path.join(process.cwd(), "package.json"));
const grpc = fromProject("@grpc/grpc-js");
const service = fromProject("@pulumi/pulumi/proto/language_grpc_pb.js").LanguageRuntimeService;
const messages = fromProject("@pulumi/pulumi/proto/language_pb.js");
const plugin = fromProject("@pulumi/pulumi/proto/plugin_pb.js");
const { Empty } = fromProject("google-protobuf/google/protobuf/empty_pb.js");
const { version } = fromProject("@pulumi/pulumi/package.json");

// With this exit code the program says that it has reported its error itself.
const REPORTED = 32;

let engine = process.argv.slice(2).find((argument) => !argument.startsWith("-")) ?? "";
let leaving = false;
const programs = new Set();

function interrupt() {
    for (const program of programs) program.kill("SIGINT");
}

/** Ends, after the program where one runs. */
function leave() {
    leaving = true;
    interrupt();
    if (programs.size === 0) process.exit(0);
}

/** Words as people write them in Pulumi.yaml: bare, or in single or double quotes. */
function words(text) {
    return (text.match(/"[^"]*"|'[^']*'|\S+/g) ?? []).map((word) => word.replace(/^(["'])(.*)\1$/, "$2"));
}

/** `retune:training` arrives; the SDK wants `retune:config:training`. */
function configuration(request) {
    const values = {};
    for (const [key, value] of request.getConfigMap().getEntryList()) {
        values[key.replace(":", ":config:")] = value;
    }
    return {
        PULUMI_CONFIG: JSON.stringify(values),
        PULUMI_CONFIG_SECRET_KEYS: JSON.stringify(request.getConfigsecretkeysList()),
    };
}

function run(call, done) {
    const request = call.request;
    const info = request.getInfo();
    const folder = info.getProgramDirectory();
    const { nodeargs = "" } = info.getOptions()?.toJavaScript() ?? {};
    const given = {
        "monitor": request.getMonitorAddress(),
        "engine": engine,
        "organization": request.getOrganization(),
        "project": request.getProject(),
        "root-directory": info.getRootDirectory(),
        "stack": request.getStack(),
        "pwd": folder,
        "parallel": request.getParallel(),
    };
    const flags = Object.entries(given).flatMap(([name, value]) => (value ? [`--${name}`, String(value)] : []));
    const start = createRequire(path.join(folder, "package.json")).resolve("@pulumi/pulumi/cmd/run");
    const dryRun = request.getDryrun() ? ["--dry-run"] : [];
    const program = spawn(
        process.execPath,
        [...words(nodeargs), start, ...flags, ...dryRun, info.getEntryPoint() || "."],
        {
            cwd: folder,
            env: { ...process.env, ...configuration(request) },
            stdio: ["ignore", 2, 2], // stdout is for the port
        },
    );
    programs.add(program);
    program.on("close", (code, signal) => {
        programs.delete(program);
        if (leaving) setTimeout(leave, 100); // the answer first
        const response = new messages.RunResponse();
        if (code === REPORTED) response.setBail(true);
        else if (code !== 0) response.setError(`the program ended with ${signal ?? `exit code ${code}`}`);
        done(null, response);
    });
}

const answers = {
    handshake(call, done) {
        engine = call.request.getEngineAddress() || engine;
        done(null, new messages.LanguageHandshakeResponse());
    },
    getPluginInfo: (_, done) => done(null, new plugin.PluginInfo().setVersion(version)),
    // None: a plugin is loaded when a resource needs it.
    getRequiredPackages: (_, done) => done(null, new messages.GetRequiredPackagesResponse()),
    getRequiredPlugins: (_, done) => done(null, new messages.GetRequiredPluginsResponse()),
    getProgramDependencies: (_, done) => done(null, new messages.GetProgramDependenciesResponse()),
    runtimeOptionsPrompts: (_, done) => done(null, new messages.RuntimeOptionsResponse()),
    about: (_, done) =>
        done(null, new messages.AboutResponse().setExecutable(process.execPath).setVersion(process.version)),
    cancel(_, done) {
        interrupt();
        done(null, new Empty());
    },
    run,
};

const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
const refuse = (name) => (_, done) =>
    done?.({ code: grpc.status.UNIMPLEMENTED, details: `${name} is not part of this stand-in` });
const methods = Object.keys(service).map((name) => [name, answers[name] ?? refuse(name)]);
server.addService(service, Object.fromEntries(methods));
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    process.stdout.write(`${port}\n`);
});

// The engine ends its plugins so; without an engine there is nothing to do.
process.on("SIGINT", leave);
const parent = process.ppid;
setInterval(() => {
    if (process.ppid !== parent) leave();
}, 500).unref();
