import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { Change } from "../changes";
import { UNKNOWN, type JsonObject } from "../identity";
import type { Checked, ResourceLifecycle } from "./lifecycle";
import { secret } from "./values";

/** A key pair by which a machine is known. It is made once, by OpenSSH, and stays; only the public part is no secret. */
export class HostKeyLifecycle implements ResourceLifecycle {
    check(): Promise<Checked> {
        return Promise.resolve({ inputs: {}, failures: [] });
    }

    diff(): Change[] {
        return [];
    }

    preview(): Promise<JsonObject> {
        return Promise.resolve({ publicKey: UNKNOWN, privateKey: UNKNOWN, action: "would-run" });
    }

    apply(): Promise<JsonObject> {
        const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-host-key-"));
        try {
            const file = path.join(folder, "key");
            execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file]);
            const publicKey = fs.readFileSync(`${file}.pub`, "utf8").trim();
            return Promise.resolve({ publicKey, privateKey: secret(fs.readFileSync(file, "utf8")), action: "ran" });
        } finally {
            fs.rmSync(folder, { recursive: true, force: true });
        }
    }

    read(_urn: string, _inputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        return Promise.resolve(outputs);
    }

    delete(): Promise<void> {
        return Promise.resolve();
    }
}
