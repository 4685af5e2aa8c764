import * as path from "node:path";
import { isObject, objectIn, type JsonObject } from "./identity";
import { whyLost } from "./processes";

/*
 * What the front of a service on this machine has written down of itself: see runner/front.py. Apart from service.ts, so
 * that `npm run status` need not load all that a service is made of.
 */

export function frontOf(port: number, home: string): JsonObject {
    return objectIn(path.join(home, "services", String(port), "state.json")) ?? {};
}

export const COMING_UP = "it is coming up";

/** Why nothing serves at a port; undefined where a model does. */
export function whySilent(port: number, home: string): string | undefined {
    const { active, reason, ...front } = frontOf(port, home);
    const why = whyLost(front) ?? (isObject(active) ? undefined : COMING_UP);
    return why !== undefined && typeof reason === "string" ? reason : why;
}
