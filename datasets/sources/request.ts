import { setTimeout as delay } from "node:timers/promises";
import { UserError } from "../../pipeline/user-error";

/** How often something that may pass by itself is tried, in all. */
export const attempts = 5;

const passing = new Set([408, 425, 429, 500, 502, 503, 504]);
const passingCodes = new Set([
    "ECONNRESET",
    "ETIMEDOUT",
    "EPIPE",
    "EAI_AGAIN",
    "UND_ERR_SOCKET",
    "UND_ERR_CONNECT_TIMEOUT",
]);

export interface Request {
    url: string;
    method?: "GET" | "POST";
    headers?: Record<string, string>;
    body?: string;
    /** What is asked for, for messages: `data set owner/name`. */
    subject: string;
    /** What else to do when the server refuses or cannot be reached: one sentence each. */
    help: { denied: string; unreachable: string };
}

/**
 * A response with a status below 400; what passes by itself (connection reset, 429, 5xx) is tried again.
 *
 * @param accept further statuses that are for the caller to deal with.
 * @throws UserError when the host cannot be reached, or for any other status.
 */
export async function request(wanted: Request, accept: readonly number[] = []): Promise<Response> {
    const { url, method, headers, body } = wanted;
    for (let attempt = 1; ; attempt++) {
        let response: Response;
        try {
            response = await fetch(url, {
                method: method ?? "GET",
                headers: { "accept-encoding": "identity", ...headers },
                body: body ?? null,
            });
        } catch (error) {
            if (attempt === attempts || !passingCodes.has(codeOf(error))) throw unreachable(wanted, error);
            await delay(pause(attempt));
            continue;
        }
        if (response.ok || accept.includes(response.status)) return response;
        await response.body?.cancel();
        if (attempt === attempts || !passing.has(response.status)) throw refusal(wanted, response.status);
        await delay(retryAfter(response) ?? pause(attempt));
    }
}

/**
 * The JSON that a server answers with.
 *
 * @throws UserError as {@link request} does, and when the answer is something else, such as a log-in page on the way.
 */
export async function requestJson(wanted: Request): Promise<unknown> {
    const response = await request(wanted);
    try {
        return await response.json();
    } catch (error) {
        if (error instanceof SyntaxError) {
            const { host } = new URL(wanted.url);
            throw new UserError(
                `${wanted.subject}: ${host} answered with something other than JSON. ${wanted.help.unreachable}`,
            );
        }
        throw unreachable(wanted, error);
    }
}

/** Milliseconds before another attempt: 0.25, 0.5, 1 and 2 seconds. */
export function pause(attempt: number): number {
    return 125 * 2 ** attempt;
}

/** What the server asks for, up to a minute. */
function retryAfter(response: Response): number | undefined {
    const header = response.headers.get("retry-after");
    if (header === null) return undefined;
    const milliseconds = /^\d+$/.test(header) ? 1000 * Number(header) : Date.parse(header) - Date.now();
    return Number.isNaN(milliseconds) ? undefined : Math.min(60_000, Math.max(0, milliseconds));
}

/** `fetch` wraps the system's error once or twice. */
export function codeOf(error: unknown): string {
    for (let cause = error; cause instanceof Error; cause = cause.cause) {
        if ("code" in cause && typeof cause.code === "string") return cause.code;
    }
    return "";
}

export function unreachable({ url, subject, help }: Request, error: unknown): UserError {
    const code = codeOf(error);
    return new UserError(
        `${subject}: cannot reach ${new URL(url).host}${code === "" ? "" : ` (${code})`}. ${help.unreachable}`,
    );
}

function refusal({ url, subject, help }: Request, status: number): UserError {
    const host = new URL(url).host;
    switch (status) {
        case 401:
        case 403:
            return new UserError(`${subject}: ${host} refuses access (${status}). ${help.denied}`);
        case 404:
            return new UserError(
                `${subject}: ${host} does not have it (404). Check its name and revision. ${help.denied}`,
            );
        case 429:
            return new UserError(`${subject}: ${host} asks to slow down (429). Try again in a few minutes.`);
        default:
            return new UserError(`${subject}: ${host} answered ${status}. ${help.unreachable}`);
    }
}
