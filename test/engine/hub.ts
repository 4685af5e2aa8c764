import * as crypto from "node:crypto";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import { sha256 } from "../../pipeline/identity";

/** A repository of the stand-in: its files, and what was committed to it, the newest last. */
export interface Repository {
    readonly files: Map<string, Buffer>;
    private: boolean;
    readonly commits: { readonly files: readonly string[]; readonly removed: readonly string[] }[];
}

/** What is answered instead, to a request whose method and path match. */
interface Refusal {
    readonly to: RegExp;
    readonly status: number;
    readonly says: string;
    readonly code?: string;
}

/**
 * A stand-in for Hugging Face on loopback: as much of its API as Retune's own client and the real huggingface_hub ask for,
 * for downloads and for commits. What is downloaded is told to be an LFS file each, so that both know its SHA-256; of what
 * is committed only weights are.
 */
export class Hub {
    readonly requests: string[] = [];
    /** Of the requests for a repository's API, without repetitions. */
    readonly authorizations = new Set<string>();
    readonly repositories = new Map<string, Repository>();
    /** What was uploaded to the store of large files, by SHA-256. */
    readonly uploads: string[] = [];
    refusal: Refusal | undefined;
    /** Nothing is answered while this is set. */
    silent = false;
    /** What the branch `main` of a repository stands for that nothing was committed to. */
    main = "1".repeat(40);
    private readonly objects = new Map<string, Buffer>();
    private readonly server = http.createServer((request, response) => {
        const parts: Buffer[] = [];
        request.on("data", (part: Buffer) => parts.push(part));
        request.on("end", () => {
            this.answer(request, response, Buffer.concat(parts));
        });
    });

    async listen(): Promise<string> {
        await new Promise<void>((resolve) => this.server.listen(0, "127.0.0.1", resolve));
        return this.address;
    }

    get address(): string {
        return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
    }

    close(): void {
        this.server.closeAllConnections();
        this.server.close();
    }

    /** A repository with these files. */
    add(name: string, files: Iterable<readonly [string, Buffer]> = []): Repository {
        const repository: Repository = { files: new Map(files), private: false, commits: [] };
        this.repositories.set(name, repository);
        return repository;
    }

    private answer(request: http.IncomingMessage, response: http.ServerResponse, body: Buffer): void {
        const url = decodeURIComponent(new URL(request.url ?? "", "http://hub").pathname);
        const method = request.method ?? "";
        this.requests.push(`${method} ${url}`);
        if (this.silent) return;
        const json = (value: unknown, status = 200, headers: Record<string, string> = {}): void => {
            response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
        };
        const { refusal } = this;
        if (refusal?.to.test(`${method} ${url}`) === true) {
            const code = refusal.code === undefined ? {} : { "X-Error-Code": refusal.code };
            json({ error: refusal.says }, refusal.status, { ...code, "X-Error-Message": refusal.says });
            return;
        }
        if (url.startsWith("/api/")) this.authorizations.add(request.headers.authorization ?? "without authorization");
        if (url === "/api/validate-yaml") {
            json({ errors: [], warnings: [] });
            return;
        }
        if (url === "/api/repos/create") {
            const {
                name = "",
                organization,
                private: isPrivate = false,
            } = JSON.parse(body.toString()) as {
                name?: string;
                organization?: string;
                private?: boolean;
            };
            const full = `${organization ?? "somebody"}/${name}`;
            if (this.repositories.has(full)) {
                json({ error: "You already created this model repo" }, 409);
                return;
            }
            this.add(full, [[".gitattributes", Buffer.from("*.safetensors filter=lfs\n")]]).private = isPrivate;
            json({ url: `${this.address}/${full}` });
            return;
        }
        const object = /^\/objects\/([0-9a-f]{64})$/.exec(url)?.[1];
        if (object !== undefined) {
            this.objects.set(object, body);
            this.uploads.push(object);
            response.end();
            return;
        }
        const batch = /^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/.exec(url);
        if (batch) {
            const { objects } = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] };
            const answers = objects.map(({ oid, size }) => ({
                ...{ oid, size },
                ...(this.objects.has(oid) ? {} : { actions: { upload: { href: `${this.address}/objects/${oid}` } } }),
            }));
            json({ transfer: "basic", objects: answers });
            return;
        }
        const api = /^\/api\/(?:models|datasets)\/([^/]+\/[^/]+)(?:\/([a-z-]+)(?:\/([^/]+))?)?$/.exec(url);
        if (api) {
            const [, name = "", what = "revision", revision = "main"] = api;
            const repository = this.repositories.get(name);
            if (repository === undefined) {
                json({ error: "Repository not found" }, 404, { "X-Error-Code": "RepoNotFound" });
                return;
            }
            json(this.of(name, repository, { what, revision, body: body.toString() }));
            return;
        }
        const [, name = "", commit = "", file = ""] =
            /^\/(?:datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(url) ?? [];
        const content = this.repositories.get(name)?.files.get(file);
        if (content === undefined) {
            response.writeHead(404, { "X-Error-Code": "EntryNotFound" }).end();
            return;
        }
        response.writeHead(200, {
            "ETag": `"${sha256(content)}"`,
            "X-Repo-Commit": commit,
            "X-Linked-Etag": `"${sha256(content)}"`,
            "X-Linked-Size": String(content.length),
            "Content-Length": String(content.length),
        });
        response.end(method === "HEAD" ? undefined : content);
    }

    private of(
        name: string,
        repository: Repository,
        asked: { readonly what: string; readonly revision: string; readonly body: string },
    ): unknown {
        const { files, commits } = repository;
        const head = commits.length === 0 ? this.main : sha256(`${name} ${commits.length}`).slice(0, 40);
        const pushedTo = files.has(".gitattributes");
        switch (asked.what) {
            case "revision": {
                const sha = asked.revision === "main" ? head : asked.revision;
                const siblings = [...files.keys()].map((rfilename) => ({ rfilename }));
                return { id: name, sha, private: repository.private, siblings };
            }
            case "settings":
                repository.private = (JSON.parse(asked.body) as { private: boolean }).private;
                return {};
            case "preupload": {
                const wanted = (JSON.parse(asked.body) as { files: { path: string }[] }).files;
                const mode = (file: string) => (isLarge(file) ? "lfs" : "regular");
                return {
                    files: wanted.map(({ path }) => ({ path, uploadMode: mode(path), shouldIgnore: false })),
                };
            }
            case "commit":
                return this.commit(name, repository, asked.body);
            default:
                return [...files].map(([path, content]) => ({
                    ...{ type: "file", path, size: content.length },
                    ...{
                        oid: crypto.createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex"),
                    },
                    ...(pushedTo && !isLarge(path)
                        ? {}
                        : { lfs: { oid: sha256(content), size: content.length, pointerSize: 130 } }),
                }));
        }
    }

    private commit(name: string, { files, commits }: Repository, body: string): unknown {
        const lines = body
            .trim()
            .split("\n")
            .map((line) => JSON.parse(line) as { key: string; value: Record<string, string> });
        const added: string[] = [];
        const removed: string[] = [];
        for (const { key, value } of lines) {
            const { path = "", content = "", oid = "" } = value;
            switch (key) {
                case "file":
                    files.set(path, Buffer.from(content, "base64"));
                    added.push(path);
                    break;
                case "lfsFile":
                    files.set(path, this.objects.get(oid) ?? Buffer.alloc(0));
                    added.push(path);
                    break;
                case "deletedFile":
                    files.delete(path);
                    removed.push(path);
            }
        }
        commits.push({ files: added.sort(), removed: removed.sort() });
        const commitOid = sha256(`${name} ${commits.length}`).slice(0, 40);
        return { commitUrl: `${this.address}/${name}/commit/${commitOid}`, commitOid };
    }
}

function isLarge(file: string): boolean {
    return file.endsWith(".safetensors");
}
