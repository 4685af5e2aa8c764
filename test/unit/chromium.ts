import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import * as os from "node:os";
import * as path from "node:path";
import type { Readable, Writable } from "node:stream";
import { pathToFileURL } from "node:url";

/*
 * A page in a real Chromium without a window, spoken to over its DevTools protocol: messages of JSON with a zero byte at
 * their ends, on two pipes.
 */

/** The browser of this machine; undefined where there is none. */
export const chromium = ["chromium", "chromium-browser", "google-chrome"].find(
    (name) => spawnSync(name, ["--version"]).status === 0,
);

export interface Look {
    readonly width: number;
    readonly scheme: "light" | "dark";
}

/** What opening a page has brought about. */
export interface Opened {
    /** Errors and warnings of the console, and whatever the page's own code threw. */
    readonly complaints: readonly string[];
    /** What was asked for besides the page itself. */
    readonly requests: readonly string[];
    /** How far the content reaches beyond the window's right edge, as it opens or with all unfolded, in pixels. */
    readonly overflow: number;
    /** What axe-core finds: the rule, and the first element that breaks it. */
    readonly findings: readonly string[];
}

interface Message {
    readonly id?: number;
    readonly method?: string;
    readonly params?: Record<string, unknown>;
    readonly result?: Record<string, unknown>;
    readonly error?: { readonly message: string };
}

export class Browser {
    private readonly folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-chromium-"));
    private readonly child;
    private readonly listeners = new Set<(message: Message) => void>();
    private session: string | undefined;
    private number = 0;

    constructor(command: string) {
        const flags = ["--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"];
        const profile = `--user-data-dir=${this.folder}`;
        // Chromium's sandbox refuses to work for root, which CI is.
        const sandbox = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
        this.child = spawn(command, [...flags, ...sandbox, profile, "about:blank"], {
            stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
            detached: true, // a group with its children, which write into the profile as well
            env: { ...process.env, TMPDIR: this.folder }, // where it leaves a socket when it is killed
        });
        let rest = "";
        (this.child.stdio[4] as Readable).setEncoding("utf8").on("data", (text: string) => {
            const messages = (rest + text).split("\0");
            rest = messages.pop() ?? "";
            for (const one of messages) {
                const message = JSON.parse(one) as Message;
                for (const listener of [...this.listeners]) listener(message);
            }
        });
    }

    /** Opens a file anew, looks at it this way, and leaves it open for `evaluate` and `press`. */
    async open(file: string, { width, scheme }: Look): Promise<Opened> {
        const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
        const attached = await this.send("Target.attachToTarget", { targetId, flatten: true });
        this.session = attached["sessionId"] as string;
        const complaints: string[] = [];
        const requests: string[] = [];
        const url = pathToFileURL(file).href;
        const listener = ({ method, params = {} }: Message): void => {
            if (method === "Runtime.exceptionThrown" || method === "Log.entryAdded")
                complaints.push(JSON.stringify(params));
            if (method === "Runtime.consoleAPICalled") complaints.push(JSON.stringify(params["args"]));
            if (method !== "Network.requestWillBeSent") return;
            const asked = (params["request"] as { url: string }).url;
            if (asked !== url && !asked.startsWith("data:")) requests.push(asked);
        };
        this.listeners.add(listener);
        for (const domain of ["Page", "Runtime", "Log", "Network"]) await this.send(`${domain}.enable`, {});
        const size = { width, height: 900, deviceScaleFactor: 1, mobile: width < 600 };
        await this.send("Emulation.setDeviceMetricsOverride", size);
        const features = [{ name: "prefers-color-scheme", value: scheme }];
        await this.send("Emulation.setEmulatedMedia", { features });
        const loaded = new Promise<void>((resolve) => {
            const once = ({ method }: Message): void => {
                if (method !== "Page.loadEventFired") return;
                this.listeners.delete(once);
                resolve();
            };
            this.listeners.add(once);
        });
        await this.send("Page.navigate", { url });
        await loaded;
        const beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        const overflow = await this.evaluate<number>(beyond);
        const axe = fs.readFileSync(createRequire(__filename).resolve("axe-core/axe.min.js"), "utf8");
        await this.evaluate(`${axe}; 0`);
        const findings = await this.evaluate<string[]>(
            "axe.run().then(({ violations }) => violations.map((one) => `${one.id}: ${one.nodes[0].html.slice(0, 200)}`))",
        );
        const unfolded = await this.evaluate<number>(
            `(() => {
                const folded = [...document.querySelectorAll("details:not([open])")];
                for (const one of folded) one.open = true;
                const over = ${beyond};
                for (const one of folded) one.open = false;
                return over;
            })()`,
        );
        this.listeners.delete(listener);
        return { complaints, requests, overflow: Math.max(overflow, unfolded), findings };
    }

    /** The value of an expression in the page. */
    async evaluate<Value>(expression: string): Promise<Value> {
        const options = { expression, awaitPromise: true, returnByValue: true };
        const { result, exceptionDetails } = await this.send("Runtime.evaluate", options);
        if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
        return (result as { value: Value }).value;
    }

    /** Presses a key, such as Tab, ArrowRight or Enter, where the focus is. */
    async press(key: string, code: number): Promise<void> {
        const event = { key, code: key, windowsVirtualKeyCode: code };
        await this.send("Input.dispatchKeyEvent", { type: "rawKeyDown", ...event });
        await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
    }

    async close(): Promise<void> {
        const ended = new Promise((resolve) => this.child.once("close", resolve));
        if (this.child.pid !== undefined) process.kill(-this.child.pid, "SIGKILL");
        await ended;
        fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    }

    private send(
        method: string,
        params: Record<string, unknown>,
        sessionId = this.session,
    ): Promise<Record<string, unknown>> {
        const id = ++this.number;
        return new Promise((resolve, reject) => {
            const answered = (message: Message): void => {
                if (message.id !== id) return;
                this.listeners.delete(answered);
                if (message.error === undefined) resolve(message.result ?? {});
                else reject(new Error(`${method}: ${message.error.message}`));
            };
            this.listeners.add(answered);
            const browserWide = method.startsWith("Target.");
            const message = { id, method, params, ...(browserWide || sessionId === undefined ? {} : { sessionId }) };
            (this.child.stdio[3] as Writable).write(`${JSON.stringify(message)}\0`);
        });
    }
}
